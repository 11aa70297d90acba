//! The whole state as bytes: what a manifest file begins with. `FORMAT.md` specifies them.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    edit::{Flushed, INTENT_SEGMENTS_MAX},
    fields::{self, put_u64, put_u64s},
    given_up::GivenUp,
    state::{Partition, State},
};
use crate::{
    codec::{DecodeError, Reader, put_bytes, put_count},
    segment::SegmentId,
};

/// Version of the encoding: without what was given up of segments, which hardly any log has …
const VERSION_WHOLE: u8 = 1;
/// … and with it.
const VERSION: u8 = 2;

impl State {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let version = if self.given_up.is_empty() { VERSION_WHOLE } else { VERSION };
        let mut out = vec![version, self.clean.into()];
        put_u64s(&mut out, [self.next_segment.0, self.flushed.salt, self.flushed.lsn, self.next_lsn]);
        fields::put_segments(&mut out, &self.segments);
        put_count(&mut out, self.intents.len());
        for (first, count) in &self.intents {
            put_u64(&mut out, first.0);
            out.extend_from_slice(&count.to_le_bytes());
        }
        put_count(&mut out, self.obsolete.len());
        self.obsolete.iter().for_each(|id| put_u64(&mut out, id.0));
        put_count(&mut out, self.cuts.len());
        self.cuts.iter().for_each(|cut| fields::put_cut(&mut out, cut));
        put_count(&mut out, self.dropped.len());
        self.dropped.iter().for_each(|(partition, lsn)| put_u64s(&mut out, [partition.0, *lsn]));
        put_count(&mut out, self.partitions.len());
        for (id, partition) in &self.partitions {
            put_u64(&mut out, id.0);
            partition.encode(&mut out);
        }
        if version > VERSION_WHOLE {
            put_count(&mut out, self.given_up.iter().count());
            for (partition, segment, offsets) in self.given_up.iter() {
                put_u64s(&mut out, [partition.0, segment.0]);
                fields::put_offsets(&mut out, &offsets);
            }
        }
        out
    }

    /// Reads a state.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let r = &mut reader;
        let version = r.number("version of the snapshot", VERSION)?;
        let state = Self {
            clean: r.bool("clean")?,
            next_segment: fields::segment_id(r)?,
            flushed: Flushed { salt: r.u64("salt")?, lsn: r.u64("flushed LSN")? },
            next_lsn: r.u64("next LSN")?,
            segments: fields::segments(r)?,
            intents: intents(r)?,
            obsolete: fields::segment_ids(r)?.into_iter().collect::<BTreeSet<_>>(),
            cuts: r.list("count of cuts", 24, fields::cut)?,
            dropped: r.list("count of dropped partitions", 16, |r| Ok((fields::partition(r)?, r.u64("LSN")?)))?,
            partitions: r.list("count of partitions", Partition::BYTES_MIN, |r| {
                Ok((fields::partition(r)?, Partition::decode(r)?))
            })?,
            given_up: match version {
                VERSION_WHOLE => GivenUp::default(),
                _ => r.list("count of what was given up", 32, fields::given_up)?,
            },
        };
        reader.finish()?;
        Ok(state)
    }
}

impl Partition {
    /// Length of one that nothing is known of, with its number, in bytes.
    const BYTES_MIN: usize = 50;

    fn encode(&self, out: &mut Vec<u8>) {
        put_u64s(out, [self.log_start, self.flushed_end, self.reserved_end]);
        fields::put_epochs(out, &self.epochs);
        out.push(self.refused.is_some().into());
        if let Some(refusal) = &self.refused {
            fields::put_refusal(out, refusal);
        }
        put_count(out, self.lost.len());
        self.lost.iter().for_each(|offsets| fields::put_offsets(out, offsets));
        put_count(out, self.clips.len());
        self.clips.iter().for_each(|clip| fields::put_clip(out, clip));
        out.push(self.quarantined.into());
        put_bytes(out, &self.producers);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            log_start: r.u64("log start")?,
            flushed_end: r.u64("flushed end")?,
            reserved_end: r.u64("reserved end")?,
            epochs: fields::epochs(r)?,
            refused: match r.bool("presence of a refusal")? {
                true => Some(fields::refusal(r)?),
                false => None,
            },
            lost: r.list("count of lost ranges", 16, fields::offsets)?,
            clips: r.list("count of clips", 16, fields::clip)?,
            quarantined: r.bool("quarantined")?,
            producers: r.bytes("producers")?.to_vec(),
        })
    }
}

fn intents(reader: &mut Reader<'_>) -> Result<BTreeMap<SegmentId, u32>, DecodeError> {
    reader.list("count of intents", 12, |reader| {
        let (first, count) = (fields::segment_id(reader)?, reader.u32("count of intended segments")?);
        let possible = count <= INTENT_SEGMENTS_MAX && first.0.checked_add(count.into()).is_some();
        if possible { Ok((first, count)) } else { Err(reader.malformed("intent", 12)) }
    })
}
