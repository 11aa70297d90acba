//! Settings that are fine alone and wrong together. Each complaint names both, with their values and sources.

use std::net::SocketAddr;

use crate::{
    Config,
    memory::MEMORY_BYTES_PER_CORE_MIN,
    problem::{Party, Problem},
    units::format_bytes,
};

/// Room in a frame for everything but the batch.
const FRAME_OVERHEAD: u64 = 4 << 10;

/// All disagreements in `config`. `machine_bytes` is the memory there is.
pub(crate) fn disagreements(config: &Config, machine_bytes: u64) -> Vec<Problem> {
    let mut check = Check { config, problems: Vec::new() };
    check.listeners();
    check.memory(machine_bytes);
    check.sizes();
    check.problems
}

struct Check<'a> {
    config: &'a Config,
    problems: Vec<Problem>,
}

impl Check<'_> {
    fn listeners(&mut self) {
        let broker = &self.config.broker;
        let admin_listen = self.config.admin.listen;
        let listeners = [("listen", Some(broker.listen)), ("admin.listen", admin_listen)];
        for (name, address) in listeners {
            if !broker.insecure && address.is_some_and(|address| !address.ip().is_loopback()) {
                self.disagree(
                    name,
                    "insecure",
                    "there is no authentication yet, so whoever reaches that address may read and write everything",
                    "use a loopback address such as 127.0.0.1, or accept that with `insecure = true`".to_owned(),
                );
            }
        }
        if admin_listen.is_some_and(|admin| clash(admin, broker.listen)) {
            self.disagree("listen", "admin.listen", "one port cannot serve both", "choose another port".to_owned());
        }
    }

    fn memory(&mut self, machine_bytes: u64) {
        let cores = self.config.broker.cores.len() as u64;
        let needed = MEMORY_BYTES_PER_CORE_MIN * cores;
        let memory = self.config.memory_bytes;
        if memory < needed {
            self.disagree(
                "memory",
                "cores",
                &format!("{} for {cores} cores is less than 64 MiB a core", format_bytes(memory)),
                format!("set memory to at least {}, or use fewer cores", format_bytes(needed)),
            );
        } else if memory > machine_bytes {
            self.disagree(
                "memory",
                "cores",
                &format!("{cores} cores need {}; this machine (or cgroup) has {machine_bytes} B", format_bytes(memory)),
                "set memory to what there is, or use fewer cores".to_owned(),
            );
        }
    }

    fn sizes(&mut self) {
        let frame = self.config.broker.frame_bytes_max;
        let batch_max = frame - FRAME_OVERHEAD;
        if self.config.storage.batch_bytes_max > batch_max {
            self.disagree(
                "batch_bytes_max",
                "frame_bytes_max",
                "a batch that long does not fit into a frame",
                format!("set batch_bytes_max to at most {batch_max}, or frame_bytes_max higher"),
            );
        }
        let share = self.config.memory_share().connections;
        if frame > share {
            self.disagree(
                "frame_bytes_max",
                "memory",
                &format!("connections have a quarter of it, {} a core, and must hold a frame", format_bytes(share)),
                format!("set frame_bytes_max to at most {}, or memory higher", format_bytes(share)),
            );
        }
    }

    fn disagree(&mut self, first: &'static str, second: &'static str, reason: &str, advice: String) {
        let party = |name| {
            let setting = self.config.setting(name);
            Party { name, text: setting.text.clone(), source: setting.source.clone() }
        };
        let (first, second) = (party(first), party(second));
        self.problems.push(Problem::Disagreement { first, second, reason: reason.to_owned(), advice });
    }
}

/// Would binding both fail? Port 0 never clashes.
fn clash(left: SocketAddr, right: SocketAddr) -> bool {
    let overlap = left.ip() == right.ip() || left.ip().is_unspecified() || right.ip().is_unspecified();
    left.port() == right.port() && left.port() != 0 && overlap
}
