//! Buffers belong to the kernel until it is done with them, whoever has stopped waiting.
//!
//! Blocks carry the colour of what they were taken for. Reads and writes are dropped at random while they are under way, and
//! the pool is asked for blocks at once, which are painted over: no write may put another colour on the disk, and no read
//! may change a block that is somebody else's by then.

use std::{future::Future, pin::pin, task::Poll, time::Duration};

use futures_lite::future;
use runtime::{BLOCK_ALIGNMENT, Block as _, File as _, OpenMode, Runtime};
use runtime_glommio::GlommioRuntime;

use crate::{on_shard, scratch};

const ROUNDS: u64 = 400;
/// Bytes of one write: a colour's place in the file.
const PLACE_BYTES: usize = 4 * BLOCK_ALIGNMENT;

/// Starts an operation, and waits for it only sometimes.
async fn begin(operation: impl Future<Output = std::io::Result<()>>, waits: bool) {
    let mut operation = pin!(operation);
    let started = future::poll_fn(|context| Poll::Ready(operation.as_mut().poll(context))).await;
    if waits && started.is_pending() {
        operation.await.expect("the disk works");
    }
}

fn colour(place: u64) -> u8 {
    (place % 251) as u8 + 1
}

#[test]
fn what_is_given_up_touches_nobody_elses_memory() {
    on_shard(async |runtime: GlommioRuntime| {
        let scratch = scratch();
        let file = runtime.open(&scratch.path().join("file"), OpenMode::CreateDurable).await.unwrap();
        file.allocate(ROUNDS * PLACE_BYTES as u64).await.unwrap();
        let mut painted = Vec::new();
        let mut given_up = 0;
        for place in 0..ROUNDS {
            let random = runtime.random_u64();
            let mut block = runtime.block(PLACE_BYTES);
            block[..PLACE_BYTES].fill(colour(place));
            let position = place * PLACE_BYTES as u64;
            let waits = random.is_multiple_of(3);
            begin(file.write_durable(block.freeze(PLACE_BYTES), position), waits).await;
            let reads_from = random / 3 % (place + 1) * PLACE_BYTES as u64;
            begin(async { file.read(reads_from, PLACE_BYTES).await.map(drop) }, random.is_multiple_of(5)).await;
            given_up += u64::from(!waits);
            // Whatever the pool hands out now may not be under way any more.
            let mut next = runtime.block(PLACE_BYTES);
            next.fill(0xff);
            painted.push(next);
            if random.is_multiple_of(7) {
                assert!(painted.iter().all(|block| block.iter().all(|&byte| byte == 0xff)), "a painted block changed");
                painted.clear();
                runtime.sleep(Duration::ZERO).await;
            }
        }
        // A sync behind all of them, and time for the last one to arrive.
        runtime.sleep(Duration::from_millis(200)).await;
        file.sync().await.unwrap();
        assert!(painted.iter().all(|block| block.iter().all(|&byte| byte == 0xff)), "a painted block changed");
        for place in 0..ROUNDS {
            let read = file.read(place * PLACE_BYTES as u64, PLACE_BYTES).await.unwrap();
            assert!(read.iter().all(|&byte| byte == colour(place)), "a foreign colour in place {place}");
        }
        assert!(given_up > ROUNDS / 3, "hardly anything was given up");
    });
}
