//! The offsets of one partition, and the one check of their order.
//!
//! ```text
//!   log start ≤ high watermark ≤ log end          high watermark: what consumers may see
//!               synced         ≤ log end          synced: what a power cut cannot take
//! ```
//!
//! The high watermark of a `durable` partition is its synced offset; that of a `memory` partition may run ahead of it.

/// A partition's offsets at one moment. Each is the offset *behind* what it speaks of, but for the log start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    /// The first offset there is.
    pub log_start: u64,
    /// Consumers see offsets below this one.
    pub high_watermark: u64,
    /// Offsets below this one are on stable storage.
    pub synced: u64,
    /// The next offset to be given out.
    pub log_end: u64,
}

impl Offsets {
    /// Asserts what always holds.
    ///
    /// # Panics
    /// When it does not: a bug of ours.
    pub(crate) fn checked(self) -> Self {
        assert!(
            self.log_start <= self.high_watermark && self.high_watermark <= self.log_end && self.synced <= self.log_end,
            "offsets out of order: {self:?}"
        );
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "offsets out of order")]
    fn high_watermark_beyond_log_end_is_a_bug() {
        Offsets { log_start: 0, high_watermark: 5, synced: 4, log_end: 4 }.checked();
    }

    #[test]
    fn memory_level_may_show_what_is_not_synced() {
        let offsets = Offsets { log_start: 1, high_watermark: 5, synced: 2, log_end: 6 };
        assert_eq!(offsets.checked(), offsets);
    }
}
