//! The log: one directory of WAL, memtables, segments and manifest, and the partitions that live in it.
//!
//! **Write path.** [`Partition::append`] checks the producer's sequence and gives out offsets ([`partition`]), copies the
//! batch into the open sync group (`wal/queue`), which goes to the disk as soon as the one before it is there
//! (`wal/writer`). Submitted, its batches are in the [`memtable`]; synced, it mints the [`Synced`] token that turns
//! [`Appended`] into [`Acked`]. A full memtable is sealed, flushed to [`segment`]s (`flush`) and its WAL file used again;
//! flush outputs are merged ([`compaction`]), and what is too old goes (`retention`). The [`manifest`] names what is live.
//!
//! **Read path.** [`Partition::read`] looks for the offset in the memtables, newest data included, and below them in the
//! segments, through the footers that [`segment::Segments`] keeps and the blocks of the `block_cache`, which also reads
//! ahead of who reads on. Bytes come out as they lie. [`Partition::get`] takes the same way by key (`get`).
//!
//! **Beside it.** [`inspect`] reads the directory of a stopped log, whatever its state, and never writes; [`backup`] copies
//! a log, also while it is at work.
//!
//! **Copies.** [`replica`] takes batches with the offsets that they have, where a partition moves from log to log.
//!
//! **Start.** `recovery` reads the manifest and, unless the last stop was clean, the WAL (`wal/replay`).
//!
//! `FORMAT.md` specifies every byte on disk.
#![forbid(unsafe_code)]

pub mod backup;
mod block_cache;
pub mod codec;
pub mod compaction;
mod damaged;
mod disk_space;
mod error;
mod flush;
mod found;
mod get;
pub mod group;
mod hold;
pub mod index;
pub mod inspect;
pub mod journal;
mod kept;
mod log;
mod loss;
pub mod manifest;
pub mod memtable;
mod memtables;
mod offset;
pub mod partition;
pub mod producer_state;
mod recovery;
mod remove;
pub mod replica;
mod retention;
pub mod segment;
mod segment_map;
mod settings;
mod synced;
mod wal;
mod writes;

pub use block_cache::CacheStats;
pub use error::{
    AcceptError, AppendError, BeginError, EndError, FlushError, LeaveError, LogFailed, OpenError, ReadError,
    ReplicateError, TrimError, TruncateError,
};
pub use found::{Found, Last};
pub use kept::Kept;
pub use log::{Log, LogOptions, LogStats};
pub use loss::Survey;
pub use offset::Offsets;
pub use partition::{Batches, Partition};
pub use remove::remove_log;
pub use settings::{Cleanup, PartitionSettings};
pub use synced::{Acked, Appended, Lsn, Synced};
pub use wire::{Durability, PartitionId};
pub use writes::Writes;
