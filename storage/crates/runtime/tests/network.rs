//! The simulated network: streams in order, bounded, cut, reset, moved between shards.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    io,
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};

use runtime::{
    Listener as _, Runtime, Stream as _,
    sim::{Crash, NodeId, SimRuntime, Simulation, network},
};

const PORT: u16 = 9092;

#[test]
fn bytes_arrive_in_order_whatever_the_pieces() {
    for seed in 0..20 {
        let pair = Pair::connect(seed);
        let sent: Vec<u8> = (0..300_000_u32).map(|n| (n / 7) as u8).collect();
        let writer = pair.client.clone();
        let bytes = sent.clone();
        drop(pair.outside.spawn(async move { writer.write_all(&bytes).await.unwrap() }));
        let server = pair.server.clone();
        let received = pair.simulation.run(&pair.outside.spawn(async move { read_exact(&server, 300_000).await }));
        assert_eq!(received.unwrap().unwrap(), sent);
    }
}

#[test]
fn a_writer_waits_for_its_reader() {
    let pair = Pair::connect(1);
    let (client, server) = (pair.client.clone(), pair.server.clone());
    let first = pair.outside.spawn({
        let client = client.clone();
        async move { client.write_all(&[7; 60 * 1024]).await }
    });
    pair.simulation.run(&first).unwrap().unwrap();
    let second = pair.outside.spawn(async move { client.write_all(&[7; 20 * 1024]).await });
    pair.simulation.run_for(Duration::from_secs(10)).unwrap();
    assert!(second.try_take().is_none(), "80 KiB do not fit into a buffer of 64");
    pair.simulation.run(&pair.outside.spawn(async move { read_exact(&server, 80 * 1024).await })).unwrap().unwrap();
    pair.simulation.run(&second).unwrap().unwrap();
}

#[test]
fn connections_do_not_wait_for_each_other() {
    let orders: BTreeSet<bool> = (0..20)
        .map(|seed| {
            let pair = Pair::connect(seed);
            let (first, second) = (pair.client.clone(), pair.again());
            let winner = Rc::new(Cell::new(None));
            for (nth, stream) in [pair.server.clone(), second.1].into_iter().enumerate() {
                let winner = Rc::clone(&winner);
                drop(pair.outside.spawn(async move {
                    stream.read(&mut [0]).await.unwrap();
                    winner.set(winner.get().or(Some(nth == 0)));
                }));
            }
            drop(pair.outside.spawn(async move {
                first.write_all(&[1]).await.unwrap();
                second.0.write_all(&[2]).await.unwrap();
            }));
            pair.simulation.run_until(|| winner.get().is_some()).unwrap();
            winner.get().unwrap()
        })
        .collect();
    assert_eq!(orders.len(), 2, "the later message is never the faster one");
}

#[test]
fn a_close_is_read_after_the_last_byte() {
    let Pair { simulation, outside, client, server, .. } = Pair::connect(1);
    drop(outside.spawn(async move { client.write_all(b"last").await.unwrap() }));
    let read = outside.spawn(async move {
        assert_eq!(read_exact(&server, 4).await.unwrap(), b"last");
        server.read(&mut [0]).await
    });
    assert_eq!(simulation.run(&read).unwrap().unwrap(), 0);
}

#[test]
fn writing_to_a_closed_peer_ends_in_a_reset() {
    let Pair { simulation, outside, client, server, .. } = Pair::connect(1);
    drop(server);
    let runtime = outside.clone();
    let write = outside.spawn(async move {
        loop {
            if let Err(error) = client.write_all(&[0; 1024]).await {
                return error.kind();
            }
            runtime.sleep(Duration::from_millis(1)).await;
        }
    });
    assert_eq!(simulation.run(&write).unwrap(), io::ErrorKind::ConnectionReset);
}

#[test]
fn a_writer_that_waits_learns_that_its_peer_closed() {
    for keep_handle in [false, true] {
        let Pair { simulation, outside, client, server, .. } = Pair::connect(1);
        let write = outside.spawn(async move { client.write_all(&[0; 1 << 20]).await });
        simulation.run_for(Duration::from_secs(1)).unwrap();
        if keep_handle {
            server.shutdown();
        }
        let _kept = keep_handle.then_some(server);
        assert!(simulation.run(&write).unwrap().is_err());
    }
}

