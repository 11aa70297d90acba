//! The manifest's edits and their bytes. `FORMAT.md` specifies them.

use std::ops::Range;

use super::{
    fields::{self, put_u64, put_u64s},
    state::{Cut, EpochStart, Refusal},
};
use crate::{
    PartitionId,
    codec::{DecodeError, Reader, put_bytes, put_count},
    segment::{SegmentId, SegmentMeta},
};

/// Version of the encoding.
const VERSION: u8 = 1;

/// An intent claims at most this many segments.
pub const INTENT_SEGMENTS_MAX: u32 = 1 << 16;

/// One durable change of the manifest. What it does to the state is told there, in
/// [`State::apply`](super::State::apply).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// The log is open: the first edit of a process, before its first append. Unfinished intents end.
    Open,
    /// A flush or a merge is about to write these segments.
    Intent(Intent),
    /// The intent that starts with this segment ends without a result.
    Abandon {
        /// The intent's first segment.
        intent: SegmentId,
    },
    /// A memtable has become segments, and its WAL file is free.
    Flush(Flush),
    /// Segments were rewritten as others.
    Merge(Merge),
    /// The files of these obsolete segments are gone, durably.
    Deleted {
        /// Which.
        segments: Vec<SegmentId>,
    },
    /// A partition starts later. Own segments wholly below become obsolete.
    LogStart {
        /// The partition.
        partition: PartitionId,
        /// Its first offset from now on, if that is an advance.
        log_start: u64,
    },
    /// A partition was truncated: its data in the segments numbered so far ends here. To be repeated whenever replay
    /// meets the truncation again.
    Clip {
        /// The partition.
        partition: PartitionId,
        /// Its new end.
        next_offset: u64,
    },
    /// The end of a WAL file was torn: its groups above the cut are void for ever.
    Cut(Cut),
    /// Damage touches a partition; it is served below `refusal.from` only. The lowest of several holds.
    Refuse {
        /// The partition.
        partition: PartitionId,
        /// From where on, and how that is known.
        refusal: Refusal,
    },
    /// An operator accepts what a refusal means: the offsets up to `next_offset` are lost, and the partition goes on.
    Accept {
        /// The partition.
        partition: PartitionId,
        /// Where it goes on.
        next_offset: u64,
    },
    /// Offsets were handed out and lost in a crash.
    Lost {
        /// The partition.
        partition: PartitionId,
        /// Which offsets.
        offsets: Range<u64>,
    },
    /// An operator gives up what damage touches of a partition in a segment: nothing of these offsets is read there any more.
    /// Which of them hold something that is lost by that, a [`Self::Lost`] beside it says.
    GiveUp {
        /// The partition.
        partition: PartitionId,
        /// The segment; a live one, or this says nothing.
        segment: SegmentId,
        /// Which offsets.
        offsets: Range<u64>,
    },
    /// Data of a partition was found that metadata does not know.
    Quarantine {
        /// The partition.
        partition: PartitionId,
    },
    /// A partition is gone. Its own segments become obsolete.
    Drop {
        /// The partition.
        partition: PartitionId,
        /// The WAL group that says so.
        lsn: u64,
    },
    /// The log was stopped with nothing left in its WAL. Reservations end.
    Clean {
        /// The last group written.
        last_lsn: u64,
        /// Where the next process starts numbering.
        next_lsn: u64,
    },
    /// A copy of a partition begins. Whatever segments hold of an earlier one is void, and so is what the WAL says of it up
    /// to the group that dropped it.
    Begin {
        /// The partition.
        partition: PartitionId,
        /// Where its first batch starts.
        base_offset: u64,
        /// Offsets that hold nothing.
        lost: Vec<Range<u64>>,
        /// What its producers appended below `base_offset`.
        producers: Vec<u8>,
    },
}

/// Numbers of segments that are about to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intent {
    /// The first; it names the intent.
    pub first: SegmentId,
    /// How many, 1 to [`INTENT_SEGMENTS_MAX`].
    pub count: u32,
}

/// A use of a WAL file, and a group in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flushed {
    /// The file's salt.
    pub salt: u64,
    /// The group.
    pub lsn: u64,
}

