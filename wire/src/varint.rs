//! Zigzag varints, as records use them: seven bits a byte, low bits first, small magnitudes short whatever their sign.
//!
//! The encoding is protobuf's `sint32` and `sint64`. Readers take what is longer than needed but refuse what does not fit.

use bytes::BufMut;

/// Takes a 32-bit varint off the front of `bytes`; `None` when it is cut short or wider than 32 bits.
#[inline(always)]
pub(crate) fn read_i32(bytes: &mut &[u8]) -> Option<i32> {
    match read_short(bytes) {
        Some(raw) => Some((raw >> 1) as i32 ^ -((raw & 1) as i32)),
        None => i32::try_from(read_long(bytes, 5)?).ok(),
    }
}

/// Takes a 64-bit varint off the front of `bytes`; `None` when it is cut short or wider than 64 bits.
#[inline(always)]
pub(crate) fn read_i64(bytes: &mut &[u8]) -> Option<i64> {
    match read_short(bytes) {
        Some(raw) => Some(((raw >> 1) as i32 ^ -((raw & 1) as i32)).into()),
        None => read_long(bytes, 10),
    }
}

/// Appends `value`. The bytes are the same whether it is later read as 32 or 64 bits wide.
#[inline]
pub(crate) fn write(out: &mut impl BufMut, value: i64) {
    let mut raw = zigzag(value);
    while raw >= 0x80 {
        out.put_u8(raw as u8 | 0x80);
        raw >>= 7;
    }
    out.put_u8(raw as u8);
}

/// Bytes that [`write`] takes for `value`: 1 to 10.
#[inline]
pub(crate) fn encoded_bytes(value: i64) -> usize {
    let bits = 64 - (zigzag(value) | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

#[inline]
fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// One or two bytes, which nearly every varint of a record has: deltas, lengths, "no headers".
#[inline(always)]
fn read_short(bytes: &mut &[u8]) -> Option<u32> {
    match **bytes {
        [first @ ..0x80, ref rest @ ..] => {
            *bytes = rest;
            Some(u32::from(first))
        }
        [first, second @ ..0x80, ref rest @ ..] => {
            *bytes = rest;
            Some(u32::from(first & 0x7f) | u32::from(second) << 7)
        }
        _ => None,
    }
}

#[inline(never)]
fn read_long(bytes: &mut &[u8], bytes_max: usize) -> Option<i64> {
    let mut raw = 0u64;
    for (index, &byte) in bytes.iter().enumerate().take(bytes_max) {
        let bits = u64::from(byte & 0x7f);
        if index == 9 && bits > 1 {
            return None;
        }
        raw |= bits << (7 * index);
        if byte < 0x80 {
            *bytes = &bytes[index + 1..];
            return Some((raw >> 1) as i64 ^ -((raw & 1) as i64));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: i64, expected: &[u8]) {
        let mut out = Vec::new();
        write(&mut out, value);
        assert_eq!(out, expected);
        assert_eq!(encoded_bytes(value), expected.len());
        assert_eq!(read_i64(&mut &out[..]), Some(value));
        assert_eq!(read_i32(&mut &out[..]), i32::try_from(value).ok());
        for cut in 0..out.len() {
            assert_eq!(read_i64(&mut &out[..cut]), None);
        }
    }

    #[test]
    fn known_values() {
        check(0, &[0]);
        check(-1, &[1]);
        check(1, &[2]);
        check(63, &[0x7e]);
        check(-64, &[0x7f]);
        check(64, &[0x80, 0x01]);
        check(300, &[0xd8, 0x04]);
        check(i64::from(i32::MAX), &[0xfe, 0xff, 0xff, 0xff, 0x0f]);
        check(i64::from(i32::MIN), &[0xff, 0xff, 0xff, 0xff, 0x0f]);
        check(i64::from(i32::MAX) + 1, &[0x80, 0x80, 0x80, 0x80, 0x10]);
        check(i64::MAX, &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]);
        check(i64::MIN, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]);
    }

    #[test]
    fn longer_than_needed_is_read_and_wider_than_the_type_is_refused() {
        assert_eq!(read_i32(&mut &[0x82, 0x80, 0x00][..]), Some(1));
        assert_eq!(read_i32(&mut &[0x80, 0x80, 0x80, 0x80, 0x80, 0x00][..]), None);
        assert_eq!(read_i32(&mut &[0xff, 0xff, 0xff, 0xff, 0x1f][..]), None);
        assert_eq!(read_i64(&mut &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02][..]), None);
        assert_eq!(read_i64(&mut &[0xff; 11][..]), None);
    }
}
