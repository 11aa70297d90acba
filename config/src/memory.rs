//! How much memory the broker uses, and for what.

/// Less than this a shard cannot work with: its WAL files alone want half.
pub const MEMORY_BYTES_PER_CORE_MIN: u64 = 64 << 20;

/// What `memory = "auto"` takes at most, as long as that is enough for the cores.
const AUTO_BYTES_MAX: u64 = 1 << 30;

/// One shard's memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryShare {
    /// For what is not yet in segments: half.
    pub memtables: u64,
    /// For blocks of cold data and of indexes: a quarter.
    pub block_cache: u64,
    /// For connections and the rest: a quarter.
    pub connections: u64,
}

impl MemoryShare {
    /// Divides what one shard has.
    pub const fn of(bytes: u64) -> Self {
        Self { memtables: bytes / 2, block_cache: bytes / 4, connections: bytes / 4 }
    }
}

/// What "auto" means on a machine: the smaller of 1 GiB and a quarter of its memory, but no less than the cores need,
/// so that a machine of many cores starts as well as a small one.
pub(crate) fn auto_bytes(machine_bytes: u64, cores: usize) -> u64 {
    AUTO_BYTES_MAX.min(machine_bytes / 4).max(MEMORY_BYTES_PER_CORE_MIN * cores as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_is_bounded_on_both_sides() {
        assert_eq!(auto_bytes(64 << 30, 2), 1 << 30);
        assert_eq!(auto_bytes(2 << 30, 2), 512 << 20);
        assert_eq!(auto_bytes(256 << 20, 2), 128 << 20);
        assert_eq!(auto_bytes(256 << 30, 64), 4 << 30);
    }

    #[test]
    fn shares_add_up() {
        let share = MemoryShare::of(64 << 20);
        assert_eq!(share, MemoryShare { memtables: 32 << 20, block_cache: 16 << 20, connections: 16 << 20 });
    }
}
