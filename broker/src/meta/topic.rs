//! A topic, as metadata knows it, and the rules for its name.

use std::{borrow::Borrow, fmt, ops::Deref, str::FromStr, sync::Arc};

use wire::{PartitionId, TopicId};

use super::setting::TopicSettings;

use super::logs::LogNumber;

/// A name has at most this many bytes.
const NAME_BYTES_MAX: usize = 249;

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Random, and what tells it from an earlier topic of its name.
    pub id: TopicId,
    /// Its settings.
    pub settings: TopicSettings,
    /// Its partitions, by index.
    pub partitions: Vec<TopicPartition>,
}

/// Where a partition lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TopicPartition {
    /// Its number in the cluster.
    pub id: PartitionId,
    /// The log it lives in.
    pub log: LogNumber,
}

/// A topic's name: 1 to 249 of `A-Z a-z 0-9 . _ -`, and not `.` or `..`. It never becomes part of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Arc<str>);

/// Why text is no topic name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicNameError {
    /// Too short or too long.
    #[error("a topic name has 1 to {NAME_BYTES_MAX} bytes, not {bytes}")]
    Length {
        /// Its length.
        bytes: usize,
    },
    /// A character that names do not have.
    #[error("a topic name has letters, digits, '.', '_' and '-', not {found:?}")]
    Character {
        /// The first one.
        found: char,
    },
    /// `.` or `..`.
    #[error("a topic cannot be called \".\" or \"..\"")]
    Dots,
}

impl FromStr for TopicName {
    type Err = TopicNameError;

    fn from_str(name: &str) -> Result<Self, TopicNameError> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(TopicNameError::Length { bytes: name.len() });
        }
        let allowed = |character: char| character.is_ascii_alphanumeric() || matches!(character, '.' | '_' | '-');
        match name.chars().find(|&character| !allowed(character)) {
            Some(found) => Err(TopicNameError::Character { found }),
            None if matches!(name, "." | "..") => Err(TopicNameError::Dots),
            None => Ok(Self(name.into())),
        }
    }
}

impl Deref for TopicName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for TopicName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, expected: Result<(), TopicNameError>) {
        assert_eq!(name.parse::<TopicName>().map(|parsed| assert_eq!(&*parsed, name)), expected, "{name:?}");
    }

    #[test]
    fn names_are_plain() {
        for name in ["a", "orders", "Orders-2026_11.v1", "...", "-", &"x".repeat(249)] {
            check(name, Ok(()));
        }
        check("", Err(TopicNameError::Length { bytes: 0 }));
        check(&"x".repeat(250), Err(TopicNameError::Length { bytes: 250 }));
        check(".", Err(TopicNameError::Dots));
        check("..", Err(TopicNameError::Dots));
        // The last one is Cyrillic.
        for (name, found) in [("../etc", '/'), ("a\0", '\0'), ("a b", ' '), ("a*", '*'), ("\u{43e}rders", '\u{43e}')] {
            check(name, Err(TopicNameError::Character { found }));
        }
    }
}
