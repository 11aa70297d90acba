//! Accepts connections on shard 0 and deals them out to the shards.

use std::{
    hash::{Hash, Hasher},
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};

use futures_lite::future;
use runtime::{Listener, Runtime};
use rustc_hash::FxHasher;

use super::{connection::Arrival, limits::Admission};
use crate::{metrics::Metric, shard::Shard};

/// Pause after a failed accept, most often for lack of descriptors: they come free as others close.
const RETRY_AFTER: Duration = Duration::from_millis(10);

/// Accepts until the shard stops.
pub(crate) async fn accept<R: Runtime>(shard: Rc<Shard<R>>, listener: R::Listener, admission: Admission) {
    let stopping = async {
        shard.stopping().await;
    };
    let accepting = async {
        loop {
            match listener.accept().await {
                Ok((socket, peer)) => take(&shard, &admission, socket, peer),
                Err(error) => {
                    if let Some(suppressed) = shard.strangers.line(shard.rt.now()) {
                        tracing::warn!(suppressed, "cannot accept a connection: {error}");
                    }
                    shard.rt.sleep(RETRY_AFTER).await;
                }
            }
        }
    };
    future::or(stopping, accepting).await;
}

fn take<R: Runtime>(shard: &Rc<Shard<R>>, admission: &Admission, socket: R::Socket, peer: SocketAddr) {
    match admission.admit(peer.ip()) {
        Ok(permit) => {
            let arrival = Arrival { socket, peer, permit, since: shard.rt.now(), carried: Vec::new(), is_moved: false };
            shard.place(shard_for(peer, shard.shard_count()), arrival);
        }
        Err(reason) => {
            shard.metrics.count(Metric::ConnectionsRefused);
            if let Some(suppressed) = shard.strangers.line(shard.rt.now()) {
                tracing::warn!(%peer, suppressed, "connection refused: {reason}");
            }
        }
    }
}

/// The shard that a connection starts on. Ports of one address follow each other, so the hash must mix.
fn shard_for(peer: SocketAddr, shard_count: u16) -> u16 {
    let mut hasher = FxHasher::default();
    peer.hash(&mut hasher);
    // The upper half is the well-mixed one of a multiplicative hash.
    ((hasher.finish() >> 32) % u64::from(shard_count)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_of_one_client_spread_over_the_shards() {
        for shard_count in [1, 2, 3, 8] {
            let mut counts = vec![0; usize::from(shard_count)];
            for port in 40_000..41_000 {
                counts[usize::from(shard_for(SocketAddr::from(([127, 0, 0, 1], port)), shard_count))] += 1;
            }
            let fair = 1000 / i32::from(shard_count);
            assert!(counts.iter().all(|count| (fair * 3 / 4..=fair * 5 / 4).contains(count)), "{counts:?}");
        }
    }
}