/// All that lived only in a WAL file and its memtable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flush {
    /// The intent under which the segments were written; `None` when there was nothing to write.
    pub intent: Option<SegmentId>,
    /// The segments, lower offsets first.
    pub segments: Vec<SegmentMeta>,
    /// The WAL file, and its last group.
    pub through: Flushed,
    /// The partitions that the file said anything of.
    pub partitions: Vec<FlushedPartition>,
    /// The partitions that it dropped.
    pub dropped: Vec<PartitionId>,
}

/// What a flush knows of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlushedPartition {
    /// The partition.
    pub partition: PartitionId,
    /// Its first offset.
    pub log_start: u64,
    /// Offset behind the last one flushed.
    pub flushed_end: u64,
    /// End of its reservation, 0 for none.
    pub reserved_end: u64,
    /// Leader epochs of the batches flushed, in order, each with its first offset among them.
    pub epochs: Vec<EpochStart>,
    /// Its idempotent producers as of `through`; `None` when nothing changed.
    pub producers: Option<Vec<u8>>,
}

/// Segments rewritten as others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merge {
    /// The intent under which the new ones were written; `None` when nothing was left to write.
    pub intent: Option<SegmentId>,
    /// The segments merged.
    pub removed: Vec<SegmentId>,
    /// What they became, lower offsets first.
    pub added: Vec<SegmentMeta>,
}

impl Intent {
    /// The number behind its last segment.
    pub fn end(self) -> SegmentId {
        SegmentId(self.first.0 + u64::from(self.count))
    }

    /// Whether it claims segment `id`.
    pub fn contains(self, id: SegmentId) -> bool {
        (self.first..self.end()).contains(&id)
    }
}

impl Edit {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION, self.kind()];
        match self {
            Self::Open => {}
            Self::Intent(intent) => {
                put_u64(&mut out, intent.first.0);
                out.extend_from_slice(&intent.count.to_le_bytes());
            }
            Self::Abandon { intent } => put_u64(&mut out, intent.0),
            Self::Flush(flush) => flush.encode(&mut out),
            Self::Merge(merge) => merge.encode(&mut out),
            Self::Deleted { segments } => fields::put_segment_ids(&mut out, segments),
            Self::LogStart { partition, log_start } => put_u64s(&mut out, [partition.0, *log_start]),
            Self::Clip { partition, next_offset } => put_u64s(&mut out, [partition.0, *next_offset]),
            Self::Cut(cut) => fields::put_cut(&mut out, cut),
            Self::Refuse { partition, refusal } => {
                put_u64(&mut out, partition.0);
                fields::put_refusal(&mut out, refusal);
            }
            Self::Accept { partition, next_offset } => put_u64s(&mut out, [partition.0, *next_offset]),
            Self::Lost { partition, offsets } => {
                put_u64(&mut out, partition.0);
                fields::put_offsets(&mut out, offsets);
            }
            Self::Quarantine { partition } => put_u64(&mut out, partition.0),
            Self::Drop { partition, lsn } => put_u64s(&mut out, [partition.0, *lsn]),
            Self::Clean { last_lsn, next_lsn } => put_u64s(&mut out, [*last_lsn, *next_lsn]),
            Self::Begin { partition, base_offset, lost, producers } => {
                put_u64s(&mut out, [partition.0, *base_offset]);
                put_count(&mut out, lost.len());
                lost.iter().for_each(|offsets| fields::put_offsets(&mut out, offsets));
                put_bytes(&mut out, producers);
            }
            Self::GiveUp { partition, segment, offsets } => {
                put_u64s(&mut out, [partition.0, segment.0]);
                fields::put_offsets(&mut out, offsets);
            }
        }
        out
    }

    /// Reads an edit.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let r = &mut reader;
        r.number("version of the edit", VERSION)?;
        let edit = match r.number("kind of the edit", KIND_MAX)? {
            1 => Self::Open,
            2 => Self::Intent(Intent { first: fields::segment_id(r)?, count: intent_count(r)? }),
            3 => Self::Abandon { intent: fields::segment_id(r)? },
            4 => Self::Flush(Flush::decode(r)?),
            5 => Self::Merge(Merge::decode(r)?),
            6 => Self::Deleted { segments: fields::segment_ids(r)? },
            7 => Self::LogStart { partition: fields::partition(r)?, log_start: r.u64("log start")? },
            8 => Self::Clip { partition: fields::partition(r)?, next_offset: r.u64("next offset")? },
            9 => Self::Cut(fields::cut(r)?),
            10 => Self::Refuse { partition: fields::partition(r)?, refusal: fields::refusal(r)? },
            11 => Self::Accept { partition: fields::partition(r)?, next_offset: r.u64("next offset")? },
            12 => Self::Lost { partition: fields::partition(r)?, offsets: fields::offsets(r)? },
            13 => Self::Quarantine { partition: fields::partition(r)? },
            14 => Self::Drop { partition: fields::partition(r)?, lsn: r.u64("LSN")? },
            15 => Self::Clean { last_lsn: r.u64("last LSN")?, next_lsn: r.u64("next LSN")? },
            16 => Self::Begin {
                partition: fields::partition(r)?,
                base_offset: r.u64("base offset")?,
                lost: r.list("count of lost ranges", 16, fields::offsets)?,
                producers: r.bytes("producers")?.to_vec(),
            },
            _ => {
                let (partition, segment, offsets) = fields::given_up(r)?;
                Self::GiveUp { partition, segment, offsets }
            }
        };
        reader.finish()?;
        Ok(edit)
    }

    /// The numbers are part of the format and are never reused.
    fn kind(&self) -> u8 {
        match self {
            Self::Open => 1,
            Self::Intent(_) => 2,
            Self::Abandon { .. } => 3,
            Self::Flush(_) => 4,
            Self::Merge(_) => 5,
            Self::Deleted { .. } => 6,
            Self::LogStart { .. } => 7,
            Self::Clip { .. } => 8,
            Self::Cut(_) => 9,
            Self::Refuse { .. } => 10,
            Self::Accept { .. } => 11,
            Self::Lost { .. } => 12,
            Self::Quarantine { .. } => 13,
            Self::Drop { .. } => 14,
            Self::Clean { .. } => 15,
            Self::Begin { .. } => 16,
            Self::GiveUp { .. } => KIND_MAX,
        }
    }
}

