//! Opens a log: manifest, then the WAL if the last stop was not clean, then the partitions as they were.
//!
//! Nothing that was synced is dropped, nothing that was not is made up: the WAL's groups are applied in order of their LSN
//! to what the manifest says was flushed, a torn tail is cut for ever before anything is appended, and damage inside the
//! synced region refuses the partitions it touched and no others.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Range,
    path::Path,
    rc::Rc,
};

use runtime::{
    Instant, Lock, Notify, Runtime,
    sabotage::{die_at, planted},
};
use wire::record::{Batch, Producer};

use crate::{
    PartitionId,
    disk_space::{self, DiskSpace},
    error::{LogFailed, OpenError},
    flush,
    group::{Entry, EntryKind, Group},
    hold::{self, Hold},
    log::{Counters, Log, LogOptions, Shared},
    manifest::{Cut, Edit, Evidence, Fate, Manifest, Refusal, State as ManifestState},
    memtable::{Memtable, slot_of},
    memtables::{Memtables, Sealed},
    partition::{PRODUCERS_MAX, State, Status},
    producer_state::{Producers, Sequence},
    segment::{self, Segments},
    segment_map::SegmentMap,
    settings::KnownSettings,
    synced::Lsn,
    wal::{
        self, Wal,
        files::{self, Files},
        replay::{self, FoundFile, FoundGroup, Known, Touched},
    },
    writes::Writes,
};

/// Opens the log in `dir`, see [`Log::open`].
pub(crate) async fn open<R: Runtime>(rt: R, dir: &Path, options: LogOptions) -> Result<Log<R>, OpenError> {
    options.check()?;
    let wal_dir = files::directory(dir);
    let segment_dir = segment::directory(dir);
    let manifest = Manifest::open(&rt, dir).await?;
    if manifest.is_new() {
        // Before the manifest's first edit; a log that has one has them.
        for dir in [&wal_dir, &segment_dir] {
            rt.create_dir_all(dir).await.map_err(OpenError::io("create", dir))?;
        }
    }
    let id = manifest.log_id();
    let clean = manifest.state().clean;
    let found = if clean {
        replay::open_files(&rt, &wal_dir).await?
    } else {
        let state = manifest.state().clone();
        replay::read(&rt, &wal_dir, id, &state).await?
    };
    if manifest.is_new() && (!found.files.is_empty() || has_segments(&rt, &segment_dir).await?) {
        return Err(OpenError::Rootless { dir: dir.display().to_string() });
    }
    for place in &found.damage.places {
        tracing::error!("damage in the write-ahead log: {place}");
    }
    for stranger in &found.strangers {
        tracing::warn!("{} is not a file of this log; it is left alone", stranger.display());
    }

    let mut recovery = Recovery::from_manifest(&manifest.state(), rt.now());
    let apply = async |edits| {
        let applied = manifest.apply_all(edits).await;
        applied.map_err(|error| LogFailed::new("writing the manifest of", dir, error))
    };
    if !planted("clean for ever") {
        apply(vec![Edit::Open]).await?;
    }
    die_at("log opened");
    recovery.replay(&rt, &found, id);
    let decisions = recovery.decisions(&manifest.state(), &found);
    if !decisions.is_empty() {
        apply(decisions).await?;
        die_at("tail cut");
    }
    remove_garbage(&rt, &segment_dir, &manifest).await?;
    let wal_found = {
        let state = manifest.state();
        let lsn_last = found.last.as_ref().map_or(state.flushed.lsn, |last| last.lsn);
        let lsn_next = state.next_lsn.max(lsn_last.max(found.lsn_seen_max) + 1);
        let tails = found.last.as_ref().map_or_else(Vec::new, |last| last.tails.clone());
        wal::Found { lsn_next, lsn_last, tails }
    };
    let lsn_last = wal_found.lsn_last;
    let (sealed, wal_files) = seal(&rt, found, recovery.memtables);
    let space = Rc::new(DiskSpace::new(&options, rt.block_bytes()));
    let (file_bytes, files_max) = (options.wal_file_bytes() as u64, options.wal_files_max());
    let wal_files = Rc::new(Files::new(rt.clone(), wal_dir, file_bytes, files_max, space.clone(), wal_files));
    let first = wal_files.first().await?;
    let memtables = Memtables::new(sealed, first, options.memtable_bytes, options.wal_files_max());
    let writes = Rc::new(Writes::default());
    let wal = Wal::new(rt.clone(), id, wal_files, memtables, wal_found, options.memtable_bytes, Rc::clone(&writes));
    let flushed_lsn = manifest.state().flushed.lsn;
    let shared = Rc::new(Shared {
        rt: rt.clone(),
        dir: dir.to_owned(),
        id,
        batch_bytes_max: options.batch_bytes_max.min(options.wal_file_bytes() / 4),
        wal: Rc::new(wal),
        segments: Segments::beside(&rt, segment_dir, id, options.cache_bytes, writes),
        segment_map: SegmentMap::default(),
        manifest,
        partitions: RefCell::default(),
        settings: KnownSettings::default(),
        found: RefCell::new(recovery.states),
        cutting: Lock::default(),
        maintenance: Lock::default(),
        mergeable: Notify::default(),
        changes: Cell::new(0),
        dead: RefCell::default(),
        unreadable: RefCell::default(),
        damaged: RefCell::default(),
        space,
        hold: Hold::default(),
        flushed_lsn: Cell::new(flushed_lsn),
        quiet_since_lsn: Cell::new(None),
        recovered_lsn: lsn_last,
        tasks: RefCell::default(),
        counters: Counters::default(),
        options,
    });
    start_tasks(&shared, lsn_last);
    Ok(Log(shared))
}

