//! A merge: segments in the order of their flushes become fewer, larger ones, byte for byte but for partitions that are
//! compacted by key, which `round` is about, and for those whose batches are to be compressed, see [`super::compress`].
//!
//! The one hard idea: inputs and outputs are sorted the same way, so every input is read once from front to back, in large
//! steps, whichever partition its bytes are of. What nobody can read any more (dropped partitions, below the log start,
//! clipped) is left behind.
//!
//! Of a partition that counts as a whole, as nearly all do, the bytes go from input to output as they are, and only the
//! writer looks at its batches, to index them and to see that they ascend.
//!
//! A merge is two calls, because the manifest has to know the ids of its outputs before the first byte is written:
//! [`Merge::plan`] tells how many there are, [`Merge::run`] writes them.
//!
//! In the manifest the outputs take the place of the first input, and of two segments with the same partition the one that
//! stands earlier has the lower offsets. So a settled segment between the inputs has to be merged along if an input behind
//! it has batches of its partition.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    path::Path,
    rc::Rc,
    time::Duration,
};

use runtime::{Frozen, Runtime};
use thiserror::Error;
use wire::record::{BatchError, Codec};

use super::{
    Options,
    by_key::{Keyed, Round, Unkeyed},
    compress::Compressor,
    pace::Pace,
    strategy::{Input, MergeInputs},
};
use crate::{
    PartitionId,
    kept::Kept,
    segment::{
        Disorder, Planned, SegmentError, SegmentId, SegmentMeta, SegmentWriter, Segments, WriteError, plan,
        reader::{Cut, SegmentReader},
    },
};

/// The level of what a merge writes.
pub(super) const LEVEL: u8 = 1;

/// The level of what a merge cleaned by key: in it, no key of a partition appears twice.
pub const CLEAN_LEVEL: u8 = 2;

/// A round begins another segment behind so many bytes: small enough for the keys of records of 64 bytes to fit a table.
pub(super) const ROUND_SEGMENT_BYTES: u64 = 64 << 20;

/// A round reads at most this many bytes, or one batch, before others get a turn: it looks at each record.
pub(super) const ROUND_READ_BYTES: usize = 128 << 10;

/// So many partitions are looked at before others get a turn.
const PARTITIONS_PER_TURN: usize = 512;

/// Why a merge did not come to its end. Its outputs are no segments and are the caller's to remove; the inputs are
/// untouched.
#[derive(Debug, Error)]
pub enum MergeError {
    /// An input could not be read, or does not prove itself.
    #[error("{source}")]
    Read {
        /// Which.
        segment: SegmentId,
        /// Why.
        #[source]
        source: SegmentError,
    },
    /// An output could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The log is being closed: the next start begins it anew.
    #[error("the log is being closed")]
    Closing,
    /// Two inputs hold the same offsets of a partition. A clip is missing, or an input is not in its place.
    #[error("segment {} has partition {} from offset {found} on, which was merged up to {merged} already",
        segment.0, partition.0)]
    Overlap {
        /// The later of the two.
        segment: SegmentId,
        /// The partition.
        partition: PartitionId,
        /// Where the later one starts.
        found: u64,
        /// Where the earlier one ends.
        merged: u64,
    },
}

/// A merge that was planned.
pub struct Merge<R: Runtime, K> {
    rt: R,
    log_id: u128,
    pub(super) inputs: Vec<OpenInput<R>>,
    outputs: Vec<Output>,
    pub(super) keep: K,
    pub(super) keyed: Box<dyn Keyed>,
    pub(super) options: Options,
    pub(super) pace: Option<Rc<Pace<R>>>,
    compressor: Compressor,
}

pub(super) struct OpenInput<R: Runtime> {
    pub(super) id: SegmentId,
    pub(super) level: u8,
    pub(super) reader: Rc<SegmentReader<R>>,
}

/// What is written together.
struct Output {
    planned: Planned,
    /// Segments it may become: one, or for rounds several, clean ones and what is left for the next one.
    segments: usize,
    /// One for each partition, or none at all. What was decided when the merge was planned is carried out, whatever the
    /// partition's settings have become: its batches have to be in the outputs one way or the other.
    rounds: Vec<Round>,
}

