//! The storage model of the simulated disk, rule by rule: what must survive does so for every seed, and what may be
//! lost is lost for some seed and kept for another.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    future::{Future, poll_fn},
    io,
    pin::pin,
    rc::Rc,
    task::Poll,
    time::Duration,
};

use runtime::{
    Block as _, File, OpenMode, Runtime,
    sim::{
        self, Crash, RunError, SimRuntime, Simulation,
        disk::{Disk, Effect, Fault, Odometer, OpKind, Reached},
    },
};

const SEEDS: u64 = 100;
const PAGE: usize = 4096;
const SECTOR: usize = 512;

// ---- Writes and syncs -------------------------------------------------------------------------------------------

#[test]
fn a_durable_write_survives() {
    for disk in after(Crash::PowerCut, async |runtime| {
        let file = create(&runtime, "d/f", OpenMode::CreateDurable).await;
        file.write_durable(pages(&runtime, 1, 3), PAGE as u64).await.unwrap();
    }) {
        let bytes = disk.read("d/f").expect("its creation was synced");
        assert_eq!((&bytes[..PAGE], &bytes[PAGE..]), (&[0; PAGE][..], &[1; 3 * PAGE][..]));
    }
}

#[test]
fn each_sector_of_an_unsynced_write_is_old_or_new() {
    let mut kept = BTreeSet::new();
    for disk in after(Crash::PowerCut, async |runtime| {
        let file = create(&runtime, "d/f", OpenMode::CreateNew).await;
        file.write(pages(&runtime, 1, 2), 0).await.unwrap();
        file.sync().await.unwrap();
        file.write(pages(&runtime, 2, 2), 0).await.unwrap();
    }) {
        let bytes = disk.read("d/f").unwrap();
        let sectors = bytes.chunks(SECTOR).map(|sector| {
            assert!(sector == [1; SECTOR] || sector == [2; SECTOR], "a sector is neither old nor new: {sector:?}");
            sector[0] == 2
        });
        kept.insert(sectors.collect::<Vec<_>>());
    }
    let all = kept.len();
    assert!(kept.contains(&vec![true; 16]) && kept.contains(&vec![false; 16]) && all > 20, "{all} outcomes");
}

#[test]
fn a_write_in_flight_may_leave_garbage_and_nothing_beyond_it() {
    let mut garbage = 0;
    for disk in after(Crash::PowerCut, async |runtime| {
        let file = create(&runtime, "d/f", OpenMode::CreateDurable).await;
        file.write_durable(pages(&runtime, 1, 3), 0).await.unwrap();
        begin(file.write_durable(pages(&runtime, 2, 1), PAGE as u64)).await;
    }) {
        let bytes = disk.read("d/f").unwrap();
        assert!(bytes[..PAGE] == [1; PAGE] && bytes[2 * PAGE..] == [1; PAGE]);
        garbage += bytes.iter().filter(|byte| !matches!(byte, 1 | 2)).count();
    }
    assert!(garbage > 0);
}

#[test]
fn a_synced_write_survives() {
    for disk in after(Crash::PowerCut, async |runtime| {
        let file = create(&runtime, "d/f", OpenMode::CreateNew).await;
        file.write(pages(&runtime, 1, 2), 0).await.unwrap();
        file.sync().await.unwrap();
    }) {
        assert_eq!(disk.read("d/f").unwrap(), [1; 2 * PAGE]);
    }
}

#[test]
fn a_sync_covers_only_what_completed_before_it_began() {
    let mut lost = 0;
    for seed in 0..SEEDS {
        let (simulation, node, disk) = machine(seed);
        let latency = Latency(Rc::clone(&disk));
        let write_during_sync = async move |runtime| {
            let file = create(&runtime, "d/f", OpenMode::CreateNew).await;
            file.allocate(2 * PAGE as u64).await.unwrap();
            file.write(pages(&runtime, 1, 1), 0).await.unwrap();
            let mut sync = pin!(file.sync());
            latency.of(1_000_000, begin(sync.as_mut())).await;
            latency.of(1_000, file.write(pages(&runtime, 2, 1), PAGE as u64)).await.unwrap();
            sync.await.unwrap();
        };
        simulation.block_on(node, write_during_sync).unwrap();
        simulation.crash(node, Crash::PowerCut);
        let bytes = disk.read("d/f").unwrap();
        assert_eq!(bytes[..PAGE], [1; PAGE]);
        lost += u64::from(bytes[PAGE..] != [2; PAGE]);
    }
    assert!(0 < lost && lost < SEEDS, "lost {lost} times");
}