/// Starts what runs as long as the log is open. A task that fails fails the log.
fn start_tasks<R: Runtime>(shared: &Rc<Shared<R>>, lsn_last: Lsn) {
    let guard = |task: Result<(), LogFailed>, wal: Rc<Wal<R>>| {
        if let Err(failed) = task {
            wal.fail(failed);
        }
    };
    let (rt, wal) = (&shared.rt, &shared.wal);
    let writer = {
        let wal = wal.clone();
        async move { guard(wal.clone().run_writer(lsn_last).await, wal) }
    };
    // Behind an unclean stop, what was found last may have no witness yet.
    let marker = wal.clone().run_marker(shared.flushed_lsn.get());
    let preparer = {
        let wal = wal.clone();
        async move { guard(wal.files.clone().run_preparer().await, wal) }
    };
    let prewriter = {
        let wal = wal.clone();
        async move { guard(wal.files.clone().run_prewriter().await, wal) }
    };
    let flusher = {
        let (shared, wal) = (shared.clone(), wal.clone());
        async move { guard(flush::run(shared).await, wal) }
    };
    let clock = flush::run_clock(shared.clone());
    let space = disk_space::watch(shared.clone());
    let merger = {
        let (shared, wal) = (shared.clone(), wal.clone());
        async move { guard(crate::compaction::worker::run(shared).await, wal) }
    };
    drop(rt.spawn_background(crate::compaction::worker::run_clock(Rc::downgrade(shared))));
    let retention = {
        let (shared, wal) = (shared.clone(), wal.clone());
        async move { guard(crate::retention::worker::run(shared).await, wal) }
    };
    let holder = {
        let (shared, wal) = (shared.clone(), wal.clone());
        async move { guard(hold::run(shared).await, wal) }
    };
    *shared.tasks.borrow_mut() = vec![
        rt.spawn(writer),
        rt.spawn(marker),
        rt.spawn(preparer),
        rt.spawn_background(prewriter),
        rt.spawn_background(flusher),
        rt.spawn_background(clock),
        rt.spawn_background(space),
        rt.spawn_background(merger),
        rt.spawn_background(retention),
        rt.spawn_background(holder),
    ];
}

impl Known for ManifestState {
    fn flushed_lsn(&self) -> Lsn {
        self.flushed.lsn
    }

    fn cut(&self, salt: u64) -> Option<Lsn> {
        self.cuts.iter().filter(|cut| cut.salt == salt).map(|cut| cut.lsn).min()
    }
}

