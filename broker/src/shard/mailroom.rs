//! Answers what other shards ask, and takes the connections they hand over.
//!
//! It never waits: whatever may take longer than a look at memory becomes a task or joins a queue, for behind every
//! message stand others that have nothing to do with it.

use std::{rc::Rc, time::Duration};

use runtime::{
    Runtime,
    mesh::{Inbox, Sender},
};

use super::{Shard, copying, mesh::Message, metadata, start::Order};
use crate::{
    handler::{delete_records, fetch, get, health, hold, list_offsets, loss, produce::Arrivals},
    server::connection,
};

/// Messages handled before the shard looks at its sockets and disk.
const MESSAGES_A_TURN: usize = 64;

/// Handles messages for as long as the shard lives; orders are handed on.
pub(crate) async fn receive<R: Runtime>(shard: &Rc<Shard<R>>, inbox: &Inbox<Message<R>>, orders: &Sender<Order>) {
    let arrivals = Arrivals::start(shard);
    while let Some(first) = inbox.receive().await {
        let more = std::iter::from_fn(|| inbox.try_receive()).take(MESSAGES_A_TURN);
        for message in std::iter::once(first).chain(more) {
            handle(shard, &arrivals, orders, message);
        }
        shard.rt.sleep(Duration::ZERO).await;
    }
}

fn handle<R: Runtime>(shard: &Rc<Shard<R>>, arrivals: &Arrivals, orders: &Sender<Order>, message: Message<R>) {
    let own = || Rc::clone(shard);
    // An answer that nobody waits for any more is dropped.
    match message {
        Message::Connection(arrival) => shard.start(connection::serve(own(), arrival)),
        Message::Produce { log, bundle, reply } => arrivals.take(log, bundle, reply),
        Message::Fetch { positions, bytes_max, is_first, reply } => {
            shard.start(fetch::read_for_other(own(), positions, bytes_max, is_first, reply));
        }
        Message::Watch { positions, given_up, reply } => {
            shard.start(fetch::watch_for_other(own(), positions, given_up, reply));
        }
        Message::ListOffsets { queries, reply } => {
            let own = own();
            shard.start(async move {
                let _ = reply.try_send(list_offsets::list_here(&own, &queries).await);
            });
        }
        Message::Get { partition, key, reply } => {
            let own = own();
            shard.start(async move {
                let _ = reply.try_send(get::get_here(&own, partition, &key).await);
            });
        }
        Message::DeleteRecords { before, reply } => {
            let own = own();
            shard.start(async move {
                let _ = reply.try_send(delete_records::delete_here(&own, &before).await);
            });
        }
        Message::Describe { partitions, reply } => {
            let status = |id| Some(shard.partition(id)?.status());
            let _ = reply.try_send(partitions.into_iter().map(status).collect());
        }
        Message::AcceptLoss { stretch, reply } => loss::accept_for_other(own(), stretch, reply),
        Message::HoldMoves { hold_for, reply } => hold::hold_moves_for_other(own(), hold_for, reply),
        Message::Hold { hold_for, flush, reply } => hold::hold_for_other(own(), hold_for, flush, reply),
        Message::CreateTopic { topic, reply } => metadata::create_topic(shard, topic, reply),
        Message::AlterTopic { change, reply } => metadata::alter_topic(shard, change, reply),
        Message::DeleteTopic { name, reply } => metadata::delete_topic(shard, name, reply),
        Message::ProducerIds { reply } => metadata::reserve_producer_ids(shard, reply),
        Message::Apply { snapshot, reply } => {
            metadata::apply(shard, snapshot);
            let _ = reply.try_send(());
        }
        Message::Erase { copies, reply } => {
            let own = own();
            shard.start(async move {
                if metadata::erase(&own, copies).await {
                    let _ = reply.try_send(());
                }
            });
        }
        Message::Origin { partition, reply } => {
            let own = own();
            shard.start(async move { drop(reply.try_send(copying::origin(&own, partition).await)) });
        }
        Message::Receive { copying, reply } => {
            let own = own();
            shard.start(async move { drop(reply.try_send(copying::receive(&own, copying).await)) });
        }
        Message::ReadCopy { partition, offset, reply } => {
            let own = own();
            shard.start(async move { drop(reply.try_send(copying::read(&own, partition, offset).await)) });
        }
        Message::PauseAppends { partition, reply } => {
            let own = own();
            // At once: a message behind this one may end the pause.
            copying::pause(shard, partition);
            shard.start(async move { drop(reply.try_send(copying::end(&own, partition).await)) });
        }
        Message::ResumeAppends { partition } => copying::resume(shard, partition),
        Message::IsDrained { log, reply } => drop(reply.try_send(shard.logs.is_drained(log))),
        Message::CloseLog { log, reply } => {
            let own = own();
            shard.start(async move {
                match own.logs.give_up(log).await {
                    Ok(()) => drop(reply.try_send(())),
                    Err(failed) => own.fail(failed.into()),
                }
            });
        }
        Message::Stats { reply } => drop(reply.try_send(shard.read_metrics())),
        Message::Health { reply } => drop(reply.try_send(health::of_shard(shard))),
        // Shard 0 gives the next order when the last one is answered.
        Message::Order(order) => drop(orders.try_send(order)),
    }
}
