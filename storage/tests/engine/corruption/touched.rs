//! Whom a place in a file concerns: what a fault there may stop, and nobody else.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use runtime::{Runtime as _, sim::SimRuntime};
use storage::{
    group::{EntryKind, Group},
    manifest::{Manifest, State},
    segment::{Extent, SegmentId, file_name, reader::SegmentReader},
};

use super::fault::{Fault, Mutation};
use crate::{
    golden::directory::{Directory, salt_of},
    support::DIR,
};

/// Whom a fault may stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Touched {
    /// Nobody.
    Nobody,
    /// These partitions.
    Some(BTreeSet<u64>),
    /// Any of the log's.
    Any,
    /// The log as a whole.
    Log,
}

/// The places of one directory.
pub(crate) struct Map {
    segments: BTreeMap<String, SegmentMap>,
    /// Live groups in the order of their LSN.
    groups: Vec<LiveGroup>,
}

struct SegmentMap {
    footer_position: usize,
    /// Partitions that may be looked for in it.
    first: u64,
    last: u64,
    /// Where the batches of each partition lie.
    spans: Vec<(u64, Range<usize>)>,
}

struct LiveGroup {
    file: String,
    range: Range<usize>,
    partitions: BTreeSet<u64>,
}

impl Map {
    pub(crate) fn of(directory: &Directory, log_id: u128) -> Self {
        let copy = directory.clone();
        let (state, segments) = runtime::sim::block_on(1, |rt: SimRuntime| async move {
            copy.install(&rt).await;
            let manifest = Manifest::open(&rt, DIR.as_ref()).await.unwrap();
            let state = manifest.state().clone();
            let segments = segments(&rt, &state, log_id).await;
            rt.sync_dir(DIR.as_ref()).await.unwrap();
            (state, segments)
        });
        Self { segments, groups: groups(directory, &state, log_id) }
    }

    /// Whom a mutation may stop, and whether it may look like a write that was cut short.
    pub(crate) fn touched(&self, mutation: &Mutation) -> (Touched, bool) {
        match mutation.kind() {
            "segment" => (self.touched_in_segment(mutation), false),
            "wal" => self.touched_in_wal(mutation),
            // What a file was cut off behind a marker is a shorter file, and as sound.
            _ => (Touched::Log, mutation.fault == Fault::Truncate),
        }
    }

    fn touched_in_segment(&self, mutation: &Mutation) -> Touched {
        // Those without an entry hold nothing any more.
        let Some(segment) = self.segments.get(&mutation.file) else { return Touched::Nobody };
        let range = mutation.range();
        if range.end > segment.footer_position {
            return Touched::Some((segment.first..=segment.last).collect());
        }
        // A block of 64 KiB is proven as one, and the batches that are read together may reach into the next.
        let blocks = range.start / (64 << 10) * (64 << 10)..range.end.next_multiple_of(64 << 10);
        let of_blocks = segment.spans.iter().filter(|(_, span)| span.start < blocks.end && blocks.start < span.end);
        Touched::Some(of_blocks.map(|(partition, _)| *partition).collect())
    }

    fn touched_in_wal(&self, mutation: &Mutation) -> (Touched, bool) {
        let range = mutation.range();
        let hit: Vec<usize> = (0..self.groups.len())
            .filter(|&index| {
                let group = &self.groups[index];
                group.file == mutation.file && group.range.start < range.end && range.start < group.range.end
            })
            .collect();
        let is_tail = !hit.is_empty() && hit[hit.len() - 1] == self.groups.len() - 1;
        let touched = match hit[..] {
            [] => Touched::Nobody,
            [only] => Touched::Some(self.groups[only].partitions.clone()),
            // Two groups that are gone name only who was in the second.
            _ => Touched::Any,
        };
        (touched, is_tail)
    }
}

async fn segments(rt: &SimRuntime, state: &State, log_id: u128) -> BTreeMap<String, SegmentMap> {
    let dir = storage::segment::directory(DIR.as_ref());
    let mut segments = BTreeMap::new();
    for meta in &state.segments {
        let reader = SegmentReader::open(rt, &dir, log_id, meta).await.unwrap();
        let (first, last) = match meta.extent {
            Extent::Own { partition, .. } => (partition.0, partition.0),
            Extent::Shared { first, last } => (first.0, last.0),
        };
        let spans = reader
            .footer()
            .holdings()
            .map(|holding| (holding.entry.partition.0, holding.entry.position as usize..holding.end as usize));
        let map = SegmentMap { footer_position: meta.footer_position as usize, first, last, spans: spans.collect() };
        segments.insert(format!("segments/{}", file_name(SegmentId(meta.id.0))), map);
    }
    segments
}

fn groups(directory: &Directory, state: &State, log_id: u128) -> Vec<LiveGroup> {
    let mut groups = Vec::new();
    for (file, bytes) in directory.0.iter().filter(|(file, _)| file.ends_with(".wal")) {
        let salt = salt_of(file);
        let cut = state.cuts.iter().filter(|cut| cut.salt == salt).map(|cut| cut.lsn).min().unwrap_or(u64::MAX);
        let mut position = 0;
        while position < bytes.len() {
            let Ok(group) = Group::parse(&bytes[position..], log_id, salt) else {
                position += storage::group::GROUP_ALIGNMENT;
                continue;
            };
            let lsn = group.header.stamp.lsn;
            let end = position + group.header.length as usize;
            if !state.clean && lsn > state.flushed.lsn && lsn <= cut {
                let entries = group.entries().filter(|(entry, _)| entry.kind != EntryKind::Marker);
                let partitions = entries.map(|(entry, _)| entry.partition.0).collect();
                groups.push((lsn, LiveGroup { file: file.clone(), range: position..end, partitions }));
            }
            position += group.header.padded_bytes();
        }
    }
    groups.sort_by_key(|(lsn, _)| *lsn);
    groups.into_iter().map(|(_, group)| group).collect()
}