#[test]
fn a_durable_write_syncs_nothing_but_itself() {
    let mut lost = 0;
    for disk in after(Crash::PowerCut, async |runtime| {
        let plain = create(&runtime, "d/f", OpenMode::CreateNew).await;
        plain.write(pages(&runtime, 1, 2), 0).await.unwrap();
        let durable = runtime.open("d/f".as_ref(), OpenMode::Durable).await.unwrap();
        durable.write_durable(pages(&runtime, 2, 1), PAGE as u64).await.unwrap();
    }) {
        let bytes = disk.read("d/f").unwrap();
        assert_eq!(bytes[PAGE..], [2; PAGE], "an older unsynced write may not come back");
        lost += u64::from(bytes[..PAGE] != [1; PAGE]);
    }
    assert!(0 < lost && lost < SEEDS, "lost {lost} times");
}

#[test]
fn an_unsynced_length_is_old_or_new_and_unwritten_bytes_are_zeros() {
    let mut lens = BTreeSet::new();
    for disk in after(Crash::PowerCut, async |runtime| {
        let file = create(&runtime, "d/f", OpenMode::CreateDurable).await;
        file.allocate(PAGE as u64).await.unwrap();
        file.sync().await.unwrap();
        file.allocate(10_000).await.unwrap();
    }) {
        let bytes = disk.read("d/f").unwrap();
        assert!(bytes.iter().all(|&byte| byte == 0));
        lens.insert(bytes.len());
    }
    assert_eq!(lens.into_iter().collect::<Vec<_>>(), [PAGE, 10_000]);
}

#[test]
fn an_unsynced_extension_grows_the_file_by_any_of_its_pages() {
    let mut lens = BTreeSet::new();
    for disk in after(Crash::PowerCut, async |runtime| {
        let file = create(&runtime, "d/f", OpenMode::CreateNew).await;
        file.write(pages(&runtime, 1, 2), 0).await.unwrap();
    }) {
        lens.insert(disk.read("d/f").unwrap().len());
    }
    assert_eq!(lens.into_iter().collect::<Vec<_>>(), [0, PAGE, 2 * PAGE]);
}

#[test]
fn writes_complete_in_any_order_and_reads_see_the_last() {
    let mut last = BTreeSet::new();
    for seed in 0..SEEDS {
        let (simulation, node, disk) = machine(seed);
        disk.set_options(sim::disk::Options { slow_one_in: 0, ..Default::default() });
        let write_at_once = async |runtime: SimRuntime| {
            let file = create(&runtime, "d/f", OpenMode::CreateNew).await;
            begin(file.write(pages(&runtime, 1, 1), 0)).await;
            begin(file.write(pages(&runtime, 2, 1), 0)).await;
            runtime.sleep(Duration::from_secs(1)).await;
            file.read(7, 1).await.unwrap()[0]
        };
        last.insert(simulation.block_on(node, write_at_once).unwrap());
    }
    assert_eq!(last, [1, 2].into());
}

#[test]
fn a_write_goes_on_when_its_future_is_dropped() {
    sim::block_on(1, async |runtime| {
        let file = create(&runtime, "d/f", OpenMode::CreateNew).await;
        begin(file.write(pages(&runtime, 1, 1), 0)).await;
        runtime.sleep(Duration::from_secs(1)).await;
        assert_eq!(file.read(0, PAGE).await.unwrap()[..], [1; PAGE]);
    });
}

