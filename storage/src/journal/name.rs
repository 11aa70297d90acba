//! Names of a journal's files: `manifest-000000000000002a-9f3c21d07e5b8a64.log`, sequence and salt in hexadecimal.
//!
//! A file is called `.tmp` until it is complete; whatever is called `.log` once held a whole snapshot.

/// A file of a journal, by its name. The highest sequence is the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FileName {
    pub(crate) sequence: u64,
    pub(crate) salt: u64,
    pub(crate) complete: bool,
}

impl FileName {
    /// Reads a name; `None` for files that are not of the journal with this prefix.
    pub(crate) fn parse(name: &str, prefix: &str) -> Option<Self> {
        let rest = name.strip_prefix(prefix)?.strip_prefix('-')?;
        let (numbers, complete) = match rest.strip_suffix(".log") {
            Some(numbers) => (numbers, true),
            None => (rest.strip_suffix(".tmp")?, false),
        };
        let (sequence, salt) = numbers.split_once('-')?;
        Some(Self { sequence: parse_hex(sequence)?, salt: parse_hex(salt)?, complete })
    }

    /// The name within the directory, for a journal with this prefix.
    pub(crate) fn with_prefix(self, prefix: &str) -> String {
        let suffix = if self.complete { "log" } else { "tmp" };
        format!("{prefix}-{:016x}-{:016x}.{suffix}", self.sequence, self.salt)
    }
}

/// Exactly sixteen lower-case digits, so that a number has one spelling.
fn parse_hex(digits: &str) -> Option<u64> {
    let spelled = digits.len() == 16 && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    if spelled { u64::from_str_radix(digits, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for complete in [false, true] {
            let name = FileName { sequence: 42, salt: u64::MAX, complete };
            assert_eq!(FileName::parse(&name.with_prefix("meta"), "meta"), Some(name));
        }
    }

    #[test]
    fn other_files_are_left_alone() {
        for name in [
            "",
            "LOCK",
            "meta-000000000000002a.log",
            "meta-000000000000002a-ffffffffffffffff.bak",
            "meta-000000000000002a-FFFFFFFFFFFFFFFF.log",
            "meta-2a-ffffffffffffffff.log",
            "meta-+00000000000002a-ffffffffffffffff.log",
            "metal-000000000000002a-ffffffffffffffff.log",
        ] {
            assert_eq!(FileName::parse(name, "meta"), None, "{name}");
        }
    }
}
