//! InitProducer: an id from a block that is this shard's alone.

use std::{cell::RefCell, ops::Range, rc::Rc};

use runtime::Runtime;

use crate::shard::{
    Shard,
    mesh::{Message, call},
    metadata,
};

/// Producer ids reserved for a shard and not given out yet.
#[derive(Default)]
pub(crate) struct ProducerIds {
    reserved: RefCell<Range<i64>>,
}

/// A producer id that nobody has or had; `None` if none could be reserved.
pub(crate) async fn init_producer<R: Runtime>(shard: &Rc<Shard<R>>) -> Option<i64> {
    loop {
        if let Some(id) = shard.producer_ids.reserved.borrow_mut().next() {
            return Some(id);
        }
        let block = reserve(shard).await?;
        // Another task may have reserved meanwhile: its ids are used up first, for a lost id is no loss.
        let mut reserved = shard.producer_ids.reserved.borrow_mut();
        if reserved.is_empty() {
            *reserved = block;
        }
    }
}

async fn reserve<R: Runtime>(shard: &Rc<Shard<R>>) -> Option<Range<i64>> {
    let (reply, answer) = call();
    if shard.index == 0 {
        metadata::reserve_producer_ids(shard, reply);
    } else if !shard.send(0, Message::ProducerIds { reply }) {
        return None;
    }
    answer.receive().await
}
