//! Rules of the whole tasks that a snapshot is made of.

use std::sync::Arc;

use qtf_engine::snapshot::{Unreadable, WholeTasks};
use qtf_engine::{Durability, Lsn, Payload, WallTime};
use qtf_journal::{AppenderLimits, Blob, JournalError, SnapshotWriter, Storage};
use qtf_shm::{KeyId, Phase, TaskId};

use qtf_world::MS;
use qtf_world::{JournalWorld, journal_config};

/// Task, phase, attempt and lsn of each whole task, and what its payload and result are.
type Seen = Vec<(TaskId, Phase, u16, Lsn, Vec<u8>, Vec<u8>)>;

fn whole_tasks(world: &JournalWorld) -> WholeTasks {
    let wall = WallTime {
        now: world.now,
        unix_ms: world.wall_ms + world.now.ns / MS,
    };
    WholeTasks::new(Arc::clone(world.engine.segment()), wall)
}

/// Takes a snapshot of what there is, with the keys, and publishes it.
pub(crate) fn take_snapshot(world: &mut JournalWorld) {
    world.sync();
    let storage: Arc<dyn Storage> = Arc::new(world.disk.clone());
    let start = world.engine.snapshot_start();
    let config = journal_config(1);
    let mut writer = SnapshotWriter::create(storage, &config, world.lineage(), start).unwrap();
    let mut whole_tasks = whole_tasks(world);
    whole_tasks
        .read::<Unfinished>(0..whole_tasks.end(), |whole| Ok(writer.push(whole)?))
        .unwrap();
    for live in whole_tasks.keys() {
        live.write_to(&mut writer).unwrap();
    }
    writer.reserve(world.engine.reserved_generations());
    writer.publish(world.durable()).unwrap();
}

