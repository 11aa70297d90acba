//! What a connection may cost: how many there are, how long they may take, how much they hold.

use std::{
    cell::Cell,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustc_hash::FxHashMap;

use runtime::Notify;

/// Requests a connection may have without a response.
pub(crate) const IN_FLIGHT_MAX: usize = 4096;

/// See [`Limits::in_flight_bytes_max`].
const IN_FLIGHT_BYTES_MAX: usize = 8 << 20;

/// The limits of a node's listener. Those without a comment are as in `config::Broker`.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Over all shards.
    pub connections_max: usize,
    /// Over all shards.
    pub connections_per_address_max: usize,
    /// Until Hello is answered.
    pub handshake_timeout: Duration,
    /// Without a frame, and with none under way.
    pub idle_timeout: Duration,
    /// Of a frame with its header, in both directions.
    pub frame_bytes_max: usize,
    /// Of one batch.
    pub batch_bytes_max: usize,
    /// Until a produce request that finds no room is answered Busy.
    pub produce_wait_max: Duration,
    /// Memory of all connections of one shard.
    pub connection_bytes_max: usize,
}

impl Limits {
    /// Bytes of unanswered requests, and of answers not yet sent, that a connection may hold; then it is read no further.
    pub(crate) fn in_flight_bytes_max(&self) -> usize {
        IN_FLIGHT_BYTES_MAX.min(self.connection_bytes_max / 8)
    }
}

/// Counts the connections of a node. Accepting and closing take a lock; nothing else does.
#[derive(Clone)]
pub(crate) struct Admission {
    counts: Arc<Mutex<Counts>>,
    total_max: usize,
    per_address_max: usize,
}

#[derive(Default)]
struct Counts {
    total: usize,
    by_address: FxHashMap<IpAddr, usize>,
}

/// One connection's place among those allowed, until it is dropped.
pub(crate) struct Permit {
    counts: Arc<Mutex<Counts>>,
    address: IpAddr,
}

/// Which limit a connection came up against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TooMany {
    /// Over all addresses.
    #[error("there are {connections_max} connections already; set connections_max higher or close some")]
    Connections { connections_max: usize },
    /// From its own.
    #[error("its address has {connections_max} connections already; set connections_per_address_max higher")]
    FromAddress { connections_max: usize },
}

impl Admission {
    /// Nobody is connected.
    pub(crate) fn new(limits: &Limits) -> Self {
        let (total_max, per_address_max) = (limits.connections_max, limits.connections_per_address_max);
        Self { counts: Arc::default(), total_max, per_address_max }
    }

    /// Lets a connection in, if there is room.
    pub(crate) fn admit(&self, address: IpAddr) -> Result<Permit, TooMany> {
        let mut counts = lock(&self.counts);
        if counts.total >= self.total_max {
            return Err(TooMany::Connections { connections_max: self.total_max });
        }
        let of_address = counts.by_address.entry(address).or_default();
        if *of_address >= self.per_address_max {
            return Err(TooMany::FromAddress { connections_max: self.per_address_max });
        }
        *of_address += 1;
        counts.total += 1;
        Ok(Permit { counts: Arc::clone(&self.counts), address })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = lock(&self.counts);
        counts.total -= 1;
        if let Some(of_address) = counts.by_address.get_mut(&self.address) {
            *of_address -= 1;
            if *of_address == 0 {
                counts.by_address.remove(&self.address);
            }
        }
    }
}

fn lock(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Memory that the connections of one shard share.
pub(crate) struct Budget {
    bytes_max: usize,
    bytes_taken: Cell<usize>,
    returned: Notify,
}

impl Budget {
    /// All of it is there.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, bytes_taken: Cell::new(0), returned: Notify::default() }
    }

    /// Takes `bytes` if they are there.
    pub(crate) fn try_take(&self, bytes: usize) -> bool {
        let taken = self.bytes_taken.get().saturating_add(bytes);
        let is_there = taken <= self.bytes_max;
        if is_there {
            self.bytes_taken.set(taken);
        }
        is_there
    }

    /// Takes `bytes`, waiting until they are there.
    pub(crate) async fn take(&self, bytes: usize) {
        self.returned.until(|| self.try_take(bytes).then_some(())).await;
    }

    /// Takes `bytes` that are held already, though they may not be there.
    pub(crate) fn charge(&self, bytes: usize) {
        self.bytes_taken.set(self.bytes_taken.get() + bytes);
    }

    /// Whether nothing is left, or not enough for those who wait.
    pub(crate) fn is_short(&self) -> bool {
        self.bytes_taken.get() >= self.bytes_max || self.returned.is_waited_for()
    }

    /// Waits until something is left.
    pub(crate) async fn enough(&self) {
        self.returned.until(|| (self.bytes_taken.get() < self.bytes_max).then_some(())).await;
    }

    /// Gives back what was taken.
    pub(crate) fn give_back(&self, bytes: usize) {
        let taken = self.bytes_taken.get();
        assert!(bytes <= taken, "{bytes} bytes given back, {taken} were taken");
        if bytes > 0 {
            self.bytes_taken.set(taken - bytes);
            self.returned.wake();
        }
    }

    /// Bytes in use.
    pub(crate) fn bytes_taken(&self) -> usize {
        self.bytes_taken.get()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn limits() -> Limits {
        Limits {
            connections_max: 3,
            connections_per_address_max: 2,
            handshake_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(600),
            frame_bytes_max: 1 << 20,
            batch_bytes_max: 1 << 19,
            produce_wait_max: Duration::from_secs(5),
            connection_bytes_max: 1 << 20,
        }
    }

    #[test]
    fn both_limits_hold_and_a_closed_connection_makes_room() {
        let admission = Admission::new(&limits());
        let (one, other) = (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)));
        let first = admission.admit(one).unwrap();
        let _second = admission.admit(one).unwrap();
        assert_eq!(admission.admit(one).err(), Some(TooMany::FromAddress { connections_max: 2 }));
        let _third = admission.admit(other).unwrap();
        assert_eq!(admission.admit(other).err(), Some(TooMany::Connections { connections_max: 3 }));
        drop(first);
        assert!(admission.admit(one).is_ok());
    }

    #[test]
    fn a_budget_gives_what_it_has() {
        let budget = Budget::new(100);
        assert!(budget.try_take(60));
        assert!(!budget.try_take(60));
        budget.charge(60);
        budget.give_back(60);
        assert!(budget.try_take(40));
        assert_eq!(budget.bytes_taken(), 100);
    }
}
