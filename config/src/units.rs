//! Sizes and times as people write them: the only place where "64 MiB" becomes a number.

use std::time::Duration;

use thiserror::Error;

/// Unit names and what one is in bytes. Two families, told apart by the "i", as IEC 80000-13 has them.
const BYTE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// Unit names and what one is in microseconds.
const TIME_UNITS: [(&str, u64); 6] =
    [("d", 86_400_000_000), ("h", 3_600_000_000), ("min", 60_000_000), ("s", 1_000_000), ("ms", 1_000), ("us", 1)];

/// Why a text is not a size or a time.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UnitError {
    /// No digits at its start.
    #[error("it does not start with a whole number")]
    NoNumber,
    /// More than 64 bits.
    #[error("it is too large")]
    TooLarge,
    /// A time without a unit.
    #[error("it has no unit: us, ms, s, min, h or d")]
    NoUnit,
    /// Something else behind the number.
    #[error("`{0}` is not one of its units: {1}")]
    UnknownUnit(String, &'static str),
}

/// Reads a size: "64 MiB", "64MiB", "1_048_588", "10 GB".
///
/// # Errors
/// [`UnitError`], without the text itself.
pub fn parse_bytes(text: &str) -> Result<u64, UnitError> {
    let (number, unit) = split(text)?;
    let factor = match unit {
        "" => 1,
        unit => find(&BYTE_UNITS, unit)
            .ok_or_else(|| UnitError::UnknownUnit(unit.to_owned(), "B, KiB, MiB, GiB, TiB, kB, MB, GB or TB"))?,
    };
    number.checked_mul(factor).ok_or(UnitError::TooLarge)
}

/// Reads a time: "5 ms", "10min". A bare number is refused, since nobody could tell its unit.
///
/// # Errors
/// [`UnitError`], without the text itself.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let (number, unit) = split(text)?;
    if unit.is_empty() {
        return Err(UnitError::NoUnit);
    }
    let factor =
        find(&TIME_UNITS, unit).ok_or_else(|| UnitError::UnknownUnit(unit.to_owned(), "us, ms, s, min, h or d"))?;
    number.checked_mul(factor).map(Duration::from_micros).ok_or(UnitError::TooLarge)
}

/// Writes a size in the largest binary unit that needs no fraction: "64 MiB", "1048588 B".
pub fn format_bytes(bytes: u64) -> String {
    let binary = &BYTE_UNITS[..4];
    let (unit, factor) =
        binary.iter().find(|(_, factor)| bytes != 0 && bytes.is_multiple_of(*factor)).unwrap_or(&("B", 1));
    format!("{} {unit}", bytes / factor)
}

/// Writes a time in the largest unit that needs no fraction: "5 ms", "10 min". Below a microsecond nothing counts.
pub fn format_duration(duration: Duration) -> String {
    let us = duration.as_micros() as u64;
    let (unit, factor) =
        TIME_UNITS.iter().find(|(_, factor)| us != 0 && us.is_multiple_of(*factor)).unwrap_or(&("s", 1));
    format!("{} {unit}", us / factor)
}

/// The number at the start, in which underscores may group digits, and the trimmed rest.
fn split(text: &str) -> Result<(u64, &str), UnitError> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    let digits = text[..end].replace('_', "");
    if digits.is_empty() {
        return Err(UnitError::NoNumber);
    }
    let number = digits.parse().map_err(|_| UnitError::TooLarge)?;
    Ok((number, text[end..].trim_start()))
}

fn find(units: &[(&str, u64)], name: &str) -> Option<u64> {
    units.iter().find(|(unit, _)| unit.eq_ignore_ascii_case(name)).map(|(_, factor)| *factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let check = |text, expected| assert_eq!(parse_bytes(text), Ok(expected), "{text}");
        check("64 MiB", 64 << 20);
        check("64MiB", 64 << 20);
        check(" 64  mib ", 64 << 20);
        check("1_048_588", 1_048_588);
        check("10 GB", 10_000_000_000);
        check("0", 0);
        assert_eq!(parse_bytes("MiB"), Err(UnitError::NoNumber));
        assert_eq!(parse_bytes(""), Err(UnitError::NoNumber));
        assert_eq!(parse_bytes("-1"), Err(UnitError::NoNumber));
        assert_eq!(parse_bytes("18446744073709551616"), Err(UnitError::TooLarge));
        assert_eq!(parse_bytes("16777216 TiB"), Err(UnitError::TooLarge));
        assert!(matches!(parse_bytes("1.5 GiB"), Err(UnitError::UnknownUnit(..))));
        assert!(matches!(parse_bytes("64 M"), Err(UnitError::UnknownUnit(..))));
    }

    #[test]
    fn times() {
        let check = |text, us| assert_eq!(parse_duration(text), Ok(Duration::from_micros(us)), "{text}");
        check("5 ms", 5_000);
        check("10min", 600_000_000);
        check("0 s", 0);
        check("1 d", 86_400_000_000);
        assert_eq!(parse_duration("5"), Err(UnitError::NoUnit));
        assert!(matches!(parse_duration("5 m"), Err(UnitError::UnknownUnit(..))));
        assert_eq!(parse_duration("999999999999999 d"), Err(UnitError::TooLarge));
    }

    #[test]
    fn what_is_written_can_be_read() {
        for bytes in [0, 1, 1023, 1024, 1_048_588, 3 << 30, u64::MAX] {
            assert_eq!(parse_bytes(&format_bytes(bytes)), Ok(bytes));
        }
        for us in [0, 1, 1_000, 1_500, 90_000_000, 3_600_000_000] {
            let duration = Duration::from_micros(us);
            assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }
        assert_eq!(format_bytes(64 << 20), "64 MiB");
        assert_eq!(format_duration(Duration::from_secs(600)), "10 min");
    }
}
