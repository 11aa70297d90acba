//! A set of numbers, kept as disjoint ranges.

use std::ops::Range;

/// Sorted, disjoint, none empty, no two that touch.
#[derive(Debug, Default)]
pub(crate) struct Ranges(Vec<Range<u64>>);

impl Ranges {
    /// How many numbers the set holds.
    pub(crate) fn len(&self) -> u64 {
        self.0.iter().map(|range| range.end - range.start).sum()
    }

    /// Cuts `range` into pieces that lie wholly inside or wholly outside the set, in order.
    pub(crate) fn split(&self, range: Range<u64>, mut visit: impl FnMut(Range<u64>, bool)) {
        let first = self.0.partition_point(|held| held.end <= range.start);
        let mut at = range.start;
        for held in self.0[first..].iter().take_while(|held| held.start < range.end) {
            let (from, to) = (held.start.max(at), held.end.min(range.end));
            if at < from {
                visit(at..from, false);
            }
            visit(from..to, true);
            at = to;
        }
        if at < range.end {
            visit(at..range.end, false);
        }
    }
}

impl FromIterator<Range<u64>> for Ranges {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(ranges: I) -> Self {
        let mut sorted: Vec<_> = ranges.into_iter().filter(|range| !range.is_empty()).collect();
        sorted.sort_by_key(|range| range.start);
        let mut merged: Vec<Range<u64>> = Vec::with_capacity(sorted.len());
        for range in sorted {
            match merged.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        Self(merged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_into_inside_and_outside() {
        let set: Ranges = [30..40, 10..15, 12..20, 25..25].into_iter().collect();
        assert_eq!(set.len(), 20);
        let mut pieces = vec![];
        set.split(5..35, |piece, inside| pieces.push((piece, inside)));
        assert_eq!(pieces, [(5..10, false), (10..20, true), (20..30, false), (30..35, true)]);
        pieces.clear();
        set.split(12..18, |piece, inside| pieces.push((piece, inside)));
        set.split(20..30, |piece, inside| pieces.push((piece, inside)));
        assert_eq!(pieces, [(12..18, true), (20..30, false)]);
    }
}
