//! From a producer's bytes to a place in the log: everything that can be wrong with a batch is found here, the cheap
//! checks first.

use runtime::Runtime;
use storage::{Appended, group::HEADER_BYTES};
use wire::record::Batch;

use super::Partition;
use crate::{handler::error::ProduceError, request::Placed};

/// A batch in its place, and what it added.
#[derive(Debug)]
pub(crate) struct Append {
    /// The way to its ack.
    pub(crate) placed: Placed,
    /// Its records.
    pub(crate) record_count: u32,
}

impl<R: Runtime> Partition<R> {
    /// Verifies exactly one batch and puts it into the open sync group. Never waits.
    #[inline]
    pub(crate) fn append(&self, bytes: &[u8], batch_bytes_max: usize) -> Result<Append, ProduceError> {
        if bytes.len() > batch_bytes_max {
            return Err(ProduceError::TooLarge { bytes: bytes.len(), bytes_max: batch_bytes_max });
        }
        let batch = Batch::parse_one(bytes)?;
        batch.verify_for_produce()?;
        let appended = self.stored.append(&batch, self.leader_epoch)?;
        Ok(self.appended(appended, batch.record_count()))
    }

    /// The same for a batch of no more than the largest size in a block from [`storage::Log::batch_block`], which
    /// becomes a sync group of its own.
    pub(crate) fn append_block(&self, block: R::Block, batch_bytes: usize) -> Result<Append, ProduceError> {
        let batch = Batch::parse_one(&block[HEADER_BYTES..][..batch_bytes])?;
        batch.verify_for_produce()?;
        let record_count = batch.record_count();
        let appended = self.stored.append_block(block, batch_bytes, self.leader_epoch)?;
        Ok(self.appended(appended, record_count))
    }

    #[inline]
    fn appended(&self, appended: Appended, record_count: u32) -> Append {
        let log_start_offset = self.stored.log_start();
        Append { placed: Placed { appended, log_start_offset }, record_count }
    }
}
