//! Damage to the file of the metadata is refused, and never believed.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use broker::meta::{Command, MetaLog, State};
use runtime::{
    Block as _, File as _, OpenMode, Runtime as _,
    sim::{Crash, SimRuntime, Simulation},
};
use wire::{PartitionId, TopicId};

/// Where the metadata lies on the simulated disk.
const DIR: &str = "meta";

type Files = BTreeMap<String, Vec<u8>>;

/// Damage to one page is refused, or to one that says nothing.
#[test]
fn damaged_metadata_is_never_believed() {
    let (files, expected) = write();
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

/// Two lives of a node, and all that its metadata can hold.
fn write() -> (Files, String) {
    let simulation = Simulation::new(3);
    let node = simulation.add_node();
    for life in 0..2 {
        let work = move |rt: SimRuntime| async move {
            let meta = MetaLog::open(&rt, DIR.as_ref()).await.unwrap();
            for command in commands(life) {
                meta.propose(command).await.unwrap();
            }
        };
        simulation.block_on(node, work).unwrap();
        simulation.crash(node, Crash::PowerCut);
    }
    let disk = simulation.disk(node);
    let within = |path: &String| path.strip_prefix("meta/").map(str::to_owned);
    let files: Files = disk.files().iter().filter_map(|path| Some((within(path)?, disk.read(path)?))).collect();
    let copy = files.clone();
    let expected = runtime::sim::block_on(1, |rt: SimRuntime| async move {
        install(&rt, &copy).await;
        describe(&MetaLog::open(&rt, DIR.as_ref()).await.unwrap().snapshot().state)
    });
    (files, expected)
}

fn commands(life: u32) -> Vec<Command> {
    if life == 0 {
        vec![
            Command::RegisterLogs { ids: vec![11, u128::MAX - 1] },
            Command::StartNode { node_id: 1 },
            create("orders", 3, &[]),
            create("clicks", 2, &[("streambus.durability", "memory")]),
            create("gone", 3, &[]),
            Command::ReserveProducerIds,
            Command::DeleteTopic { name: "gone".parse().unwrap() },
            Command::ConfirmDropped { partitions: vec![PartitionId(7)] },
        ]
    } else {
        vec![
            Command::StartNode { node_id: 1 },
            create("gone", 1, &[("streambus.durability", "durable")]),
            Command::ReserveProducerIds,
            create("short-lived_0.1", 1, &[]),
            Command::DeleteTopic { name: "short-lived_0.1".parse().unwrap() },
        ]
    }
}

fn create(name: &str, partitions: u32, settings: &[(&str, &str)]) -> Command {
    let settings = settings.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    let id = TopicId(u128::from(number_of(name)) << 90 | u128::from(partitions));
    Command::CreateTopic { id, name: name.parse().unwrap(), partitions, settings }
}

fn number_of(text: &str) -> u32 {
    text.bytes().fold(7, |sum: u32, byte| sum.wrapping_mul(31).wrapping_add(byte.into()))
}

async fn install(rt: &SimRuntime, files: &Files) {
    rt.create_dir_all(DIR.as_ref()).await.unwrap();
    for (name, bytes) in files {
        let file = rt.open(&Path::new(DIR).join(name), OpenMode::CreateDurable).await.unwrap();
        let mut block = rt.block(bytes.len());
        block[..bytes.len()].copy_from_slice(bytes);
        file.write_durable(block.freeze(bytes.len()), 0).await.unwrap();
    }
    rt.sync_dir(DIR.as_ref()).await.unwrap();
}

fn describe(state: &State) -> String {
    let mut out = String::new();
    let mut line = |text: String| writeln!(out, "{text}").expect("a string takes everything");
    line(format!("cluster {}", state.cluster_id));
    line(format!("node {:?} epoch {}", state.node_id, state.leader_epoch));
    line(format!("partitions from {} producer ids from {}", state.next_partition, state.next_producer_id));
    state.logs.iter().for_each(|id| line(format!("log {id:032x}")));
    for (name, topic) in &state.topics {
        line(format!("topic {name} {:032x} {}", topic.id.0, topic.settings.durability()));
        topic.settings.given().iter().for_each(|(name, value)| line(format!("  setting {name} {value}")));
        topic.partitions.iter().for_each(|partition| line(format!("  partition {} {}", partition.id, partition.log)));
    }
    state.tombstones.iter().for_each(|(partition, log)| line(format!("tombstone {partition} {log}")));
    out
}
