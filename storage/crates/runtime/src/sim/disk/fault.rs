//! Faults that a test asks for: which operation they hit and what they do to it.

use std::io;

/// What a disk is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OpKind {
    /// Opening a file, with its creation; locking a directory.
    Open,
    /// Reading from a file.
    Read,
    /// Writing, plainly or durably.
    Write,
    /// Making a file's completed writes durable.
    Sync,
    /// Reserving space.
    Allocate,
    /// Asking for a file's length.
    Length,
    /// Listing a directory.
    List,
    /// Creating directories.
    CreateDir,
    /// Removing an empty directory.
    RemoveDir,
    /// Renaming a file.
    Rename,
    /// Removing a file.
    Remove,
    /// Making a directory's names durable.
    SyncDir,
}

impl OpKind {
    /// True if it may change what the disk holds, or what of it is durable: a step of [`super::Disk::steps`].
    pub fn changes_disk(self) -> bool {
        !matches!(self, Self::Read | Self::Length | Self::List)
    }
}

/// One fault to come.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// What it hits; `None` means whatever the effect can befall.
    pub op: Option<OpKind>,
    /// How many such operations from now, 1 being the next.
    pub nth: u64,
    /// What happens.
    pub effect: Effect,
}

/// What a fault does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The operation fails with EIO, having been carried out this far. A failed sync gives up on the writes it covered:
    /// the next sync succeeds without them.
    Error(Reached),
    /// The operation fails with ENOSPC, without effect.
    NoSpace,
    /// The write reports success and changes nothing.
    LostWrite,
    /// The write reports success and lands elsewhere in the file.
    MisdirectedWrite,
    /// One bit is wrong in what is written, or in what a read returns.
    FlippedBit,
    /// The read returns what each page held before its last write.
    StaleRead,
}

/// How far a failed operation got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// Nothing happened.
    Nothing,
    /// Some of the pages were written; other operations than writes did nothing.
    Part,
    /// It was carried out, and only the report is bad.
    All,
}

impl Effect {
    fn can_befall(self, op: OpKind) -> bool {
        match self {
            Self::Error(_) => true,
            Self::NoSpace => {
                matches!(op, OpKind::Open | OpKind::Write | OpKind::Allocate | OpKind::CreateDir | OpKind::Rename)
            }
            Self::LostWrite | Self::MisdirectedWrite => op == OpKind::Write,
            Self::FlippedBit => matches!(op, OpKind::Read | OpKind::Write),
            Self::StaleRead => op == OpKind::Read,
        }
    }
}

/// The faults to come.
#[derive(Default)]
pub(super) struct Faults {
    waiting: Vec<Fault>,
    fired: u64,
}

impl Faults {
    /// # Panics
    /// If the effect cannot befall the operation, or `nth` is zero.
    pub(super) fn add(&mut self, fault: Fault) {
        assert!(fault.nth > 0, "the next operation is number 1");
        assert!(
            fault.op.is_none_or(|op| fault.effect.can_befall(op)),
            "{:?} cannot befall {:?}",
            fault.effect,
            fault.op
        );
        self.waiting.push(fault);
    }

    /// What befalls the operation that begins now.
    pub(super) fn take(&mut self, op: OpKind) -> Option<Effect> {
        for fault in &mut self.waiting {
            if fault.op.map_or(fault.effect.can_befall(op), |wanted| wanted == op) {
                fault.nth -= 1;
            }
        }
        let due = self.waiting.extract_if(.., |fault| fault.nth == 0).map(|fault| fault.effect).next();
        self.waiting.retain(|fault| fault.nth > 0);
        self.fired += u64::from(due.is_some());
        due
    }

    pub(super) fn fired(&self) -> u64 {
        self.fired
    }

    pub(super) fn clear(&mut self) {
        self.waiting.clear();
    }
}

/// EIO of Linux.
pub(super) fn io_error() -> io::Error {
    io::Error::from_raw_os_error(5)
}

/// ENOSPC of Linux.
pub(super) fn no_space() -> io::Error {
    io::Error::from_raw_os_error(28)
}
