//! A test's hand on the network: what it cuts, heals and resets.

use std::rc::Rc;

use super::{Network, Options};
use crate::sim::NodeId;

impl Network {
    /// Changes how it behaves from now on.
    pub fn set_options(&self, options: Options) {
        self.options.replace(options);
    }

    /// Lets nothing more arrive that `from` sends to `to`.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.state.borrow_mut().cuts.insert((from, to));
    }

    /// Cuts every way, in both directions, between a node of `some` and a node of `others`.
    pub fn partition(&self, some: &[NodeId], others: &[NodeId]) {
        for (&one, &other) in some.iter().flat_map(|one| others.iter().map(move |other| (one, other))) {
            self.cut(one, other);
            self.cut(other, one);
        }
    }

    /// Ends the cut from `from` to `to`; what waited is delivered.
    pub fn heal(self: &Rc<Self>, from: NodeId, to: NodeId) {
        self.state.borrow_mut().cuts.remove(&(from, to));
        self.deliver_stalled();
    }

    /// Ends every cut.
    pub fn heal_all(self: &Rc<Self>) {
        self.state.borrow_mut().cuts.clear();
        self.deliver_stalled();
    }

    /// Resets all connections between two nodes, as a firewall that lost its state does.
    pub fn reset(&self, one: NodeId, other: NodeId) {
        let mut state = self.state.borrow_mut();
        for connection in state.connections.values_mut() {
            let nodes = connection.nodes();
            if nodes == [one, other] || nodes == [other, one] {
                connection.reset();
            }
        }
    }

    /// How many connections are open at one end at least.
    pub fn connections(&self) -> usize {
        self.state.borrow().connections.len()
    }
}
