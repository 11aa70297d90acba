//! Frames: where one message ends and the next begins.
//!
//! Reading is incremental and keeps nothing: the caller shows what it has received so far and is told how much more is
//! needed, or is given the first frame. The hard idea: a frame's size is compared with the limit as soon as its first 16 bytes
//! are there, so nobody makes room for a frame on a stranger's word.

use thiserror::Error;

use crate::{
    api::{Failure, Kind, Message},
    codec::{DecodeError, EncodeError, Writer},
    error_code::ErrorCode,
    header::{HEADER_BYTES, Header, HeaderError, RequestHeader, ResponseHeader},
};

/// What the bytes received so far amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decoded<'a, H> {
    /// No whole frame yet: at least this many bytes are missing.
    NeedMore {
        /// Bytes missing; of the header alone while that is incomplete.
        bytes: usize,
    },
    /// The first frame.
    Frame(Frame<'a, H>),
}

/// One whole frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a, H> {
    /// What it starts with.
    pub header: H,
    /// The message's fields.
    pub body: &'a [u8],
}

/// Why the stream holds no frame here; the place in it is lost, so the connection must be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Corrupt {
    /// Not a header.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// A frame larger than was agreed.
    #[error("frame of {frame_bytes} bytes, at most {frame_bytes_max} allowed")]
    TooLarge {
        /// Bytes of the frame with its header.
        frame_bytes: u64,
        /// The limit.
        frame_bytes_max: usize,
    },
}

/// Why a response gives no message.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ResponseError {
    /// The server refused the request.
    #[error("{error}: {reason}")]
    Refused {
        /// Why, for programs.
        error: ErrorCode,
        /// Why, for people; may be empty.
        reason: String,
    },
    /// The response does not follow the specification.
    #[error("malformed response: {0}")]
    Malformed(#[from] DecodeError),
}

impl<'a, H: Header> Frame<'a, H> {
    /// The first frame of `bytes`, once all of it is there. `frame_bytes_max` counts header and body.
    #[inline]
    pub fn decode(bytes: &'a [u8], frame_bytes_max: usize) -> Result<Decoded<'a, H>, Corrupt> {
        let Some((head, rest)) = bytes.split_first_chunk() else {
            return Ok(Decoded::NeedMore { bytes: HEADER_BYTES - bytes.len() });
        };
        let (header, body_bytes) = H::decode(head)?;
        let frame_bytes = HEADER_BYTES as u64 + u64::from(body_bytes);
        if frame_bytes > frame_bytes_max as u64 {
            return Err(Corrupt::TooLarge { frame_bytes, frame_bytes_max });
        }
        match rest.get(..body_bytes as usize) {
            Some(body) => Ok(Decoded::Frame(Self { header, body })),
            None => Ok(Decoded::NeedMore { bytes: body_bytes as usize - rest.len() }),
        }
    }

    /// Bytes the frame takes, header included: where the next one starts.
    #[inline]
    pub fn frame_bytes(&self) -> usize {
        HEADER_BYTES + self.body.len()
    }
}

impl<'a> Frame<'a, ResponseHeader> {
    /// The response in it, or why there is none.
    pub fn message<M: Message<'a>>(&self) -> Result<M, ResponseError> {
        match self.header.error {
            ErrorCode::None => Ok(M::decode(self.header.version, self.body)?),
            error => {
                let reason = Failure::decode(self.body)?.reason.to_owned();
                Err(ResponseError::Refused { error, reason })
            }
        }
    }
}

