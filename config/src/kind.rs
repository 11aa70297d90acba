//! What kinds of values settings have, and how a text becomes one. Every source speaks text, so that a value means the
//! same in the file, in the environment and in a flag.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use crate::{
    cores::Cores,
    units::{format_bytes, format_duration, parse_bytes, parse_duration},
};

/// The kind of a setting's value, with its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Path,
    /// IP address and port.
    Address,
    /// IP address and port, or "off".
    AddressOrOff,
    /// "true" or "false".
    Flag,
    /// CPUs, see [`Cores`].
    Cores,
    /// A size, or "auto".
    Memory {
        /// Largest, in bytes.
        max: u64,
    },
    /// A size.
    Bytes {
        /// Smallest, in bytes.
        min: u64,
        /// Largest, in bytes.
        max: u64,
    },
    /// A time.
    Duration {
        /// Shortest.
        min: Duration,
        /// Longest.
        max: Duration,
    },
    /// A plain number.
    Count {
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
    },
    /// One of these words.
    Choice(&'static [&'static str]),
}

/// A value of some [`Kind`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A directory.
    Path(PathBuf),
    /// IP address and port.
    Address(SocketAddr),
    /// Instead of an address: no listener.
    Off,
    /// Yes or no.
    Flag(bool),
    /// CPUs.
    Cores(Cores),
    /// Instead of a size: chosen by the machine.
    Auto,
    /// A size.
    Bytes(u64),
    /// A time.
    Duration(Duration),
    /// A plain number.
    Count(u64),
    /// One of a kind's words.
    Choice(&'static str),
}

impl Kind {
    /// Reads a value of this kind.
    ///
    /// # Errors
    /// What is wrong with the text, as the end of a sentence that begins with it.
    pub fn parse(self, text: &str) -> Result<Value, String> {
        let text = text.trim();
        let value = match self {
            Self::Path if text.is_empty() => return Err("is empty".to_owned()),
            Self::Path => Value::Path(PathBuf::from(text)),
            Self::AddressOrOff if text == "off" => Value::Off,
            Self::Address | Self::AddressOrOff => Value::Address(parse_address(text).ok_or_else(|| self.refusal(""))?),
            Self::Flag => Value::Flag(text.parse().map_err(|_| self.refusal(""))?),
            Self::Cores => Value::Cores(text.parse().map_err(|reason| self.refusal(reason))?),
            Self::Memory { .. } if text == "auto" => Value::Auto,
            Self::Memory { .. } | Self::Bytes { .. } => {
                Value::Bytes(parse_bytes(text).map_err(|error| self.refusal(&error.to_string()))?)
            }
            Self::Duration { .. } => {
                Value::Duration(parse_duration(text).map_err(|error| self.refusal(&error.to_string()))?)
            }
            Self::Count { .. } => Value::Count(text.parse().map_err(|_| self.refusal(""))?),
            Self::Choice(words) => {
                Value::Choice(words.iter().find(|word| **word == text).ok_or_else(|| self.refusal(""))?)
            }
        };
        if self.holds(&value) { Ok(value) } else { Err(self.refusal("")) }
    }

    /// What values there are, for a person: "a size from 1 KiB to 64 MiB".
    pub fn range(self) -> String {
        match self {
            Self::Path => "a directory".to_owned(),
            Self::Address => "an IP address and port".to_owned(),
            Self::AddressOrOff => "an IP address and port, or \"off\"".to_owned(),
            Self::Flag => "true or false".to_owned(),
            Self::Cores => "\"auto\", a range like \"0-3\", or a list like [0, 2]".to_owned(),
            Self::Memory { max } => format!("\"auto\" or a size up to {}", format_bytes(max)),
            Self::Bytes { min, max } => format!("a size from {} to {}", format_bytes(min), format_bytes(max)),
            Self::Duration { min, max } => format!("a time from {} to {}", format_duration(min), format_duration(max)),
            Self::Count { min, max } => format!("a number from {min} to {max}"),
            Self::Choice(words) => format!("one of {}", words.join(", ")),
        }
    }

