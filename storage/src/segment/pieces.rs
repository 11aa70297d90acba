//! Bytes that lie in several pieces of memory and are read as one run.

use std::ops::Range;

use runtime::Frozen;

/// Pieces, one behind the other.
pub(super) struct Pieces<'a, F> {
    pieces: &'a [F],
    /// The piece that [`Self::array_at`] found last, and where in the run it starts.
    number: usize,
    start: usize,
}

impl<'a, F: Frozen> Pieces<'a, F> {
    pub(super) fn new(pieces: &'a [F]) -> Self {
        Self { pieces, number: 0, start: 0 }
    }

    /// Bytes of all.
    pub(super) fn len(&self) -> usize {
        self.pieces.iter().map(|piece| piece.len()).sum()
    }

    /// `N` bytes at `position`, copied; `None` if so many are not there. Positions may only grow from call to call.
    pub(super) fn array_at<const N: usize>(&mut self, position: usize) -> Option<[u8; N]> {
        while position >= self.start + self.pieces.get(self.number)?.len() {
            self.start += self.pieces[self.number].len();
            self.number += 1;
        }
        let piece = &self.pieces[self.number][position - self.start..];
        if let Some(whole) = piece.first_chunk() {
            return Some(*whole);
        }
        let mut array = [0; N];
        let mut filled = 0;
        let behind = self.pieces[self.number + 1..].iter().map(|piece| &**piece);
        for piece in std::iter::once(piece).chain(behind) {
            let count = piece.len().min(N - filled);
            array[filled..filled + count].copy_from_slice(&piece[..count]);
            filled += count;
        }
        (filled == N).then_some(array)
    }

    /// The bytes at `range`, sharing the memory of the pieces.
    ///
    /// # Panics
    /// If the range reaches beyond them.
    pub(super) fn slices(&self, range: Range<usize>) -> Vec<F> {
        let mut slices = Vec::with_capacity(self.pieces.len());
        let mut start = 0;
        for piece in self.pieces {
            let end = start + piece.len();
            let within = range.start.max(start)..range.end.min(end);
            if !within.is_empty() {
                slices.push(piece.slice(within.start - start..within.end - start));
            }
            start = end;
        }
        assert!(range.is_empty() || range.end <= start, "{range:?} of {start} bytes");
        slices
    }
}

#[cfg(test)]
mod tests {
    use runtime::{Block, Runtime, sim::Simulation};

    use super::*;

    #[test]
    fn cut_anywhere_they_read_as_one() {
        let simulation = Simulation::new(1);
        let node = simulation.add_node();
        let checked = simulation.block_on(node, async |rt| {
            let whole: Vec<u8> = (0..60).collect();
            for cuts in [vec![], vec![1], vec![30, 31, 32], vec![10, 20, 30, 40, 50, 59]] {
                let ends: Vec<usize> = cuts.into_iter().chain([60]).collect();
                let mut start = 0;
                let pieces: Vec<_> = ends
                    .into_iter()
                    .map(|end| {
                        let mut block = rt.block(0);
                        block[..end - start].copy_from_slice(&whole[start..end]);
                        let piece = block.freeze(end - start);
                        start = end;
                        piece
                    })
                    .collect();
                let mut run = Pieces::new(&pieces);
                assert_eq!(run.len(), 60);
                for position in 0..=52 {
                    assert_eq!(
                        run.array_at::<8>(position).as_ref().map(|found| &found[..]),
                        whole.get(position..position + 8)
                    );
                }
                assert_eq!(run.array_at::<8>(53), None);
                assert_eq!(run.array_at::<8>(60), None);
                for range in [0..60, 0..0, 9..51, 30..31, 59..60] {
                    let slices = run.slices(range.clone());
                    let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
                    assert_eq!(bytes, whole[range]);
                }
            }
        });
        checked.unwrap();
    }
}
