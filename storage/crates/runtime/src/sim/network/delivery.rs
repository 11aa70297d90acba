//! Segments on their way: each arrives after a delay, behind the one before it, or waits for the end of a cut.

use std::rc::Rc;

use super::{EndId, Network, State, connection::Segment};
use crate::sim::{
    NodeId,
    trace::{Event, digest},
};

impl Network {
    /// Sends a segment from `end` to its peer.
    pub(super) fn send(self: &Rc<Self>, end: EndId, segment: Segment) {
        let mut state = self.state.borrow_mut();
        let Some(connection) = state.connections.get_mut(&end.connection) else { return };
        let way = connection.way(end.end);
        let (len, digest) = (segment.len(), digest(segment.bytes()));
        self.world.trace.record(Event::Send { connection: end.connection, end: end.end, len, digest });
        connection.send(end.end, segment);
        drop(state);
        self.schedule_delivery(end.peer(), way);
    }

    /// Lets a segment arrive at `end` after a delay: always the first of those under way, so that a fast one behind a
    /// slow one changes places with it.
    fn schedule_delivery(self: &Rc<Self>, end: EndId, [from, to]: [NodeId; 2]) {
        let network = Rc::clone(self);
        self.world.schedule(self.delay_ns(from, to), move || network.deliver(end));
    }

    /// Lets the next segment on its way to `end` arrive, unless the way is cut.
    fn deliver(self: &Rc<Self>, end: EndId) {
        let mut state = self.state.borrow_mut();
        let State { connections, cuts, .. } = &mut *state;
        let Some(connection) = connections.get_mut(&end.connection) else { return };
        let [from, to] = connection.way(end.peer().end);
        if cuts.contains(&(from, to)) {
            connection.stall(end.end);
            return;
        }
        let len = connection.deliver(end.end);
        self.world.trace.record(Event::Deliver { connection: end.connection, end: end.end, len });
        if connection.refuses(end.end) && len > 0 {
            drop(state);
            self.send(end, Segment::Reset);
        }
    }

    pub(super) fn deliver_stalled(self: &Rc<Self>) {
        let mut state = self.state.borrow_mut();
        let State { connections, cuts, .. } = &mut *state;
        let mut due = Vec::new();
        for (&connection, both) in connections {
            for end in 0..2 {
                let way @ [from, to] = both.way(1 - end);
                if !cuts.contains(&(from, to)) {
                    due.extend((0..both.take_stalled(end)).map(|_| (EndId { connection, end }, way)));
                }
            }
        }
        drop(state);
        for (end, way) in due {
            self.schedule_delivery(end, way);
        }
    }

    pub(super) fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.state.borrow().cuts.contains(&(from, to))
    }

    pub(super) fn delay_ns(&self, from: NodeId, to: NodeId) -> u64 {
        let options = self.options.borrow();
        if from == to {
            return self.world.rng.within(options.loopback_delay_ns.clone());
        }
        let late_ns = if self.world.rng.one_in(options.lost_one_in) { options.retransmit_ns } else { 0 };
        self.world.rng.within(options.delay_ns.clone()) + late_ns
    }
}
