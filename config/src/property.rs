//! The table of settings: one row each. Parsing, the sample file and the reference are all made from it, so that they
//! cannot disagree.

use std::{fmt::Write, time::Duration};

use crate::kind::Kind;

/// One setting.
#[derive(Debug)]
pub struct Property {
    /// Its name in the file, where dots are sections. `a.b_c` is the flag `--a-b-c` and the variable
    /// `STREAMBUS_A_B_C`.
    pub name: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// The value if no source has one, written as in an environment variable.
    pub default: &'static str,
    /// Does a change need a restart?
    pub restart: bool,
    /// What it is for.
    pub help: &'static str,
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;

/// All settings, those without a section first, then section by section.
pub const PROPERTIES: &[Property] = &[
    Property {
        name: "dir",
        kind: Kind::Path,
        default: "./streambus-data",
        restart: true,
        help: "Where everything is stored. Made at the first start; held by one broker at a time.",
    },
    Property {
        name: "listen",
        kind: Kind::Address,
        default: "127.0.0.1:9092",
        restart: true,
        help: "Where clients connect. Port 0 takes a free one. An address off loopback needs `insecure = true`.",
    },
    Property {
        name: "insecure",
        kind: Kind::Flag,
        default: "false",
        restart: true,
        help: "Allows listeners off loopback, though whoever reaches them may read and write everything.",
    },
    Property {
        name: "cores",
        kind: Kind::Cores,
        default: "auto",
        restart: true,
        help: "The CPUs to run on, one shard each. \"auto\" takes all that the process may use.",
    },
    Property {
        name: "memory",
        kind: Kind::Memory { max: 64 * TIB },
        default: "auto",
        restart: true,
        help: "How much memory the broker may use, over all cores; at least 64 MiB a core. \"auto\" is the smaller \
               of 1 GiB and a quarter of the machine's (or the cgroup's), but no less than the cores need. Half \
               holds what is not yet in segments, a quarter caches, a quarter serves connections.",
    },
    Property {
        name: "connections_max",
        kind: Kind::Count { min: 1, max: 1_000_000 },
        default: "10000",
        restart: true,
        help: "Open client connections. One more is closed at once.",
    },
    Property {
        name: "connections_per_address_max",
        kind: Kind::Count { min: 1, max: 1_000_000 },
        default: "5000",
        restart: true,
        help: "Open client connections from one IP address.",
    },
    Property {
        name: "handshake_timeout",
        kind: Kind::Duration { min: Duration::from_millis(100), max: Duration::from_secs(600) },
        default: "10 s",
        restart: true,
        help: "A connection that has not said by then what it speaks is closed.",
    },
    Property {
        name: "idle_timeout",
        kind: Kind::Duration { min: Duration::from_secs(1), max: Duration::from_secs(86_400) },
        default: "10 min",
        restart: true,
        help: "A connection on which nothing happened for so long is closed, and so is one that stops in the middle \
               of a frame.",
    },
    Property {
        name: "frame_bytes_max",
        kind: Kind::Bytes { min: 64 * KIB, max: 256 * MIB },
        default: "16 MiB",
        restart: true,
        help: "The longest request. A connection that announces a longer one is closed.",
    },
    Property {
        name: "batch_bytes_max",
        kind: Kind::Bytes { min: KIB, max: 64 * MIB },
        default: "1048588",
        restart: true,
        help: "The longest record batch; a longer one is refused. The default is 1 MiB and the 12 bytes in front of \
               a batch.",
    },
    Property {
        name: "disk_reserve_bytes",
        kind: Kind::Bytes { min: 0, max: TIB },
        default: "256 MiB",
        restart: true,
        help: "Stays free on the disk, beside what the broker itself may still need there (about 0.9 of `memory`). With \
               less than both, produce is refused until there is space again; fetch, deletion and all else go on.",
    },
    Property {
        name: "produce_wait_max",
        kind: Kind::Duration { min: Duration::ZERO, max: Duration::from_secs(300) },
        default: "5 s",
        restart: true,
        help: "How long a produce request waits for memory before it is answered Busy.",
    },
    Property {
        name: "retention_check_every",
        kind: Kind::Duration { min: Duration::from_millis(100), max: Duration::from_secs(86_400) },
        default: "5 min",
        restart: true,
        help: "How often topics are looked at for records that are too old or too many.",
    },
    Property {
        name: "producer_id_expiration",
        kind: Kind::Duration { min: Duration::from_secs(1), max: Duration::from_secs(365 * 86_400) },
        default: "1 d",
        restart: true,
        help: "A producer that has sent nothing to a partition for so long is forgotten there: a batch that it repeats \
               later is taken for a new one.",
    },
    Property {
        name: "node.id",
        kind: Kind::Count { min: 1, max: i32::MAX as u64 },
        default: "1",
        restart: true,
        help: "The number of this node in its cluster. Never changes.",
    },
    Property {
        name: "admin.listen",
        kind: Kind::AddressOrOff,
        default: "127.0.0.1:9640",
        restart: true,
        help: "Where /livez, /readyz and /metrics answer, over HTTP. An address off loopback needs `insecure = true`.",
    },
    Property {
        name: "log.level",
        kind: Kind::Choice(&["error", "warn", "info", "debug", "trace"]),
        default: "info",
        restart: true,
        help: "The least important log lines that are printed.",
    },
];

impl Property {
    /// The setting of that dotted name.
    pub fn find(name: &str) -> Option<&'static Self> {
        PROPERTIES.iter().find(|property| property.name == name)
    }

