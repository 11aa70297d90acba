//! The 16 bytes at the front of every frame, in both directions.
//!
//! ```text
//!  0 body bytes   u32   bytes behind the header
//!  4 correlation  u32   chosen by the client, returned with the response
//!  8 api          u8    the request's API key
//!  9 version      u8    the version of that API which the body is written in
//! 10 flags        u16   bit 0: this is a response; the others 0
//! 12 error        u16   of a response: why the request as a whole was refused, 0 if it was not; of a request 0
//! 14 reserved     u16   0
//! ```
//!
//! All little-endian. Bits that must be 0 are checked: a peer that lost its place in the stream is noticed at the next
//! header instead of being believed.

use thiserror::Error;

use crate::{api::Api, error_code::ErrorCode};

/// Bytes of a header.
pub const HEADER_BYTES: usize = 16;

const RESPONSE: u16 = 1;

/// Why 16 bytes are not a header; the place in the stream is lost, so the connection must be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("frame header has flags {flags:#06x}, error {error}, reserved {reserved:#06x}")]
pub struct HeaderError {
    /// The field's value.
    pub flags: u16,
    /// The field's value.
    pub error: u16,
    /// The field's value.
    pub reserved: u16,
}

/// What a frame starts with, in one direction.
pub trait Header: Sized {
    /// Reads the header and the number of body bytes behind it, neither of which was compared with any limit.
    fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<(Self, u32), HeaderError>;

    /// The header of a frame with that many body bytes.
    fn encode(&self, body_bytes: u32) -> [u8; HEADER_BYTES];
}

/// What a client asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHeader {
    /// Returned with the response; unique among the requests of the connection that have none yet.
    pub correlation: u32,
    /// API key, which this side may not know.
    pub api: u8,
    /// Version of the API.
    pub version: u8,
}

/// What a server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseHeader {
    /// The request's.
    pub correlation: u32,
    /// The request's.
    pub api: u8,
    /// The request's; with [`ErrorCode::UnsupportedVersion`] the newest that the server speaks.
    pub version: u8,
    /// Why the request as a whole was refused; the body is then an [`api::Failure`](crate::api::Failure).
    pub error: ErrorCode,
}

impl RequestHeader {
    /// The API asked for, if this side has it in this version; else the error to answer.
    #[inline]
    pub fn api(&self) -> Result<Api, ErrorCode> {
        let api = Api::from_key(self.api).ok_or(ErrorCode::UnknownApi)?;
        if api.versions().contains(&self.version) { Ok(api) } else { Err(ErrorCode::UnsupportedVersion) }
    }
}

impl Header for RequestHeader {
    #[inline]
    fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<(Self, u32), HeaderError> {
        let fields = Fields::decode(bytes);
        if fields.flags != 0 || fields.error != 0 || fields.reserved != 0 {
            return Err(fields.refused());
        }
        let Fields { correlation, api, version, .. } = fields;
        Ok((Self { correlation, api, version }, fields.body_bytes))
    }

    #[inline]
    fn encode(&self, body_bytes: u32) -> [u8; HEADER_BYTES] {
        let Self { correlation, api, version } = *self;
        Fields { body_bytes, correlation, api, version, flags: 0, error: 0, reserved: 0 }.encode()
    }
}

impl Header for ResponseHeader {
    #[inline]
    fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<(Self, u32), HeaderError> {
        let fields = Fields::decode(bytes);
        if fields.flags != RESPONSE || fields.reserved != 0 {
            return Err(fields.refused());
        }
        let Fields { correlation, api, version, .. } = fields;
        let error = ErrorCode::from_number(fields.error);
        Ok((Self { correlation, api, version, error }, fields.body_bytes))
    }

    #[inline]
    fn encode(&self, body_bytes: u32) -> [u8; HEADER_BYTES] {
        let Self { correlation, api, version, error } = *self;
        Fields { body_bytes, correlation, api, version, flags: RESPONSE, error: error.number(), reserved: 0 }.encode()
    }
}

struct Fields {
    body_bytes: u32,
    correlation: u32,
    api: u8,
    version: u8,
    flags: u16,
    error: u16,
    reserved: u16,
}

impl Fields {
    #[inline]
    fn decode(bytes: &[u8; HEADER_BYTES]) -> Self {
        // One load and shifts: the fields are the sixteen bytes of one little-endian number.
        let all = u128::from_le_bytes(*bytes);
        Self {
            body_bytes: all as u32,
            correlation: (all >> 32) as u32,
            api: (all >> 64) as u8,
            version: (all >> 72) as u8,
            flags: (all >> 80) as u16,
            error: (all >> 96) as u16,
            reserved: (all >> 112) as u16,
        }
    }

    #[inline]
    fn encode(&self) -> [u8; HEADER_BYTES] {
        let all = u128::from(self.body_bytes)
            | u128::from(self.correlation) << 32
            | u128::from(self.api) << 64
            | u128::from(self.version) << 72
            | u128::from(self.flags) << 80
            | u128::from(self.error) << 96
            | u128::from(self.reserved) << 112;
        all.to_le_bytes()
    }

    #[cold]
    fn refused(&self) -> HeaderError {
        HeaderError { flags: self.flags, error: self.error, reserved: self.reserved }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: [u8; 16] = [0x2a, 1, 0, 0, 0xef, 0xbe, 0xad, 0xde, 3, 0, 0, 0, 0, 0, 0, 0];

    #[test]
    fn each_field_lies_where_the_picture_says() {
        let header = RequestHeader { correlation: 0xdead_beef, api: 3, version: 0 };
        assert_eq!(header.encode(298), REQUEST);
        assert_eq!(RequestHeader::decode(&REQUEST), Ok((header, 298)));
        let response = ResponseHeader { correlation: 0xdead_beef, api: 3, version: 0, error: ErrorCode::Busy };
        let mut bytes = REQUEST;
        (bytes[10], bytes[12]) = (1, 9);
        assert_eq!(response.encode(298), bytes);
        assert_eq!(ResponseHeader::decode(&bytes), Ok((response, 298)));
    }

    #[test]
    fn bits_that_must_be_zero_are_checked() {
        for position in 10..16 {
            for bit in 0..8 {
                let mut bytes = REQUEST;
                bytes[position] ^= 1 << bit;
                assert!(RequestHeader::decode(&bytes).is_err(), "bit {bit} of byte {position}");
            }
        }
        assert!(ResponseHeader::decode(&REQUEST).is_err());
    }

    #[test]
    fn apis_and_versions_are_checked() {
        let check = |api, version, expected| {
            assert_eq!(RequestHeader { correlation: 0, api, version }.api(), expected);
        };
        check(3, 0, Ok(Api::Produce));
        check(3, 1, Err(ErrorCode::UnsupportedVersion));
        check(0, 0, Err(ErrorCode::UnknownApi));
        check(255, 0, Err(ErrorCode::UnknownApi));
    }
}
