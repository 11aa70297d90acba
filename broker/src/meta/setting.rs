//! The table of topic settings, under the names that Kafka gave them: one row each. Reading, refusing, suggesting and
//! describing are all made from it.
//!
//! What was once accepted is read again from the disk by every later program: a row is never taken away, and its range
//! never narrowed.

use std::{collections::BTreeMap, fmt};

use storage::{Cleanup, Durability, PartitionSettings};
use wire::record::Codec;

/// One setting.
pub struct Setting {
    /// Its name.
    pub name: &'static str,
    /// What values it takes, and what they do.
    kind: Kind,
    /// The value where none was given; `None` stands for the broker's setting `batch_bytes_max`.
    pub default: Option<&'static str>,
    /// Whether it can be altered once the topic is there.
    pub is_alterable: bool,
    /// What it is for.
    pub help: &'static str,
}

/// Every setting, by name.
pub const SETTINGS: &[Setting] = &[
    Setting {
        name: "cleanup.policy",
        kind: Kind::Word(&[
            ("delete", |settings| settings.cleanup = Cleanup { delete: true, compact: false }),
            ("compact", |settings| settings.cleanup = Cleanup { delete: false, compact: true }),
            ("compact,delete", |settings| settings.cleanup = Cleanup { delete: true, compact: true }),
            ("delete,compact", |settings| settings.cleanup = Cleanup { delete: true, compact: true }),
        ]),
        default: Some("delete"),
        is_alterable: true,
        help: "Whether records go by age and size, or all but the last one of each key go, or both.",
    },
    Setting {
        name: "delete.retention.ms",
        kind: Kind::Milliseconds(|settings, ms| settings.delete_retention_ms = ms),
        default: Some("86400000"),
        is_alterable: true,
        help: "How long compaction leaves a tombstone for readers to see, from the round that first meets it.",
    },
    Setting {
        name: "max.compaction.lag.ms",
        kind: Kind::Milliseconds(|settings, ms| {
            settings.compaction_lag_ms_max = (ms < MILLISECONDS_MAX).then_some(ms);
        }),
        default: Some("9223372036854775807"),
        is_alterable: true,
        help: "A record older than this is compacted however little else there is.",
    },
    Setting {
        name: "max.message.bytes",
        kind: Kind::Number { unit: "bytes", set: |settings, bytes| settings.batch_bytes_max = bytes as usize },
        default: None,
        is_alterable: true,
        help: "The longest record batch taken; never longer than the broker's own limit.",
    },
    Setting {
        name: "min.cleanable.dirty.ratio",
        kind: Kind::Ratio(|settings, permille| settings.dirty_permille_min = permille),
        default: Some("0.5"),
        is_alterable: true,
        help: "Compaction waits until this share of a partition's bytes was not compacted yet.",
    },
    Setting {
        name: "min.compaction.lag.ms",
        kind: Kind::Milliseconds(|settings, ms| settings.compaction_lag_ms_min = ms),
        default: Some("0"),
        is_alterable: true,
        help: "A record younger than this is not compacted away.",
    },
    Setting {
        name: "retention.bytes",
        kind: Kind::Limit { unit: "bytes", set: |settings, bytes| settings.retention_bytes = bytes },
        default: Some("-1"),
        is_alterable: true,
        help: "Of each partition the oldest records go as long as this much is left; -1 keeps them whatever their size.",
    },
    Setting {
        name: "retention.ms",
        kind: Kind::Limit { unit: "milliseconds", set: |settings, age_ms| settings.retention_ms = age_ms },
        default: Some("604800000"),
        is_alterable: true,
        help: "Records older than this go, by their own timestamps; -1 keeps them whatever their age. The default is 7 days.",
    },
    Setting {
        name: Durability::SETTING,
        kind: Kind::Word(&[
            ("durable", |settings| settings.durability = Durability::Durable),
            ("memory", |settings| settings.durability = Durability::Memory),
        ]),
        default: Some("durable"),
        is_alterable: false,
        help: "What an acknowledgement means: on stable storage, or in memory and on its way there.",
    },
    Setting {
        name: "streambus.segment.compression",
        kind: Kind::Word(&[
            ("none", |settings| settings.compression = Codec::None),
            ("lz4", |settings| settings.compression = Codec::Lz4),
            ("zstd", |settings| settings.compression = Codec::Zstd),
        ]),
        default: Some("none"),
        is_alterable: true,
        help: "What merges of segments compress batches with that came uncompressed; what was merged before stays as it is.",
    },
];