impl<R: Runtime, K> Merge<R, K>
where
    K: Fn(SegmentId, PartitionId) -> Kept,
{
    /// Looks at the inputs and divides what is left of them among outputs.
    ///
    /// `keep` says which offsets of a partition in a segment still count, none of a dropped partition. It is asked again when the bytes are copied, and may have become stricter by then.
    /// A partition that is clipped later than that has to be clipped in the outputs too.
    ///
    /// The footers of all inputs stay in memory until the merge is over, whatever the cache's limit.
    ///
    /// # Errors
    /// [`MergeError::Read`].
    pub async fn plan(
        segments: &Segments<R>,
        rt: &R,
        inputs: &MergeInputs,
        keep: K,
        options: Options,
    ) -> Result<Self, MergeError> {
        Self::plan_keyed(segments, rt, &inputs.in_order(), keep, Box::new(Unkeyed), options).await
    }

    /// The same, of inputs in the order of the manifest, and with partitions that are compacted by key: those that have a
    /// [round](Keyed::round) are cleaned, all of them get key tables and segments apart from the others'.
    ///
    /// # Errors
    /// [`MergeError::Read`].
    pub async fn plan_keyed(
        segments: &Segments<R>,
        rt: &R,
        inputs: &[Input],
        keep: K,
        keyed: Box<dyn Keyed>,
        options: Options,
    ) -> Result<Self, MergeError> {
        let mut merge = Self {
            rt: rt.clone(),
            log_id: segments.log_id(),
            inputs: Vec::with_capacity(inputs.len()),
            outputs: Vec::new(),
            keep,
            keyed,
            options,
            pace: None,
            compressor: Compressor::default(),
        };
        // Newest first: whether an input is needed depends on those behind it.
        for Input { meta, is_between } in inputs.iter().rev() {
            let reader = segments.open(meta).await.map_err(unreadable(meta.id))?;
            if !is_between || merge.has_batches_of(&reader) {
                merge.inputs.push(OpenInput { id: meta.id, level: meta.level, reader });
            }
        }
        merge.inputs.reverse();
        merge.outputs = merge.divide(merge.sizes().await);
        Ok(merge)
    }

    /// Lets others set its speed.
    pub(crate) fn paced(mut self, pace: Pace<R>) -> Self {
        self.pace = Some(Rc::new(pace));
        self
    }

    /// The segments that the outputs replace.
    pub fn inputs(&self) -> impl Iterator<Item = SegmentId> {
        self.inputs.iter().map(|input| input.id)
    }

    /// How many segments it will write at most; none if nothing of the inputs counts any more.
    pub fn outputs(&self) -> usize {
        self.outputs.iter().map(|output| output.segments).sum()
    }

    /// About how many bytes of batches it will write at most.
    pub fn output_bytes(&self) -> u64 {
        self.outputs.iter().map(|output| output.planned.bytes).sum()
    }

    /// Bytes that compression has saved so far.
    pub fn saved_bytes(&self) -> u64 {
        self.compressor.saved_bytes()
    }

    /// Writes the outputs into `dir`, one for each of `ids`, and returns those that hold anything. Their names are not
    /// durable yet, see [`SegmentWriter::finish`].
    ///
    /// # Errors
    /// [`MergeError`].
    ///
    /// # Panics
    /// Unless there are as many ids as outputs.
    pub async fn run(&self, dir: &Path, ids: &[SegmentId]) -> Result<Vec<SegmentMeta>, MergeError> {
        assert_eq!(ids.len(), self.outputs(), "an id for each output");
        let (mut written, mut rest) = (Vec::with_capacity(ids.len()), ids);
        for output in &self.outputs {
            let (ids, behind) = rest.split_at(output.segments);
            rest = behind;
            if output.rounds.is_empty() {
                written.extend(self.write(&output.planned, dir, ids[0]).await?);
            } else {
                written.extend(self.write_rounds(&output.planned.partitions, &output.rounds, dir, ids).await?);
            }
        }
        Ok(written)
    }

    /// Who is written together: partitions with a round apart from other compacted ones, and these apart from the rest, so
    /// that no round rewrites what it is not about.
    fn divide(&self, sizes: BTreeMap<PartitionId, u64>) -> Vec<Output> {
        let round = |&partition: &PartitionId| Some((partition, self.keyed.round(partition)?));
        let rounds: BTreeMap<PartitionId, Round> = sizes.keys().filter_map(round).collect();
        let mut groups: [Vec<(PartitionId, u64)>; 3] = Default::default();
        for (partition, bytes) in sizes {
            let has_round = rounds.contains_key(&partition);
            let group = if has_round { 0 } else { 2 - usize::from(self.keyed.is_compacted(partition)) };
            groups[group].push((partition, bytes));
        }
        let [cleaned, keyed, others] = groups.map(|group| plan(group, &self.options.limits));
        let cleaned = cleaned.into_iter().map(|planned| {
            // Clean ones, what is left for the next round, and a short one of each.
            let segments = 2 * (planned.bytes / ROUND_SEGMENT_BYTES + 1) as usize;
            let rounds = planned.partitions.iter().map(|partition| rounds[partition]).collect();
            Output { planned, segments, rounds }
        });
        let copied = keyed.into_iter().chain(others);
        let copied = copied.map(|planned| Output { planned, segments: 1, rounds: Vec::new() });
        cleaned.chain(copied).collect()
    }

    /// Writes one output; nothing is created if nothing of it counts any more.
    async fn write(&self, output: &Planned, dir: &Path, id: SegmentId) -> Result<Option<SegmentMeta>, MergeError> {
        let mut writer = None;
        let last = *output.partitions.last().expect("an output holds at least one partition");
        let mut cursors = self.cursors(last);
        for &partition in &output.partitions {
            let mut is_indexed = !self.keyed.is_compacted(partition);
            let codec = self.keyed.compression(partition);
            for (input, cursor) in self.inputs.iter().zip(&mut cursors) {
                cursor.start(partition, (self.keep)(input.id, partition));
                while let Some(piece) = cursor.next(self.options.read_bytes_max).await? {
                    if writer.is_none() {
                        writer = Some(self.create(dir, id, LEVEL).await?);
                    }
                    let writer = writer.as_mut().expect("just created");
                    if !is_indexed {
                        writer.index_keys(partition).await;
                        is_indexed = true;
                    }
                    let pushed = self.push(writer, partition, codec, &piece.bytes).await;
                    pushed.map_err(|error| refused(input, &piece, error))?;
                }
            }
        }
        match writer {
            Some(writer) => Ok(Some(writer.finish().await?)),
            None => Ok(None),
        }
    }

    /// A cursor for each input, which will be asked for partitions up to `last`.
    pub(super) fn cursors(&self, last: PartitionId) -> Vec<Cursor<R>> {
        self.inputs.iter().map(|input| Cursor::new(&self.rt, input, last, self.pace.clone())).collect()
    }

    pub(super) async fn create(&self, dir: &Path, id: SegmentId, level: u8) -> Result<SegmentWriter<R>, MergeError> {
        Ok(SegmentWriter::create(&self.rt, dir, id, self.log_id, level).await?)
    }

    /// Adds whole batches of a partition to a segment, compressed where its topic asks for it.
    pub(super) async fn push(
        &self,
        writer: &mut SegmentWriter<R>,
        partition: PartitionId,
        codec: Codec,
        batches: &[u8],
    ) -> Result<(), WriteError> {
        match codec {
            Codec::None => writer.push(partition, batches).await,
            codec => self.compressor.push(&self.rt, writer, partition, codec, batches).await,
        }
    }

    pub(super) fn log_id(&self) -> u128 {
        self.log_id
    }

    /// Whether an input so far has batches of a partition of `reader`'s.
    fn has_batches_of(&self, reader: &SegmentReader<R>) -> bool {
        let partitions = reader.footer().holdings().map(|holding| holding.entry.partition);
        partitions.into_iter().any(|partition| {
            self.inputs.iter().any(|input| {
                let found = input.reader.footer().find(partition);
                let kept = (self.keep)(input.id, partition);
                found.is_some_and(|holding| kept.stretches().any(|offsets| !holding.span(&offsets).is_empty()))
            })
        })
    }

    /// About how many bytes of each partition are left, give or take the ends of intervals.
    async fn sizes(&self) -> BTreeMap<PartitionId, u64> {
        let mut sizes = BTreeMap::new();
        for input in &self.inputs {
            let footer = input.reader.footer();
            for (number, entry) in footer.entries().enumerate() {
                let spans = (self.keep)(input.id, entry.partition);
                let spans = spans.stretches().map(|offsets| footer.span(number, &offsets));
                *sizes.entry(entry.partition).or_default() +=
                    spans.map(|span| span.end.saturating_sub(span.start)).sum::<u64>();
                if (number + 1).is_multiple_of(PARTITIONS_PER_TURN) {
                    self.rt.sleep(Duration::ZERO).await;
                }
            }
        }
        sizes
    }
}