    /// The flag that sets it: "--admin-listen".
    pub fn flag(&self) -> String {
        format!("--{}", self.name.replace(['.', '_'], "-"))
    }

    /// The environment variable that sets it: "STREAMBUS_ADMIN_LISTEN".
    pub fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.name.replace('.', "_").to_uppercase())
    }

    /// Its section in the file, and its key there.
    fn section_and_key(&self) -> (&'static str, &'static str) {
        self.name.split_once('.').unwrap_or(("", self.name))
    }
}

/// What the names of our environment variables start with.
pub(crate) const VARIABLE_PREFIX: &str = "STREAMBUS_";

/// The known name (of a setting or a section) that a mistaken one most likely means.
pub(crate) fn nearest(name: &str) -> Option<&'static str> {
    let sections = PROPERTIES.iter().map(|property| property.section_and_key().0).filter(|section| !section.is_empty());
    let known = PROPERTIES.iter().map(|property| property.name).chain(sections);
    // A third of the letters wrong is still a slip; more is another word.
    let distance_max = name.len().div_ceil(3);
    let distance = |known: &str| strsim::damerau_levenshtein(name, known);
    known
        .map(|known| (distance(known), known))
        .filter(|(distance, _)| *distance <= distance_max)
        .min()
        .map(|(_, known)| known)
}

/// The annotated sample file, `config/streambus.toml`: every setting at its default.
pub fn sample() -> String {
    let mut out = String::from(
        "# StreamBus settings. Every value here is the default: keep the lines that you change.\n\
         # A flag wins over an environment variable, which wins over this file. All are read once, at the start.\n",
    );
    let mut section = "";
    for property in PROPERTIES {
        let (its_section, key) = property.section_and_key();
        out.push('\n');
        if its_section != section {
            section = its_section;
            let _ = writeln!(out, "[{section}]");
        }
        for line in wrap(property.help, 100) {
            let _ = writeln!(out, "# {line}");
        }
        let _ = writeln!(out, "# Takes {}. Or: {}, {}.", property.kind.range(), property.flag(), property.variable());
        let quote = if property.kind.is_bare() { "" } else { "\"" };
        let _ = writeln!(out, "{key} = {quote}{}{quote}", property.default);
    }
    out
}

/// The reference of all settings, as a Markdown table.
pub fn reference() -> String {
    let mut out = String::from("| setting | default | takes | restart | what it is for |\n|---|---|---|---|---|\n");
    for Property { name, kind, default, restart, help } in PROPERTIES {
        let restart = if *restart { "yes" } else { "no" };
        let _ = writeln!(out, "| `{name}` | `{default}` | {} | {restart} | {help} |", kind.range());
    }
    out
}

/// Breaks a text into lines of at most `width` bytes, at spaces.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_default_is_a_value() {
        for property in PROPERTIES {
            let value = property.kind.parse(property.default);
            assert!(value.is_ok(), "{}: {value:?}", property.name);
        }
    }

    #[test]
    fn no_two_settings_share_a_flag_or_variable() {
        let flags: BTreeSet<_> = PROPERTIES.iter().map(Property::flag).collect();
        let variables: BTreeSet<_> = PROPERTIES.iter().map(Property::variable).collect();
        assert_eq!(flags.len(), PROPERTIES.len());
        assert_eq!(variables.len(), PROPERTIES.len());
    }

    #[test]
    fn a_section_is_in_one_place() {
        let mut sections: Vec<_> = PROPERTIES.iter().map(|property| property.section_and_key().0).collect();
        assert_eq!(sections[0], "", "a key behind a section header would belong to that section");
        sections.dedup();
        let distinct: BTreeSet<_> = sections.iter().collect();
        assert_eq!(distinct.len(), sections.len());
    }

    #[test]
    fn slips_find_their_setting() {
        let check = |name, expected| assert_eq!(nearest(name), expected, "{name}");
        check("memroy", Some("memory"));
        check("memory_max", Some("memory"));
        check("admin.lsten", Some("admin.listen"));
        check("amin", Some("admin"));
        check("admin_listen", Some("admin.listen"));
        check("connection_max", Some("connections_max"));
        check("retention", None);
    }

    #[test]
    fn the_reference_has_a_row_for_each() {
        let reference = reference();
        for property in PROPERTIES {
            assert!(reference.contains(&format!("| `{}` | `{}` |", property.name, property.default)));
        }
        assert_eq!(reference.lines().count(), PROPERTIES.len() + 2);
    }
}
