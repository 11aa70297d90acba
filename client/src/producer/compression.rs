//! What a producer compresses its batches with.

use wire::record::Codec;

/// How the records of a batch are compressed, each batch as a whole, when it is closed. Every Kafka client reads all of them.
///
/// Each codec is a feature of this crate of the same name, and all of them are on by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// Gzip: small and slow.
    #[cfg(feature = "gzip")]
    Gzip,
    /// Snappy: fast.
    #[cfg(feature = "snappy")]
    Snappy,
    /// LZ4: fast.
    #[cfg(feature = "lz4")]
    Lz4,
    /// Zstandard: small, and faster than gzip.
    #[cfg(feature = "zstd")]
    Zstd,
}

impl From<Compression> for Codec {
    fn from(compression: Compression) -> Self {
        match compression {
            Compression::None => Self::None,
            #[cfg(feature = "gzip")]
            Compression::Gzip => Self::Gzip,
            #[cfg(feature = "snappy")]
            Compression::Snappy => Self::Snappy,
            #[cfg(feature = "lz4")]
            Compression::Lz4 => Self::Lz4,
            #[cfg(feature = "zstd")]
            Compression::Zstd => Self::Zstd,
        }
    }
}
