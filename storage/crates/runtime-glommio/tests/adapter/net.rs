//! Sockets: one reads while another writes, and connections move between shards.

use std::{io::ErrorKind, net::SocketAddr, sync::Mutex, time::Duration};

use futures_lite::future;
use runtime::{Listener as _, Runtime as _, Stream as _, mesh};
use runtime_glommio::{GlommioRuntime, Options, Placement, Stream, run_shards};

use crate::on_shard;

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

async fn read_all(stream: &Stream) -> Vec<u8> {
    let (mut all, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        match stream.read(&mut buffer).await.unwrap() {
            0 => return all,
            count => all.extend_from_slice(&buffer[..count]),
        }
    }
}

async fn read_exact(stream: &Stream, bytes: &mut [u8]) {
    let mut filled = 0;
    while filled < bytes.len() {
        let count = stream.read(&mut bytes[filled..]).await.unwrap();
        assert_ne!(count, 0, "closed after {filled} bytes");
        filled += count;
    }
}

/// Both directions are full at once, so that a reader and a writer wait at the same time on one stream.
#[test]
fn one_task_reads_while_another_writes() {
    const BYTES: usize = 16 << 20;
    on_shard(async |runtime: GlommioRuntime| {
        let listener = runtime.listen(loopback()).await.unwrap();
        let client = runtime.connect(listener.local_address()).await.unwrap();
        let (socket, peer) = listener.accept().await.unwrap();
        let server = runtime.adopt(socket).unwrap();
        assert_eq!((server.peer_address(), client.peer_address()), (peer, listener.local_address()));

        let ends = [client, server].map(|end| {
            let (writer, reader) = (end.clone(), end);
            let written = runtime.spawn(async move { writer.write_all(&vec![5; BYTES]).await });
            let read = runtime.spawn(async move {
                let mut bytes = vec![0; BYTES];
                read_exact(&reader, &mut bytes).await;
                bytes == vec![5; BYTES]
            });
            (written, read)
        });
        for (written, read) in ends {
            written.await.unwrap();
            assert!(read.await);
        }
    });
}

#[test]
fn shutdown_ends_a_pending_read_and_the_peers() {
    on_shard(async |runtime: GlommioRuntime| {
        let listener = runtime.listen(loopback()).await.unwrap();
        let client = runtime.connect(listener.local_address()).await.unwrap();
        let server = runtime.adopt(listener.accept().await.unwrap().0).unwrap();
        let reader = server.clone();
        let mut read = runtime.spawn(async move { read_all(&reader).await });
        runtime.sleep(Duration::from_millis(1)).await;
        assert!(future::poll_once(&mut read).await.is_none());
        server.shutdown();
        assert_eq!(read.await, b"");
        assert_eq!(read_all(&client).await, b"");
        assert_eq!(server.write_all(b"late").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    });
}

#[test]
fn a_port_is_bound_once() {
    on_shard(async |runtime: GlommioRuntime| {
        let listener = runtime.listen(loopback()).await.unwrap();
        let second = runtime.listen(listener.local_address()).await.err().unwrap();
        assert_eq!(second.kind(), ErrorKind::AddrInUse);
    });
}

#[test]
fn a_dropped_listener_closes_its_port_and_what_it_accepted() {
    on_shard(async |runtime: GlommioRuntime| {
        let unused = runtime.listen(loopback()).await.unwrap();
        let address = unused.local_address();
        drop(unused);
        let refused = runtime.connect(address).await.err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);

        let listener = runtime.listen(loopback()).await.unwrap();
        let address = listener.local_address();
        let client = runtime.connect(address).await.unwrap();
        drop(listener);
        match client.read(&mut [0]).await {
            Ok(count) => assert_eq!(count, 0),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
        let refused = runtime.connect(address).await.err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn an_accept_given_up_loses_no_connection() {
    on_shard(async |runtime: GlommioRuntime| {
        let listener = runtime.listen(loopback()).await.unwrap();
        for _ in 0..100 {
            assert!(future::poll_once(listener.accept()).await.is_none());
        }
        let client = runtime.connect(listener.local_address()).await.unwrap();
        let server = runtime.adopt(listener.accept().await.unwrap().0).unwrap();
        client.write_all(b"here").await.unwrap();
        drop(client);
        assert_eq!(read_all(&server).await, b"here");
    });
}

#[test]
fn listens_on_ipv6() {
    on_shard(async |runtime: GlommioRuntime| {
        // A machine may have no IPv6 at all.
        if std::net::TcpListener::bind("[::1]:0").is_err() {
            return;
        }
        let listener = runtime.listen("[::1]:0".parse().unwrap()).await.unwrap();
        let client = runtime.connect(listener.local_address()).await.unwrap();
        client.write_all(b"six").await.unwrap();
        drop(client);
        let server = runtime.adopt(listener.accept().await.unwrap().0).unwrap();
        assert_eq!(read_all(&server).await, b"six");
    });
}

/// Shard 0 answers the first byte, then hands the live connection to shard 1, which answers the second.
#[test]
fn a_connection_moves_to_another_shard() {
    let (moved, inbox) = mesh::inbox(1);
    let inbox = Mutex::new(Some(inbox));
    let shards = run_shards(Placement::Anywhere(2), Options::default(), move |runtime, shard| {
        let (moved, inbox) = (moved.clone(), inbox.lock().unwrap().take_if(|_| shard == 1));
        async move {
            let Some(inbox) = inbox else { return greet_and_move(runtime, moved).await };
            let stream = runtime.adopt(inbox.receive().await.unwrap()).unwrap();
            answer_one(&stream, b"1").await;
            read_all(&stream).await
        }
    });
    assert_eq!(shards.unwrap().join(), [b"01".to_vec(), b"bye".to_vec()]);
}

async fn greet_and_move(runtime: GlommioRuntime, moved: mesh::Sender<runtime_glommio::Socket>) -> Vec<u8> {
    let listener = runtime.listen(loopback()).await.unwrap();
    let client = runtime.connect(listener.local_address()).await.unwrap();
    let server = runtime.adopt(listener.accept().await.unwrap().0).unwrap();
    client.write_all(b"?").await.unwrap();
    answer_one(&server, b"0").await;
    assert!(moved.try_send(server.detach().unwrap()).is_ok());
    client.write_all(b"?bye").await.unwrap();
    let mut answers = vec![0; 2];
    read_exact(&client, &mut answers).await;
    answers
}

async fn answer_one(stream: &Stream, answer: &[u8]) {
    let mut question = [0];
    read_exact(stream, &mut question).await;
    stream.write_all(answer).await.unwrap();
}