/// The highest kind of edit.
const KIND_MAX: u8 = 17;

impl Flush {
    fn encode(&self, out: &mut Vec<u8>) {
        fields::put_intent(out, self.intent);
        put_u64s(out, [self.through.salt, self.through.lsn]);
        fields::put_segments(out, &self.segments);
        put_count(out, self.partitions.len());
        self.partitions.iter().for_each(|partition| partition.encode(out));
        put_count(out, self.dropped.len());
        self.dropped.iter().for_each(|partition| put_u64(out, partition.0));
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let intent = fields::intent(reader)?;
        let through = Flushed { salt: reader.u64("salt")?, lsn: reader.u64("LSN")? };
        let segments = fields::segments(reader)?;
        let partitions = reader.list("count of partitions", FlushedPartition::BYTES_MIN, FlushedPartition::decode)?;
        let dropped = reader.list("count of dropped partitions", 8, fields::partition)?;
        Ok(Self { intent, segments, through, partitions, dropped })
    }
}

impl FlushedPartition {
    const BYTES_MIN: usize = 37;

    fn encode(&self, out: &mut Vec<u8>) {
        put_u64s(out, [self.partition.0, self.log_start, self.flushed_end, self.reserved_end]);
        fields::put_epochs(out, &self.epochs);
        out.push(self.producers.is_some().into());
        if let Some(producers) = &self.producers {
            put_bytes(out, producers);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            partition: fields::partition(reader)?,
            log_start: reader.u64("log start")?,
            flushed_end: reader.u64("flushed end")?,
            reserved_end: reader.u64("reserved end")?,
            epochs: fields::epochs(reader)?,
            producers: match reader.bool("presence of producers")? {
                true => Some(reader.bytes("producers")?.to_vec()),
                false => None,
            },
        })
    }
}

impl Merge {
    fn encode(&self, out: &mut Vec<u8>) {
        fields::put_intent(out, self.intent);
        fields::put_segment_ids(out, &self.removed);
        fields::put_segments(out, &self.added);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let intent = fields::intent(reader)?;
        Ok(Self { intent, removed: fields::segment_ids(reader)?, added: fields::segments(reader)? })
    }
}

fn intent_count(reader: &mut Reader<'_>) -> Result<u32, DecodeError> {
    let count = reader.u32("count of intended segments")?;
    let known = (1..=INTENT_SEGMENTS_MAX).contains(&count);
    if known { Ok(count) } else { Err(reader.malformed("count of intended segments", 4)) }
}