/// What becomes of a merge whose input cannot be read.
pub(super) fn unreadable(segment: SegmentId) -> impl FnOnce(SegmentError) -> MergeError {
    move |source| MergeError::Read { segment, source }
}

/// What becomes of a merge whose writer refuses what an input holds.
fn refused<R: Runtime>(input: &OpenInput<R>, piece: &Piece<R::Frozen>, error: WriteError) -> MergeError {
    match error {
        WriteError::Batch { at, source, .. } => malformed(input, piece.position + at as u64, source),
        WriteError::Disorder { source: Disorder { found: (partition, found, _), behind: (_, merged, _) }, .. }
            if found < merged =>
        {
            MergeError::Overlap { segment: input.id, partition, found, merged }
        }
        error => error.into(),
    }
}

/// What becomes of a merge of an input whose batch at `position` makes no sense.
pub(super) fn malformed<R: Runtime>(input: &OpenInput<R>, position: u64, source: BatchError) -> MergeError {
    unreadable(input.id)(SegmentError::batch(input.reader.path(), position, source))
}

/// Reads one input front to back, partition after partition.
pub(super) struct Cursor<R: Runtime> {
    rt: R,
    id: SegmentId,
    reader: Rc<SegmentReader<R>>,
    /// The first partition of the directory that was not passed yet.
    number: usize,
    /// The partition being read, by its number in the directory, and the stretches of it that count and were not begun.
    current: usize,
    stretches: VecDeque<Range<u64>>,
    /// What is left of the stretch being read: positions that may hold what counts, and the offsets that do; `None`, if
    /// all do.
    span: Range<u64>,
    offsets: Option<Range<u64>>,
    /// Bytes of the file from `window_start` on, proven: whole batches, of any partitions.
    window: Option<R::Frozen>,
    window_start: u64,
    /// Nothing is wanted from here on.
    end: u64,
    pace: Option<Rc<Pace<R>>>,
}