#[test]
fn reads_end_where_the_file_does() {
    sim::block_on(1, async |runtime| {
        let file = create(&runtime, "d/f", OpenMode::CreateNew).await;
        file.write(pages(&runtime, 1, 1), PAGE as u64).await.unwrap();
        assert_eq!(file.read(PAGE as u64 - 2, 4).await.unwrap()[..], [0, 0, 1, 1]);
        for (position, len) in [(2 * PAGE as u64, 1), (0, 2 * PAGE + 1), (u64::MAX, 1)] {
            let error = file.read(position, len).await.err().expect("behind the end");
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    });
}

#[test]
#[should_panic(expected = "not multiples of 4096")]
fn unaligned_writes_are_refused() {
    sim::block_on(1, async |runtime| {
        let file = create(&runtime, "d/f", OpenMode::CreateNew).await;
        let _refused = file.write(pages(&runtime, 1, 1), 512).await;
    });
}

#[test]
#[should_panic(expected = "durable write to a file opened CreateNew")]
fn durable_writes_need_a_durable_file() {
    sim::block_on(1, async |runtime| {
        let file = create(&runtime, "d/f", OpenMode::CreateNew).await;
        let _refused = file.write_durable(pages(&runtime, 1, 1), 0).await;
    });
}

// ---- Names ------------------------------------------------------------------------------------------------------

#[test]
fn an_unsynced_creation_is_kept_or_lost_whatever_was_synced_in_the_file() {
    let outcomes = names_after(async |runtime| {
        runtime.create_dir_all("d".as_ref()).await.unwrap();
        let file = runtime.open("d/f".as_ref(), OpenMode::CreateDurable).await.unwrap();
        file.write_durable(pages(&runtime, 1, 1), 0).await.unwrap();
        file.sync().await.unwrap();
    });
    assert_eq!(outcomes, ["", "d/f"]);
}

#[test]
fn an_unsynced_rename_leaves_one_of_both_names() {
    let outcomes = names_after(async |runtime| {
        create(&runtime, "d/a", OpenMode::CreateDurable).await;
        runtime.rename("d/a".as_ref(), "d/b".as_ref()).await.unwrap();
    });
    assert_eq!(outcomes, ["d/a", "d/b"]);
}

#[test]
fn a_synced_rename_survives() {
    let outcomes = names_after(async |runtime| {
        create(&runtime, "d/a", OpenMode::CreateDurable).await;
        runtime.rename("d/a".as_ref(), "d/b".as_ref()).await.unwrap();
        runtime.sync_dir("d".as_ref()).await.unwrap();
    });
    assert_eq!(outcomes, ["d/b"]);
}

#[test]
fn a_directory_sync_covers_only_what_completed_before_it_began() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..SEEDS {
        let (simulation, node, disk) = machine(seed);
        let latency = Latency(Rc::clone(&disk));
        let rename_during_sync = async move |runtime| {
            create(&runtime, "d/a", OpenMode::CreateDurable).await;
            let mut sync = pin!(runtime.sync_dir("d".as_ref()));
            latency.of(1_000_000, begin(sync.as_mut())).await;
            latency.of(1_000, runtime.rename("d/a".as_ref(), "d/b".as_ref())).await.unwrap();
            sync.await.unwrap();
        };
        simulation.block_on(node, rename_during_sync).unwrap();
        simulation.crash(node, Crash::PowerCut);
        outcomes.insert(disk.files().join(" "));
    }
    assert_eq!(outcomes.into_iter().collect::<Vec<_>>(), ["d/a", "d/b"]);
}

#[test]
fn an_unsynced_replacement_leaves_the_old_content_or_the_new() {
    let mut contents = BTreeSet::new();
    for disk in after(Crash::PowerCut, async |runtime| {
        for (path, byte) in [("d/old", 1), ("d/new", 2)] {
            let file = create(&runtime, path, OpenMode::CreateDurable).await;
            file.write_durable(pages(&runtime, byte, 1), 0).await.unwrap();
        }
        runtime.rename("d/new".as_ref(), "d/old".as_ref()).await.unwrap();
    }) {
        contents.insert((disk.read("d/old").unwrap()[0], disk.read("d/new").map(|bytes| bytes[0])));
    }
    assert_eq!(contents.into_iter().collect::<Vec<_>>(), [(1, Some(2)), (2, None)]);
}

#[test]
fn an_unsynced_removal_may_come_back_with_its_content() {
    let mut contents = BTreeSet::new();
    for disk in after(Crash::PowerCut, async |runtime| {
        let file = create(&runtime, "d/f", OpenMode::CreateDurable).await;
        file.write_durable(pages(&runtime, 1, 1), 0).await.unwrap();
        drop(file);
        runtime.remove_file("d/f".as_ref()).await.unwrap();
        assert!(runtime.list_dir("d".as_ref()).await.unwrap().is_empty());
    }) {
        contents.insert(disk.read("d/f").map(|bytes| bytes[0]));
    }
    assert_eq!(contents.into_iter().collect::<Vec<_>>(), [None, Some(1)]);
}

#[test]
fn a_lost_change_takes_later_ones_of_its_names_with_it_and_no_others() {
    let outcomes = names_after(async |runtime| {
        runtime.create_dir_all("d".as_ref()).await.unwrap();
        for path in ["d/a", "d/x"] {
            runtime.open(path.as_ref(), OpenMode::CreateNew).await.unwrap();
        }
        runtime.rename("d/a".as_ref(), "d/b".as_ref()).await.unwrap();
    });
    assert_eq!(outcomes, ["", "d/a", "d/a d/x", "d/b", "d/b d/x", "d/x"]);
}

