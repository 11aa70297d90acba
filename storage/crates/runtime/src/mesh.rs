//! Messages between the shards of one node: one bounded inbox a shard, any number of senders.
//!
//! Nothing here waits for room: a full inbox is an answer ("busy"), because two shards that wait for each other's
//! inbox would wait for ever.

/// Sends to one shard's inbox, from any thread.
pub struct Sender<M>(flume::Sender<M>);

/// One shard's inbox.
pub struct Inbox<M>(flume::Receiver<M>);

/// Why a message was not taken; it comes back.
#[derive(Debug)]
pub enum SendError<M> {
    /// The inbox is full.
    Full(M),
    /// The shard has ended.
    Closed(M),
}

/// Makes an inbox that holds `capacity` messages, and its sender.
pub fn inbox<M>(capacity: usize) -> (Sender<M>, Inbox<M>) {
    let (sender, receiver) = flume::bounded(capacity);
    (Sender(sender), Inbox(receiver))
}

impl<M> Clone for Sender<M> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<M> Sender<M> {
    /// Puts a message into the inbox, at once or not at all.
    ///
    /// # Errors
    /// [`SendError`], which holds the message.
    pub fn try_send(&self, message: M) -> Result<(), SendError<M>> {
        self.0.try_send(message).map_err(|error| match error {
            flume::TrySendError::Full(message) => SendError::Full(message),
            flume::TrySendError::Disconnected(message) => SendError::Closed(message),
        })
    }
}

impl<M> Inbox<M> {
    /// Waits for the next message; `None` once every sender is gone.
    pub async fn receive(&self) -> Option<M> {
        self.0.recv_async().await.ok()
    }

    /// The next message if there is one already.
    pub fn try_receive(&self) -> Option<M> {
        self.0.try_recv().ok()
    }
}