/// What values a setting takes, and what each does.
enum Kind {
    /// One of these words.
    Word(&'static [(&'static str, Effect)]),
    /// From 0 to 2^31 - 1.
    Number { unit: &'static str, set: fn(&mut PartitionSettings, u64) },
    /// From 0 to 2^63 - 1.
    Milliseconds(fn(&mut PartitionSettings, u64)),
    /// From 0 to 1, in thousandths.
    Ratio(fn(&mut PartitionSettings, u16)),
    /// From 0 to 2^63 - 1, or -1 for no limit.
    Limit { unit: &'static str, set: fn(&mut PartitionSettings, Option<u64>) },
}

type Effect = fn(&mut PartitionSettings);

/// The largest number: what the field of a batch's length holds.
const NUMBER_MAX: u64 = i32::MAX as u64;

/// The longest time: what a field for a time holds.
const MILLISECONDS_MAX: u64 = i64::MAX as u64;

/// The settings of a topic: what was given, and what that and the defaults amount to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicSettings {
    given: BTreeMap<String, String>,
    meant: PartitionSettings,
}

/// Why settings are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// No such setting.
    #[error("there is no topic setting {name:?}; {}", suggestion(name))]
    Unknown {
        /// What was given.
        name: String,
    },
    /// A value that the setting does not take.
    #[error("topic setting {name}: {value:?} is not {range}")]
    Value {
        /// The setting.
        name: &'static str,
        /// What was given.
        value: String,
        /// What it takes.
        range: String,
    },
    /// A setting with two values, or one that is to go as well.
    #[error("topic setting {name} is given twice")]
    Twice {
        /// The setting.
        name: String,
    },
    /// It cannot be altered.
    #[error("topic setting {name} is fixed when a topic is created; create another topic to have it otherwise")]
    Fixed {
        /// The setting.
        name: &'static str,
    },
}

impl TopicSettings {
    /// Reads what differs from the defaults.
    ///
    /// # Errors
    /// [`SettingError`]; the first one if there are several.
    pub fn read(given: BTreeMap<String, String>) -> Result<Self, SettingError> {
        let mut meant = PartitionSettings::default();
        for setting in SETTINGS {
            if let Some(default) = setting.default {
                setting.kind.read(default, &mut meant).expect("a default is a value");
            }
        }
        for (name, value) in &given {
            let setting = find(name)?;
            setting.kind.read(value, &mut meant).ok_or_else(|| SettingError::Value {
                name: setting.name,
                value: value.clone(),
                range: setting.kind.to_string(),
            })?;
        }
        Ok(Self { given, meant })
    }

    /// The same with some settings changed and others back at their defaults.
    ///
    /// # Errors
    /// [`SettingError`].
    pub fn altered(&self, set: &BTreeMap<String, String>, unset: &[String]) -> Result<Self, SettingError> {
        let mut given = self.given.clone();
        for name in unset {
            let known = find(name)?;
            if set.contains_key(name) {
                return Err(SettingError::Twice { name: name.clone() });
            }
            given.remove(known.name);
        }
        given.extend(set.iter().map(|(name, value)| (name.clone(), value.clone())));
        let altered = Self::read(given)?;
        let differs = |setting: &&Setting| self.value(setting) != altered.value(setting);
        match SETTINGS.iter().filter(|setting| !setting.is_alterable).find(differs) {
            Some(fixed) => Err(SettingError::Fixed { name: fixed.name }),
            None => Ok(altered),
        }
    }

    /// What was given, by name.
    pub fn given(&self) -> &BTreeMap<String, String> {
        &self.given
    }

    /// What each partition of the topic is kept by.
    pub fn meant(&self) -> PartitionSettings {
        self.meant
    }

    /// What an ack means.
    pub fn durability(&self) -> Durability {
        self.meant.durability
    }

    /// Every setting with its value in force, by name. `batch_bytes_max` is the broker's own limit.
    pub fn effective(&self, batch_bytes_max: usize) -> Vec<(&'static str, String)> {
        let value = |setting| self.value(setting).map_or_else(|| batch_bytes_max.to_string(), str::to_owned);
        SETTINGS.iter().map(|setting| (setting.name, value(setting))).collect()
    }

    fn value(&self, setting: &Setting) -> Option<&str> {
        self.given.get(setting.name).map(String::as_str).or(setting.default)
    }
}

