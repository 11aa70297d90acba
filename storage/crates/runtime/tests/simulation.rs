//! Tasks, time, crashes and restarts of simulated nodes.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    io,
    rc::Rc,
    time::Duration,
};

use runtime::{
    Block as _, File as _, OpenMode, Runtime, mesh,
    sim::{self, Crash, Options, RunError, Simulation},
};

#[test]
fn chance_chooses_the_next_task() {
    let orders: BTreeSet<Vec<u32>> = (0..200)
        .map(|seed| {
            sim::block_on(seed, async |runtime| {
                let order = Rc::new(RefCell::new(Vec::new()));
                let tasks: Vec<_> = (0..3)
                    .map(|task| {
                        let order = Rc::clone(&order);
                        runtime.spawn(async move { order.borrow_mut().push(task) })
                    })
                    .collect();
                for task in tasks {
                    task.await;
                }
                order.take()
            })
        })
        .collect();
    assert_eq!(orders.len(), 6, "{orders:?}");
}

#[test]
fn time_passes_as_asked_and_costs_nothing() {
    sim::block_on(1, async |runtime| {
        let (begun, begun_ms) = (runtime.now(), runtime.wall_clock_ms());
        runtime.sleep(Duration::from_secs(86_400)).await;
        let passed = runtime.now().since(begun);
        assert!(passed >= Duration::from_secs(86_400) && passed < Duration::from_secs(86_401));
        assert_eq!((runtime.wall_clock_ms() - begun_ms) / 1000, 86_400);
    });
}

#[test]
fn a_task_that_always_yields_starves_nobody() {
    sim::block_on(1, async |runtime| {
        let background = runtime.clone();
        drop(runtime.spawn_background(async move {
            loop {
                background.sleep(Duration::ZERO).await;
            }
        }));
        runtime.sleep(Duration::from_millis(10)).await;
    });
}

#[test]
fn shards_talk_by_messages() {
    let simulation = Simulation::new(1);
    let node = simulation.add_node();
    let sum = Rc::new(Cell::new(0));
    let result = Rc::clone(&sum);
    simulation.boot(node, 4, move |shards| {
        let (sender, inbox) = mesh::inbox(16);
        for shard in &shards[1..] {
            let (runtime, sender) = (shard.clone(), sender.clone());
            drop(shard.spawn(async move {
                runtime.sleep(Duration::from_millis(1)).await;
                assert!(sender.try_send(runtime.shard()).is_ok());
            }));
        }
        let result = Rc::clone(&result);
        drop(shards[0].spawn(async move {
            while let Some(number) = inbox.receive().await {
                result.set(result.get() + number);
            }
        }));
    });
    simulation.run_until(|| sum.get() == 1 + 2 + 3).unwrap();
}

#[test]
fn a_crash_drops_tasks_and_blocks_and_a_restart_runs_the_program_again() {
    let simulation = Simulation::new(1);
    let node = simulation.add_node();
    let starts = Rc::new(Cell::new(0));
    let counted = Rc::clone(&starts);
    simulation.start(node, 2, move |runtime, _| {
        counted.set(counted.get() + 1);
        let held = (Rc::clone(&counted), runtime.block(0));
        async move {
            let _lock = runtime.lock_dir("".as_ref()).await;
            std::future::pending::<()>().await;
            drop(held);
        }
    });
    simulation.run_for(Duration::from_secs(1)).unwrap();
    assert_eq!((starts.get(), Rc::strong_count(&starts), simulation.live_blocks(node)), (2, 2 + 2, 2));
    simulation.crash(node, Crash::Kill);
    assert_eq!((Rc::strong_count(&starts), simulation.live_blocks(node), simulation.is_up(node)), (2, 0, false));
    simulation.restart(node, 3);
    simulation.run_for(Duration::from_secs(1)).unwrap();
    assert_eq!((starts.get(), simulation.unfinished_tasks(node)), (5, 3));
}

