//! `streambus serve`: a broker, from its settings to its end.

use std::{
    env, fs,
    io::IsTerminal,
    path::PathBuf,
    time::{Duration, Instant},
};

use broker::{Broker, BrokerHandle};
use clap::Args;
use config::{Config, Inputs, Machine, units::format_bytes};
use runtime_glommio::{Signals, allowed_cores, memory_bytes};
use serde::Serialize;
use tracing_subscriber::EnvFilter;

use crate::{
    failure::Failure,
    output::{Format, Output},
    settings::SettingFlags,
};

/// Run a broker until SIGTERM or SIGINT; a second signal ends it at once
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Settings file; flags and environment variables win over it
    #[arg(long, value_name = "FILE", env = "STREAMBUS_CONFIG")]
    config: Option<PathBuf>,

    #[command(flatten)]
    output: Output,

    #[command(flatten, next_help_heading = "Settings")]
    settings: SettingFlags,
}

/// What the ready line says.
#[derive(Serialize)]
struct Ready {
    listen: String,
    admin_listen: Option<String>,
    dir: String,
    cores: Vec<usize>,
    memory_bytes: u64,
    ready_ms: f64,
}

impl Serve {
    pub(crate) fn format(&self) -> Format {
        self.output.format
    }

    /// Serves. `started` is when the process was.
    pub(crate) fn run(self, signals: Signals, started: Instant) -> Result<(), Failure> {
        let config = self.load()?;
        let filter = EnvFilter::new(config.log_level);
        let is_terminal = std::io::stderr().is_terminal();
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(is_terminal).init();
        let broker = Broker::start(&config).map_err(|error| Failure::failed(error.to_string()))?;
        let ready = Ready::new(&config, &broker, started.elapsed());
        self.output.print(|| ready.text(), &ready)?;
        let stopped = broker.serve_until(move || {
            signals.receive_blocking();
        });
        if !stopped.is_clean {
            return Err(Failure::failed(
                "a shard did not stop cleanly; the next start reads its WAL and says what it finds",
            ));
        }
        Ok(())
    }

    fn load(&self) -> Result<Config, Failure> {
        let file = match &self.config {
            None => None,
            Some(path) => {
                let text = fs::read_to_string(path).map_err(|error| {
                    Failure::usage(format!("cannot read --config {}: {error}; check the path", path.display()))
                })?;
                Some((path.display().to_string(), text))
            }
        };
        let variables: Vec<_> = env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let variables: Vec<_> = variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let flags: Vec<_> = self.settings.0.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let inputs = Inputs {
            file: file.as_ref().map(|(path, text)| (path.as_str(), text.as_str())),
            environment: &variables,
            flags: &flags,
        };
        Ok(Config::load(&inputs, &machine()?)?)
    }
}

fn machine() -> Result<Machine, Failure> {
    let unknown = |what: &str, error| Failure::failed(format!("cannot tell this machine's {what}: {error}"));
    Ok(Machine {
        cores: allowed_cores().map_err(|error| unknown("cores", error))?,
        memory_bytes: memory_bytes().map_err(|error| unknown("memory", error))?,
    })
}

impl Ready {
    fn new(config: &Config, broker: &BrokerHandle, since: Duration) -> Self {
        Self {
            listen: broker.address().to_string(),
            admin_listen: broker.admin_address().map(|address| address.to_string()),
            dir: config.storage.dir.display().to_string(),
            cores: config.broker.cores.clone(),
            memory_bytes: config.memory_bytes,
            ready_ms: (since.as_secs_f64() * 1e4).round() / 10.0,
        }
    }

    fn text(&self) -> String {
        let cores: Vec<_> = self.cores.iter().map(usize::to_string).collect();
        format!(
            "streambus {} ready in {:.1} ms: listen {}, admin {}, dir {}, cores {}, memory {}",
            env!("CARGO_PKG_VERSION"),
            self.ready_ms,
            self.listen,
            self.admin_listen.as_deref().unwrap_or("off"),
            self.dir,
            cores.join(","),
            format_bytes(self.memory_bytes),
        )
    }
}
