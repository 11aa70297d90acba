//! From nothing to the first acknowledged record: a broker is started, and a client is there before it.
//!
//! `cargo test` looks at what is acknowledged. The figure: `cargo test --workspace --release --test cold_start --
//! --nocapture`, on a quiet machine.

mod support;

use std::{
    net::{TcpListener, TcpStream},
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use streambus::{Client, NewTopic};
use support::{PATIENCE, scratch, serve, streambus};

const STARTS: u64 = 10;

#[test]
fn a_record_is_acknowledged_right_after_the_start() {
    let home = scratch();
    let dir = home.path().join("data");
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut took = Vec::new();
    for start in 0..=STARTS {
        let started = Instant::now();
        let mut broker = streambus(&[&serve(&dir, &address)[..], &["--admin-listen", "off"]].concat());
        let mut broker = broker.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while TcpStream::connect(&address).is_err() {
            assert!(started.elapsed() < PATIENCE, "nobody listens");
            thread::sleep(Duration::from_micros(100));
        }
        let is_first = start == 0;
        let acked = runtime.block_on(async {
            let client = Client::connect(&address).await.unwrap();
            if is_first {
                client.admin().create_topic(NewTopic::new("orders")).await.unwrap();
            }
            let producer = client.producer().topic("orders").build().await.unwrap();
            producer.send_and_confirm("a record").await.unwrap()
        });
        assert_eq!(acked.offset, start, "every start finds what the one before it acknowledged");
        if !is_first {
            took.push(started.elapsed());
        }
        kill_process(Pid::from_child(&broker), Signal::TERM).unwrap();
        assert!(broker.wait().unwrap().success());
    }
    took.sort();
    let (p50, max) = (took[took.len() / 2], took[took.len() - 1]);
    println!("from exec to the first durable acknowledgement: p50 {p50:?}, max {max:?} of {STARTS} starts");
}
