//! Sockets: who may connect, what arrived, what is to be sent, and for how long anybody may take.

pub(crate) mod answers;
pub(crate) mod connection;
pub(crate) mod deadlines;
pub(crate) mod limits;
pub(crate) mod listener;
pub(crate) mod outbox;
mod receive;
pub(crate) mod shown;