#[test]
fn a_name_is_not_taken_by_another_file_while_its_own_may_come_back() {
    let mut outcomes = BTreeSet::new();
    for disk in after(Crash::PowerCut, async |runtime| {
        let file = create(&runtime, "d/a", OpenMode::CreateDurable).await;
        file.write_durable(pages(&runtime, 1, 1), 0).await.unwrap();
        runtime.rename("d/a".as_ref(), "d/b".as_ref()).await.unwrap();
        runtime.open("d/a".as_ref(), OpenMode::CreateNew).await.unwrap();
    }) {
        outcomes.insert(["d/a", "d/b"].map(|path| disk.read(path).map(|bytes| bytes.len())));
    }
    assert_eq!(outcomes, [[Some(PAGE), None], [None, Some(PAGE)], [Some(0), Some(PAGE)]].into());
}

#[test]
fn a_rename_between_directories_needs_both_synced() {
    async fn move_file(runtime: &SimRuntime) {
        create(runtime, "d/f", OpenMode::CreateNew).await;
        runtime.create_dir_all("e".as_ref()).await.unwrap();
        runtime.rename("d/f".as_ref(), "e/f".as_ref()).await.unwrap();
        runtime.sync_dir("e".as_ref()).await.unwrap();
    }
    assert_eq!(names_after(async |runtime| move_file(&runtime).await), ["d/f", "e/f"]);
    let both = names_after(async |runtime| {
        move_file(&runtime).await;
        runtime.sync_dir("d".as_ref()).await.unwrap();
    });
    assert_eq!(both, ["e/f"]);
}

#[test]
fn names_in_flight_are_kept_or_lost() {
    let outcomes = names_after(async |runtime| {
        create(&runtime, "d/a", OpenMode::CreateNew).await;
        begin(runtime.rename("d/a".as_ref(), "d/b".as_ref())).await;
    });
    assert_eq!(outcomes, ["d/a", "d/b"]);
}

#[test]
fn names_that_cannot_be_are_refused() {
    sim::block_on(1, async |runtime| {
        create(&runtime, "d/f", OpenMode::CreateNew).await;
        runtime.create_dir_all("d/below/deep".as_ref()).await.unwrap();
        create(&runtime, "d/below/g", OpenMode::CreateNew).await;
        let open = async |path: &str, mode| runtime.open(path.as_ref(), mode).await.err().map(|error| error.kind());
        assert_eq!(open("d/f", OpenMode::CreateDurable).await, Some(io::ErrorKind::AlreadyExists));
        assert_eq!(open("d/g", OpenMode::Read).await, Some(io::ErrorKind::NotFound));
        assert_eq!(open("e/g", OpenMode::CreateNew).await, Some(io::ErrorKind::NotFound));
        assert_eq!(open("./d//f", OpenMode::Read).await, None);
        let names = runtime.list_dir("d/".as_ref()).await.unwrap();
        assert_eq!(names.iter().map(|entry| &entry.name).collect::<Vec<_>>(), ["f"]);
        assert!(runtime.list_dir("e".as_ref()).await.is_err());
    });
}

#[test]
fn a_removed_file_lives_while_it_is_open() {
    sim::block_on(1, async |runtime| {
        let file = create(&runtime, "d/f", OpenMode::CreateNew).await;
        file.write(pages(&runtime, 1, 1), 0).await.unwrap();
        runtime.remove_file("d/f".as_ref()).await.unwrap();
        runtime.sync_dir("d".as_ref()).await.unwrap();
        assert_eq!(file.read(0, 1).await.unwrap()[..], [1]);
        let space = runtime.space("d".as_ref()).await.unwrap();
        assert_eq!(space.total_bytes - space.free_bytes, PAGE as u64);
        drop(file);
        let space = runtime.space("d".as_ref()).await.unwrap();
        assert_eq!(space.total_bytes, space.free_bytes);
    });
}

#[test]
fn a_handle_that_outlived_its_node_closes_nothing() {
    let (simulation, node, _) = machine(1);
    let open = async |runtime: SimRuntime| create(&runtime, "d/f", OpenMode::CreateNew).await;
    let outlived = simulation.block_on(node, open).unwrap();
    simulation.crash(node, Crash::Kill);
    let use_again = async move |runtime: SimRuntime| {
        let file = runtime.open("d/f".as_ref(), OpenMode::Read).await.unwrap();
        drop(outlived);
        runtime.remove_file("d/f".as_ref()).await.unwrap();
        runtime.sync_dir("d".as_ref()).await.unwrap();
        assert_eq!(file.len().await.unwrap(), 0);
    };
    simulation.block_on(node, use_again).unwrap();
}