#[test]
fn a_shutdown_wakes_the_own_reader_and_the_peers() {
    let Pair { simulation, outside, client, server, .. } = Pair::connect(1);
    let reads =
        [client.clone(), server.clone()].map(|stream| outside.spawn(async move { stream.read(&mut [0]).await }));
    simulation.run_for(Duration::from_secs(1)).unwrap();
    client.shutdown();
    for read in &reads {
        assert_eq!(simulation.run(read).unwrap().unwrap(), 0);
    }
    let write = outside.spawn(async move { client.write_all(&[0]).await });
    assert_eq!(simulation.run(&write).unwrap().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn what_crosses_a_cut_waits_for_its_end() {
    let pair = Pair::connect(1);
    let (outside, simulation) = (pair.outside.node(), &pair.simulation);
    simulation.network().cut(outside, pair.node);
    let (client, server) = (pair.client.clone(), pair.server.clone());
    drop(pair.outside.spawn({
        let client = client.clone();
        async move { client.write_all(b"there").await.unwrap() }
    }));
    drop(pair.outside.spawn({
        let server = server.clone();
        async move { server.write_all(b"back").await.unwrap() }
    }));
    let there = pair.outside.spawn(async move { read_exact(&server, 5).await });
    let back = pair.outside.spawn(async move { read_exact(&client, 4).await });
    assert_eq!(simulation.run(&back).unwrap().unwrap(), b"back", "the other direction is not cut");
    simulation.run_for(Duration::from_secs(60)).unwrap();
    assert!(there.try_take().is_none());
    simulation.network().heal(outside, pair.node);
    assert_eq!(simulation.run(&there).unwrap().unwrap(), b"there");
}

#[test]
fn a_crash_resets_the_connections_of_its_node() {
    for crash in [Crash::PowerCut, Crash::Kill] {
        let pair = Pair::connect(1);
        let client = pair.client.clone();
        let read = pair.outside.spawn(async move { client.read(&mut [0]).await });
        pair.simulation.crash(pair.node, crash);
        assert_eq!(pair.simulation.run(&read).unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        let (outside, node) = (pair.outside.clone(), pair.node);
        let again = pair.outside.spawn(async move { outside.connect(SocketAddr::new(node.ip(), PORT)).await.err() });
        assert_eq!(pair.simulation.run(&again).unwrap().unwrap().kind(), io::ErrorKind::ConnectionRefused);
        drop((pair.client, pair.server));
        assert_eq!(pair.simulation.network().connections(), 0);
    }
}

#[test]
fn a_crash_takes_nothing_back_from_a_connection_that_was_closed_before() {
    let pair = Pair::connect(1);
    let (client, server) = (pair.client.clone(), pair.server.clone());
    let farewell = pair.outside.spawn(async move {
        server.write_all(b"last").await.unwrap();
        server.shutdown();
    });
    pair.simulation.run(&farewell).unwrap();
    pair.simulation.crash(pair.node, Crash::PowerCut);
    pair.simulation.run_for(Duration::from_secs(1)).unwrap();
    let read = pair.outside.spawn(async move { read_exact(&client, 4).await });
    assert_eq!(pair.simulation.run(&read).unwrap().unwrap(), b"last");
}

#[test]
fn a_test_can_reset_connections() {
    let pair = Pair::connect(1);
    let reads = [pair.client.clone(), pair.server.clone()]
        .map(|stream| pair.outside.spawn(async move { stream.read(&mut [0]).await.map_err(|error| error.kind()) }));
    pair.simulation.network().reset(pair.node, pair.outside.node());
    for read in &reads {
        assert_eq!(pair.simulation.run(read).unwrap(), Err(io::ErrorKind::ConnectionReset));
    }
}

#[test]
fn a_connection_moves_to_another_shard_with_what_it_has_not_read() {
    let simulation = Simulation::new(1);
    let node = simulation.add_node();
    simulation.boot(node, 2, |shards| {
        let (sender, inbox) = runtime::mesh::inbox(1);
        let [first, second] = [shards[0].clone(), shards[1].clone()];
        drop(shards[0].spawn(async move {
            let listener = first.listen(SocketAddr::new("0.0.0.0".parse().unwrap(), PORT)).await.unwrap();
            let (socket, peer) = listener.accept().await.unwrap();
            let stream = first.adopt(socket).unwrap();
            assert_eq!(stream.peer_address(), peer);
            assert_eq!(read_exact(&stream, 2).await.unwrap(), b"to");
            assert!(sender.try_send(stream.detach().unwrap()).is_ok());
        }));
        drop(shards[1].spawn(async move {
            let stream = second.adopt(inbox.receive().await.unwrap()).unwrap();
            let mut bytes = read_exact(&stream, 6).await.unwrap();
            bytes.reverse();
            stream.write_all(&bytes).await.unwrap();
        }));
    });
    let client = simulation.outside();
    let echo = client.clone().spawn(async move {
        let stream = connect(&client, node).await;
        stream.write_all(b"tosecond").await.unwrap();
        read_exact(&stream, 6).await.unwrap()
    });
    assert_eq!(simulation.run(&echo).unwrap(), b"dnoces");
}

#[test]
fn a_socket_dropped_between_shards_is_closed() {
    let Pair { simulation, outside, client, server, .. } = Pair::connect(1);
    drop(server.detach().unwrap());
    let read = outside.spawn(async move { client.read(&mut [0]).await });
    assert_eq!(simulation.run(&read).unwrap().unwrap(), 0);
}

#[test]
fn ports_are_found_taken_and_free_again() {
    let simulation = Simulation::new(1);
    let node = simulation.add_node();
    let listen = async |runtime: SimRuntime| {
        let any = SocketAddr::new("127.0.0.1".parse().unwrap(), 0);
        let first = runtime.listen(any).await.unwrap();
        let taken = first.local_address();
        assert_eq!(runtime.listen(taken).await.err().unwrap().kind(), io::ErrorKind::AddrInUse);
        assert_ne!(runtime.listen(any).await.unwrap().local_address(), taken);
        runtime.connect(taken).await.unwrap();
        let from_afar = SocketAddr::new(runtime.node().ip(), taken.port());
        assert_eq!(runtime.connect(from_afar).await.err().unwrap().kind(), io::ErrorKind::ConnectionRefused);
        drop(first);
        assert_eq!(runtime.connect(taken).await.err().unwrap().kind(), io::ErrorKind::ConnectionRefused);
        let foreign = SocketAddr::new("10.0.9.9".parse().unwrap(), 1);
        assert_eq!(runtime.listen(foreign).await.err().unwrap().kind(), io::ErrorKind::AddrNotAvailable);
        runtime.listen(taken).await.unwrap();
    };
    simulation.block_on(node, listen).unwrap();
}

#[test]
fn connecting_across_a_cut_times_out() {
    let pair = Pair::connect(1);
    let (outside, node) = (pair.outside.clone(), pair.node);
    pair.simulation.network().partition(&[outside.node()], &[node]);
    let attempt = pair.outside.spawn(async move { outside.connect(SocketAddr::new(node.ip(), PORT)).await.err() });
    assert_eq!(pair.simulation.run(&attempt).unwrap().unwrap().kind(), io::ErrorKind::TimedOut);
}

#[test]
fn lost_packets_are_late() {
    let pair = Pair::connect(1);
    let lossy = network::Options { lost_one_in: 1, ..network::Options::default() };
    pair.simulation.network().set_options(lossy);
    let before = pair.simulation.now();
    let (client, server) = (pair.client.clone(), pair.server.clone());
    drop(pair.outside.spawn(async move { client.write_all(&[1]).await.unwrap() }));
    pair.simulation.run(&pair.outside.spawn(async move { read_exact(&server, 1).await })).unwrap().unwrap();
    assert!(pair.simulation.now().since(before) >= Duration::from_millis(200));
}

/// A connection from the outside to a node whose server does nothing but accept.
struct Pair {
    simulation: Simulation,
    outside: SimRuntime,
    node: NodeId,
    client: network::Stream,
    server: network::Stream,
    accepted: Rc<RefCell<Vec<network::Stream>>>,
}

impl Pair {
    fn connect(seed: u64) -> Self {
        let simulation = Simulation::new(seed);
        let (node, outside) = (simulation.add_node(), simulation.outside());
        let accepted: Rc<RefCell<Vec<network::Stream>>> = Rc::default();
        let accepting = Rc::clone(&accepted);
        simulation.start(node, 1, move |runtime, _| {
            let accepting = Rc::clone(&accepting);
            async move {
                let listener = runtime.listen(SocketAddr::new(runtime.node().ip(), PORT)).await.unwrap();
                loop {
                    let (socket, _) = listener.accept().await.unwrap();
                    accepting.borrow_mut().push(runtime.adopt(socket).unwrap());
                }
            }
        });
        let (client, server) = connect_pair(&simulation, node, &accepted);
        Self { simulation, outside, node, client, server, accepted }
    }

    /// Another connection between the same two.
    fn again(&self) -> (network::Stream, network::Stream) {
        connect_pair(&self.simulation, self.node, &self.accepted)
    }
}

fn connect_pair(
    simulation: &Simulation,
    node: NodeId,
    accepted: &RefCell<Vec<network::Stream>>,
) -> (network::Stream, network::Stream) {
    let outside = simulation.outside();
    let client = simulation.run(&outside.clone().spawn(async move { connect(&outside, node).await })).unwrap();
    simulation.run_until(|| !accepted.borrow().is_empty()).unwrap();
    let server = accepted.borrow_mut().pop().expect("one was accepted");
    (client, server)
}

async fn connect(client: &SimRuntime, node: NodeId) -> network::Stream {
    loop {
        match client.connect(SocketAddr::new(node.ip(), PORT)).await {
            Ok(stream) => return stream,
            Err(_) => client.sleep(Duration::from_millis(1)).await,
        }
    }
}

async fn read_exact(stream: &network::Stream, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let mut done = 0;
    while done < len {
        match stream.read(&mut bytes[done..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => done += read,
        }
    }
    Ok(bytes)
}
