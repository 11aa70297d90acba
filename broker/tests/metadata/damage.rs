//! Damage to the file of the metadata is refused, and never believed.

use broker::meta::{Command, MetaLog};
use runtime::sim::SimRuntime;
use wire::PartitionId;

use crate::{DIR, create, describe, install, write};

/// Damage to one page is refused, or to one that says nothing.
#[test]
fn damaged_metadata_is_never_believed() {
    let (files, expected) = write(lives());
    let (mut refused, mut unharmed) = (0, 0);
    for (name, bytes) in &files {
        for page in (0..bytes.len()).step_by(4096) {
            for at in [0, 3, 30, 50, 70, 80, 100, 200, 4095].map(Some).into_iter().chain([None]) {
                let mut damaged = files.clone();
                let bytes = damaged.get_mut(name).unwrap();
                match at {
                    Some(at) => bytes[page + at] ^= 4,
                    None => bytes[page..page + 4096].fill(0),
                }
                let opened = runtime::sim::block_on(1, |rt: SimRuntime| async move {
                    install(&rt, &damaged).await;
                    let opened = MetaLog::open(&rt, DIR.as_ref()).await;
                    opened.map(|meta| describe(&meta.snapshot().state)).ok()
                });
                match opened {
                    None => refused += 1,
                    Some(state) => {
                        assert_eq!(state, expected, "{name}, page at {page}, byte {at:?}");
                        unharmed += 1;
                    }
                }
            }
        }
    }
    assert!(refused > 10 && unharmed > 5, "{refused} refused, {unharmed} unharmed");
}

/// Two lives of a node.
fn lives() -> [Vec<Command>; 2] {
    [
        vec![
            Command::RegisterLogs { ids: vec![11, u128::MAX - 1] },
            Command::StartNode { node_id: 1 },
            create("orders", 3, &[]),
            create("clicks", 2, &[("streambus.durability", "memory")]),
            create("gone", 3, &[]),
            Command::ReserveProducerIds,
            Command::DeleteTopic { name: "gone".parse().unwrap() },
            Command::ConfirmDropped { partitions: vec![PartitionId(7)] },
        ],
        vec![
            Command::StartNode { node_id: 1 },
            create("gone", 1, &[("streambus.durability", "durable")]),
            Command::ReserveProducerIds,
            create("short-lived_0.1", 1, &[]),
            Command::DeleteTopic { name: "short-lived_0.1".parse().unwrap() },
        ],
    ]
}
