//! What each request does, whichever protocol it came by. One file per request; names as in `wire::api`.

pub(crate) mod delete_records;
pub(crate) mod error;
pub(crate) mod fetch;
pub(crate) mod get;
pub(crate) mod health;
pub(crate) mod hold;
pub(crate) mod init_producer;
pub(crate) mod list_offsets;
pub(crate) mod loss;
pub(crate) mod produce;
pub(crate) mod stats;
pub(crate) mod topic;