/// The log's partitions and memtables while they are put together.
struct Recovery<R: Runtime> {
    states: BTreeMap<PartitionId, Rc<State>>,
    /// One for each WAL file found, in the same order.
    memtables: Vec<Memtable<R>>,
    reservations: BTreeMap<PartitionId, u64>,
    refused: BTreeMap<PartitionId, Refusal>,
    /// How far damage shows that partitions reached, though nothing of it was found.
    reached: BTreeMap<PartitionId, u64>,
    truncated: Vec<(PartitionId, u64)>,
    /// An earlier recovery has dealt with every group below.
    lsn_new: Lsn,
    dropped: BTreeMap<PartitionId, Lsn>,
    now: Instant,
}

impl<R: Runtime> Recovery<R> {
    fn from_manifest(manifest: &ManifestState, now: Instant) -> Self {
        let mut recovery = Self {
            states: BTreeMap::new(),
            memtables: Vec::new(),
            reservations: BTreeMap::new(),
            refused: BTreeMap::new(),
            reached: BTreeMap::new(),
            truncated: Vec::new(),
            lsn_new: manifest.next_lsn,
            dropped: manifest.dropped.clone(),
            now,
        };
        for (&id, known) in &manifest.partitions {
            let state = State::new(id);
            state.recovered(known.log_start, known.flushed_end);
            state.lost.replace(known.lost.clone());
            state.set_epochs(known.epochs.clone());
            if let Some(refusal) = known.refused {
                recovery.refused.insert(id, refusal);
            }
            if known.reserved_end > 0 {
                recovery.reservations.insert(id, known.reserved_end);
            }
            if !known.producers.is_empty() {
                match Producers::decode(&known.producers, PRODUCERS_MAX, now) {
                    Ok(producers) => drop(state.producers.replace(producers)),
                    Err(error) => tracing::error!("producers of partition {id} are forgotten: {error}"),
                }
            }
            recovery.states.insert(id, Rc::new(state));
        }
        recovery
    }

    /// Applies the WAL's groups in the order of their LSN.
    fn replay(&mut self, rt: &R, found: &replay::Found<R>, log_id: u128) {
        self.memtables.resize_with(found.files.len(), Memtable::default);
        let mut groups: Vec<(usize, &FoundGroup<R::Frozen>)> = found
            .files
            .iter()
            .enumerate()
            .flat_map(|(file, found)| found.groups.iter().map(move |group| (file, group)))
            .collect();
        groups.sort_by_key(|(_, group)| group.lsn);
        for (file, found_group) in groups {
            for &touched in found.damage.touched.get(&found_group.lsn).into_iter().flatten() {
                self.refuse(touched);
            }
            let salt = found.files[file].file.salt;
            let group = Group::parse(&found_group.bytes, log_id, salt).expect("it was parsed when it was found");
            let number = self.memtables[file].add_group(found_group.lsn, found_group.bytes.clone());
            for (index, (entry, range)) in group.entries().enumerate() {
                let lsn = found_group.lsn;
                let void = self.dropped.get(&entry.partition).is_some_and(|&dropped| lsn <= dropped);
                if !void && !found_group.damaged.contains(&(index as u32)) {
                    self.apply(file, number, lsn, entry, &found_group.bytes, range);
                }
            }
            let entries_end = group.header.directory_position as usize;
            self.memtables[file].pack(number, entries_end, || rt.block(0));
        }
    }