// ---- Kills ------------------------------------------------------------------------------------------------------

#[test]
fn a_kill_keeps_what_completed_and_a_later_power_cut_may_take_it() {
    let mut lost = 0;
    for seed in 0..SEEDS {
        let (simulation, node) = run(seed, async |runtime| {
            let file = create(&runtime, "d/f", OpenMode::CreateNew).await;
            file.allocate(PAGE as u64).await.unwrap();
            file.write(pages(&runtime, 1, 1), 0).await.unwrap();
        });
        let disk = simulation.disk(node);
        simulation.crash(node, Crash::Kill);
        assert_eq!(disk.read("d/f").unwrap(), [1; PAGE]);
        simulation.crash(node, Crash::PowerCut);
        lost += u64::from(disk.read("d/f").unwrap() != [1; PAGE]);
    }
    assert!(0 < lost && lost < SEEDS, "lost {lost} times");
}

#[test]
fn a_sync_after_a_kill_covers_what_the_dead_process_wrote() {
    for seed in 0..SEEDS {
        let (simulation, node) = run(seed, async |runtime| {
            let file = create(&runtime, "d/f", OpenMode::CreateNew).await;
            file.write(pages(&runtime, 1, 1), 0).await.unwrap();
        });
        simulation.crash(node, Crash::Kill);
        let recover = async |runtime: SimRuntime| {
            runtime.open("d/f".as_ref(), OpenMode::Durable).await.unwrap().sync().await.unwrap();
        };
        simulation.block_on(node, recover).unwrap();
        simulation.crash(node, Crash::PowerCut);
        assert_eq!(simulation.disk(node).read("d/f").unwrap(), [1; PAGE]);
    }
}

#[test]
fn a_write_in_flight_at_a_kill_happens_wholly_in_part_or_not_at_all() {
    let mut written = BTreeSet::new();
    for disk in after(Crash::Kill, async |runtime| {
        let file = create(&runtime, "d/f", OpenMode::CreateDurable).await;
        file.allocate(3 * PAGE as u64).await.unwrap();
        begin(file.write_durable(pages(&runtime, 1, 3), 0)).await;
    }) {
        let bytes = disk.read("d/f").unwrap();
        assert!(bytes.chunks(PAGE).all(|page| page == [0; PAGE] || page == [1; PAGE]));
        written.insert(bytes.iter().filter(|&&byte| byte == 1).count() / PAGE);
    }
    assert!(written.contains(&0) && written.contains(&3) && written.len() > 2, "{written:?}");
}

// ---- Faults -----------------------------------------------------------------------------------------------------

#[test]
fn a_failed_sync_gives_up_on_its_writes() {
    let mut lost = 0;
    for seed in 0..SEEDS {
        let (simulation, node) =
            with_faults(seed, &[(OpKind::Sync, 1, Effect::Error(Reached::Nothing))], async |runtime| {
                let file = create(&runtime, "d/f", OpenMode::CreateNew).await;
                file.allocate(PAGE as u64).await.unwrap();
                file.write(pages(&runtime, 1, 1), 0).await.unwrap();
                assert_eq!(file.sync().await.unwrap_err().raw_os_error(), Some(5));
                file.sync().await.unwrap();
                assert_eq!(file.read(0, PAGE).await.unwrap()[..], [1; PAGE]);
            });
        simulation.crash(node, Crash::PowerCut);
        lost += u64::from(simulation.disk(node).read("d/f").unwrap() != [1; PAGE]);
    }
    assert!(0 < lost && lost < SEEDS, "lost {lost} times");
}

#[test]
fn a_failed_write_reaches_the_disk_as_far_as_asked() {
    let written = |reached| -> BTreeSet<usize> {
        let pages_written = (0..SEEDS).map(|seed| {
            let (simulation, node) =
                with_faults(seed, &[(OpKind::Write, 2, Effect::Error(reached))], async |runtime| {
                    let file = create(&runtime, "d/f", OpenMode::CreateDurable).await;
                    file.write_durable(pages(&runtime, 1, 3), 0).await.unwrap();
                    assert_eq!(file.write_durable(pages(&runtime, 2, 3), 0).await.unwrap_err().raw_os_error(), Some(5));
                });
            simulation.disk(node).read("d/f").unwrap().iter().filter(|&&byte| byte == 2).count() / PAGE
        });
        pages_written.collect()
    };
    assert_eq!(written(Reached::Nothing), [0].into());
    assert_eq!(written(Reached::Part), [0, 1, 2].into());
    assert_eq!(written(Reached::All), [3].into());
}

