//! The connections that one producer or consumer uses, by number.
//!
//! Its pure core knows connections only as indexes, which stay the same for its life: a partition that moves gets another
//! index, and what is still on its way over the old one is answered there.

use std::{sync::Arc, time::Duration};

use crate::{
    client::Inner,
    connection::Connection,
    error::Error,
    metadata::{Route, Topic},
};

/// Which of the connections.
pub(crate) type RouteIndex = usize;

/// Connections, each once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Routes {
    connections: Vec<(Route, Arc<Connection>)>,
}

impl Routes {
    /// The connection of a number that was given out.
    pub(crate) fn connection(&self, index: RouteIndex) -> &Arc<Connection> {
        &self.connections[index].1
    }

    /// The number of the connection to the leader of each of the topic's partitions, by partition.
    pub(crate) async fn of_topic(&mut self, client: &Inner, topic: &Topic) -> Result<Vec<RouteIndex>, Error> {
        let mut indexes = Vec::with_capacity(topic.partitions.len());
        for partition in 0..topic.partition_count() {
            indexes.push(self.of_partition(client, topic, partition).await?);
        }
        Ok(indexes)
    }

    async fn of_partition(&mut self, client: &Inner, topic: &Topic, partition: u32) -> Result<RouteIndex, Error> {
        let wanted = topic.partitions[partition as usize].route;
        if let Some(known) = self.connections.iter().position(|(route, _)| *route == wanted) {
            return Ok(known);
        }
        self.connections.push((wanted, client.data(topic, partition).await?));
        Ok(self.connections.len() - 1)
    }
}

/// Waits until a connection is ready, as long as it takes.
pub(crate) async fn until_connected(connection: Arc<Connection>) {
    const PATIENCE: Duration = Duration::from_secs(60);
    const PAUSE: Duration = Duration::from_secs(1);
    while connection.ready(PATIENCE).await.is_err() {
        tokio::time::sleep(PAUSE).await;
    }
}
