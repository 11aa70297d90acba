//! Blocks: exclusive, then shared, then back in the pool.

use runtime::{BLOCK_ALIGNMENT, Block as _, Frozen as _, Runtime as _};
use runtime_glommio::{BLOCK_BYTES, BlockStats, GlommioRuntime};

use crate::on_shard;

#[test]
fn a_block_is_aligned_and_standard() {
    on_shard(async |runtime: GlommioRuntime| {
        let block = runtime.block(1);
        assert_eq!(block.len(), runtime.block_bytes());
        assert!(block.as_ptr().addr().is_multiple_of(BLOCK_ALIGNMENT));
        assert!(runtime.block(BLOCK_BYTES + 1).as_ptr().addr().is_multiple_of(BLOCK_ALIGNMENT));
    });
}

#[test]
fn frozen_parts_stay_while_the_rest_is_written() {
    on_shard(async |runtime: GlommioRuntime| {
        let mut block = runtime.block(1);
        block[..8].copy_from_slice(b"headbody");
        let head = block.split_frozen(4);
        let body = block.split_frozen(4);
        block[..4].copy_from_slice(b"tail");
        let tail = block.freeze(4);
        assert_eq!((&*head, &*body, &*tail), (&b"head"[..], &b"body"[..], &b"tail"[..]));
        assert_eq!(&*body.slice(1..3), b"od");
        assert_eq!(body.slice(1..3).slice(1..1).len(), 0);
        assert_eq!(body.block_capacity(), BLOCK_BYTES);
    });
}

#[test]
fn the_last_drop_returns_the_whole_block() {
    on_shard(async |runtime: GlommioRuntime| {
        let mut block = runtime.block(1);
        let head = block.split_frozen(4096);
        let (rest, part) = (block.freeze(10), head.slice(0..1));
        drop(head);
        drop(rest);
        assert_eq!(runtime.block_stats(), BlockStats { in_use: 1, idle: 0, oversize_bytes: 0 });
        drop(part);
        assert_eq!(runtime.block_stats(), BlockStats { in_use: 0, idle: 1, oversize_bytes: 0 });
        assert_eq!(runtime.block(1).len(), BLOCK_BYTES);
    });
}

#[test]
fn blocks_are_made_ahead_while_the_pool_grows() {
    on_shard(async |runtime: GlommioRuntime| {
        let mut taken = vec![runtime.block(1)];
        assert_eq!(runtime.block_stats().idle, 0, "one block is no load");
        taken.push(runtime.block(1));
        while runtime.block_stats().idle == 0 {
            runtime.sleep(std::time::Duration::from_millis(1)).await;
        }
        let ahead = runtime.block_stats().idle;
        taken.push(runtime.block(1));
        assert_eq!(runtime.block_stats(), BlockStats { in_use: 3, idle: ahead - 1, oversize_bytes: 0 });
        assert!(taken[2].iter().all(|&byte| byte == 0), "a fresh block is initialised");
    });
}
