//! Checksums that know what they are for.
//!
//! The one hard idea: the CRC-32C of a block or a section starts from the log, the segment and the place it belongs to.
//! A disk that answers with another block, another file or an older use of the same sectors gives bytes whose own CRC
//! would hold; this one does not.

use std::mem;

use super::SegmentId;

/// Bytes under one checksum: a read fetches whole blocks of this size, counted from the start of the file.
pub const BLOCK_BYTES: usize = 64 * 1024;

/// Where the checksums of one segment start from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seal(u32);

/// What a checksum covers; its number keeps the kinds apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Covered {
    Block = 1,
    Section = 2,
}

impl Seal {
    /// The seal of segment `id` of log `log_id`.
    pub(crate) fn new(log_id: u128, id: SegmentId) -> Self {
        Self(crc32c::crc32c_append(crc32c::crc32c(&log_id.to_le_bytes()), &id.0.to_le_bytes()))
    }

    /// The checksum of `bytes` as block `number`.
    pub(crate) fn block_crc(self, number: u64, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(self.start_of(Covered::Block, number), bytes)
    }

    /// The checksum of `bytes` as the section of kind `kind`.
    pub(crate) fn section_crc(self, kind: u16, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(self.start_of(Covered::Section, kind.into()), bytes)
    }

    fn start_of(self, covered: Covered, number: u64) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c_append(self.0, &[covered as u8]), &number.to_le_bytes())
    }
}

/// The checksums of consecutive blocks, as their bytes go by in pieces of any size.
#[derive(Debug)]
pub(crate) struct BlockChecksums {
    seal: Seal,
    /// Those of the finished blocks, four bytes each, little-endian.
    bytes: Vec<u8>,
    /// That of the bytes so far of the block being filled, and how many they are.
    crc: u32,
    filled: usize,
}

impl BlockChecksums {
    /// Starts with the first block.
    pub(crate) fn new(seal: Seal) -> Self {
        Self { seal, bytes: Vec::new(), crc: seal.start_of(Covered::Block, 0), filled: 0 }
    }

    /// Bytes until the block being filled is full, at least 1.
    pub(crate) fn room(&self) -> usize {
        BLOCK_BYTES - self.filled
    }

    /// Takes the next bytes in.
    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (head, rest) = bytes.split_at(bytes.len().min(self.room()));
            self.crc = crc32c::crc32c_append(self.crc, head);
            self.filled += head.len();
            if self.filled == BLOCK_BYTES {
                self.end_block();
            }
            bytes = rest;
        }
    }

    /// Ends the last block, short as it may be, gives out the checksums of all and starts over.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        if self.filled > 0 {
            self.end_block();
        }
        mem::replace(self, Self::new(self.seal)).bytes
    }

    fn end_block(&mut self) {
        self.bytes.extend_from_slice(&self.crc.to_le_bytes());
        self.crc = self.seal.start_of(Covered::Block, self.bytes.len() as u64 / 4);
        self.filled = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEAL_OF: (u128, SegmentId) = (7, SegmentId(1));

    fn seal() -> Seal {
        Seal::new(SEAL_OF.0, SEAL_OF.1)
    }

    #[test]
    fn pieces_of_any_size_give_the_checksums_of_the_blocks() {
        let bytes: Vec<u8> = (0..2 * BLOCK_BYTES + 100).map(|number| number as u8).collect();
        let expected: Vec<u8> = bytes
            .chunks(BLOCK_BYTES)
            .enumerate()
            .flat_map(|(number, block)| seal().block_crc(number as u64, block).to_le_bytes())
            .collect();
        for piece in [1000, 4096, BLOCK_BYTES, bytes.len()] {
            let mut checksums = BlockChecksums::new(seal());
            bytes.chunks(piece).for_each(|piece| checksums.update(piece));
            assert_eq!(checksums.take(), expected, "pieces of {piece}");
        }
    }

    #[test]
    fn the_same_bytes_elsewhere_have_another_checksum() {
        let bytes = [42; 100];
        let found = [
            seal().block_crc(0, &bytes),
            seal().block_crc(1, &bytes),
            seal().section_crc(0, &bytes),
            seal().section_crc(1, &bytes),
            Seal::new(8, SegmentId(1)).block_crc(0, &bytes),
            Seal::new(7, SegmentId(2)).block_crc(0, &bytes),
        ];
        for (number, crc) in found.iter().enumerate() {
            assert!(!found[..number].contains(crc), "{found:?}");
        }
    }
}