#[test]
fn lost_and_misdirected_writes_report_success() {
    for (effect, elsewhere) in [(Effect::LostWrite, 0), (Effect::MisdirectedWrite, PAGE)] {
        let (simulation, node) = with_faults(1, &[(OpKind::Write, 2, effect)], async |runtime| {
            let file = create(&runtime, "d/f", OpenMode::CreateDurable).await;
            file.write_durable(pages(&runtime, 1, 4), 0).await.unwrap();
            file.write_durable(pages(&runtime, 2, 1), PAGE as u64).await.unwrap();
            assert_eq!(file.read(PAGE as u64, PAGE).await.unwrap()[..], [1; PAGE]);
        });
        let bytes = simulation.disk(node).read("d/f").unwrap();
        assert_eq!(bytes.iter().filter(|&&byte| byte == 2).count(), elsewhere, "{effect:?}");
    }
}

#[test]
fn bits_flip_where_asked() {
    let flipped = |bytes: &[u8]| bytes.iter().map(|byte| (byte ^ 1).count_ones()).sum::<u32>();
    for (kind, kept) in [(OpKind::Read, 0), (OpKind::Write, 1)] {
        let (simulation, node) = with_faults(1, &[(kind, 1, Effect::FlippedBit)], async move |runtime| {
            let file = create(&runtime, "d/f", OpenMode::CreateDurable).await;
            file.write_durable(pages(&runtime, 1, 2), 0).await.unwrap();
            assert_eq!(flipped(&file.read(0, 2 * PAGE).await.unwrap()), 1);
        });
        assert_eq!(flipped(&simulation.disk(node).read("d/f").unwrap()), kept);
    }
}

#[test]
fn a_stale_read_returns_what_was_there_before() {
    with_faults(1, &[(OpKind::Read, 1, Effect::StaleRead)], async |runtime| {
        let file = create(&runtime, "d/f", OpenMode::CreateDurable).await;
        for byte in [1, 2] {
            file.write_durable(pages(&runtime, byte, 1), 0).await.unwrap();
        }
        assert_eq!(file.read(0, PAGE).await.unwrap()[..], [1; PAGE]);
        assert_eq!(file.read(0, PAGE).await.unwrap()[..], [2; PAGE]);
    });
}

#[test]
fn every_kind_of_operation_can_fail() {
    let kinds = [
        OpKind::CreateDir,
        OpKind::Open,
        OpKind::SyncDir,
        OpKind::Allocate,
        OpKind::Write,
        OpKind::Sync,
        OpKind::Length,
        OpKind::Read,
        OpKind::List,
        OpKind::Rename,
        OpKind::Remove,
    ];
    async fn work(runtime: SimRuntime) -> io::Result<()> {
        runtime.create_dir_all("d".as_ref()).await?;
        let file = runtime.open("d/f".as_ref(), OpenMode::CreateNew).await?;
        runtime.sync_dir("d".as_ref()).await?;
        file.allocate(PAGE as u64).await?;
        file.write(pages(&runtime, 1, 1), 0).await?;
        file.sync().await?;
        file.read(0, file.len().await? as usize).await?;
        runtime.list_dir("d".as_ref()).await?;
        runtime.rename("d/f".as_ref(), "d/g".as_ref()).await?;
        runtime.remove_file("d/g".as_ref()).await
    }
    for (nth, kind) in kinds.into_iter().enumerate() {
        for op in [Some(kind), None] {
            let simulation = Simulation::new(nth as u64);
            let node = simulation.add_node();
            let nth = if op.is_some() { 1 } else { nth as u64 + 1 };
            simulation.disk(node).inject(Fault { op, nth, effect: Effect::Error(Reached::Nothing) });
            let error = simulation.block_on(node, work).unwrap().expect_err("one operation fails");
            assert_eq!(error.raw_os_error(), Some(5));
            assert_eq!((simulation.disk(node).faults_fired(), simulation.disk(node).ops(kind)), (1, 1), "{kind:?}");
        }
    }
}

