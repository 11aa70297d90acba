//! Strangers' words in our log: control characters escaped, cut at 256 bytes, and not more lines than anyone can read.

use std::{
    cell::Cell,
    fmt::{self, Write as _},
    time::Duration,
};

use runtime::Instant;

/// Bytes of a stranger's text that are shown.
const SHOWN_BYTES_MAX: usize = 256;

/// Lines about strangers in one [`Sampler`] window.
const LINES_MAX: u32 = 10;

/// How long a window is.
const WINDOW: Duration = Duration::from_secs(1);

/// Bytes from a stranger, made fit for one line of a log.
#[derive(Clone, Copy)]
pub(crate) struct Shown<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(SHOWN_BYTES_MAX)];
        for chunk in shown.utf8_chunks() {
            for letter in chunk.valid().chars() {
                // Line and paragraph separators end a line for some, and are no control characters.
                if letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}') {
                    write!(out, "{}", letter.escape_default())?;
                } else {
                    out.write_char(letter)?;
                }
            }
            for byte in chunk.invalid() {
                write!(out, "\\x{byte:02x}")?;
            }
        }
        if shown.len() < self.0.len() {
            write!(out, "… ({} bytes)", self.0.len())?;
        }
        Ok(())
    }
}

/// Lets a few lines a second through and counts the rest.
#[derive(Default)]
pub(crate) struct Sampler {
    window_start: Cell<Instant>,
    lines: Cell<u32>,
    suppressed: Cell<u64>,
}

impl Sampler {
    /// Whether a line may be written now; if so, how many were not since the last one.
    pub(crate) fn line(&self, now: Instant) -> Option<u64> {
        if now.since(self.window_start.get()) >= WINDOW {
            self.window_start.set(now);
            self.lines.set(0);
        }
        if self.lines.get() < LINES_MAX {
            self.lines.set(self.lines.get() + 1);
            Some(self.suppressed.take())
        } else {
            self.suppressed.set(self.suppressed.get() + 1);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_cannot_end_a_line_or_fill_the_disk() {
        let check = |bytes: &[u8], shown: &str| assert_eq!(Shown(bytes).to_string(), shown);
        check("naïve".as_bytes(), "naïve");
        check(b"a\r\nERROR forged", "a\\r\\nERROR forged");
        check(b"\x1b[31mred", "\\u{1b}[31mred");
        check("a\u{2028}b".as_bytes(), "a\\u{2028}b");
        check(b"\xff\xfeok", "\\xff\\xfeok");
        let long = Shown(&[b'x'; 10_240]).to_string();
        assert_eq!(long, format!("{}… (10240 bytes)", "x".repeat(256)));
    }

    #[test]
    fn a_flood_is_counted_not_written() {
        let sampler = Sampler::default();
        let second = |second: u64| Instant::from_nanos(second * 1_000_000_000);
        let written = (0..1000).filter(|_| sampler.line(second(5)).is_some()).count();
        assert_eq!(written, 10);
        assert_eq!(sampler.line(second(6)), Some(990));
        assert_eq!(sampler.line(second(6)), Some(0));
    }
}
