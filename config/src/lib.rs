//! The broker's settings: loaded from file, environment and flags, merged, checked, then frozen.
//!
//! [`PROPERTIES`] is the table of all settings, one row each; `config/streambus.toml` is made from it. [`Config`] is
//! what code reads: one struct per crate that reads it, all values typed. The hard idea is that a refused setting must
//! say where it came from and what to do, so every value remembers its [`Source`] up to the last check.
//!
//! This crate reads no file, no variable and no machine: whoever starts a broker hands all of that in.
//!
//! ```
//! use config::{Config, Inputs, Machine};
//!
//! let inputs = Inputs {
//!     file: Some(("streambus.toml", "memory = \"512 MiB\"")),
//!     environment: &[("STREAMBUS_LISTEN", "127.0.0.1:0")],
//!     flags: &[("cores", "0")],
//! };
//! let machine = Machine { cores: vec![0, 1], memory_bytes: 8 << 30 };
//! let config = Config::load(&inputs, &machine).unwrap();
//! assert_eq!(config.memory_bytes, 512 << 20);
//! assert_eq!(config.setting("memory").source.to_string(), "streambus.toml:1");
//!
//! let inputs = Inputs { file: Some(("streambus.toml", "memroy = \"512 MiB\"")), ..Inputs::default() };
//! assert_eq!(
//!     Config::load(&inputs, &machine).unwrap_err().to_string(),
//!     "error: there is no setting `memroy`
//!  --> streambus.toml:1:1
//!   |
//! 1 | memroy = \"512 MiB\"
//!   | ^^^^^^
//!   |
//!   = help: did you mean `memory`?"
//! );
//! ```
#![forbid(unsafe_code)]

mod cores;
mod file;
mod kind;
mod memory;
mod problem;
mod property;
mod source;
pub mod units;
mod validate;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

pub use cores::Cores;
pub use file::Place;
pub use kind::{Kind, Value};
pub use memory::{MEMORY_BYTES_PER_CORE_MIN, MemoryShare};
pub use problem::{LoadError, Party, Problem};
pub use property::{PROPERTIES, Property, reference, sample};
pub use source::{Setting, Source};

/// All settings, checked. What is not in a crate's struct is read by whoever starts the broker.
#[derive(Clone, Debug)]
pub struct Config {
    /// What `broker` reads.
    pub broker: Broker,
    /// What `storage` reads.
    pub storage: Storage,
    /// What the broker's control thread reads.
    pub admin: Admin,
    /// All memory of the broker, over all cores, in bytes; see [`Config::memory_share`].
    pub memory_bytes: u64,
    /// The least important log lines to print: error, warn, info, debug or trace.
    pub log_level: &'static str,
    settings: BTreeMap<&'static str, Setting>,
}

/// What the broker's shards and listeners read.
#[derive(Clone, Debug)]
pub struct Broker {
    /// This node's number in its cluster, from 1.
    pub node_id: i32,
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Whether listeners off loopback are allowed without authentication.
    pub insecure: bool,
    /// The CPUs to run on, one shard each; never empty, all of them the machine's.
    pub cores: Vec<usize>,
    /// Open client connections.
    pub connections_max: usize,
    /// Open client connections from one IP address.
    pub connections_per_address_max: usize,
    /// Until when a connection must have said what it speaks.
    pub handshake_timeout: Duration,
    /// After how long without progress a connection is closed.
    pub idle_timeout: Duration,
    /// The longest frame taken, in bytes.
    pub frame_bytes_max: u64,
    /// How long a produce request waits for memory.
    pub produce_wait_max: Duration,
}

/// What the log engine reads.
#[derive(Clone, Debug)]
pub struct Storage {
    /// The data directory.
    pub dir: PathBuf,
    /// The longest batch taken, in bytes.
    pub batch_bytes_max: u64,
    /// How often partitions are looked at for what is too old or too much.
    pub retention_check_every: Duration,
    /// A producer that is silent for so long is forgotten.
    pub producer_id_expiration: Duration,
    /// Bytes that stay free on the disk beside what the logs need themselves.
    pub disk_reserve_bytes: u64,
}

/// What the admin listener reads.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Where it answers, if at all.
    pub listen: Option<SocketAddr>,
}

/// What the settings are made from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Inputs<'a> {
    /// Name and text of the file, if there is one.
    pub file: Option<(&'a str, &'a str)>,
    /// The environment; variables that do not start with `STREAMBUS_` are ignored.
    pub environment: &'a [(&'a str, &'a str)],
    /// Dotted names and values of the settings that were given as flags.
    pub flags: &'a [(&'a str, &'a str)],
}

/// What the process may use.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The CPUs, by number.
    pub cores: Vec<usize>,
    /// The machine's memory or the cgroup's limit, whichever is smaller.
    pub memory_bytes: u64,
}