/// Appends a frame to `out`, or nothing on error.
///
/// Of a message with a tail, such as [`produce::RequestHead`](crate::api::produce::RequestHead), only the part before it is
/// appended; the frame's length covers the tail, which the caller sends behind, in as many slices as it likes.
#[inline]
pub fn encode<'a, M: Message<'a>>(
    out: &mut Vec<u8>,
    correlation: u32,
    version: u8,
    message: &M,
    frame_bytes_max: usize,
) -> Result<(), EncodeError> {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    let mut writer = Writer::new(out);
    message.encode_fields(version, &mut writer);
    let written = writer.finish();
    let frame_bytes = (out.len() - start).saturating_add(message.tail_bytes());
    if let Err(error) = written.and_then(|()| check_size(frame_bytes, frame_bytes_max)) {
        out.truncate(start);
        return Err(error);
    }
    let (api, body_bytes) = (M::API.key(), (frame_bytes - HEADER_BYTES) as u32);
    let header = match M::KIND {
        Kind::Request => RequestHeader { correlation, api, version }.encode(body_bytes),
        Kind::Response => ResponseHeader { correlation, api, version, error: ErrorCode::None }.encode(body_bytes),
    };
    out[start..start + HEADER_BYTES].copy_from_slice(&header);
    Ok(())
}

/// Appends the response to a request that was refused as a whole. A long reason is cut.
///
/// # Panics
/// When `error` is [`ErrorCode::None`].
pub fn encode_failure(out: &mut Vec<u8>, request: RequestHeader, error: ErrorCode, reason: &str) {
    assert!(error.is_error(), "a failure has an error code");
    let RequestHeader { correlation, api, version } = request;
    let newest = crate::api::Api::from_key(api).map_or(version, |api| *api.versions().end());
    let version = if error == ErrorCode::UnsupportedVersion { newest } else { version };
    let failure = Failure::new(reason);
    let header = ResponseHeader { correlation, api, version, error };
    out.extend_from_slice(&header.encode(failure.body_bytes()));
    failure.encode(&mut Writer::new(out));
}

