//! A test's hand on a disk: what it holds, what goes wrong with it, and when its node dies.

use std::path::Path;

use super::{Disk, Fault, Image, OpKind, Options, names::key};
use crate::sim::Crash;

/// What it holds.
impl Disk {
    /// Paths of all files, sorted.
    pub fn files(&self) -> Vec<String> {
        self.image.borrow().names.files().map(|(path, _)| path.to_string()).collect()
    }

    /// What a file holds, or `None` if there is no such file.
    pub fn read(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        let image = self.image.borrow();
        let content = image.content(image.names.inode(&key(path.as_ref())).ok()?);
        let mut bytes = vec![0; content.len() as usize];
        content.read(0, &mut bytes);
        Some(bytes)
    }

    /// The disk as it is now, with what is in flight.
    pub fn snapshot(&self) -> Image {
        self.image.borrow().clone()
    }

    /// Replaces everything by `image`; what was in flight in it is not carried out.
    ///
    /// # Panics
    /// If operations are in flight: crash the node first.
    pub fn restore(&self, mut image: Image) {
        assert!(self.pending.borrow().is_empty(), "operations are in flight on the disk to be replaced");
        image.forget_in_flight();
        self.image.replace(image);
    }
}

/// What goes wrong.
impl Disk {
    /// Asks for a fault.
    ///
    /// # Panics
    /// If the effect cannot befall the operation, or `nth` is zero.
    pub fn inject(&self, fault: Fault) {
        self.faults.borrow_mut().add(fault);
    }

    /// Forgets the faults that are still to come.
    pub fn clear_faults(&self) {
        self.faults.borrow_mut().clear();
    }

    /// How many faults have happened.
    pub fn faults_fired(&self) -> u64 {
        self.faults.borrow().fired()
    }

    /// Changes how the disk behaves from now on.
    pub fn set_options(&self, options: Options) {
        self.options.replace(options);
    }

    /// Overwrites bytes of a file behind everyone's back, on the medium too: rot, stale or swapped blocks.
    ///
    /// # Panics
    /// If there is no such file or it ends earlier.
    pub fn damage(&self, path: impl AsRef<Path>, position: u64, bytes: &[u8]) {
        self.damage_file(path.as_ref(), |image, inode| image.content_mut(inode).damage(position, bytes));
    }

    /// Flips all bits of one byte of a file.
    ///
    /// # Panics
    /// As [`Self::damage`].
    pub fn flip_byte(&self, path: impl AsRef<Path>, position: u64) {
        self.damage_file(path.as_ref(), |image, inode| {
            let content = image.content_mut(inode);
            let mut byte = [0];
            content.read(position, &mut byte);
            content.damage(position, &[!byte[0]]);
        });
    }

    /// Makes the 512-byte sector at `position` of a file unreadable until it is written again.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn damage_sector(&self, path: impl AsRef<Path>, position: u64) {
        self.damage_file(path.as_ref(), |image, inode| image.content_mut(inode).damage_sector(position));
    }

    /// Cuts a file to `len` bytes behind everyone's back.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn damage_len(&self, path: impl AsRef<Path>, len: u64) {
        self.damage_file(path.as_ref(), |image, inode| image.content_mut(inode).damage_len(len));
    }

    /// Removes a file behind everyone's back. This and every earlier change of a name becomes durable.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn damage_name(&self, path: impl AsRef<Path>) {
        let path = key(path.as_ref());
        assert!(self.image.borrow_mut().names.forget(&path), "no file {path}");
    }

    fn damage_file(&self, path: &Path, damage: impl FnOnce(&mut Image, u64)) {
        let mut image = self.image.borrow_mut();
        let inode = image.names.inode(&key(path)).unwrap_or_else(|_| panic!("no file {}", path.display()));
        damage(&mut image, inode);
    }
}

/// When its node dies.
impl Disk {
    /// Steps so far. Every beginning and every completion of an operation that may change the disk is one.
    pub fn steps(&self) -> u64 {
        self.steps.get()
    }

    /// Operations of a kind begun so far.
    pub fn ops(&self, kind: OpKind) -> u64 {
        self.submitted.borrow().get(&kind).copied().unwrap_or(0)
    }

    /// Crashes the node as soon as [`Self::steps`] reaches `step`, once the task that runs at that moment waits.
    /// Crashing at every step from the present one on visits every state that matters. A crash for another reason
    /// cancels it.
    pub fn crash_at_step(&self, step: u64, crash: Crash) {
        self.crash_at.set(Some((step, crash)));
    }

    /// Calls `hook` with the number of each step from now on and the disk as it then is; a clone of it can be crashed and
    /// recovered in a simulation of its own.
    pub fn on_step(&self, hook: impl FnMut(u64, &Image) + 'static) {
        self.on_step.replace(Some(Box::new(hook)));
    }
}