    fn apply(&mut self, file: usize, group: usize, lsn: Lsn, entry: Entry, bytes: &R::Frozen, range: Range<usize>) {
        let id = entry.partition;
        match entry.kind {
            EntryKind::Batch => {
                let state = self.state(id);
                state.skip_lost();
                state.skip_deleted(entry.base_offset);
                if entry.base_offset != state.log_end() {
                    // What lies between is in a group that is missing, or this one is not what the log wrote.
                    self.refuse(Touched::Partition(id, entry.next_offset));
                    if entry.base_offset < state.log_end() {
                        return;
                    }
                }
                state.begin_epoch(entry.leader_epoch, entry.base_offset);
                state.replayed_to(entry.next_offset);
                let batch = Batch::parse_one(&bytes[range.clone()]).expect("its entry holds");
                let header = batch.header();
                if header.producer != Producer::NONE {
                    state.producers.borrow_mut().record(&Sequence::of(header), entry.base_offset, lsn, self.now);
                }
                self.memtables[file].put(id, slot_of(bytes, range, group));
            }
            EntryKind::Truncate => {
                self.memtables.iter_mut().for_each(|memtable| memtable.truncate(id, entry.next_offset));
                let state = self.state(id);
                state.cut_to(entry.next_offset);
                state.cut_producers(entry.next_offset);
                // One that an earlier recovery met is in the manifest; what was lost since then stays lost.
                if lsn >= self.lsn_new {
                    state.forget_lost(entry.next_offset);
                    self.truncated.push((id, entry.next_offset));
                }
                // Damage behind the cut is void with all else there.
                self.refused.retain(|&refused, refusal| refused != id || refusal.from < entry.next_offset);
                self.reached.remove(&id);
            }
            EntryKind::Drop => {
                self.memtables.iter_mut().for_each(|memtable| memtable.remove(id));
                self.states.remove(&id);
                self.reservations.remove(&id);
                self.refused.remove(&id);
                self.dropped.insert(id, lsn);
            }
            EntryKind::Reserve => {
                let end = self.reservations.entry(id).or_default();
                *end = entry.next_offset.max(*end);
            }
            EntryKind::LogStart => self.state(id).raise_log_start(entry.base_offset),
            EntryKind::Marker | EntryKind::Edit => {}
        }
    }

    /// Refuses what damage touched, from the last offset proven before it.
    fn refuse(&mut self, touched: Touched) {
        let (ids, from, evidence) = match touched {
            Touched::Entry(id, from, _) => (vec![id], Some(from), Evidence::Directory),
            Touched::Partition(id, _) => (vec![id], None, Evidence::Successor),
            Touched::Any => (self.states.keys().copied().collect(), None, Evidence::Nothing),
        };
        for id in ids {
            // One that was dropped may have begun again since.
            if self.dropped.contains_key(&id) && !self.states.contains_key(&id) {
                continue;
            }
            if let Touched::Entry(_, _, end) | Touched::Partition(_, end) = touched {
                let reached = self.reached.entry(id).or_default();
                *reached = end.max(*reached);
            }
            let state = self.state(id);
            let from = from.unwrap_or_else(|| state.log_end()).min(state.log_end());
            let refusal = self.refused.entry(id).or_insert(Refusal { from, evidence });
            if from < refusal.from {
                *refusal = Refusal { from, evidence };
            }
        }
    }

    /// What recovery decided, as manifest edits; the partitions change accordingly.
    fn decisions(&mut self, manifest: &ManifestState, found: &replay::Found<R>) -> Vec<Edit> {
        let mut edits = if planted("no cut") { Vec::new() } else { self.cuts(found) };
        self.states.values().for_each(|state| {
            state.raise_log_start(state.log_start());
            // Behind that: what is lost may be known from the log start on only.
            state.skip_lost();
        });
        let dropped = self.dropped.iter().filter(|(id, lsn)| manifest.dropped.get(id) != Some(lsn));
        edits.extend(dropped.map(|(&partition, &lsn)| Edit::Drop { partition, lsn }));
        let truncated = self.truncated.iter().filter(|(id, _)| self.states.contains_key(id));
        edits.extend(truncated.map(|&(partition, next_offset)| Edit::Clip { partition, next_offset }));
        // A flush tells the log start only of partitions that it has batches of.
        edits.extend(self.states.iter().filter_map(|(&partition, state)| {
            let known = manifest.partitions.get(&partition).map_or(0, |known| known.log_start);
            let log_start = state.log_start();
            (log_start > known).then_some(Edit::LogStart { partition, log_start })
        }));
        for (&partition, &end) in &self.reservations {
            let Some(state) = self.states.get(&partition) else { continue };
            let offsets = state.log_end()..end;
            if !offsets.is_empty() && !planted("no reservation") {
                state.lose(offsets.clone());
                edits.push(Edit::Lost { partition, offsets });
            }
        }
        for (&partition, state) in &self.states {
            let known = manifest.partitions.get(&partition).and_then(|known| known.refused);
            match (known, self.refused.get(&partition).copied()) {
                (known, Some(refusal)) => {
                    // Offsets that were given out are not given out again, whatever became of their records.
                    let reached = self.reached.get(&partition).copied().unwrap_or(0);
                    if reached > state.log_end() && !planted("forget how far damage reaches") {
                        state.replayed_to(reached);
                    }
                    state.set_status(Status::Refused { from: refusal.from });
                    edits.extend((known != Some(refusal)).then_some(Edit::Refuse { partition, refusal }));
                }
                // A truncation cut off what was damaged, and the stop came before it was noted.
                (Some(known), None) => edits.push(Edit::Accept { partition, next_offset: known.from }),
                (None, None) => {}
            }
        }
        edits
    }