impl Kind {
    /// Has `text` take effect; `None` if it is no value.
    fn read(&self, text: &str, settings: &mut PartitionSettings) -> Option<()> {
        match self {
            Self::Word(words) => words.iter().find(|(word, _)| *word == text)?.1(settings),
            Self::Number { set, .. } => {
                let number = text.parse().ok().filter(|number| *number <= NUMBER_MAX)?;
                set(settings, number);
            }
            Self::Milliseconds(set) => set(settings, text.parse().ok().filter(|ms| *ms <= MILLISECONDS_MAX)?),
            Self::Ratio(set) => {
                let ratio: f64 = text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio))?;
                set(settings, (ratio * 1_000.0).round() as u16);
            }
            Self::Limit { set, .. } => {
                let number: i64 = text.parse().ok().filter(|number| *number >= -1)?;
                set(settings, u64::try_from(number).ok());
            }
        }
        Some(())
    }
}

/// What values there are, as the end of a sentence.
impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(words) => {
                let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
                formatter.write_str(&words.join(" or "))
            }
            Self::Number { unit, .. } => write!(formatter, "a number of {unit} from 0 to {NUMBER_MAX}"),
            Self::Milliseconds(_) => write!(formatter, "a number of milliseconds from 0 to {MILLISECONDS_MAX}"),
            Self::Ratio(_) => formatter.write_str("a number from 0 to 1"),
            Self::Limit { unit, .. } => write!(formatter, "a number of {unit}, or -1 for no limit"),
        }
    }
}

/// The setting of that name.
fn find(name: &str) -> Result<&'static Setting, SettingError> {
    let found = SETTINGS.iter().find(|setting| setting.name == name);
    found.ok_or_else(|| SettingError::Unknown { name: name.to_owned() })
}

