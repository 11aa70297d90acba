//! Hello: the first request of a connection. Who is there, what both sides speak, and what the server takes.

use super::{Api, Kind, Message};
use crate::codec::{DecodeError, Item, List, Reader, Writer};

/// The largest frame a server takes before it answered Hello: no stranger makes it hold more.
pub const FRAME_BYTES_MAX_BEFORE: usize = 16 * 1024;

/// On the wire, "any shard".
const SHARD_ANY: u16 = u16::MAX;

/// What a client says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// For the server's log.
    pub client_name: &'a str,
    /// For the server's log.
    pub client_version: &'a str,
    /// Oldest protocol version the client speaks.
    pub protocol_min: u8,
    /// Newest protocol version the client speaks.
    pub protocol_max: u8,
    /// The shard that the connection should move to, where the client knows which one leads its partitions; a shard the
    /// server does not have is taken for any.
    pub shard: Option<u16>,
    /// Credentials. Reserved: empty in this version, and a server answers anything else with `Unauthenticated`.
    pub auth: &'a [u8],
}

/// What a server says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response<'a> {
    /// The newest protocol version that both sides speak, from here on in force.
    pub protocol: u8,
    /// The cluster, whatever its addresses; a client that finds another than before forgets all partition ids.
    pub cluster_id: u128,
    /// The node of the cluster.
    pub node_id: u32,
    /// Raised at each start of the node.
    pub node_epoch: u32,
    /// Shards of the node.
    pub shard_count: u16,
    /// The shard that holds the connection.
    pub shard: u16,
    /// Largest frame the server takes or sends, header included. A single batch may not make it larger.
    pub frame_bytes_max: u32,
    /// Largest record batch the server takes, unless its topic says less.
    pub batch_bytes_max: u32,
    /// Requests a connection may have without a response; further ones wait unread.
    pub in_flight_max: u32,
    /// For the client's log.
    pub server_name: &'a str,
    /// For the client's log.
    pub server_version: &'a str,
    /// Every API of the server, by key.
    pub apis: List<'a, ApiVersions>,
}

/// The versions of one API that a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApiVersions {
    /// API key, which the client may not know.
    pub key: u8,
    /// Oldest version.
    pub version_min: u8,
    /// Newest version.
    pub version_max: u8,
}

impl ApiVersions {
    /// The rows that this crate speaks, for [`Response::apis`].
    pub fn all() -> impl ExactSizeIterator<Item = Self> {
        Api::ALL.iter().map(|api| {
            let versions = api.versions();
            Self { key: api.key(), version_min: *versions.start(), version_max: *versions.end() }
        })
    }
}

impl<'a> Message<'a> for Request<'a> {
    const API: Api = Api::Hello;
    const KIND: Kind = Kind::Request;

    fn decode_fields(_version: u8, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self {
            client_name: reader.string("client_name")?,
            client_version: reader.string("client_version")?,
            protocol_min: reader.u8("protocol_min")?,
            protocol_max: reader.u8("protocol_max")?,
            shard: Some(reader.u16("shard")?).filter(|&shard| shard != SHARD_ANY),
            auth: reader.bytes("auth")?,
        })
    }

    fn encode_fields(&self, _version: u8, writer: &mut Writer<'_>) {
        writer.string("client_name", self.client_name);
        writer.string("client_version", self.client_version);
        writer.u8(self.protocol_min);
        writer.u8(self.protocol_max);
        writer.u16(self.shard.unwrap_or(SHARD_ANY));
        writer.bytes(self.auth);
    }
}

impl<'a> Message<'a> for Response<'a> {
    const API: Api = Api::Hello;
    const KIND: Kind = Kind::Response;

    fn decode_fields(_version: u8, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self {
            protocol: reader.u8("protocol")?,
            cluster_id: reader.u128("cluster_id")?,
            node_id: reader.u32("node_id")?,
            node_epoch: reader.u32("node_epoch")?,
            shard_count: reader.u16("shard_count")?,
            shard: reader.u16("shard")?,
            frame_bytes_max: reader.u32("frame_bytes_max")?,
            batch_bytes_max: reader.u32("batch_bytes_max")?,
            in_flight_max: reader.u32("in_flight_max")?,
            server_name: reader.string("server_name")?,
            server_version: reader.string("server_version")?,
            apis: reader.list("apis")?,
        })
    }

    fn encode_fields(&self, _version: u8, writer: &mut Writer<'_>) {
        writer.u8(self.protocol);
        writer.u128(self.cluster_id);
        writer.u32(self.node_id);
        writer.u32(self.node_epoch);
        writer.u16(self.shard_count);
        writer.u16(self.shard);
        writer.u32(self.frame_bytes_max);
        writer.u32(self.batch_bytes_max);
        writer.u32(self.in_flight_max);
        writer.string("server_name", self.server_name);
        writer.string("server_version", self.server_version);
        writer.list(&self.apis);
    }
}

impl<'a> Item<'a> for ApiVersions {
    const BYTES_MIN: usize = 3;

    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self {
            key: reader.u8("key")?,
            version_min: reader.u8("version_min")?,
            version_max: reader.u8("version_max")?,
        })
    }

    fn encode(&self, writer: &mut Writer<'_>) {
        writer.raw(&[self.key, self.version_min, self.version_max]);
    }
}
