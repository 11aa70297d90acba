//! From a producer's bytes to a place in the log: everything that can be wrong with a batch is found here, the cheap
//! checks first.

use runtime::Runtime;
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
    pub(crate) fn append(&self, bytes: &[u8], batch_bytes_max: usize) -> Result<Append, ProduceError> {
        if bytes.len() > batch_bytes_max {
            return Err(ProduceError::TooLarge { bytes: bytes.len(), bytes_max: batch_bytes_max });
        }
        let batch = Batch::parse_one(bytes)?;
        batch.verify_for_produce()?;
        let appended = self.stored.append(&batch, self.leader_epoch)?;
        let log_start_offset = self.stored.offsets().log_start;
        Ok(Append { placed: Placed { appended, log_start_offset }, record_count: batch.record_count() })
    }
}
