//! Only an append makes what can be acknowledged.

fn main() {
    let _ = storage::Appended {
        base_offset: 0,
        next_offset: 1,
        lsn: 0,
        duplicate: false,
        log_id: 1,
        durability: storage::Durability::Memory,
        needs_sync: false,
    };
}
