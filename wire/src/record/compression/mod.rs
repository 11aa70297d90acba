//! The codecs of a batch: the records of one, compressed as a whole and back.
//!
//! The hard idea: what a compressed stream says about itself is not believed. What comes out is bounded twice, by what the
//! caller allows and by the bytes that went in; memory grows with what has come out, never with what a header announces; and
//! a stream that announces another length than it has, ends early or is followed by anything is refused.
//!
//! Each codec is a feature of this crate, so that a client need not build all four.

#[cfg(feature = "gzip")]
mod gzip;
#[cfg(feature = "lz4")]
mod lz4;
#[cfg(feature = "snappy")]
mod snappy;
#[cfg(feature = "zstd")]
mod zstd;

#[cfg(any(feature = "gzip", feature = "lz4"))]
use std::io::Read;

use thiserror::Error;

use super::batch_header::Codec;

/// Bytes that may come out for each byte that went in: what DEFLATE reaches at most, so it binds neither gzip nor LZ4 (255)
/// nor snappy (21), but only zstd, four bytes of which can stand for 128 KiB.
pub const RATIO_MAX: usize = 1032;

/// Bytes that may come out whatever went in: equal records in one batch compress better than any attack needs to, and this
/// much is what a batch may have uncompressed.
pub const RATIO_EXEMPT_BYTES: usize = 1 << 20;

/// A batch of more has no length field.
const BYTES_MAX: usize = i32::MAX as usize - super::HEADER_BYTES;

/// Why records were not decompressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DecompressError {
    /// More comes out than the caller allows, or than [`RATIO_MAX`] does.
    #[error("{compressed_bytes} compressed bytes are more than {bytes_max} bytes uncompressed")]
    TooLarge {
        /// Bytes that went in.
        compressed_bytes: usize,
        /// Bytes that may come out.
        bytes_max: usize,
    },
    /// Not a stream of this codec from the first byte to the last, or not of the length it announces.
    #[error("not one whole {codec:?} stream")]
    Malformed {
        /// The codec the batch names.
        codec: Codec,
    },
    /// The program that reads was built without the codec.
    #[error("built without the codec {codec:?}")]
    Unsupported {
        /// The codec the batch names.
        codec: Codec,
    },
}

/// Appends what `compressed` holds to `out`: at most `bytes_max` bytes, and at most [`RATIO_MAX`] for each that went in
/// beyond [`RATIO_EXEMPT_BYTES`]. Beside `out` it takes the codec's own state, which is below 13 MiB for LZ4, whose format
/// allows blocks of 4 MiB, and below 256 KiB for the others. On error `out` is as it was.
pub fn decompress(codec: Codec, compressed: &[u8], bytes_max: usize, out: &mut Vec<u8>) -> Result<(), DecompressError> {
    let start = out.len();
    let bytes_max = bytes_max.min(bytes_max_by_ratio(compressed.len()));
    let decompressed = match codec {
        Codec::None => copy(compressed, bytes_max, out),
        _ if compressed.is_empty() => Err(Failure::Malformed),
        #[cfg(feature = "gzip")]
        Codec::Gzip => gzip::decompress(compressed, bytes_max, out),
        #[cfg(feature = "snappy")]
        Codec::Snappy => snappy::decompress(compressed, bytes_max, out),
        #[cfg(feature = "lz4")]
        Codec::Lz4 => lz4::decompress(compressed, bytes_max, out),
        #[cfg(feature = "zstd")]
        Codec::Zstd => zstd::decompress(compressed, bytes_max, out),
        #[allow(unreachable_patterns, reason = "with every feature there is no other")]
        codec => return Err(DecompressError::Unsupported { codec }),
    };
    decompressed.map_err(|failure| {
        out.truncate(start);
        match failure {
            Failure::TooLarge => DecompressError::TooLarge { compressed_bytes: compressed.len(), bytes_max },
            Failure::Malformed => DecompressError::Malformed { codec },
        }
    })
}

/// Appends `bytes` to `out`, compressed so that every Kafka client reads it.
///
/// # Panics
/// When the crate was built without the codec.
pub fn compress(codec: Codec, bytes: &[u8], out: &mut Vec<u8>) {
    match codec {
        Codec::None => out.extend_from_slice(bytes),
        #[cfg(feature = "gzip")]
        Codec::Gzip => gzip::compress(bytes, out),
        #[cfg(feature = "snappy")]
        Codec::Snappy => snappy::compress(bytes, out),
        #[cfg(feature = "lz4")]
        Codec::Lz4 => lz4::compress(bytes, out),
        #[cfg(feature = "zstd")]
        Codec::Zstd => zstd::compress(bytes, out),
        #[allow(unreachable_patterns, reason = "with every feature there is no other")]
        codec => panic!("built without the codec {codec:?}"),
    }
}

/// Room for a batch's header, and its records compressed behind it: if that makes them smaller, and whoever reads them would
/// not take them for a bomb.
pub(super) fn compress_records(codec: Codec, records: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = vec![0; super::HEADER_BYTES];
    compress(codec, records, &mut bytes);
    let compressed_bytes = bytes.len() - super::HEADER_BYTES;
    (compressed_bytes < records.len() && records.len() <= bytes_max_by_ratio(compressed_bytes)).then_some(bytes)
}

/// Bytes that may come out of so many.
fn bytes_max_by_ratio(compressed_bytes: usize) -> usize {
    compressed_bytes.saturating_mul(RATIO_MAX).clamp(RATIO_EXEMPT_BYTES, BYTES_MAX)
}

/// What a codec found.
#[derive(Debug, PartialEq, Eq)]
enum Failure {
    TooLarge,
    Malformed,
}

fn copy(bytes: &[u8], bytes_max: usize, out: &mut Vec<u8>) -> Result<(), Failure> {
    if bytes.len() > bytes_max {
        return Err(Failure::TooLarge);
    }
    out.extend_from_slice(bytes);
    Ok(())
}

/// Reads to the end, but stops at the first byte too many.
#[cfg(any(feature = "gzip", feature = "lz4"))]
fn read_bounded(decoder: impl Read, bytes_max: usize, out: &mut Vec<u8>) -> Result<(), Failure> {
    match decoder.take(bytes_max as u64 + 1).read_to_end(out) {
        Ok(bytes) if bytes > bytes_max => Err(Failure::TooLarge),
        Ok(_) => Ok(()),
        Err(_) => Err(Failure::Malformed),
    }
}