    /// The unit of a value written as a bare number.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Memory { .. } | Self::Bytes { .. } => "bytes",
            Self::Duration { .. } => "time",
            Self::Count { .. } => "count",
            Self::Path | Self::Address | Self::AddressOrOff | Self::Flag | Self::Cores | Self::Choice(_) => "",
        }
    }

    /// May a file write this value without quotes?
    pub(crate) fn is_bare(self) -> bool {
        matches!(self, Self::Flag | Self::Count { .. })
    }

    fn holds(self, value: &Value) -> bool {
        match (self, value) {
            (Self::Bytes { min, max }, Value::Bytes(bytes)) => (min..=max).contains(bytes),
            (Self::Memory { max }, Value::Bytes(bytes)) => *bytes <= max,
            (Self::Duration { min, max }, Value::Duration(time)) => (min..=max).contains(time),
            (Self::Count { min, max }, Value::Count(count)) => (min..=max).contains(count),
            _ => true,
        }
    }

    fn refusal(self, reason: &str) -> String {
        let separator = if reason.is_empty() { "" } else { ": " };
        format!("is not {}{separator}{reason}", self.range())
    }
}

/// "localhost" stands for 127.0.0.1; other names are not looked up, since what they mean may change.
fn parse_address(text: &str) -> Option<SocketAddr> {
    match text.strip_prefix("localhost:") {
        Some(port) => Some(SocketAddr::from(([127, 0, 0, 1], port.parse().ok()?))),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let check = |kind: Kind, text, expected: Option<&str>| {
            assert_eq!(
                kind.parse(text).ok(),
                expected.map(|address| Value::Address(address.parse().expect("an address"))),
                "{text}"
            );
        };
        check(Kind::Address, "127.0.0.1:9092", Some("127.0.0.1:9092"));
        check(Kind::Address, "localhost:0", Some("127.0.0.1:0"));
        check(Kind::Address, "[::1]:9092", Some("[::1]:9092"));
        check(Kind::Address, "off", None);
        check(Kind::Address, "127.0.0.1", None);
        check(Kind::Address, "example.com:9092", None);
        assert_eq!(Kind::AddressOrOff.parse("off"), Ok(Value::Off));
    }

    #[test]
    fn ranges_include_their_ends() {
        let kind = Kind::Bytes { min: 1024, max: 2048 };
        assert_eq!(kind.parse("1 KiB"), Ok(Value::Bytes(1024)));
        assert_eq!(kind.parse("2 KiB"), Ok(Value::Bytes(2048)));
        assert_eq!(kind.parse("1023"), Err("is not a size from 1 KiB to 2 KiB".to_owned()));
        assert_eq!(kind.parse("2049"), Err("is not a size from 1 KiB to 2 KiB".to_owned()));
        let kind = Kind::Count { min: 1, max: 3 };
        assert_eq!(kind.parse("3"), Ok(Value::Count(3)));
        assert!(kind.parse("0").is_err());
        assert!(kind.parse("4").is_err());
        let kind = Kind::Duration { min: Duration::from_secs(1), max: Duration::from_secs(2) };
        assert_eq!(kind.parse("2 s"), Ok(Value::Duration(Duration::from_secs(2))));
        assert!(kind.parse("999 ms").is_err());
        assert!(kind.parse("2001 ms").is_err());
        assert_eq!(Kind::Memory { max: 10 }.parse("auto"), Ok(Value::Auto));
        assert!(Kind::Memory { max: 10 }.parse("11").is_err());
    }

    #[test]
    fn words_and_flags() {
        let kind = Kind::Choice(&["info", "debug"]);
        assert_eq!(kind.parse("debug"), Ok(Value::Choice("debug")));
        assert_eq!(kind.parse("trace"), Err("is not one of info, debug".to_owned()));
        assert_eq!(Kind::Flag.parse("true"), Ok(Value::Flag(true)));
        assert!(Kind::Flag.parse("yes").is_err());
        assert!(Kind::Path.parse(" ").is_err());
    }
}
