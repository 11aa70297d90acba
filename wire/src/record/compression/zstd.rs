//! Zstandard (RFC 8878): one frame, or several one after the other.
//!
//! A frame announces the window that a streaming reader has to keep, up to gigabytes. Decompressed in one piece the output is
//! the window, so nothing is taken for it; where the room turns out too small, it is made larger and begun again, which costs
//! a third more at most.

use zstd::zstd_safe::{CCtx, CLEVEL_DEFAULT, DCtx, compress_bound, zstd_sys::ZSTD_ErrorCode};

use super::Failure;

/// The first try, for each byte that went in, and what each further one has more than the last.
const GROWTH: usize = 4;
const FIRST_BYTES_MIN: usize = 64 * 1024;

pub(super) fn decompress(compressed: &[u8], bytes_max: usize, out: &mut Vec<u8>) -> Result<(), Failure> {
    let start = out.len();
    let mut context = DCtx::create();
    let mut room = compressed.len().saturating_mul(GROWTH).max(FIRST_BYTES_MIN).min(bytes_max);
    loop {
        out.truncate(start);
        out.resize(start + room, 0);
        match context.decompress(&mut out[start..], compressed) {
            Ok(bytes) => {
                out.truncate(start + bytes);
                return Ok(());
            }
            Err(code) if !is_room_too_small(code) => return Err(Failure::Malformed),
            Err(_) if room == bytes_max => return Err(Failure::TooLarge),
            Err(_) => room = room.saturating_mul(GROWTH).min(bytes_max),
        }
    }
}

pub(super) fn compress(bytes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + compress_bound(bytes.len()), 0);
    let compressed = CCtx::create().compress(&mut out[start..], bytes, CLEVEL_DEFAULT);
    out.truncate(start + compressed.expect("the room is what zstd asks for at most"));
}

/// Errors are numbers counted down from the largest.
fn is_room_too_small(code: usize) -> bool {
    code.wrapping_neg() == ZSTD_ErrorCode::ZSTD_error_dstSize_tooSmall as usize
}