    /// Cuts the file that holds the last valid group behind it, and every file with traces of a later one: whatever may
    /// surface there is void.
    fn cuts(&self, found: &replay::Found<R>) -> Vec<Edit> {
        let lsn_last = found.last.as_ref().map_or(0, |last| last.lsn);
        let next_lsn = lsn_last.max(found.lsn_seen_max) + 1;
        let is_cut = |file: &&replay::FoundFile<R>| {
            found.last.as_ref().is_some_and(|last| last.salt == file.file.salt) || file.lsn_seen_max > lsn_last
        };
        let cut = |file: &replay::FoundFile<R>| {
            let lsn = file.groups.last().map_or(lsn_last, |group| group.lsn);
            Edit::Cut(Cut { salt: file.file.salt, lsn, next_lsn })
        };
        found.files.iter().filter(is_cut).map(cut).collect()
    }

    fn state(&mut self, id: PartitionId) -> Rc<State> {
        self.states.entry(id).or_insert_with(|| Rc::new(State::new(id))).clone()
    }
}

/// The files with groups that are not flushed become sealed memtables, oldest first; the others are free.
fn seal<R: Runtime>(
    rt: &R,
    found: replay::Found<R>,
    memtables: Vec<Memtable<R>>,
) -> (VecDeque<Sealed<R>>, files::Found<R>) {
    let mut memtables = memtables.into_iter();
    let mut sealed = Vec::new();
    let mut free = Vec::new();
    for FoundFile { file, groups, .. } in found.files {
        let memtable = memtables.next().unwrap_or_default();
        if groups.is_empty() {
            free.push(file);
        } else {
            sealed.push(Sealed { memtable, file: Rc::new(file), sealed_at: rt.now() });
        }
    }
    sealed.sort_by_key(|sealed| sealed.memtable.last_lsn());
    let held = sealed.len();
    (sealed.into(), files::Found { free, held, sequence_next: found.sequence_next })
}

/// Whether there are files of segments, whatever is in them.
async fn has_segments<R: Runtime>(rt: &R, dir: &Path) -> Result<bool, OpenError> {
    let names = rt.list_names(dir).await.map_err(OpenError::io("list", dir))?;
    Ok(names.iter().any(|name| segment::id_of_file_name(name).is_some()))
}

/// Deletes segments that an unfinished flush or merge left, and names files that nobody knows.
async fn remove_garbage<R: Runtime>(rt: &R, dir: &Path, manifest: &Manifest) -> Result<(), OpenError> {
    let names = rt.list_names(dir).await.map_err(OpenError::io("list", dir))?;
    let live: BTreeSet<_> = manifest.state().segments.iter().map(|segment| segment.id).collect();
    for name in names {
        let id = segment::id_of_file_name(&name);
        if id.is_some_and(|id| live.contains(&id)) {
            continue;
        }
        let path = dir.join(&name);
        let fate = id.map_or(Fate::Unknown, |id| manifest.state().fate(id));
        match fate {
            Fate::Live => {}
            Fate::Delete => rt.remove_file(&path).await.map_err(OpenError::io("remove", &path))?,
            Fate::Unknown if planted("adopt strangers") => {
                rt.remove_file(&path).await.map_err(OpenError::io("remove", &path))?;
            }
            Fate::Unknown => tracing::warn!("{} is not a segment of this log; it is left alone", path.display()),
        }
    }
    let segments: Vec<_> = manifest.state().obsolete.iter().copied().collect();
    if !segments.is_empty() {
        rt.sync_dir(dir).await.map_err(OpenError::io("sync", dir))?;
        let deleted = manifest.apply(Edit::Deleted { segments }).await;
        deleted.map_err(|error| LogFailed::new("writing the manifest in", dir, error))?;
    }
    Ok(())
}
