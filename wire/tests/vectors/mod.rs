//! The golden vectors, by name: bytes in hex, with a comment behind each field.

macro_rules! vectors {
    ($($name:literal)*) => {
        &[$(($name, include_str!(concat!($name, ".hex")))),*]
    };
}

/// Name and text of every vector.
#[rustfmt::skip]
pub(crate) const VECTORS: &[(&str, &str)] = vectors! {
    "delete-records-v0-request"
    "delete-records-v0-response"
    "failure-unknown-topic"
    "failure-unsupported-version"
    "fetch-v0-request"
    "fetch-v0-request-empty"
    "fetch-v0-response"
    "fetch-v0-response-lost-and-out-of-range"
    "fetch-v0-response-nothing-new"
    "get-v0-request"
    "get-v0-response"
    "get-v0-response-nothing"
    "health-v0-request"
    "health-v0-response"
    "hello-v0-request"
    "hello-v0-request-shard-and-auth"
    "hello-v0-response"
    "hold-v0-request"
    "hold-v0-response"
    "init-producer-v0-request"
    "init-producer-v0-response"
    "list-offsets-v0-request"
    "list-offsets-v0-response"
    "loss-accept-v0-request"
    "loss-accept-v0-response"
    "preface"
    "produce-v0-request"
    "produce-v0-request-empty"
    "produce-v0-request-two-partitions"
    "produce-v0-response"
    "produce-v0-response-refused"
    "record-batch-gzip"
    "record-batch-headers-and-nulls"
    "record-batch-idempotent"
    "record-batch-log-append-time"
    "record-batch-lz4"
    "record-batch-lz4-linked"
    "record-batch-one-record"
    "record-batch-placed"
    "record-batch-snappy-chunks"
    "record-batch-snappy-raw"
    "record-batch-zstd"
    "record-batch-zstd-stream"
    "stats-v0-request"
    "stats-v0-response"
    "topic-alter-v0-request"
    "topic-alter-v0-response"
    "topic-create-v0-request"
    "topic-create-v0-response"
    "topic-delete-v0-request"
    "topic-delete-v0-response"
    "topic-describe-v0-request"
    "topic-describe-v0-request-all"
    "topic-describe-v0-response"
    "topic-list-v0-request"
    "topic-list-v0-response"
};

/// The bytes of the vector called `name`.
pub(crate) fn bytes_of(name: &str) -> Vec<u8> {
    let Some((_, text)) = VECTORS.iter().find(|vector| vector.0 == name) else { panic!("no vector {name}") };
    text.lines()
        .flat_map(|line| line.split('#').next().unwrap_or_default().split_whitespace())
        .map(|byte| u8::from_str_radix(byte, 16).unwrap_or_else(|_| panic!("{byte} in {name} is not a byte in hex")))
        .collect()
}
