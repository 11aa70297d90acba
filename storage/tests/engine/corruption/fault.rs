//! What a disk may do to a file behind everyone's back.

use std::fmt;

use runtime::sim::Rng;

use crate::golden::directory::Directory;

const BLOCK_BYTES: usize = 4096;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// One bit is another.
    Flip,
    /// A block reads as zeros.
    Zero,
    /// A block holds what lies at its place in another file of the kind.
    Stale,
    /// A block and the next one are exchanged.
    Swap,
    /// The file ends where the block starts.
    Truncate,
    /// The file is gone.
    Delete,
}

impl Fault {
    pub(crate) const ALL: [Self; 6] = [Self::Flip, Self::Zero, Self::Stale, Self::Swap, Self::Truncate, Self::Delete];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Flip => "flip",
            Self::Zero => "zero",
            Self::Stale => "stale",
            Self::Swap => "swap",
            Self::Truncate => "truncate",
            Self::Delete => "delete",
        }
    }
}

/// A fault at a place.
#[derive(Clone, Debug)]
pub(crate) struct Mutation {
    pub(crate) fault: Fault,
    pub(crate) file: String,
    /// Where it starts, in bytes.
    pub(crate) position: usize,
    bit: u8,
    /// Whose block is there instead.
    other: Option<String>,
}

impl Mutation {
    /// Every fault in every block of every file; of flips three.
    pub(crate) fn of_all(directory: &Directory, rng: &Rng) -> Vec<Self> {
        let mut all = Vec::new();
        for (file, bytes) in &directory.0 {
            let mutation = |fault, position, bit, other: Option<&String>| Self {
                fault,
                file: file.clone(),
                position,
                bit,
                other: other.cloned(),
            };
            let of_kind: Vec<&String> =
                directory.0.keys().filter(|other| *other != file && kind(other) == kind(file)).collect();
            for block in (0..bytes.len()).step_by(BLOCK_BYTES) {
                for _ in 0..3 {
                    let position = block + rng.below(BLOCK_BYTES as u64) as usize;
                    all.push(mutation(Fault::Flip, position, rng.below(8) as u8, None));
                }
                all.push(mutation(Fault::Zero, block, 0, None));
                all.push(mutation(Fault::Truncate, block, 0, None));
                if !of_kind.is_empty() {
                    let other = of_kind[rng.below(of_kind.len() as u64) as usize];
                    all.push(mutation(Fault::Stale, block, 0, Some(other)));
                }
                if block + 2 * BLOCK_BYTES <= bytes.len() {
                    all.push(mutation(Fault::Swap, block, 0, None));
                }
            }
            all.push(mutation(Fault::Delete, 0, 0, None));
        }
        all
    }

    /// The directory afterwards; `None` if nothing changed.
    pub(crate) fn apply(&self, directory: &Directory) -> Option<Directory> {
        let mut damaged = directory.clone();
        let other = self.other.as_ref().map(|other| directory.0[other].clone());
        let bytes = damaged.0.get_mut(&self.file).expect("it is a file of this directory");
        let before = bytes.clone();
        match self.fault {
            Fault::Flip => bytes[self.position] ^= 1 << self.bit,
            Fault::Zero => bytes[self.range()].fill(0),
            Fault::Stale => {
                let other = other.expect("there is another file");
                let block = self.position % other.len();
                bytes[self.range()].copy_from_slice(&other[block..block + BLOCK_BYTES]);
            }
            Fault::Swap => {
                let (front, back) = bytes[self.range()].split_at_mut(BLOCK_BYTES);
                front.swap_with_slice(back);
            }
            Fault::Truncate => bytes.truncate(self.position),
            Fault::Delete => {
                damaged.0.remove(&self.file);
                return Some(damaged);
            }
        }
        (*bytes != before).then_some(damaged)
    }

    /// The bytes of the file that are not what they were, at most.
    pub(crate) fn range(&self) -> std::ops::Range<usize> {
        let end = match self.fault {
            Fault::Flip => self.position + 1,
            Fault::Zero | Fault::Stale => self.position + BLOCK_BYTES,
            Fault::Swap => self.position + 2 * BLOCK_BYTES,
            Fault::Truncate | Fault::Delete => usize::MAX,
        };
        self.position..end
    }

    pub(crate) fn kind(&self) -> &'static str {
        kind(&self.file)
    }
}

fn kind(file: &str) -> &'static str {
    match file {
        file if file.ends_with(".wal") => "wal",
        file if file.ends_with(".seg") => "segment",
        _ => "manifest",
    }
}

impl fmt::Display for Mutation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} at byte {}", self.fault.name(), self.file, self.position)?;
        if self.fault == Fault::Flip {
            write!(f, ", bit {}", self.bit)?;
        }
        Ok(())
    }
}
