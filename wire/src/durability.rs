//! What an acknowledgement of a topic means.

use std::{fmt, str::FromStr};

use thiserror::Error;

use crate::codec::{DecodeError, Reader, Writer};

/// What has happened to a batch by the time its producer hears of it; chosen per topic, when it is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Durability {
    /// It is in the broker's memory and on its way to the disk: an unclean stop may lose it.
    Memory,
    /// It is on stable storage.
    #[default]
    Durable,
}

/// A name that is no durability level.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{name:?} is not a durability level: durable or memory")]
pub struct UnknownDurability {
    /// What was given.
    pub name: String,
}

impl Durability {
    /// The topic setting that says which.
    pub const SETTING: &str = "streambus.durability";

    /// The setting's value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Durable => "durable",
        }
    }

    #[inline]
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.u8("durability")? {
            0 => Ok(Self::Memory),
            1 => Ok(Self::Durable),
            other => Err(reader.meaningless("durability", other.into())),
        }
    }

    #[inline]
    pub(crate) fn encode(self, writer: &mut Writer<'_>) {
        writer.u8(match self {
            Self::Memory => 0,
            Self::Durable => 1,
        });
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Durability {
    type Err = UnknownDurability;

    fn from_str(name: &str) -> Result<Self, UnknownDurability> {
        match name {
            "memory" => Ok(Self::Memory),
            "durable" => Ok(Self::Durable),
            _ => Err(UnknownDurability { name: name.to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for level in [Durability::Memory, Durability::Durable] {
            assert_eq!(level.name().parse(), Ok(level));
        }
        assert!("Durable".parse::<Durability>().is_err());
        assert!(Durability::Memory < Durability::default());
    }
}
