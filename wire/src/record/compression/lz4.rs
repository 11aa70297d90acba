//! LZ4 frames: one, of any block size. Written as Kafka's Java client asks for: blocks of 64 KiB, independent of each other.
//!
//! The library takes the end of the input for the end of a frame, so whether the frame is whole is looked at first: its
//! blocks say their length, and a frame has an end mark.

use std::io::Write;

use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};

use super::{Failure, read_bounded};

const MAGIC: u32 = 0x184d_2204;

/// Bits of the frame's flags.
const BLOCK_CHECKSUM: u8 = 1 << 4;
const CONTENT_SIZE: u8 = 1 << 3;
const CONTENT_CHECKSUM: u8 = 1 << 2;
const DICTIONARY: u8 = 1;

/// The bit of a block's length that says that it is not compressed.
const UNCOMPRESSED: u32 = 1 << 31;

pub(super) fn decompress(compressed: &[u8], bytes_max: usize, out: &mut Vec<u8>) -> Result<(), Failure> {
    if !is_one_frame(compressed) {
        return Err(Failure::Malformed);
    }
    read_bounded(FrameDecoder::new(compressed), bytes_max, out)
}

pub(super) fn compress(bytes: &[u8], out: &mut Vec<u8>) {
    let info = FrameInfo::new().block_size(BlockSize::Max64KB).block_mode(BlockMode::Independent);
    let mut encoder = FrameEncoder::with_frame_info(info, out);
    encoder.write_all(bytes).expect("memory takes all that is written");
    encoder.finish().expect("memory takes all that is written");
}

fn is_one_frame(mut bytes: &[u8]) -> bool {
    walk_frame(&mut bytes).is_some() && bytes.is_empty()
}

/// Steps over magic, descriptor, blocks, end mark and checksum.
fn walk_frame(bytes: &mut &[u8]) -> Option<()> {
    let magic = take_u32(bytes)?;
    let flags = *take(bytes, 1)?.first()?;
    // Block size and header checksum, and what the flags promise between them.
    let optional_bytes = if flags & CONTENT_SIZE != 0 { 8 } else { 0 } + if flags & DICTIONARY != 0 { 4 } else { 0 };
    take(bytes, 2 + optional_bytes)?;
    let block_checksum_bytes = if flags & BLOCK_CHECKSUM != 0 { 4 } else { 0 };
    loop {
        match take_u32(bytes)? {
            0 => break,
            block => take(bytes, (block & !UNCOMPRESSED) as usize + block_checksum_bytes)?,
        };
    }
    take(bytes, if flags & CONTENT_CHECKSUM != 0 { 4 } else { 0 })?;
    (magic == MAGIC).then_some(())
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    bytes.split_off(..count)
}

fn take_u32(bytes: &mut &[u8]) -> Option<u32> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u32::from_le_bytes(*taken))
}
