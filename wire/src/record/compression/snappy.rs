//! Snappy: raw, as librdkafka and Go clients write it, or in the chunks of the Java library (xerial), which every client reads
//! and which is written here.
//!
//! ```text
//! chunks: 0x82 "SNAPPY" 0x00 | version i32 | compatible version i32 | { raw bytes i32, raw } ...     big-endian
//! raw:    uncompressed bytes varint | elements: a literal, or a copy of what came before
//! ```
//!
//! Raw snappy has its length in front, and the library wants the room before it begins. So the elements are added up first:
//! room is made for what they give, and an announcement that differs is refused.

use snap::raw::{Decoder, Encoder, max_compress_len};

use super::Failure;

const CHUNKS_MAGIC: [u8; 8] = *b"\x82SNAPPY\x00";
const CHUNKS_VERSION: i32 = 1;
const CHUNKS_HEADER_BYTES: usize = 16;

/// What the Java library puts into a chunk.
const CHUNK_BYTES: usize = 32 * 1024;

pub(super) fn decompress(compressed: &[u8], bytes_max: usize, out: &mut Vec<u8>) -> Result<(), Failure> {
    if !compressed.starts_with(&CHUNKS_MAGIC) {
        return decompress_raw(compressed, bytes_max, out);
    }
    // The versions are for the reader's information: there has been only one.
    let mut chunks = compressed.get(CHUNKS_HEADER_BYTES..).ok_or(Failure::Malformed)?;
    let mut room = bytes_max;
    while !chunks.is_empty() {
        let before = out.len();
        decompress_raw(take_chunk(&mut chunks).ok_or(Failure::Malformed)?, room, out)?;
        room -= out.len() - before;
    }
    Ok(())
}

pub(super) fn compress(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&CHUNKS_MAGIC);
    out.extend_from_slice(&CHUNKS_VERSION.to_be_bytes());
    out.extend_from_slice(&CHUNKS_VERSION.to_be_bytes());
    let mut encoder = Encoder::new();
    for chunk in bytes.chunks(CHUNK_BYTES) {
        let start = out.len() + 4;
        out.resize(start + max_compress_len(chunk.len()), 0);
        let raw_bytes = encoder.compress(chunk, &mut out[start..]).expect("a chunk is small, and its room is made");
        out[start - 4..start].copy_from_slice(&(raw_bytes as i32).to_be_bytes());
        out.truncate(start + raw_bytes);
    }
}

fn take_chunk<'a>(chunks: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (raw_bytes, rest) = chunks.split_first_chunk()?;
    *chunks = rest;
    chunks.split_off(..usize::try_from(i32::from_be_bytes(*raw_bytes)).ok()?)
}

fn decompress_raw(raw: &[u8], bytes_max: usize, out: &mut Vec<u8>) -> Result<(), Failure> {
    let (announced, bytes) = measure(raw).ok_or(Failure::Malformed)?;
    if bytes > bytes_max as u64 {
        return Err(Failure::TooLarge);
    }
    if bytes != announced {
        return Err(Failure::Malformed);
    }
    let start = out.len();
    out.resize(start + bytes as usize, 0);
    match Decoder::new().decompress(raw, &mut out[start..]) {
        Ok(written) if written as u64 == bytes => Ok(()),
        _ => Err(Failure::Malformed),
    }
}

/// The uncompressed bytes that are announced, and those that the elements give.
fn measure(mut raw: &[u8]) -> Option<(u64, u64)> {
    let announced = take_varint(&mut raw)?;
    let mut bytes = 0;
    while let Some(tag) = raw.split_off_first() {
        let upper = usize::from(tag >> 2);
        bytes += match tag & 0b11 {
            0 => take_literal(&mut raw, upper)?,
            1 => take_copy(&mut raw, 1, (upper & 0b111) + 4)?,
            2 => take_copy(&mut raw, 2, upper + 1)?,
            _ => take_copy(&mut raw, 4, upper + 1)?,
        } as u64;
    }
    Some((announced, bytes))
}

/// A literal's length minus one is in the tag, or in the one to four bytes behind it.
fn take_literal(raw: &mut &[u8], upper: usize) -> Option<usize> {
    let length = match upper.checked_sub(59) {
        None | Some(0) => upper,
        Some(length_bytes) => {
            let bytes = raw.split_off(..length_bytes)?;
            bytes.iter().rev().fold(0, |length, &byte| length << 8 | usize::from(byte))
        }
    };
    raw.split_off(..length + 1).map(<[u8]>::len)
}

fn take_copy(raw: &mut &[u8], offset_bytes: usize, length: usize) -> Option<usize> {
    raw.split_off(..offset_bytes).map(|_| length)
}

fn take_varint(raw: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in [0, 7, 14, 21, 28] {
        let byte = *raw.split_off_first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}
