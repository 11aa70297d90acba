//! One append, one ack.

fn twice(appended: storage::Appended, synced: storage::Synced) -> [storage::Acked; 2] {
    [appended.acknowledge(synced), appended.acknowledge(synced)]
}

fn main() {}