#[test]
fn what_destructors_start_during_a_crash_never_runs() {
    struct Restless(sim::SimRuntime, Rc<Cell<bool>>);
    impl Drop for Restless {
        fn drop(&mut self) {
            let ran = Rc::clone(&self.1);
            drop(self.0.spawn(async move { ran.set(true) }));
        }
    }
    let simulation = Simulation::new(1);
    let node = simulation.add_node();
    let ran = Rc::new(Cell::new(false));
    let seen = Rc::clone(&ran);
    simulation.start(node, 1, move |runtime, _| {
        let restless = Restless(runtime, Rc::clone(&seen));
        async move {
            std::future::pending::<()>().await;
            drop(restless);
        }
    });
    simulation.run_for(Duration::from_secs(1)).unwrap();
    simulation.crash(node, Crash::PowerCut);
    simulation.run_for(Duration::from_secs(1)).unwrap();
    assert!(!ran.get());
}

#[test]
fn a_directory_is_locked_once_until_the_lock_or_its_process_ends() {
    let simulation = Simulation::new(1);
    let node = simulation.add_node();
    let hold = async |runtime: sim::SimRuntime| {
        runtime.create_dir_all("log".as_ref()).await.unwrap();
        let lock = runtime.lock_dir("log".as_ref()).await.unwrap();
        assert_eq!(runtime.lock_dir("./log/".as_ref()).await.err().unwrap().kind(), io::ErrorKind::WouldBlock);
        drop(lock);
        let lock = runtime.lock_dir("log".as_ref()).await.unwrap();
        let names = runtime.list_dir("log".as_ref()).await.unwrap();
        assert_eq!(names.iter().map(|entry| &entry.name).collect::<Vec<_>>(), ["LOCK"]);
        drop(runtime.spawn(async move {
            std::future::pending::<()>().await;
            drop(lock);
        }));
    };
    simulation.block_on(node, hold).unwrap();
    simulation.crash(node, Crash::Kill);
    simulation.block_on(node, hold).unwrap();
}

#[test]
fn a_hang_is_an_error_that_names_the_seed() {
    let options = Options { steps_max: 1000, ..Options::default() };
    let simulation = Simulation::with_options(42, options);
    let node = simulation.add_node();
    let deadlock = simulation.block_on(node, |_| std::future::pending::<()>()).unwrap_err();
    assert!(matches!(deadlock, RunError::Deadlock { seed: 42, .. }));
    assert!(deadlock.to_string().contains("STREAMBUS_SEED=42"), "{deadlock}");
    let busy = async |runtime: sim::SimRuntime| loop {
        runtime.sleep(Duration::from_secs(1)).await;
    };
    let endless: Result<(), RunError> = simulation.block_on(node, busy);
    assert!(matches!(endless, Err(RunError::StepLimit { steps: 1000, .. })));
}

#[test]
fn a_wall_clock_jumps_and_the_time_does_not() {
    let simulation = Simulation::new(1);
    let node = simulation.add_node();
    let look = async |runtime: sim::SimRuntime| (runtime.now(), runtime.wall_clock_ms());
    let (now, wall_ms) = simulation.block_on(node, look).unwrap();
    simulation.jump_wall_clock(node, -3_600_000);
    let (later, later_ms) = simulation.block_on(node, look).unwrap();
    assert!(later >= now && later_ms <= wall_ms - 3_599_000);
}

#[test]
fn a_dropped_simulation_drops_its_tasks_whatever_they_wait_for() {
    let held = Rc::new(());
    let simulation = Simulation::new(1);
    let node = simulation.add_node();
    for wait in 0..3 {
        let inside = Rc::clone(&held);
        let task = async move |runtime: sim::SimRuntime| {
            let waiting = runtime.clone();
            drop(runtime.spawn(async move {
                match wait {
                    0 => waiting.sleep(Duration::from_secs(1)).await,
                    1 => drop(waiting.open("f".as_ref(), OpenMode::CreateNew).await.unwrap().sync().await),
                    _ => drop(waiting.listen("127.0.0.1:1".parse().unwrap()).await),
                }
                std::future::pending::<()>().await;
                drop((inside, waiting.block(0).freeze(0)));
            }));
        };
        simulation.block_on(node, task).unwrap();
    }
    drop(simulation);
    assert_eq!(Rc::strong_count(&held), 1);
}
