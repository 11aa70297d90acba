//! Hello: the first frame, in which a client may ask for a shard; and InitProducer, which some clients send next.

use runtime::Runtime;
use wire::{
    Api, ErrorCode,
    api::{
        Request, hello,
        hello::{ApiVersions, FRAME_BYTES_MAX_BEFORE},
        init_producer,
    },
    codec::List,
    frame,
    header::RequestHeader,
    protocol::PROTOCOL_VERSION,
};

use super::{Answer, Hello, ReplyTo, Session};
use crate::{
    server::{connection::End, limits::IN_FLIGHT_MAX, shown::Shown},
    shard::Shard,
};

/// What we call ourselves.
const SERVER_NAME: &str = "streambus";

impl<R: Runtime> Session<R> {
    /// Hears the Hello behind a preface, and answers it unless it asks for another shard.
    ///
    /// # Errors
    /// If the connection cannot go on. What the client is told is in the outbox.
    pub(crate) fn hello(&mut self, protocol: u8, received: &[u8], may_move: bool) -> Result<Hello, End> {
        if protocol != PROTOCOL_VERSION {
            return Err(self.refuse_protocol(protocol));
        }
        let frame = match self.decode(received, FRAME_BYTES_MAX_BEFORE)? {
            Ok(frame) => frame,
            Err(frame_bytes) => return Ok(Hello::NeedMore { frame_bytes }),
        };
        let refused = |error, reason: &str| {
            let to = self.accept(&frame);
            self.refuse(to, frame.header, error, reason);
            End::Refused(reason.to_owned())
        };
        let request = match Request::decode(&frame.header, frame.body) {
            Ok(Request::Hello(request)) => request,
            Ok(_) => return Err(refused(ErrorCode::HelloOutOfPlace, "the first request must be Hello")),
            Err(error) => return Err(refused(error.error_code(), &error.to_string())),
        };
        if !(request.protocol_min..=request.protocol_max).contains(&PROTOCOL_VERSION) {
            let reason = format!("this server speaks protocol version {PROTOCOL_VERSION} only");
            return Err(refused(ErrorCode::UnsupportedVersion, &reason));
        }
        if !request.auth.is_empty() {
            return Err(refused(ErrorCode::Unauthenticated, "this server takes no credentials yet; send none"));
        }
        match request.shard {
            Some(other) if may_move && other != self.shard.index && other < self.shard.shard_count() => {
                Ok(Hello::MoveTo(other))
            }
            _ => {
                let to = self.accept(&frame);
                self.answer_hello(to, &request);
                Ok(Hello::Answered { frame_bytes: frame.frame_bytes() })
            }
        }
    }

    fn answer_hello(&self, to: ReplyTo, request: &hello::Request<'_>) {
        let (name, version) = (Shown(request.client_name.as_bytes()), Shown(request.client_version.as_bytes()));
        tracing::debug!(client = %name, version = %version, shard = self.shard.index, "client connected");
        self.outbox.answer_now(to, |out, frame_bytes_max| {
            encode_hello(&mut Answer { out, to, frame_bytes_max }, &self.shard);
        });
    }

    /// Says which versions there are, in the form that stays the same in all of them.
    fn refuse_protocol(&self, protocol: u8) -> End {
        let header = RequestHeader { correlation: 0, api: Api::Hello.key(), version: 0 };
        let reason = format!("protocol version {protocol} is not spoken here, only {PROTOCOL_VERSION}");
        let to = self.accept(&frame::Frame { header, body: &[] });
        self.refuse(to, header, ErrorCode::UnsupportedVersion, &reason);
        End::Refused(reason)
    }
}

fn encode_hello<R: Runtime>(out: &mut Answer<'_>, shard: &Shard<R>) {
    let (apis, limits, node) = (ApiVersions::all().collect::<Vec<_>>(), shard.limits(), shard.node());
    out.response(&hello::Response {
        protocol: PROTOCOL_VERSION,
        cluster_id: node.cluster_id,
        node_id: node.node_id,
        node_epoch: node.epoch as u32,
        shard_count: shard.shard_count(),
        shard: shard.index,
        frame_bytes_max: limits.frame_bytes_max as u32,
        batch_bytes_max: limits.batch_bytes_max as u32,
        in_flight_max: IN_FLIGHT_MAX as u32,
        server_name: SERVER_NAME,
        server_version: env!("CARGO_PKG_VERSION"),
        apis: List::from(&apis),
    });
}

/// Appends the answer to InitProducer.
pub(super) fn encode_producer(out: &mut Answer<'_>, producer_id: Option<i64>) {
    match producer_id {
        Some(producer_id) => out.response(&init_producer::Response { producer_id, producer_epoch: 0 }),
        None => out.failure::<init_producer::Response>(ErrorCode::Busy, "no producer ids could be reserved; try again"),
    }
}
