//! Records and the batches that carry them: Kafka's record batch v2, byte for byte.
//!
//! One layout serves the socket, memory and disk, so a batch is never re-encoded on its way, and the producer's CRC-32C still
//! holds at the consumer. [`Batch`] is a view of someone's bytes, [`Record`] a view into a batch, [`BatchBuilder`] makes them,
//! [`BatchRewriter`] keeps some of their records,
//! [`compression`] shrinks their records and bounds what comes back out.

mod batch;
mod batch_header;
mod builder;
pub mod compression;
#[expect(clippy::module_inception, reason = "a record lives in the folder of records")]
mod record;
mod rewrite;

pub use batch::{Batch, BatchError, Batches};
pub use batch_header::{
    Attributes, BatchHeader, Codec, HEADER_BYTES, NO_LEADER_EPOCH, Producer, patch_base_offset, patch_leader_epoch,
    position,
};
pub use builder::{AppendError, BatchBuilder};
pub use record::{Header, Headers, Record, RecordError, Records};
pub use rewrite::BatchRewriter;
