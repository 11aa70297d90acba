//! Makes glommio find out, before it matters, whether a device polls for completions.
//!
//! The first direct open on each device and thread decides: glommio reads the file's first block through its polling
//! ring and takes success for support. Reading an empty file always succeeds, and from then on every write on a device
//! without polling takes 4 ms instead of 0.1. So that first open is ours: of a file with one written block and no name.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::{
        fd::AsRawFd as _,
        unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

use crate::file::os_error;

const BLOCK: [u8; ::runtime::BLOCK_ALIGNMENT] = [0; ::runtime::BLOCK_ALIGNMENT];

/// A name for an open file that no rename or removal can take away.
pub(crate) fn lasting_path(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()))
}

/// A file with one written block, on the device of `directory`. On a blocking thread.
pub(crate) fn block_without_name(directory: &Path) -> io::Result<Probe> {
    let mut file = match nameless().open(directory) {
        Ok(file) => file,
        // Some file systems, overlayfs before Linux 6.1 among them, want a name first.
        Err(_) => named_and_removed(directory)?,
    };
    file.write_all(&BLOCK)?;
    file.sync_data()?;
    let device = file.metadata()?.dev();
    Ok(Probe { file, device })
}

/// What [`block_without_name`] made.
pub(crate) struct Probe {
    file: File,
    pub(crate) device: u64,
}

impl Probe {
    /// Has the executor of this thread look at the device.
    pub(crate) async fn run(self) -> io::Result<()> {
        let opened = glommio::io::DmaFile::open(lasting_path(&self.file)).await.map_err(os_error)?;
        opened.close().await.map_err(os_error)
    }
}

fn nameless() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_TMPFILE).mode(0o600);
    options
}

fn named_and_removed(directory: &Path) -> io::Result<File> {
    let path = directory.join(format!(".probe-{}-{:?}", std::process::id(), std::thread::current().id()));
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}
