//! Which CPUs the broker runs on.

use std::str::FromStr;

/// CPUs, as a setting names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cores {
    /// All that the process may use.
    Auto,
    /// These, in this order; never empty, none twice.
    These(Vec<usize>),
}

/// The largest CPU number accepted, above any machine's: a range must not fill the memory.
const CORE_MAX: usize = 4095;

impl FromStr for Cores {
    type Err = &'static str;

    /// Reads "auto", "3", "0-3", "0,2", "0-1,4"; brackets around a list are allowed.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let list = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        let mut cores = Vec::new();
        for part in list.split(',').map(str::trim) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (parse_core(first)?, parse_core(last)?);
            if first > last {
                return Err("a range must not fall");
            }
            cores.extend(first..=last);
        }
        let mut sorted = cores.clone();
        sorted.sort_unstable();
        if sorted.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err("a core is named twice");
        }
        Ok(Self::These(cores))
    }
}

fn parse_core(text: &str) -> Result<usize, &'static str> {
    let core = text.trim().parse().map_err(|_| "a core is a number")?;
    if core <= CORE_MAX { Ok(core) } else { Err("cores are numbered from 0 to 4095") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_ranges() {
        let check = |text: &str, expected: &[usize]| {
            assert_eq!(text.parse(), Ok(Cores::These(expected.to_vec())), "{text}");
        };
        check("0-3", &[0, 1, 2, 3]);
        check("3", &[3]);
        check("[0, 2]", &[0, 2]);
        check("4,0-1", &[4, 0, 1]);
        assert_eq!("auto".parse(), Ok(Cores::Auto));
        for bad in ["", "[]", "a", "3-0", "0,0", "0-2,1", "-1", "0-18446744073709551615", "4096", "0,"] {
            assert!(bad.parse::<Cores>().is_err(), "{bad}");
        }
    }
}
