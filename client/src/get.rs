//! The last record of a key, of a compacted topic.
//!
//! The partition is the one that the producers of this crate, and Kafka's, choose for the key. What is known of the topic is
//! kept, so that a lookup is one question; a refusal because it is out of date describes the topic anew, once.

use std::sync::Arc;

use bytes::Bytes;
use wire::{ErrorCode, api::get};

use crate::{
    client::{Client, Inner, Repeat},
    consumer::Record,
    error::Error,
    metadata::Topic,
    producer::partition_of_key,
};

impl Client {
    /// The last record of a key; `None` when there is none, or it says that the key is deleted. Only a topic whose
    /// `cleanup.policy` contains `compact` can be asked, and only records whose producer chose the partition by the key, as
    /// [`Producer`](crate::Producer) does by default, are found.
    ///
    /// ```no_run
    /// # async fn example(client: &streambus::Client) -> Result<(), streambus::Error> {
    /// if let Some(profile) = client.get("profiles", "user-7").await? {
    ///     println!("{:?}, at offset {}", profile.value, profile.offset);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::UnknownTopic`]; [`Error::Refused`] with `NotCompacted`; when no broker answers within the request timeout.
    pub async fn get(&self, topic: &str, key: impl AsRef<[u8]>) -> Result<Option<Record>, Error> {
        let (inner, key) = (&self.inner, key.as_ref());
        if let Some(known) = inner.known_topic(topic) {
            match inner.get(&known, key).await {
                Err(Error::Refused { code: ErrorCode::UnknownPartition | ErrorCode::NotLeader, .. }) => {}
                answer => return answer,
            }
        }
        let described = inner.topic(topic).await?;
        inner.keep_topic(&described);
        inner.get(&described, key).await
    }
}

impl Inner {
    async fn get(&self, topic: &Topic, key: &[u8]) -> Result<Option<Record>, Error> {
        let partition = partition_of_key(key, topic.partition_count());
        let request = get::Request { partition: topic.partitions[partition as usize].id, key };
        let connection = self.data(topic, partition).await?;
        let operation = format!("get a key of {}/{partition}", topic.name);
        let (name, key) = (topic.name.clone(), Bytes::copy_from_slice(key));
        self.ask_over(&connection, &operation, Repeat::Harmless, &request, |response| {
            let get::Response { found } = response.message()?;
            let share = |slice: &[u8]| response.body().slice_ref(slice);
            Ok(found.map(|found| Record {
                topic: Arc::clone(&name),
                partition,
                offset: found.offset,
                timestamp_ms: found.timestamp_ms,
                key: Some(key.clone()),
                value: Some(share(found.value)),
                headers: found.headers.iter().map(|header| (share(header.key), header.value.map(share))).collect(),
            }))
        })
        .await
    }
}
