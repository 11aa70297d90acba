//! Gzip (RFC 1952): one member, or several one after the other, as Java reads them. Checksum and length are compared.

use std::io::Write;

use flate2::{Compression, bufread::MultiGzDecoder, write::GzEncoder};

use super::{Failure, read_bounded};

pub(super) fn decompress(compressed: &[u8], bytes_max: usize, out: &mut Vec<u8>) -> Result<(), Failure> {
    read_bounded(MultiGzDecoder::new(compressed), bytes_max, out)
}

pub(super) fn compress(bytes: &[u8], out: &mut Vec<u8>) {
    let mut encoder = GzEncoder::new(out, Compression::default());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory takes all that is written");
}
