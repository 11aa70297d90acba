//! An ack comes from an append.

fn main() {
    let _ = storage::Acked { base_offset: 0, durability: storage::Durability::Durable };
}
