//! How client commands reach a broker.

use std::{future::Future, io::IsTerminal};

use clap::Args;
use streambus::Client;
use tokio::runtime::Builder;
use tracing_subscriber::EnvFilter;

use crate::failure::Failure;

/// Where a broker listens unless told otherwise.
const DEFAULT_ADDRESS: &str = "127.0.0.1:9092";

/// The flag that says which brokers.
#[derive(Clone, Debug, Args)]
pub(crate) struct Brokers {
    /// Brokers to connect to, host:port, separated by commas
    #[arg(long = "brokers", env = "STREAMBUS_BROKERS", default_value = DEFAULT_ADDRESS, value_name = "HOST:PORT")]
    addresses: String,
}

impl Default for Brokers {
    fn default() -> Self {
        Self::at(DEFAULT_ADDRESS.to_owned())
    }
}

impl Brokers {
    /// Those at these addresses.
    pub(crate) fn at(addresses: String) -> Self {
        Self { addresses }
    }

    pub(crate) async fn connect(&self) -> Result<Client, Failure> {
        let name = concat!("streambus-cli ", env!("CARGO_PKG_VERSION"));
        Ok(Client::builder().addresses(&self.addresses).client_name(name).connect().await?)
    }
}

/// Runs a client command to its end; what the SDK warns of goes to standard error.
pub(crate) fn run(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("error"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    log.with_ansi(std::io::stderr().is_terminal()).without_time().init();
    Builder::new_current_thread().enable_all().build()?.block_on(command)
}