/// Whole batches of one partition, all of which count.
pub(super) struct Piece<F> {
    pub(super) bytes: F,
    /// Where they start, in bytes from the start of the input's file.
    pub(super) position: u64,
}

impl<R: Runtime> Cursor<R> {
    /// A cursor that will be asked for partitions up to `last`.
    fn new(rt: &R, input: &OpenInput<R>, last: PartitionId, pace: Option<Rc<Pace<R>>>) -> Self {
        let end = input.reader.footer().partitions_end(last);
        let (rt, id, reader) = (rt.clone(), input.id, Rc::clone(&input.reader));
        Self {
            rt,
            id,
            reader,
            number: 0,
            current: 0,
            stretches: VecDeque::new(),
            span: 0..0,
            offsets: None,
            window: None,
            window_start: 0,
            end,
            pace,
        }
    }

    /// Turns to a partition, which lies behind those before.
    pub(super) fn start(&mut self, partition: PartitionId, kept: Kept) {
        self.span = 0..0;
        self.stretches.clear();
        let footer = self.reader.footer();
        while let Some(entry) = footer.entry(self.number) {
            if entry.partition > partition {
                return;
            }
            let number = self.number;
            self.number += 1;
            if entry.partition == partition {
                self.current = number;
                self.stretches.extend(kept.stretches());
                return;
            }
        }
        self.window = None;
    }

    /// The next batches of the partition that count.
    pub(super) async fn next(&mut self, bytes_max: usize) -> Result<Option<Piece<R::Frozen>>, MergeError> {
        while !self.span.is_empty() || self.begin_stretch() {
            if !self.window_holds(self.span.start) {
                self.read_window(bytes_max).await?;
            }
            let bytes = self.take();
            let position = self.span.start;
            self.span.start += bytes.len() as u64;
            let Some(offsets) = &self.offsets else { return Ok(Some(Piece { bytes, position })) };
            let cut = self.reader.cut(std::slice::from_ref(&bytes), position, offsets, usize::MAX);
            if let Some(Cut { range, .. }) = cut.map_err(unreadable(self.id))? {
                let position = position + range.start as u64;
                return Ok(Some(Piece { bytes: bytes.slice(range), position }));
            }
        }
        Ok(None)
    }

    /// Turns to the next stretch that holds anything, if there is one.
    fn begin_stretch(&mut self) -> bool {
        let footer = self.reader.footer();
        while let Some(offsets) = self.stretches.pop_front() {
            self.span = footer.span(self.current, &offsets);
            if !self.span.is_empty() {
                let is_within = footer.entry(self.current).is_some_and(|entry| entry.is_within(&offsets));
                self.offsets = (!is_within).then_some(offsets);
                return true;
            }
        }
        false
    }

    fn window_holds(&self, position: u64) -> bool {
        (self.window_start..self.window_end()).contains(&position)
    }

    fn window_end(&self) -> u64 {
        self.window_start + self.window.as_ref().map_or(0, |window| window.len() as u64)
    }

    /// Has the window start where the span does.
    async fn read_window(&mut self, bytes_max: usize) -> Result<(), MergeError> {
        self.window = None;
        let start = self.span.start;
        let end = self.reader.footer().batch_end(start, self.reader.read_limit(start, bytes_max)).min(self.end);
        match &self.pace {
            Some(pace) => pace.take(end - start).await?,
            None => self.rt.sleep(Duration::ZERO).await,
        }
        let window = match self.reader.verified(start..end).await {
            // What is damaged may be what was given up.
            Err(_) if self.span.end < end => self.reader.verified(start..self.span.end).await,
            window => window,
        };
        self.window = Some(window.map_err(unreadable(self.id))?);
        self.window_start = start;
        Ok(())
    }

    /// What the window has of the span, from its start.
    fn take(&self) -> R::Frozen {
        let end = self.window_end().min(self.span.end);
        let range = (self.span.start - self.window_start) as usize..(end - self.window_start) as usize;
        self.window.as_ref().expect("the window holds the start of the span").slice(range)
    }
}