/// A snapshot could not be taken.
#[derive(Debug, thiserror::Error)]
enum Unfinished {
    #[error(transparent)]
    Task(#[from] Unreadable),
    #[error(transparent)]
    Journal(#[from] JournalError),
}

fn bytes(blob: Blob<'_>) -> Vec<u8> {
    match blob {
        Blob::None => Vec::new(),
        Blob::Bytes(bytes) => bytes.to_vec(),
        Blob::Spill { .. } => b"spilled".to_vec(),
    }
}

fn seen(world: &JournalWorld) -> Seen {
    let mut seen = Seen::new();
    let mut whole_tasks = whole_tasks(world);
    let end = whole_tasks.end();
    let count = whole_tasks.read::<Unreadable>(0..end, |whole| {
        seen.push((
            whole.id,
            whole.phase,
            whole.attempt,
            whole.lsn,
            bytes(whole.payload),
            bytes(whole.result),
        ));
        Ok(())
    });
    assert_eq!(count.unwrap() as usize, seen.len());
    assert!(whole_tasks.highest() <= world.last());
    seen.sort_unstable_by_key(|one| one.0);
    seen
}

#[test]
fn every_journal_task_is_written_as_a_cold_start_must_find_it_and_no_other() {
    let mut world = JournalWorld::new();
    world.worker(4, &["exec"]);
    world
        .take_in("exec", |task| task.durability = Durability::Memory)
        .unwrap();
    let waiting = world.ready("render");
    let (running, judged, done) = (
        world.ready("exec"),
        world.ready("exec"),
        world.ready("exec"),
    );
    let got = world.dispatches();
    let find = |task| *got.iter().find(|one| one.1 == task).unwrap();
    world.start(find(running));
    world.result(find(done), 0, b"done");
    world.sync();
    world.result(find(judged), 0, b"judged");
    let submitted = world.submit_journal("exec").task;
    let wanted = [
        (waiting, Phase::Ready, 0, b"".to_vec()),
        (running, Phase::Ready, 1, b"".to_vec()),
        (judged, Phase::Done, 1, b"judged".to_vec()),
        (done, Phase::Done, 1, b"done".to_vec()),
        (submitted, Phase::Submitted, 0, b"".to_vec()),
    ];
    let seen = seen(&world);
    assert_eq!(seen.len(), wanted.len());
    for (one, (task, phase, attempt, result)) in seen.iter().zip(&wanted) {
        let slot = world.segment().task(task.slot());
        assert_eq!((one.0, one.1, one.2), (*task, *phase, *attempt));
        assert_eq!(one.3.get(), slot.lsn());
        assert_eq!(one.4, b"payload");
        assert_eq!(&one.5, result);
    }
}

#[test]
fn task_whose_record_is_on_its_way_is_written_with_no_lsn() {
    let mut world = JournalWorld::new();
    let task = world.ready("exec");
    let slot = qtf_world::written(world.segment(), task.slot());
    slot.set_lsn(qtf_journal::LSN_MAX);
    assert_eq!(seen(&world)[0].3, Lsn::NONE);
}

#[test]
fn snapshot_read_while_the_engine_works_and_the_journal_behind_it_lead_to_the_same_tasks() {
    for seed in 0..20 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut world = JournalWorld::new();
        world.worker(200, &["exec"]);
        let mut held = Vec::new();
        work(&mut world, &mut held, &mut rng, 60);
        world.sync();
        let storage: Arc<dyn Storage> = Arc::new(world.disk.clone());
        let start = world.engine.snapshot_start();
        let mut writer = SnapshotWriter::create(
            Arc::clone(&storage),
            &journal_config(1),
            world.lineage(),
            start,
        )
        .unwrap();
        let mut whole_tasks = whole_tasks(&world);
        let end = whole_tasks.end();
        for from in (0..end.max(64)).step_by(8) {
            let mut failed = None;
            whole_tasks
                .read::<Unreadable>(from..from + 8, |whole| {
                    failed = writer.push(whole).err();
                    Ok(())
                })
                .unwrap();
            assert!(failed.is_none());
            work(&mut world, &mut held, &mut rng, 6);
            if rng.bool() {
                world.sync();
            }
        }
        writer.reserve(world.engine.reserved_generations());
        world.sync();
        assert!(whole_tasks.highest() <= world.durable());
        writer.publish(world.durable()).unwrap();
        work(&mut world, &mut held, &mut rng, 20);
        world.sync();
        world.settle();
        world.sync();
        let wanted = standing(&world);
        let world = world.cold_restart();
        assert_eq!(standing(&world), wanted, "seed {seed}");
        world.verify();
    }
}

#[test]
fn snapshot_that_is_read_while_tasks_are_adopted_hides_no_later_record() {
    let mut world = JournalWorld::new();
    let bytes = vec![7; 4_000];
    for _ in 0..60 {
        let taken = world.take_in("exec", |task| task.payload = Payload::Bytes(&bytes));
        taken.unwrap();
    }
    let task = world.ready("exec");
    // The daemon was killed with more than a group unwritten, and had given the last of its records a number far on.
    for number in 0..61 {
        let slot = qtf_world::written(world.segment(), world.segment().slot(number).unwrap());
        slot.set_lsn(world.durable().get() + 1_000);
    }
    let limits = AppenderLimits {
        group_bytes: 0,
        reserve_bytes: 0,
    };
    let mut world = world.hot_restart_with(limits);
    assert!(world.engine.is_adopting());
    let mut writer = SnapshotWriter::create(
        Arc::new(world.disk.clone()),
        &journal_config(1),
        world.lineage(),
        world.engine.snapshot_start(),
    )
    .unwrap();
    let mut whole_tasks = whole_tasks(&world).reflecting_at_most(world.last());
    let end = whole_tasks.end();
    let read = whole_tasks.read::<Unreadable>(0..end, |whole| {
        writer.push(whole).unwrap();
        Ok(())
    });
    assert_eq!(read, Ok(61));
    for _ in 0..100 {
        world.sync();
        world.cycle();
    }
    // Later ones reach that number.
    while world.durable().get() < whole_tasks.highest().get() - 1 {
        let now = world.now;
        world.engine.update_priority(now, task, 3).unwrap();
        world.sync();
    }
    writer.reserve(world.engine.reserved_generations());
    world.cancel(task).unwrap();
    world.sync();
    assert_eq!(world.durable(), whole_tasks.highest());
    writer.publish(world.durable()).unwrap();
    let world = world.cold_restart();
    assert_eq!(world.phase(task), Phase::Cancelled);
    world.verify();
}

#[test]
fn live_keys_are_written_also_those_whose_task_is_gone() {
    let mut world = JournalWorld::new();
    let key = |number| KeyId::from_words([number, 1]);
    let mut tasks = Vec::new();
    for number in 1..=3 {
        let taken = world.take_in("exec", |task| {
            task.key = key(number);
            task.key_ttl_ms = number * 1_000_000;
        });
        tasks.push(taken.unwrap().task);
    }
    world.sync();
    world.cancel(tasks[0]).unwrap();
    world.forget(tasks[0]).unwrap();
    let now = world.now;
    world.engine.release_keys(now, &[key(2).unwrap()]);
    let whole_tasks = whole_tasks(&world);
    let mut keys: Vec<_> = whole_tasks.keys().collect();
    keys.sort_unstable_by_key(|entry| entry.key);
    assert_eq!(keys.len(), 2);
    assert_eq!((Some(keys[0].key), keys[0].task), (key(1), tasks[0]));
    assert_eq!((Some(keys[1].key), keys[1].task), (key(3), tasks[2]));
    let expiry = world.wall_ms + world.now.ns / MS + 3_000_000;
    assert!(keys[1].expires_unix_ms.abs_diff(expiry) <= 1);
}

/// Each task that is there, as a cold start sees it.
fn standing(world: &JournalWorld) -> Vec<(TaskId, Phase, u8)> {
    let seen = seen(world).into_iter();
    seen.map(|(task, phase, _, _, _, result)| (task, phase, u8::try_from(result.len()).unwrap()))
        .collect()
}

/// Clients and workers do something.
fn work(
    world: &mut JournalWorld,
    held: &mut Vec<qtf_world::Dispatched>,
    rng: &mut fastrand::Rng,
    steps: usize,
) {
    for _ in 0..steps {
        match rng.u8(0..8) {
            0..=2 => {
                let _ = world.take_in("exec", |task| task.retries = 1);
            }
            3 => {
                held.extend(world.dispatches());
            }
            4 | 5 if !held.is_empty() => {
                let one = held.swap_remove(rng.usize(..held.len()));
                world.result(one, rng.u8(0..2), b"output");
                world.grant(one.0);
            }
            6 => {
                let number = rng.u32(0..64);
                let slot = world.segment().slot(number).unwrap();
                let state = world.segment().task(slot).state();
                if let Some(task) = state.id(slot) {
                    let _ = world.forget(task);
                }
            }
            _ => {
                world.sync();
                world.pass(MS);
            }
        }
    }
}
