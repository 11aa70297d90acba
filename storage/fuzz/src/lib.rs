//! What must hold for any bytes at all, one function for each parser.
//!
//! The fuzz targets and the property tests of the crate run the same functions, so what a fuzzer once found stays covered
//! on a stable toolchain. Each panics when its property does not hold.

use storage::segment::{
    Footer, Location, SegmentId,
    format::{HEADER_BYTES, Identity, SectionKind, encode_footer},
};

/// Bytes are a segment's footer or an error, as they are and as sections under checksums that hold.
pub fn segment_footer_parsed(bytes: &[u8]) {
    segment_footer_looked_up(bytes.into(), HEADER_BYTES);
    let Some((&[batch_pages, key_pages, a, b, c, d, e], mut rest)) = bytes.split_first_chunk() else { return };
    let mut section = |kind: SectionKind, length: u8| {
        let (bytes, behind) = rest.split_at(rest.len().min(length.into()));
        rest = behind;
        (kind as u16, true, bytes)
    };
    let sections = [
        section(SectionKind::Directory, a),
        section(SectionKind::OffsetIndex, b),
        section(SectionKind::TimeIndex, c),
        section(SectionKind::EpochIndex, d),
        section(SectionKind::BlockChecksums, u8::MAX),
        section(SectionKind::KeyIndex, e),
    ];
    let batch_bytes = u64::from(batch_pages) * 4096;
    let identity = Identity { log_id: 1, id: SegmentId(2), level: 0 };
    let position = HEADER_BYTES + batch_bytes + u64::from(key_pages) * 4096;
    let footer = encode_footer(&identity, position, batch_bytes, &sections);
    segment_footer_looked_up(footer, position);
}

/// A footer that parses answers every lookup, within its bounds.
pub fn segment_footer_looked_up(bytes: Box<[u8]>, position: u64) {
    let Ok(footer) = Footer::parse(bytes, position) else { return };
    let meta = footer.meta(Location::Local);
    let batches_end = HEADER_BYTES + meta.batch_bytes;
    for holding in footer.holdings() {
        let (entry, end) = (holding.entry, holding.end);
        assert!(meta.extent.may_hold(entry.partition) && meta.timestamp_max >= entry.timestamp_max);
        assert_eq!(footer.find(entry.partition).map(|found| found.entry), Some(entry));
        for offset in [0, entry.base_offset, entry.next_offset - 1, entry.next_offset, u64::MAX] {
            for length in [0, 1, 100, u64::MAX] {
                let span = holding.span(&(offset..offset.saturating_add(length)));
                assert!(span.is_empty() || entry.position <= span.start && span.end <= end, "{span:?} of {holding:?}");
            }
            let below = holding.offsets.floor(offset).map(|number| holding.offsets.entry(number));
            assert_eq!(below.is_some(), offset >= entry.base_offset);
            assert!(below.is_none_or(|below| below.offset <= offset && below.position < end));
            let epoch = holding.epoch_end(i32::MAX, offset);
            assert_eq!(epoch.is_some(), offset > entry.base_offset);
        }
        assert!(holding.times.first_reaching(entry.timestamp_max).is_some());
        if let Some(table) = footer.key_table(entry.partition) {
            assert!(batches_end <= table.position && table.end() <= position, "{table:?}");
        }
        for limit in [0, entry.position, entry.position + 1, end, u64::MAX] {
            let read_to = footer.batch_end(entry.position, limit);
            assert!(entry.position < read_to && read_to <= batches_end);
        }
    }
}
