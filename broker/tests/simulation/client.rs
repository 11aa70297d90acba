//! A client of the native protocol on the runtime seam: requests out, responses in.

use std::{io, net::SocketAddr};

use runtime::{Runtime, Stream as _, sim::SimRuntime};
use wire::{
    api::{Message, hello},
    frame::{self, Decoded, Frame},
    header::ResponseHeader,
    protocol::preface,
};

const FRAME_BYTES_MAX: usize = 64 << 20;

type Stream = <SimRuntime as Runtime>::Stream;

/// One connection.
pub(crate) struct Client {
    stream: Stream,
    received: Vec<u8>,
    correlation: u32,
    /// The shard that holds it.
    pub(crate) shard: u16,
}

/// A whole frame.
pub(crate) struct Response {
    pub(crate) header: ResponseHeader,
    body: Vec<u8>,
}

impl Response {
    /// Its bytes behind the header.
    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }

    /// The message in it, or the refusal as an error.
    pub(crate) fn message<'a, M: Message<'a>>(&'a self) -> io::Result<M> {
        Frame { header: self.header, body: &self.body }.message().map_err(io::Error::other)
    }
}

impl Client {
    /// Connects and says Hello, asking for a shard if one is given.
    pub(crate) async fn connect(rt: &SimRuntime, address: SocketAddr, shard: Option<u16>) -> io::Result<Self> {
        let stream = rt.connect(address).await?;
        stream.write_all(&preface()).await?;
        let mut client = Self { stream, received: Vec::new(), correlation: 0, shard: 0 };
        let (client_name, client_version) = ("simulation", "1");
        let hello = hello::Request { client_name, client_version, protocol_min: 1, protocol_max: 1, shard, auth: &[] };
        let answer = client.call(&hello).await?;
        client.shard = answer.message::<hello::Response<'_>>()?.shard;
        Ok(client)
    }

    /// Sends a request and waits for the response.
    pub(crate) async fn call<'a, M: Message<'a>>(&mut self, request: &M) -> io::Result<Response> {
        let correlation = self.send(request, &[]).await?;
        let response = self.receive().await?;
        assert_eq!(response.header.correlation, correlation, "nothing else was asked");
        Ok(response)
    }

    /// Sends a request, with `tail` behind its fields; its correlation.
    pub(crate) async fn send<'a, M: Message<'a>>(&mut self, request: &M, tail: &[u8]) -> io::Result<u32> {
        self.correlation += 1;
        let mut out = Vec::new();
        frame::encode(&mut out, self.correlation, 0, request, FRAME_BYTES_MAX).expect("a request fits");
        out.extend_from_slice(tail);
        self.stream.write_all(&out).await?;
        Ok(self.correlation)
    }

    /// Waits for the next response.
    pub(crate) async fn receive(&mut self) -> io::Result<Response> {
        loop {
            let decoded = Frame::<ResponseHeader>::decode(&self.received, FRAME_BYTES_MAX).map_err(io::Error::other)?;
            if let Decoded::Frame(frame) = decoded {
                let response = Response { header: frame.header, body: frame.body.to_vec() };
                let frame_bytes = frame.frame_bytes();
                self.received.drain(..frame_bytes);
                return Ok(response);
            }
            let mut buffer = [0; 16 << 10];
            match self.stream.read(&mut buffer).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                len => self.received.extend_from_slice(&buffer[..len]),
            }
        }
    }
}
