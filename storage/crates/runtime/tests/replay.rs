//! A seed is a run: the same one in another process, another one for another seed.

use std::{env, net::SocketAddr, process::Command, time::Duration};

use runtime::{
    Block as _, File as _, Listener as _, OpenMode, Runtime, Stream as _,
    sim::{Crash, SimRuntime, Simulation},
};

/// Set in the child: the seed to run.
const CHILD_SEED: &str = "STREAMBUS_REPLAY_CHILD";

#[test]
fn another_process_takes_the_same_steps() {
    if let Ok(seed) = env::var(CHILD_SEED) {
        println!("hash={:016x}", run(seed.parse().expect("the parent passes a number")));
        return;
    }
    for seed in [1, 2] {
        let child = Command::new(env::current_exe().expect("this test is a file"))
            .args(["--exact", "another_process_takes_the_same_steps", "--nocapture"])
            .env(CHILD_SEED, seed.to_string())
            .output()
            .expect("the test can run itself");
        let output = String::from_utf8(child.stdout).expect("hashes are ASCII");
        let hash = format!("hash={:016x}", run(seed));
        assert!(output.contains(&hash), "here {hash}, in another process:\n{output}");
    }
}

#[test]
fn every_seed_is_another_run() {
    let hashes: std::collections::BTreeSet<u64> = (0..20).map(run).collect();
    assert_eq!(hashes.len(), 20);
}

/// Three nodes of two shards log what a client sends them, while power fails and links are cut.
fn run(seed: u64) -> u64 {
    let simulation = Simulation::new(seed);
    let nodes: Vec<_> = (0..3).map(|_| simulation.add_node()).collect();
    for &node in &nodes {
        simulation.start(node, 2, serve);
        let address = SocketAddr::new(node.ip(), 9092);
        let client = simulation.outside();
        drop(client.clone().spawn(async move {
            loop {
                send(&client, address).await;
                client.sleep(Duration::from_millis(1)).await;
            }
        }));
    }
    for round in 0..10 {
        let (one, other) = (nodes[round % 3], nodes[(round + 1) % 3]);
        simulation.run_for(Duration::from_millis(5)).unwrap();
        simulation.network().cut(simulation.outside().node(), other);
        simulation.crash(one, if round % 2 == 0 { Crash::PowerCut } else { Crash::Kill });
        simulation.run_for(Duration::from_millis(5)).unwrap();
        simulation.network().heal_all();
        simulation.restart(one, 2);
    }
    simulation.trace_hash()
}

async fn serve(runtime: SimRuntime, shard: usize) {
    let directory = format!("shard-{shard}");
    runtime.create_dir_all(directory.as_ref()).await.unwrap();
    let name = format!("{directory}/{:016x}", runtime.random_u64());
    let file = runtime.open(name.as_ref(), OpenMode::CreateNew).await.unwrap();
    runtime.sync_dir(directory.as_ref()).await.unwrap();
    if shard > 0 {
        return;
    }
    let listener = runtime.listen("0.0.0.0:9092".parse().unwrap()).await.unwrap();
    for position in (0..).step_by(4096) {
        let (socket, _) = listener.accept().await.unwrap();
        let stream = runtime.adopt(socket).unwrap();
        let mut block = runtime.block(4096);
        let Ok(len) = stream.read(&mut block).await else { continue };
        file.write(block.freeze(4096), position).await.unwrap();
        file.sync().await.unwrap();
        let _client_may_be_gone = stream.write_all(&[len as u8]).await;
    }
}

async fn send(client: &SimRuntime, address: SocketAddr) {
    if let Ok(stream) = client.connect(address).await
        && stream.write_all(&client.random_u64().to_le_bytes()).await.is_ok()
    {
        let _node_may_be_gone = stream.read(&mut [0; 1]).await;
    }
}
