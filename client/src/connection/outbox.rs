//! What is to be written to a socket: small pieces joined, large ones as they are, all of it in one write.
//!
//! The hard idea: a record batch goes from the producer's builder to the socket without a copy, unless it is so small that
//! one more slice would cost the kernel more than the copy costs us.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf, Bytes};

/// Pieces from this size on are not copied.
const SHARED_BYTES_MIN: usize = 4 * 1024;

/// Slices that one write takes at most; Linux allows 1,024.
const SLICES_MAX: usize = 64;

/// Bytes in the order in which they go out.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pieces: VecDeque<Bytes>,
    /// Small pieces that follow the last of `pieces`.
    joined: Vec<u8>,
    bytes: usize,
}

impl Outbox {
    /// Adds a frame: its head, and what stands behind it.
    pub(crate) fn push(&mut self, head: Vec<u8>, tail: Vec<Bytes>) {
        self.join(&head);
        for piece in tail {
            if piece.len() < SHARED_BYTES_MIN {
                self.join(&piece);
            } else {
                self.split_joined();
                self.bytes += piece.len();
                self.pieces.push_back(piece);
            }
        }
    }

    /// Whether everything was written.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The front of it, for one write.
    pub(crate) fn slices(&mut self) -> Vec<IoSlice<'_>> {
        self.split_joined();
        self.pieces.iter().take(SLICES_MAX).map(|piece| IoSlice::new(piece)).collect()
    }

    /// That many bytes were written.
    pub(crate) fn advance(&mut self, mut written: usize) {
        self.bytes -= written;
        while let Some(piece) = self.pieces.front_mut()
            && written > 0
        {
            let part = written.min(piece.len());
            piece.advance(part);
            written -= part;
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
    }

    fn join(&mut self, piece: &[u8]) {
        self.bytes += piece.len();
        self.joined.extend_from_slice(piece);
    }

    fn split_joined(&mut self) {
        if !self.joined.is_empty() {
            self.pieces.push_back(std::mem::take(&mut self.joined).into());
        }
    }
}

#[cfg(test)]
impl Outbox {
    pub(crate) fn take_all(&mut self) -> Vec<u8> {
        self.split_joined();
        self.bytes = 0;
        self.pieces.drain(..).flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_pieces_are_not_copied_and_small_ones_are_joined() {
        let large = Bytes::from(vec![7; SHARED_BYTES_MIN]);
        let mut outbox = Outbox::default();
        outbox.push(vec![1], vec![Bytes::from_static(&[2]), large.clone(), Bytes::from_static(&[3])]);
        outbox.push(vec![4], vec![]);
        let slices = outbox.slices();
        assert_eq!(slices.iter().map(|slice| slice.len()).collect::<Vec<_>>(), [2, SHARED_BYTES_MIN, 2]);
        assert_eq!(slices[1].as_ptr(), large.as_ptr());
    }

    #[test]
    fn short_writes_go_on_where_they_stopped() {
        for step in [7, 1_000, 5_000] {
            let mut outbox = Outbox::default();
            let mut expected = Vec::new();
            for number in 0..10u8 {
                let tail = vec![Bytes::from(vec![number; usize::from(number) * 1_000])];
                expected.push(number);
                expected.extend_from_slice(&tail[0]);
                outbox.push(vec![number], tail);
            }
            let mut written = Vec::new();
            while !outbox.is_empty() {
                let start = written.len();
                let slices: Vec<u8> = outbox.slices().iter().flat_map(|slice| slice.to_vec()).collect();
                written.extend(slices.into_iter().take(step));
                outbox.advance(written.len() - start);
            }
            assert!(written == expected, "step {step}");
        }
    }
}