#[test]
fn a_full_disk_refuses_growth_and_nothing_else() {
    let mut options = sim::Options::default();
    options.disk.capacity_bytes = 3 * PAGE as u64;
    let simulation = Simulation::with_options(1, options);
    let node = simulation.add_node();
    let fill = async |runtime: SimRuntime| {
        let file = create(&runtime, "d/f", OpenMode::CreateNew).await;
        file.write(pages(&runtime, 1, 2), 0).await.unwrap();
        let full = |result: io::Result<()>| assert_eq!(result.unwrap_err().kind(), io::ErrorKind::StorageFull);
        full(file.write(pages(&runtime, 2, 2), 2 * PAGE as u64).await);
        full(file.allocate(3 * PAGE as u64 + 1).await);
        file.write(pages(&runtime, 3, 2), 0).await.unwrap();
        file.allocate(3 * PAGE as u64).await.unwrap();
        assert_eq!(runtime.space("d".as_ref()).await.unwrap().free_bytes, 0);
    };
    simulation.block_on(node, fill).unwrap();
}

#[test]
fn damage_shows_and_a_bad_sector_lasts_until_it_is_written() {
    let (simulation, node) = run(1, async |runtime| {
        let file = create(&runtime, "d/f", OpenMode::CreateDurable).await;
        file.write_durable(pages(&runtime, 1, 2), 0).await.unwrap();
    });
    let disk = simulation.disk(node);
    disk.flip_byte("d/f", 10);
    disk.damage("d/f", PAGE as u64 - 1, &[8, 9]);
    disk.damage_sector("d/f", PAGE as u64);
    simulation.crash(node, Crash::PowerCut);
    let look = async |runtime: SimRuntime| {
        let file = runtime.open("d/f".as_ref(), OpenMode::Durable).await.unwrap();
        let bytes = file.read(0, PAGE).await.unwrap();
        assert_eq!((bytes[9], bytes[10], bytes[PAGE - 1]), (1, !1, 8));
        assert_eq!(file.read(0, PAGE + 1).await.err().unwrap().raw_os_error(), Some(5));
        file.write_durable(pages(&runtime, 3, 1), PAGE as u64).await.unwrap();
        assert_eq!(file.read(PAGE as u64, 1).await.unwrap()[..], [3]);
    };
    simulation.block_on(node, look).unwrap();
    disk.damage_len("d/f", 100);
    assert_eq!(disk.read("d/f").unwrap().len(), 100);
    disk.damage_name("d/f");
    assert!(disk.files().is_empty());
}

// ---- Crashes at will --------------------------------------------------------------------------------------------

async fn write_twice(runtime: SimRuntime) {
    let file = create(&runtime, "d/f", OpenMode::CreateDurable).await;
    file.write_durable(pages(&runtime, 1, 1), 0).await.unwrap();
    file.write_durable(pages(&runtime, 2, 1), PAGE as u64).await.unwrap();
}

#[test]
fn a_crash_at_each_step_meets_each_state() {
    let (simulation, node) = run(3, write_twice);
    let steps = simulation.disk(node).steps();
    assert_eq!(steps, 2 * 5, "directory, file, directory sync and two writes begin and end");
    let mut lens = BTreeSet::new();
    for step in 1..=steps {
        let simulation = Simulation::new(3);
        let node = simulation.add_node();
        simulation.disk(node).crash_at_step(step, Crash::PowerCut);
        let crashed =
            simulation.block_on(node, write_twice).is_err_and(|error| matches!(error, RunError::Crashed { .. }));
        assert!(crashed && !simulation.is_up(node), "step {step} is before the end");
        assert_eq!((simulation.live_blocks(node), simulation.disk(node).steps()), (0, step));
        lens.insert(simulation.disk(node).read("d/f").map(|bytes| bytes.len()));
    }
    assert!([None, Some(0), Some(PAGE), Some(2 * PAGE)].iter().all(|len| lens.contains(len)), "{lens:?}");
}

#[test]
fn a_snapshot_can_be_crashed_and_recovered_again_and_again() {
    let images = Rc::new(RefCell::new(Vec::new()));
    let simulation = Simulation::new(1);
    let node = simulation.add_node();
    let taken = Rc::clone(&images);
    simulation.disk(node).on_step(move |_, image| taken.borrow_mut().push(image.clone()));
    simulation.block_on(node, write_twice).unwrap();
    let images = images.take();
    let second_write_in_flight = &images[8];
    let recovered = |seed| {
        let mut image = second_write_in_flight.clone();
        image.power_cut(seed);
        let simulation = Simulation::new(0);
        let node = simulation.add_node();
        simulation.disk(node).restore(image);
        let read = async |runtime: SimRuntime| {
            let file = runtime.open("d/f".as_ref(), OpenMode::Read).await.unwrap();
            file.read(0, file.len().await.unwrap() as usize).await.unwrap().to_vec()
        };
        simulation.block_on(node, read).unwrap()
    };
    let all: BTreeSet<_> = (0..SEEDS).map(recovered).collect();
    assert!(all.len() > 10 && all.iter().all(|bytes| bytes[..PAGE] == [1; PAGE]), "{} outcomes", all.len());
    assert_eq!(recovered(5), recovered(5));
}

