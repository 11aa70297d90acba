//! A token is not made of numbers.

fn main() {
    let _ = storage::Synced { log_id: 1, lsn: 9 };
}
