//! Stretches of "value v is at offset o", and the two sweeps over them that every check is made of.

use crate::Value;

/// `count` consecutive values at as many consecutive offsets. Never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) offset: u64,
    pub(crate) value: Value,
    pub(crate) count: u64,
}

/// Which of a span's two coordinates a sweep goes along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Axis {
    Offset,
    Value,
}

impl Span {
    pub(crate) fn end_offset(&self) -> u64 {
        self.offset.saturating_add(self.count)
    }

    /// Do both put their common offsets, or values, in the same places?
    pub(crate) fn agrees_with(&self, other: &Self) -> bool {
        self.offset.wrapping_sub(self.value.to_u64()) == other.offset.wrapping_sub(other.value.to_u64())
    }

    fn start(&self, axis: Axis) -> u64 {
        match axis {
            Axis::Offset => self.offset,
            Axis::Value => self.value.to_u64(),
        }
    }

    fn end(&self, axis: Axis) -> u64 {
        self.start(axis).saturating_add(self.count)
    }

    /// The part between two points of an axis, both of which lie within the span.
    fn slice(&self, axis: Axis, from: u64, to: u64) -> Self {
        let skipped = from - self.start(axis);
        Self { offset: self.offset + skipped, value: self.value.plus(skipped), count: to - from }
    }
}

/// Appends a span, melting it into the last one where it continues that.
pub(crate) fn push(spans: &mut Vec<Span>, span: Span) {
    match spans.last_mut() {
        Some(last) if last.end_offset() == span.offset && last.value.plus(last.count) == span.value => {
            last.count += span.count;
        }
        _ => spans.push(span),
    }
}

/// Sorts spans along an axis and makes them disjoint on it. Where two of them disagree, `conflict` gets both parts,
/// and the one that starts first (if equal: with the smaller other coordinate) stays.
pub(crate) fn disjoint(mut spans: Vec<Span>, axis: Axis, mut conflict: impl FnMut(Span, Span)) -> Vec<Span> {
    // Notes of one actor are mostly in order: this sort takes linear time over ordered stretches.
    spans.sort_by_key(|span| match axis {
        Axis::Offset => (span.offset, span.value.to_u64()),
        Axis::Value => (span.value.to_u64(), span.offset),
    });
    let mut kept: Vec<Span> = Vec::new();
    for span in spans {
        let (start, end) = (span.start(axis), span.end(axis));
        for earlier in kept.iter().rev().take_while(|earlier| earlier.end(axis) > start) {
            let (from, to) = (start.max(earlier.start(axis)), end.min(earlier.end(axis)));
            if from < to && !earlier.agrees_with(&span) {
                conflict(earlier.slice(axis, from, to), span.slice(axis, from, to));
            }
        }
        let covered = kept.last().map_or(0, |last| last.end(axis));
        if covered < end {
            push(&mut kept, span.slice(axis, start.max(covered), end));
        }
    }
    kept
}

/// Walks `spans` beside `others`, both [`disjoint`] by value, in pieces: each with the part of the other side that has
/// the same values, if there is one.
pub(crate) fn pair_by_value(spans: &[Span], others: &[Span], mut visit: impl FnMut(Span, Option<Span>)) {
    let axis = Axis::Value;
    let mut others = others.iter().peekable();
    for span in spans {
        let (mut at, end) = (span.start(axis), span.end(axis));
        while at < end {
            while others.next_if(|other| other.end(axis) <= at).is_some() {}
            match others.peek() {
                Some(other) if other.start(axis) <= at => {
                    let to = end.min(other.end(axis));
                    visit(span.slice(axis, at, to), Some(other.slice(axis, at, to)));
                    at = to;
                }
                next => {
                    let to = next.map_or(end, |other| end.min(other.start(axis)));
                    visit(span.slice(axis, at, to), None);
                    at = to;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(offset: u64, value: u64, count: u64) -> Span {
        Span { offset, value: Value::from_u64(value), count }
    }

    #[test]
    fn continuing_spans_melt() {
        let mut spans = vec![];
        push(&mut spans, span(0, 100, 3));
        push(&mut spans, span(3, 103, 2));
        push(&mut spans, span(5, 200, 1)); // another writer
        push(&mut spans, span(7, 201, 1)); // a hole in the offsets
        assert_eq!(spans, [span(0, 100, 5), span(5, 200, 1), span(7, 201, 1)]);
    }

    #[test]
    fn two_readers_of_the_same_log_agree() {
        let spans = vec![span(0, 100, 10), span(5, 105, 10), span(0, 100, 2)];
        let kept = disjoint(spans, Axis::Offset, |left, right| panic!("{left:?} against {right:?}"));
        assert_eq!(kept, [span(0, 100, 15)]);
    }

    #[test]
    fn a_conflict_is_cut_to_what_is_common() {
        let mut conflicts = vec![];
        let spans = vec![span(0, 100, 10), span(4, 200, 10), span(8, 300, 4)];
        let kept = disjoint(spans, Axis::Offset, |left, right| conflicts.push((left, right)));
        assert_eq!(kept, [span(0, 100, 10), span(10, 206, 4)]);
        assert_eq!(
            conflicts,
            [
                (span(4, 104, 6), span(4, 200, 6)),
                (span(10, 206, 2), span(10, 302, 2)),
                (span(8, 108, 2), span(8, 300, 2)),
            ]
        );
    }

    #[test]
    fn pairs_cover_every_piece_once() {
        let mut pieces = vec![];
        let acked = [span(0, 100, 10), span(50, 120, 2)];
        let delivered = [span(2, 102, 3), span(70, 107, 20)];
        pair_by_value(&acked, &delivered, |left, right| pieces.push((left, right)));
        assert_eq!(
            pieces,
            [
                (span(0, 100, 2), None),
                (span(2, 102, 3), Some(span(2, 102, 3))),
                (span(5, 105, 2), None),
                (span(7, 107, 3), Some(span(70, 107, 3))),
                (span(50, 120, 2), Some(span(83, 120, 2))),
            ]
        );
    }
}