impl Config {
    /// Merges all sources, by flag over environment over file over default, and checks the result.
    ///
    /// # Errors
    /// [`LoadError`], which holds every problem found. Its text is complete: it needs no "error:" in front.
    pub fn load(inputs: &Inputs<'_>, machine: &Machine) -> Result<Self, LoadError> {
        let mut problems = Vec::new();
        let file = inputs.file.map(|(path, text)| file::file_layer(path, text, &mut problems)).unwrap_or_default();
        let environment = source::environment_layer(inputs.environment.iter().copied(), &mut problems);
        let flags = source::flag_layer(inputs.flags.iter().copied(), &mut problems);
        let settings = source::resolve(&file, &environment, &flags, &mut problems);
        if problems.is_empty() {
            let config = Self::freeze(settings, machine)?;
            problems = validate::disagreements(&config, machine.memory_bytes);
            if problems.is_empty() {
                return Ok(config);
            }
        }
        Err(LoadError { problems })
    }

    /// A setting's value and where it came from, for showing.
    ///
    /// # Panics
    /// When there is no setting of that name.
    pub fn setting(&self, name: &str) -> &Setting {
        &self.settings[name]
    }

    /// All settings, by name.
    pub fn settings(&self) -> impl Iterator<Item = (&'static str, &Setting)> {
        self.settings.iter().map(|(name, setting)| (*name, setting))
    }

    /// What one shard may use, and for what.
    pub fn memory_share(&self) -> MemoryShare {
        MemoryShare::of(self.memory_bytes / self.broker.cores.len() as u64)
    }

    fn freeze(settings: BTreeMap<&'static str, Setting>, machine: &Machine) -> Result<Self, LoadError> {
        let typed = Typed(&settings);
        let cores = typed.cores("cores", machine)?;
        Ok(Self {
            memory_bytes: typed
                .memory("memory")
                .unwrap_or_else(|| memory::auto_bytes(machine.memory_bytes, cores.len())),
            log_level: typed.choice("log.level"),
            broker: Broker {
                node_id: typed.count("node.id") as i32,
                listen: typed.address("listen").expect("only admin.listen can be off"),
                insecure: typed.flag("insecure"),
                cores,
                connections_max: typed.count("connections_max") as usize,
                connections_per_address_max: typed.count("connections_per_address_max") as usize,
                handshake_timeout: typed.duration("handshake_timeout"),
                idle_timeout: typed.duration("idle_timeout"),
                frame_bytes_max: typed.bytes("frame_bytes_max"),
                produce_wait_max: typed.duration("produce_wait_max"),
            },
            storage: Storage {
                dir: typed.path("dir"),
                batch_bytes_max: typed.bytes("batch_bytes_max"),
                retention_check_every: typed.duration("retention_check_every"),
                producer_id_expiration: typed.duration("producer_id_expiration"),
                disk_reserve_bytes: typed.bytes("disk_reserve_bytes"),
            },
            admin: Admin { listen: typed.address("admin.listen") },
            settings,
        })
    }
}

/// Takes values out by the kind that their rows in the table promise.
struct Typed<'a>(&'a BTreeMap<&'static str, Setting>);

/// A method of [`Typed`] for each kind of value: the row of the setting decides which one fits.
macro_rules! typed {
    ($($method:ident: $variant:pat => $value:expr, $type:ty;)*) => {$(
        fn $method(&self, name: &str) -> $type {
            match &self.0[name].value {
                $variant => $value,
                other => unreachable!("{name} is {other:?}"),
            }
        }
    )*};
}

impl Typed<'_> {
    typed! {
        path: Value::Path(path) => path.clone(), PathBuf;
        flag: Value::Flag(flag) => *flag, bool;
        bytes: Value::Bytes(bytes) => *bytes, u64;
        duration: Value::Duration(duration) => *duration, Duration;
        count: Value::Count(count) => *count, u64;
        choice: Value::Choice(word) => word, &'static str;
    }

    fn address(&self, name: &str) -> Option<SocketAddr> {
        match self.0[name].value {
            Value::Address(address) => Some(address),
            Value::Off => None,
            ref other => unreachable!("{name} is {other:?}"),
        }
    }

    fn memory(&self, name: &str) -> Option<u64> {
        match self.0[name].value {
            Value::Bytes(bytes) => Some(bytes),
            Value::Auto => None,
            ref other => unreachable!("{name} is {other:?}"),
        }
    }

    /// The CPUs meant, which must be the machine's.
    fn cores(&self, name: &'static str, machine: &Machine) -> Result<Vec<usize>, LoadError> {
        let Setting { value: Value::Cores(cores), text, source } = &self.0[name] else {
            unreachable!("{name} is {:?}", self.0[name].value)
        };
        let Cores::These(cores) = cores else { return Ok(machine.cores.clone()) };
        match cores.iter().find(|core| !machine.cores.contains(core)) {
            None => Ok(cores.clone()),
            Some(core) => {
                let reason = format!("names core {core}, but this process may use only {:?}", machine.cores);
                let (text, source) = (text.clone(), source.clone());
                Err(LoadError { problems: vec![Problem::Value { name, text, source, reason }] })
            }
        }
    }
}
