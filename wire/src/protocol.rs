//! Which protocol a new connection speaks, told by its first bytes.
//!
//! One port serves all. A Kafka client starts with a frame length, a positive big-endian i32 below 100 MiB, so its first byte
//! is at most 6. A native client starts with a preface whose first byte is 0xF5: a negative length to Kafka, not a TLS
//! record, and in no text, for UTF-8 has no such byte. Eight bytes settle every case.

/// The first bytes of a native connection; the protocol version, a byte, and two zero bytes complete the preface.
pub const PREFACE_START: [u8; 5] = *b"\xF5SBUS";

/// Bytes of a preface.
pub const PREFACE_BYTES: usize = 8;

/// The version of preface, frames and headers in this crate. APIs have versions of their own.
pub const PROTOCOL_VERSION: u8 = 1;

/// The largest frame a Kafka client sends: `socket.request.max.bytes` of the reference.
const KAFKA_FRAME_BYTES_MAX: u32 = 100 * 1024 * 1024;

/// How HTTP/1 requests start, and HTTP/2 connections.
const HTTP_STARTS: [&[u8]; 10] =
    [b"GET ", b"PUT ", b"HEAD ", b"POST ", b"PATCH ", b"TRACE ", b"DELETE ", b"OPTIONS ", b"CONNECT ", b"PRI * HT"];

/// What a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// StreamBus's own: the preface is whole and takes [`PREFACE_BYTES`].
    Native {
        /// The version it asks for, which may be one that this side does not speak.
        version: u8,
    },
    /// Kafka's: the bytes are the start of its first frame.
    Kafka,
    /// A TLS handshake.
    Tls,
    /// HTTP, of any version.
    Http,
    /// More than one is still possible, or the preface is incomplete.
    NeedMore,
    /// None of these.
    Unknown,
}

/// The preface of this version.
pub const fn preface() -> [u8; PREFACE_BYTES] {
    let [a, b, c, d, e] = PREFACE_START;
    [a, b, c, d, e, PROTOCOL_VERSION, 0, 0]
}

/// Tells the protocol by the first bytes of a connection. [`PREFACE_BYTES`] of them are always enough.
pub fn detect(bytes: &[u8]) -> Protocol {
    match bytes {
        [] => Protocol::NeedMore,
        [0xF5, ..] => detect_native(bytes),
        [0..=6, ..] => detect_kafka(bytes),
        [0x16] => Protocol::NeedMore,
        [0x16, 0x03, ..] => Protocol::Tls,
        _ => detect_http(bytes),
    }
}

fn detect_native(bytes: &[u8]) -> Protocol {
    match *bytes {
        [0xF5, b'S', b'B', b'U', b'S', version, 0, 0, ..] => Protocol::Native { version },
        _ if bytes.len() < PREFACE_BYTES && is_preface_start(bytes) => Protocol::NeedMore,
        _ => Protocol::Unknown,
    }
}

fn is_preface_start(bytes: &[u8]) -> bool {
    let (fixed, rest) = bytes.split_at(bytes.len().min(PREFACE_START.len()));
    PREFACE_START.starts_with(fixed) && rest.iter().skip(1).all(|&zero| zero == 0)
}

/// A frame length, an API key and its version; of the last two 0 to 255 are taken for plausible.
fn detect_kafka(bytes: &[u8]) -> Protocol {
    match *bytes {
        [a, b, c, d, 0, _, 0, _, ..] => match u32::from_be_bytes([a, b, c, d]) {
            8..=KAFKA_FRAME_BYTES_MAX => Protocol::Kafka,
            _ => Protocol::Unknown,
        },
        _ if bytes.len() < PREFACE_BYTES => Protocol::NeedMore,
        _ => Protocol::Unknown,
    }
}

fn detect_http(bytes: &[u8]) -> Protocol {
    if HTTP_STARTS.iter().any(|start| bytes.starts_with(start)) {
        Protocol::Http
    } else if HTTP_STARTS.iter().any(|start| start.starts_with(bytes)) {
        Protocol::NeedMore
    } else {
        Protocol::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every shorter start of `bytes` is undecided, and more bytes change nothing.
    fn check(bytes: &[u8], expected: Protocol) {
        for cut in 0..bytes.len() {
            assert_eq!(detect(&bytes[..cut]), Protocol::NeedMore, "{cut} bytes of {bytes:02x?}");
        }
        assert_eq!(detect(bytes), expected, "{bytes:02x?}");
        assert_eq!(detect(&[bytes, b"more"].concat()), expected);
    }

    #[test]
    fn native() {
        check(&preface(), Protocol::Native { version: PROTOCOL_VERSION });
        check(b"\xF5SBUS\x09\0\0", Protocol::Native { version: 9 });
        check(b"\xF5SBUS\x01\x01", Protocol::Unknown);
        check(b"\xF5SBUT", Protocol::Unknown);
        assert!(i32::from_be_bytes(*preface().first_chunk().unwrap()) < 0);
    }

    #[test]
    fn kafka() {
        // ApiVersions v3 of 36 bytes, as librdkafka starts.
        check(&[0, 0, 0, 36, 0, 18, 0, 3], Protocol::Kafka);
        check(&[6, 0x40, 0, 0, 0, 0, 0, 13], Protocol::Kafka);
        check(&[6, 0x40, 0, 1, 0, 0, 0, 13], Protocol::Unknown);
        check(&[0, 0, 0, 0, 0, 0, 0, 0], Protocol::Unknown);
        check(&[0, 0, 0, 36, 1, 18, 0, 3], Protocol::Unknown);
    }

    #[test]
    fn tls_and_http() {
        check(&[0x16, 0x03], Protocol::Tls);
        check(&[0x16, 0x04], Protocol::Unknown);
        for start in HTTP_STARTS {
            check(start, Protocol::Http);
        }
        check(b"GEX", Protocol::Unknown);
    }

    #[test]
    fn eight_bytes_are_enough() {
        for first in 0..=255 {
            for second in [0, 3, b'E', b'R', b'S', 255] {
                assert_ne!(detect(&[first, second, 0, 9, 0, 0, 0, 0]), Protocol::NeedMore);
            }
        }
    }
}
