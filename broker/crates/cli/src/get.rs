//! `streambus get`: the last value of a key, as it is, or told in full.

use std::io::{self, Write};

use clap::Args;

use crate::{
    connect::Brokers,
    failure::{Failure, Kind},
    output::{Format, Output, to_json, write_line, written},
    told::Told,
};

/// Print the last value of a key of a compacted topic
#[derive(Debug, Args)]
pub(crate) struct Get {
    /// The topic
    topic: String,

    /// The key
    key: String,

    #[command(flatten)]
    brokers: Brokers,

    #[command(flatten)]
    output: Output,
}

impl Get {
    pub(crate) fn format(&self) -> Format {
        self.output.format
    }

    pub(crate) async fn run(self) -> Result<(), Failure> {
        let client = self.brokers.connect().await?;
        let Some(record) = client.get(&self.topic, &self.key).await? else {
            return Err(Failure::new(
                Kind::NotFound,
                format!("topic {} has no value of key {:?}", self.topic, self.key),
            ));
        };
        match self.format() {
            Format::Json => write_line(&to_json(&Told::alone(&record))),
            Format::Text => {
                let mut out = io::stdout().lock();
                let value = record.value.as_deref().unwrap_or_default();
                written(out.write_all(value).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()))
            }
        }
    }
}