/// The setting that a mistaken name most likely means, or all of them.
fn suggestion(name: &str) -> String {
    // A third of the letters wrong is still a slip; more is another word. Nothing longer is worth comparing.
    let distance_max = name.len().div_ceil(3);
    let distance = |known: &str| strsim::damerau_levenshtein(name, known);
    let is_long = SETTINGS.iter().all(|setting| name.len() > 2 * setting.name.len());
    let known = SETTINGS.iter().filter(|_| !is_long).map(|setting| (distance(setting.name), setting.name));
    match known.filter(|(distance, _)| *distance <= distance_max).min() {
        Some((_, nearest)) => format!("did you mean {nearest}?"),
        None => {
            let names: Vec<_> = SETTINGS.iter().map(|setting| setting.name).collect();
            format!("there are {}", names.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(settings: &[(&str, &str)]) -> BTreeMap<String, String> {
        settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn read(settings: &[(&str, &str)]) -> Result<TopicSettings, SettingError> {
        TopicSettings::read(map(settings))
    }

    fn check_refused(name: &str, value: &str, expected: &str) {
        let error = read(&[(name, value)]).expect_err("no value of a setting");
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn names_stand_in_order_and_every_default_is_a_value() {
        assert!(SETTINGS.is_sorted_by_key(|setting| setting.name));
        let settings = read(&[]).expect("the defaults");
        assert_eq!(settings.durability(), Durability::Durable);
        let shown = settings.effective(4096);
        assert_eq!(shown.len(), SETTINGS.len());
        let explicit: BTreeMap<_, _> = shown.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let PartitionSettings { batch_bytes_max, .. } = settings.meant();
        let explicit = TopicSettings::read(explicit).expect("what is shown can be given").meant();
        assert_eq!(PartitionSettings { batch_bytes_max, ..explicit }, settings.meant());
        assert_eq!(explicit.batch_bytes_max, 4096);
    }

    #[test]
    fn the_protocol_tells_of_each() {
        let protocol = include_str!("../../../wire/PROTOCOL.md");
        for Setting { name, default, is_alterable, help, .. } in SETTINGS {
            let default = default.map_or("the server's limit".to_owned(), |default| format!("`{default}`"));
            let altered = if *is_alterable { "yes" } else { "no" };
            let row = format!("\n| `{name}` | {default} | {altered} | {help} |\n");
            assert!(protocol.contains(&row), "{row}");
        }
    }

    #[test]
    fn values_have_an_effect() {
        assert_eq!(read(&[("max.message.bytes", "1000")]).unwrap().meant().batch_bytes_max, 1000);
        assert_eq!(read(&[]).unwrap().meant().retention_ms, Some(7 * 24 * 60 * 60 * 1000));
        for (value, expected) in [("-1", None), ("0", Some(0)), ("9223372036854775807", Some(i64::MAX as u64))] {
            assert_eq!(read(&[("retention.ms", value)]).unwrap().meant().retention_ms, expected);
            assert_eq!(read(&[("retention.bytes", value)]).unwrap().meant().retention_bytes, expected);
        }
        assert_eq!(read(&[(Durability::SETTING, "memory")]).unwrap().durability(), Durability::Memory);
        for (value, expected) in [("none", Codec::None), ("lz4", Codec::Lz4), ("zstd", Codec::Zstd)] {
            let settings = read(&[("streambus.segment.compression", value)]).unwrap();
            assert_eq!(settings.meant().compression, expected);
        }
        let compacted = read(&[
            ("cleanup.policy", "compact,delete"),
            ("delete.retention.ms", "1"),
            ("max.compaction.lag.ms", "2"),
            ("min.cleanable.dirty.ratio", "0.25"),
            ("min.compaction.lag.ms", "3"),
        ]);
        let expected = PartitionSettings {
            cleanup: Cleanup { delete: true, compact: true },
            delete_retention_ms: 1,
            compaction_lag_ms_max: Some(2),
            dirty_permille_min: 250,
            compaction_lag_ms_min: 3,
            ..read(&[]).unwrap().meant()
        };
        assert_eq!(compacted.unwrap().meant(), expected);
    }

    #[test]
    fn what_is_wrong_is_said_with_what_would_be_right() {
        check_refused(
            "max.mesage.bytes",
            "1",
            "there is no topic setting \"max.mesage.bytes\"; did you mean max.message.bytes?",
        );
        check_refused(
            "x",
            "1",
            "there is no topic setting \"x\"; there are cleanup.policy, delete.retention.ms, \
             max.compaction.lag.ms, max.message.bytes, min.cleanable.dirty.ratio, min.compaction.lag.ms, \
             retention.bytes, retention.ms, streambus.durability, streambus.segment.compression",
        );
        for value in ["", "-1", "1.5", "2147483648", "1 KiB"] {
            let expected =
                format!("topic setting max.message.bytes: {value:?} is not a number of bytes from 0 to 2147483647");
            check_refused("max.message.bytes", value, &expected);
        }
        for value in ["", "-0.1", "1.1", "NaN", "half"] {
            let expected = format!("topic setting min.cleanable.dirty.ratio: {value:?} is not a number from 0 to 1");
            check_refused("min.cleanable.dirty.ratio", value, &expected);
        }
        check_refused(
            "delete.retention.ms",
            "9223372036854775808",
            "topic setting delete.retention.ms: \"9223372036854775808\" is not a number of milliseconds from 0 to \
             9223372036854775807",
        );
        for value in ["-2", "9223372036854775808", "7d", ""] {
            let expected =
                format!("topic setting retention.ms: {value:?} is not a number of milliseconds, or -1 for no limit");
            check_refused("retention.ms", value, &expected);
        }
        check_refused(
            Durability::SETTING,
            "fast",
            "topic setting streambus.durability: \"fast\" is not durable or memory",
        );
        for value in ["", "gzip", "LZ4", "zstd,lz4", "3"] {
            let expected = format!("topic setting streambus.segment.compression: {value:?} is not none or lz4 or zstd");
            check_refused("streambus.segment.compression", value, &expected);
        }
    }

    #[test]
    fn what_is_altered_may_go_back_to_its_default() {
        let first = read(&[("max.message.bytes", "1000"), (Durability::SETTING, "memory")]).unwrap();
        let second = first.altered(&map(&[("max.message.bytes", "2000")]), &[]).unwrap();
        assert_eq!(second.meant().batch_bytes_max, 2000);
        let third = second.altered(&map(&[]), &["max.message.bytes".to_owned()]).unwrap();
        assert_eq!(third, read(&[(Durability::SETTING, "memory")]).unwrap());
        assert_eq!(third.altered(&map(&[(Durability::SETTING, "memory")]), &[]), Ok(third.clone()), "no change");
        let fixed = Err(SettingError::Fixed { name: Durability::SETTING });
        assert_eq!(first.altered(&map(&[(Durability::SETTING, "durable")]), &[]), fixed);
        assert_eq!(first.altered(&map(&[]), &[Durability::SETTING.to_owned()]), fixed);
        let both = first.altered(&map(&[("max.message.bytes", "1")]), &["max.message.bytes".to_owned()]);
        assert_eq!(both, Err(SettingError::Twice { name: "max.message.bytes".to_owned() }));
        assert!(matches!(first.altered(&map(&[]), &["x".to_owned()]), Err(SettingError::Unknown { .. })));
    }
}
