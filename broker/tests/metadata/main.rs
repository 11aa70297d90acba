//! The file of the metadata, on the simulated disk: damage to it, and what earlier programs wrote.

mod damage;
mod golden;

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use broker::meta::{Command, LogState, MetaLog, State};
use runtime::{
    Block as _, File as _, OpenMode, Runtime as _,
    sim::{Crash, Options, SimRuntime, Simulation},
};
use wire::TopicId;

/// Where the metadata lies on the simulated disk.
const DIR: &str = "meta";

type Files = BTreeMap<String, Vec<u8>>;

/// Lives of a node, each ended by a power cut. Answers what they leave, and the state that a reader of it finds.
fn write<const LIVES: usize>(lives: [Vec<Command>; LIVES]) -> (Files, String) {
    // A file is replaced by another when it is longer than a block: here each life has its own.
    let simulation = Simulation::with_options(3, Options { block_bytes: 128 << 10, ..Options::default() });
    let node = simulation.add_node();
    for commands in lives {
        let work = move |rt: SimRuntime| async move {
            let meta = MetaLog::open(&rt, DIR.as_ref()).await.unwrap();
            for command in commands {
                meta.propose(command).await.unwrap();
            }
        };
        simulation.block_on(node, work).unwrap();
        simulation.crash(node, Crash::PowerCut);
    }
    let disk = simulation.disk(node);
    let within = |path: &String| path.strip_prefix("meta/").map(str::to_owned);
    let files: Files = disk.files().iter().filter_map(|path| Some((within(path)?, disk.read(path)?))).collect();
    let state = read(&files);
    (files, state)
}

/// What a reader of intact files finds.
fn read(files: &Files) -> String {
    let copy = files.clone();
    runtime::sim::block_on(1, |rt: SimRuntime| async move {
        install(&rt, &copy).await;
        describe(&MetaLog::open(&rt, DIR.as_ref()).await.unwrap().snapshot().state)
    })
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
    for log in &state.logs {
        let used = if log.state == LogState::InUse { String::new() } else { format!(" {:?}", log.state) };
        line(format!("log {:032x}{used}", log.id));
    }
    for (name, topic) in &state.topics {
        line(format!("topic {name} {:032x} {}", topic.id.0, topic.settings.durability()));
        topic.settings.given().iter().for_each(|(name, value)| line(format!("  setting {name} {value}")));
        topic.partitions.iter().for_each(|partition| line(format!("  partition {} {}", partition.id, partition.log)));
    }
    state.tombstones.iter().for_each(|copy| line(format!("tombstone {} {}", copy.id, copy.log)));
    out
}