fn check_size(frame_bytes: usize, frame_bytes_max: usize) -> Result<(), EncodeError> {
    if frame_bytes <= frame_bytes_max && frame_bytes - HEADER_BYTES <= u32::MAX as usize {
        Ok(())
    } else {
        Err(EncodeError::FrameTooLarge { frame_bytes, frame_bytes_max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Api, PartitionId,
        api::{produce, topic_delete},
        codec::Problem,
    };

    const LIMIT: usize = 1024;

    fn request(name: &str) -> Vec<u8> {
        let mut out = Vec::new();
        encode(&mut out, 7, 0, &topic_delete::Request { name }, LIMIT).unwrap();
        out
    }

    #[test]
    fn a_frame_is_told_how_much_is_missing_at_every_length() {
        let frame = request("orders");
        for cut in 0..frame.len() {
            let expected = if cut < HEADER_BYTES { HEADER_BYTES - cut } else { frame.len() - cut };
            let decoded = Frame::<RequestHeader>::decode(&frame[..cut], LIMIT);
            assert_eq!(decoded, Ok(Decoded::NeedMore { bytes: expected }));
        }
    }

    #[test]
    fn frames_are_taken_one_by_one() {
        let bytes = [request("orders"), request("b")].concat();
        let Ok(Decoded::Frame(first)) = Frame::<RequestHeader>::decode(&bytes, LIMIT) else { panic!("a whole frame") };
        let second = Frame::<RequestHeader>::decode(&bytes[first.frame_bytes()..], LIMIT);
        let Ok(Decoded::Frame(second)) = second else { panic!("a whole frame") };
        assert_eq!(first.body, b"\x06\0orders");
        assert_eq!(second.body, b"\x01\0b");
        assert_eq!(first.frame_bytes() + second.frame_bytes(), bytes.len());
    }

    #[test]
    fn a_frame_that_is_too_large_is_refused_by_its_header_alone() {
        let header = RequestHeader { correlation: 0, api: 3, version: 0 };
        let check = |body_bytes: u32, allowed: bool| {
            let decoded = Frame::<RequestHeader>::decode(&header.encode(body_bytes), LIMIT).is_ok();
            assert_eq!(decoded, allowed, "{body_bytes}");
        };
        check((LIMIT - HEADER_BYTES) as u32, true);
        check((LIMIT - HEADER_BYTES) as u32 + 1, false);
        check(u32::MAX, false);
    }

    #[test]
    fn a_message_that_cannot_be_written_leaves_nothing_behind() {
        let mut out = b"before".to_vec();
        let name = "x".repeat(LIMIT - HEADER_BYTES - 1);
        let error = encode(&mut out, 7, 0, &topic_delete::Request { name: &name }, LIMIT).unwrap_err();
        assert_eq!(error, EncodeError::FrameTooLarge { frame_bytes: LIMIT + 1, frame_bytes_max: LIMIT });
        let name = "x".repeat(1 << 16);
        let error = encode(&mut out, 7, 0, &topic_delete::Request { name: &name }, 1 << 20).unwrap_err();
        assert_eq!(error, EncodeError::StringTooLong { field: "name", bytes: 1 << 16 });
        assert_eq!(out, b"before");
    }

    #[test]
    fn a_tail_counts_and_is_left_to_the_sender() {
        let rows = [produce::BatchRow { partition: PartitionId(1), batch_bytes: 5 }];
        let head = produce::RequestHead { timeout_ms: 0, batches: (&rows).into() };
        let mut out = Vec::new();
        encode(&mut out, 7, 0, &head, LIMIT).unwrap();
        assert_eq!(Frame::<RequestHeader>::decode(&out, LIMIT), Ok(Decoded::NeedMore { bytes: 5 }));
        out.extend_from_slice(b"batch");
        let Ok(Decoded::Frame(frame)) = Frame::<RequestHeader>::decode(&out, LIMIT) else { panic!("a whole frame") };
        let request = produce::Request::decode(0, frame.body).unwrap();
        assert!(request.batches().eq([(PartitionId(1), &b"batch"[..])]));
        let frame_bytes = out.len();
        let error = encode(&mut Vec::new(), 7, 0, &head, frame_bytes - 1).unwrap_err();
        assert_eq!(error, EncodeError::FrameTooLarge { frame_bytes, frame_bytes_max: frame_bytes - 1 });
    }

    fn failure(request: RequestHeader, error: ErrorCode, reason: &str) -> (ResponseHeader, ResponseError) {
        let mut out = Vec::new();
        encode_failure(&mut out, request, error, reason);
        let Ok(Decoded::Frame(frame)) = Frame::<ResponseHeader>::decode(&out, 2 * LIMIT) else {
            panic!("a whole frame")
        };
        (frame.header, frame.message::<topic_delete::Response>().unwrap_err())
    }

    #[test]
    fn a_refusal_says_why() {
        let request = RequestHeader { correlation: 9, api: Api::TopicDelete.key(), version: 0 };
        let (header, error) = failure(request, ErrorCode::UnknownTopic, "no topic \"orders\"");
        assert_eq!((header.correlation, header.api, header.version), (9, 7, 0));
        let reason = "no topic \"orders\"".to_owned();
        assert_eq!(error, ResponseError::Refused { error: ErrorCode::UnknownTopic, reason });
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let request = RequestHeader { correlation: 0, api: 200, version: 3 };
        let (_, error) = failure(request, ErrorCode::UnknownApi, &"\u{20ac}".repeat(LIMIT));
        let ResponseError::Refused { reason, .. } = error else { panic!("{error}") };
        assert_eq!(reason, "\u{20ac}".repeat(341));
    }

    #[test]
    fn an_unsupported_version_is_answered_with_the_newest() {
        let request = RequestHeader { correlation: 0, api: Api::Fetch.key(), version: 9 };
        assert_eq!(failure(request, ErrorCode::UnsupportedVersion, "").0.version, 0);
    }

    #[test]
    fn a_malformed_response_names_the_field() {
        let header = ResponseHeader { correlation: 0, api: 7, version: 0, error: ErrorCode::None };
        let error = Frame { header, body: &[0; 15] }.message::<topic_delete::Response>().unwrap_err();
        let ResponseError::Malformed(error) = error else { panic!("{error}") };
        assert_eq!(error.problem, Problem::CutShort { bytes_needed: 16, bytes_found: 15 });
        assert_eq!(error.to_string(), "topic at byte 0 is cut short: 16 bytes needed, 15 found");
    }
}
