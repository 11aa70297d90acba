//! Fields that edits and snapshots share.

use std::ops::Range;

use super::state::{Clip, Cut, EpochStart, Evidence, Refusal};
use crate::{
    PartitionId,
    codec::{DecodeError, Reader, put_count},
    segment::{Extent, Location, SegmentId, SegmentMeta},
};

/// Length of a segment with the shorter extent, in bytes.
const SEGMENT_BYTES_MIN: usize = 59;

pub(super) fn put_u64(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

pub(super) fn put_u64s<const N: usize>(out: &mut Vec<u8>, numbers: [u64; N]) {
    numbers.into_iter().for_each(|number| put_u64(out, number));
}

pub(super) fn partition(reader: &mut Reader<'_>) -> Result<PartitionId, DecodeError> {
    reader.u64("partition").map(PartitionId)
}

pub(super) fn segment_id(reader: &mut Reader<'_>) -> Result<SegmentId, DecodeError> {
    reader.u64("segment").map(SegmentId)
}

pub(super) fn put_segment_ids(out: &mut Vec<u8>, ids: &[SegmentId]) {
    put_count(out, ids.len());
    ids.iter().for_each(|id| put_u64(out, id.0));
}

pub(super) fn segment_ids(reader: &mut Reader<'_>) -> Result<Vec<SegmentId>, DecodeError> {
    reader.list("count of segments", 8, segment_id)
}

/// An intent by its first segment.
pub(super) fn put_intent(out: &mut Vec<u8>, intent: Option<SegmentId>) {
    out.push(intent.is_some().into());
    if let Some(first) = intent {
        put_u64(out, first.0);
    }
}

pub(super) fn intent(reader: &mut Reader<'_>) -> Result<Option<SegmentId>, DecodeError> {
    match reader.bool("presence of an intent")? {
        true => segment_id(reader).map(Some),
        false => Ok(None),
    }
}

pub(super) fn put_segments(out: &mut Vec<u8>, segments: &[SegmentMeta]) {
    put_count(out, segments.len());
    segments.iter().for_each(|segment| put_segment(out, segment));
}

pub(super) fn segments(reader: &mut Reader<'_>) -> Result<Vec<SegmentMeta>, DecodeError> {
    reader.list("count of segments", SEGMENT_BYTES_MIN, segment)
}

fn put_segment(out: &mut Vec<u8>, segment: &SegmentMeta) {
    put_u64s(out, [segment.id.0, segment.bytes, segment.batch_bytes, segment.footer_position]);
    out.extend_from_slice(&segment.timestamp_max.to_le_bytes());
    out.push(segment.level);
    out.push(match segment.location {
        Location::Local => 1,
        Location::Remote => 2,
        Location::Both => 3,
    });
    match segment.extent {
        Extent::Own { partition, base_offset, next_offset } => {
            out.push(1);
            put_u64s(out, [partition.0, base_offset, next_offset]);
        }
        Extent::Shared { first, last } => {
            out.push(2);
            put_u64s(out, [first.0, last.0]);
        }
    }
}

fn segment(reader: &mut Reader<'_>) -> Result<SegmentMeta, DecodeError> {
    Ok(SegmentMeta {
        id: segment_id(reader)?,
        bytes: reader.u64("length of the segment")?,
        batch_bytes: reader.u64("bytes of batches")?,
        footer_position: reader.u64("position of the footer")?,
        timestamp_max: reader.i64("largest timestamp")?,
        level: reader.u8("level")?,
        location: match reader.number("location", 3)? {
            1 => Location::Local,
            2 => Location::Remote,
            _ => Location::Both,
        },
        extent: match reader.number("extent", 2)? {
            1 => Extent::Own {
                partition: partition(reader)?,
                base_offset: reader.u64("base offset")?,
                next_offset: reader.u64("next offset")?,
            },
            _ => Extent::Shared { first: partition(reader)?, last: partition(reader)? },
        },
    })
}

pub(super) fn put_epochs(out: &mut Vec<u8>, epochs: &[EpochStart]) {
    put_count(out, epochs.len());
    for start in epochs {
        out.extend_from_slice(&start.leader_epoch.to_le_bytes());
        put_u64(out, start.offset);
    }
}

pub(super) fn epochs(reader: &mut Reader<'_>) -> Result<Vec<EpochStart>, DecodeError> {
    reader.list("count of leader epochs", 12, |reader| {
        Ok(EpochStart { leader_epoch: reader.i32("leader epoch")?, offset: reader.u64("first offset of the epoch")? })
    })
}

pub(super) fn put_offsets(out: &mut Vec<u8>, offsets: &Range<u64>) {
    put_u64s(out, [offsets.start, offsets.end]);
}

pub(super) fn offsets(reader: &mut Reader<'_>) -> Result<Range<u64>, DecodeError> {
    Ok(reader.u64("first offset")?..reader.u64("next offset")?)
}

pub(super) fn given_up(reader: &mut Reader<'_>) -> Result<(PartitionId, SegmentId, Range<u64>), DecodeError> {
    Ok((partition(reader)?, segment_id(reader)?, offsets(reader)?))
}

pub(super) fn put_refusal(out: &mut Vec<u8>, refusal: &Refusal) {
    put_u64(out, refusal.from);
    out.push(refusal.evidence as u8);
}

pub(super) fn refusal(reader: &mut Reader<'_>) -> Result<Refusal, DecodeError> {
    Ok(Refusal {
        from: reader.u64("first refused offset")?,
        evidence: match reader.number("evidence", Evidence::Segment as u8)? {
            1 => Evidence::Directory,
            2 => Evidence::Successor,
            3 => Evidence::Nothing,
            _ => Evidence::Segment,
        },
    })
}

pub(super) fn put_cut(out: &mut Vec<u8>, cut: &Cut) {
    put_u64s(out, [cut.salt, cut.lsn, cut.next_lsn]);
}

pub(super) fn cut(reader: &mut Reader<'_>) -> Result<Cut, DecodeError> {
    Ok(Cut { salt: reader.u64("salt")?, lsn: reader.u64("last LSN")?, next_lsn: reader.u64("next LSN")? })
}

pub(super) fn put_clip(out: &mut Vec<u8>, clip: &Clip) {
    put_u64s(out, [clip.next_offset, clip.segments_below.0]);
}

pub(super) fn clip(reader: &mut Reader<'_>) -> Result<Clip, DecodeError> {
    Ok(Clip { next_offset: reader.u64("next offset")?, segments_below: segment_id(reader)? })
}
