//! Which offsets of a partition in a segment still count.
//!
//! One stretch, from the log start to the segment's clip, nearly always; what was given up of a damaged segment makes holes.

use std::ops::Range;

use thin_vec::ThinVec;

/// Offsets that count. The default is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    within: Range<u64>,
    /// Ascending, none touching another; they may reach out of `within`.
    holes: ThinVec<Range<u64>>,
}

impl Kept {
    /// These offsets but those in `holes`, which ascend and do not touch each other.
    pub(crate) fn new(within: Range<u64>, holes: ThinVec<Range<u64>>) -> Self {
        Self { within, holes }
    }

    /// The stretches, ascending; at least one, if it be empty, unless holes leave nothing.
    pub fn stretches(&self) -> impl Iterator<Item = Range<u64>> {
        let ends = self.holes.iter().map(|hole| hole.start).chain([u64::MAX]);
        let starts = [0].into_iter().chain(self.holes.iter().map(|hole| hole.end));
        let Range { start, end } = self.within;
        let stretches = starts.zip(ends).map(move |(from, to)| start.max(from)..end.min(to));
        let is_whole = self.holes.is_empty();
        stretches.filter(move |stretch| is_whole || !stretch.is_empty())
    }
}

impl From<Range<u64>> for Kept {
    fn from(within: Range<u64>) -> Self {
        Self { within, holes: ThinVec::new() }
    }
}

impl From<Option<Range<u64>>> for Kept {
    fn from(within: Option<Range<u64>>) -> Self {
        within.unwrap_or_default().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretches(within: Range<u64>, holes: &[Range<u64>]) -> Vec<Range<u64>> {
        Kept::new(within, holes.into()).stretches().collect()
    }

    #[test]
    fn holes_part_what_counts() {
        assert_eq!(stretches(5..20, &[]), [5..20]);
        assert_eq!(stretches(5..20, &[7..9, 12..13]), [5..7, 9..12, 13..20]);
        assert_eq!(stretches(5..20, &[0..6, 18..u64::MAX]), [6..18]);
        assert_eq!(stretches(5..20, &[1..2, 25..30]), [5..20]);
        assert_eq!(stretches(5..20, &[0..u64::MAX]), []);
        assert_eq!(stretches(0..u64::MAX, &[3..4]), [0..3, 4..u64::MAX]);
    }

    #[test]
    fn what_is_whole_is_one_stretch_even_if_nothing_of_it_counts() {
        assert_eq!(stretches(9..9, &[]), [9..9]);
        assert_eq!(stretches(9..9, &[1..2]), []);
    }
}