#[test]
fn every_state_that_a_power_cut_can_leave_is_enumerable() {
    let (simulation, node) = run(1, async |runtime| {
        let file = create(&runtime, "d/f", OpenMode::CreateNew).await;
        file.write(pages(&runtime, 1, 1), 0).await.unwrap();
        file.sync().await.unwrap();
        file.write(pages(&runtime, 2, 1), 0).await.unwrap();
    });
    let image = simulation.disk(node).snapshot();
    assert_eq!(image.unsynced(), PAGE / SECTOR);
    let mut odometer = Odometer::default();
    let mut states = BTreeSet::new();
    while odometer.next_round() {
        let mut image = image.clone();
        image.power_cut_by(&mut |possible| odometer.choose(possible));
        simulation.crash(node, Crash::PowerCut);
        simulation.disk(node).restore(image);
        states.insert(simulation.disk(node).read("d/f").unwrap());
    }
    assert_eq!(states.len(), 1 << (PAGE / SECTOR));
}

// ---- Helpers ----------------------------------------------------------------------------------------------------

/// Runs `work` on a node's disk.
fn run<F: Future<Output = ()> + 'static>(seed: u64, work: impl FnOnce(SimRuntime) -> F) -> (Simulation, sim::NodeId) {
    with_faults(seed, &[], work)
}

fn with_faults<F: Future<Output = ()> + 'static>(
    seed: u64,
    faults: &[(OpKind, u64, Effect)],
    work: impl FnOnce(SimRuntime) -> F,
) -> (Simulation, sim::NodeId) {
    let (simulation, node, disk) = machine(seed);
    for &(op, nth, effect) in faults {
        disk.inject(Fault { op: Some(op), nth, effect });
    }
    simulation.block_on(node, work).unwrap();
    assert_eq!(disk.faults_fired(), faults.len() as u64);
    (simulation, node)
}

/// What `work` and a crash right behind it leave, for each of many seeds.
fn after<F: Future<Output = ()> + 'static>(
    crash: Crash,
    work: impl Fn(SimRuntime) -> F,
) -> impl Iterator<Item = Rc<Disk>> {
    (0..SEEDS).map(move |seed| {
        let (simulation, node) = run(seed, &work);
        simulation.crash(node, crash);
        simulation.disk(node)
    })
}

/// The sets of files that `work` and a power cut right behind it may leave.
fn names_after<F: Future<Output = ()> + 'static>(work: impl Fn(SimRuntime) -> F) -> Vec<String> {
    let outcomes: BTreeSet<String> = after(Crash::PowerCut, work).map(|disk| disk.files().join(" ")).collect();
    outcomes.into_iter().collect()
}

fn machine(seed: u64) -> (Simulation, sim::NodeId, Rc<Disk>) {
    let simulation = Simulation::new(seed);
    let node = simulation.add_node();
    let disk = simulation.disk(node);
    (simulation, node, disk)
}

/// Sets how long operations take.
struct Latency(Rc<Disk>);

impl Latency {
    /// Lets what `operation` begins at once take `latency_ns`.
    async fn of<T>(&self, latency_ns: u64, operation: impl Future<Output = T>) -> T {
        let fixed = sim::disk::Options { latency_ns: latency_ns..latency_ns + 1, slow_one_in: 0, ..Default::default() };
        self.0.set_options(fixed);
        operation.await
    }
}

/// Creates a file whose name is durable.
async fn create(runtime: &SimRuntime, path: &str, mode: OpenMode) -> sim::disk::File {
    let directory = std::path::Path::new(path).parent().expect("a path with a directory");
    runtime.create_dir_all(directory).await.unwrap();
    let file = runtime.open(path.as_ref(), mode).await.unwrap();
    runtime.sync_dir(directory).await.unwrap();
    file
}

/// `count` pages full of `byte`.
fn pages(runtime: &SimRuntime, byte: u8, count: usize) -> sim::Frozen {
    let mut block = runtime.block(count * PAGE);
    block[..count * PAGE].fill(byte);
    block.freeze(count * PAGE)
}

/// Lets an operation begin, and does not wait for it.
async fn begin<T>(operation: impl Future<Output = T>) {
    let mut operation = pin!(operation);
    poll_fn(|context| {
        assert!(operation.as_mut().poll(context).is_pending(), "disks take time");
        Poll::Ready(())
    })
    .await;
}
