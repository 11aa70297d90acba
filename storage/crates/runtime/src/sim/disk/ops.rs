//! What the file system can be asked for: names and space. Reading and writing is in [`super::file`].

use std::{io, path::Path, rc::Rc};

use super::{
    Completing, Disk, Op, OpKind,
    file::File,
    image::Mutation,
    names::{NameChange, key},
};
use crate::{
    file::{DirEntry, OpenMode, Space},
    sim::memory::Memory,
};

impl Disk {
    pub(in crate::sim) async fn open(
        self: &Rc<Self>,
        memory: &Rc<Memory>,
        path: &Path,
        mode: OpenMode,
    ) -> io::Result<File> {
        let path = key(path);
        let create = matches!(mode, OpenMode::CreateDurable | OpenMode::CreateNew).then(|| {
            let inode = self.image.borrow_mut().new_inode();
            Mutation::Names(NameChange::Create { path: Rc::clone(&path), inode })
        });
        let (disk, memory) = (Rc::clone(self), Rc::clone(memory));
        self.perform(Op::new(OpKind::Open), create, move |at| {
            at.under_fault(|image, create| {
                if let Some(create) = create {
                    image.complete(create)?;
                }
                let inode = image.names.inode(&path)?;
                image.open(inode);
                Ok(inode)
            })
            .map(|inode| File::new(disk, memory, inode, mode))
        })
        .await
    }

    /// Makes the file `LOCK`, if it is not there.
    pub(in crate::sim) async fn create_lock_file(
        self: &Rc<Self>,
        memory: &Rc<Memory>,
        directory: &Path,
    ) -> io::Result<()> {
        match self.open(memory, &directory.join("LOCK"), OpenMode::CreateNew).await {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    pub(in crate::sim) async fn list_dir(self: &Rc<Self>, path: &Path) -> io::Result<Vec<DirEntry>> {
        let path = key(path);
        self.perform(Op::new(OpKind::List), None, move |at| at.under_fault(|image, _| image.list(&path))).await
    }

    pub(in crate::sim) async fn create_dir_all(self: &Rc<Self>, path: &Path) -> io::Result<()> {
        let path = key(path);
        let create = move |at: &mut Completing<'_>| {
            at.under_fault(|image, _| {
                image.names.create_dir_all(&path);
                Ok(())
            })
        };
        self.perform(Op::new(OpKind::CreateDir), None, create).await
    }

    pub(in crate::sim) async fn rename(self: &Rc<Self>, from: &Path, to: &Path) -> io::Result<()> {
        let change = NameChange::Rename { from: key(from), to: key(to) };
        self.perform(Op::new(OpKind::Rename), Some(Mutation::Names(change)), |at| at.apply()).await
    }

    pub(in crate::sim) async fn remove_file(self: &Rc<Self>, path: &Path) -> io::Result<()> {
        let change = NameChange::Remove { path: key(path) };
        self.perform(Op::new(OpKind::Remove), Some(Mutation::Names(change)), |at| at.apply()).await
    }

    pub(in crate::sim) async fn remove_dir(self: &Rc<Self>, path: &Path) -> io::Result<()> {
        let path = key(path);
        let remove = move |at: &mut Completing<'_>| at.under_fault(|image, _| image.names.remove_dir(&path));
        self.perform(Op::new(OpKind::RemoveDir), None, remove).await
    }

    pub(in crate::sim) async fn sync_dir(self: &Rc<Self>, path: &Path) -> io::Result<()> {
        let path = key(path);
        let mark = self.image.borrow().names.mark();
        let sync = move |at: &mut Completing<'_>| {
            at.under_fault(|image, _| {
                image.names.complete_sync(&path, mark)?;
                image.forget_unreachable();
                Ok(())
            })
        };
        self.perform(Op::new(OpKind::SyncDir), None, sync).await
    }

    pub(in crate::sim) fn space(&self) -> Space {
        let total_bytes = self.options.borrow().capacity_bytes;
        let free_bytes = total_bytes.saturating_sub(self.image.borrow().used_bytes());
        Space { total_bytes, free_bytes }
    }
}
