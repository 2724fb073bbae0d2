//! Snapshots read while others write, and when they may be used.

use std::sync::Arc;

use qtf_journal::{JournalError, Lsn, Record, SimDisk, Storage, open_tail, reclaim, recover};
use qtf_shm::KeyId;

use crate::daemon::{Daemon, assert_cold_start, config};
use crate::model::{Op, Task, id, key};

fn new_daemon() -> (Arc<SimDisk>, Daemon, fastrand::Rng) {
    let disk = Arc::new(SimDisk::new());
    let storage: Arc<dyn Storage> = disk.clone();
    let daemon = Daemon::first(&storage, 1);
    (disk, daemon, fastrand::Rng::with_seed(2))
}

#[test]
fn snapshot_and_what_came_after_it_give_the_whole_state() {
    for seed in 0..30 {
        let (_, mut daemon, _) = new_daemon();
        let mut rng = fastrand::Rng::with_seed(seed);
        for _ in 0..150 {
            daemon.push_random(&mut rng, 100);
        }
        daemon.commit().unwrap();
        // Between its start and its whole tasks more happens: the whole tasks are newer than the start.
        let mut snapshot = daemon
            .snapshot(|daemon| {
                for _ in 0..rng.usize(0..100) {
                    daemon.push_random(&mut rng, 100);
                }
            })
            .unwrap();
        for _ in 0..50 {
            daemon.push_random(&mut rng, 100);
        }
        daemon.commit().unwrap();
        let start = snapshot.publish(daemon.writer.durable()).unwrap();
        assert_eq!(start, Lsn::new(150));
        reclaim(&*daemon.storage, start, 0).unwrap();
        assert_cold_start(
            &*daemon.storage,
            &daemon.config,
            (&daemon.history, daemon.acknowledged),
            &format!("seed {seed}"),
        );
        let recovered = recover(&*daemon.storage, &daemon.config).unwrap();
        assert_eq!(recovered.snapshot, Some(start));
    }
}

#[test]
fn image_whose_state_is_newer_than_its_lsn_does_no_harm() {
    for seed in 0..30 {
        let (_, mut daemon, _) = new_daemon();
        let mut rng = fastrand::Rng::with_seed(seed);
        for _ in 0..100 {
            daemon.push_random(&mut rng, 60);
        }
        // A reader saw the new state of each task and the lsn of the change before it.
        let before = daemon.model.tasks.clone();
        let mut snapshot = daemon
            .snapshot(|daemon| {
                for _ in 0..40 {
                    daemon.push_random(&mut rng, 60);
                }
                for (id, task) in &mut daemon.model.tasks {
                    task.whole.lsn = before.get(id).map_or(task.whole.lsn, |old| old.whole.lsn);
                }
            })
            .unwrap();
        daemon.commit().unwrap();
        let start = snapshot.publish(daemon.writer.durable()).unwrap();
        reclaim(&*daemon.storage, start, 0).unwrap();
        assert_cold_start(
            &*daemon.storage,
            &daemon.config,
            (&daemon.history, daemon.acknowledged),
            &format!("seed {seed}"),
        );
    }
}

#[test]
fn snapshot_is_not_published_before_what_it_shows_is_durable() {
    let (disk, mut daemon, mut rng) = new_daemon();
    for _ in 0..40 {
        daemon.push_random(&mut rng, 60);
    }
    let mut snapshot = daemon.snapshot(|_| {}).unwrap();
    assert_eq!(snapshot.shown(), Lsn::new(40));
    let refused = snapshot.publish(daemon.writer.durable()).unwrap_err();
    assert!(
        matches!(refused, JournalError::NotYetDurable { .. }),
        "{refused}"
    );
    assert!(
        disk.list()
            .unwrap()
            .iter()
            .all(|name| !name.ends_with(".qts"))
    );
    daemon.commit().unwrap();
    assert_eq!(
        snapshot.publish(daemon.writer.durable()).unwrap(),
        Lsn::new(40)
    );
    assert!(recover(&*disk, &config(2)).unwrap().snapshot.is_some());
}

#[test]
fn crash_before_a_snapshot_is_published_leaves_the_older_one() {
    for seed in 0..40 {
        let (disk, mut daemon, mut rng) = new_daemon();
        for _ in 0..60 {
            daemon.push_random(&mut rng, 60);
        }
        daemon.snapshot_and_reclaim().unwrap();
        for _ in 0..60 {
            daemon.push_random(&mut rng, 60);
        }
        daemon.commit().unwrap();
        let _unpublished = daemon.snapshot(|_| {}).unwrap();
        disk.crash(seed);
        let what = format!("seed {seed}");
        let opened = assert_cold_start(
            &*disk,
            &daemon.config,
            (&daemon.history, daemon.acknowledged),
            &what,
        );
        opened.start(&*disk, &config(2)).unwrap();
        let names = disk.list().unwrap();
        assert!(
            names.iter().all(|name| !name.ends_with(".tmp")),
            "{what}: {names:?}"
        );
    }
}

#[test]
fn files_below_a_snapshot_go_and_the_others_stay() {
    let (disk, mut daemon, mut rng) = new_daemon();
    let mut snapshot = None;
    while daemon.writer.file().0 < 9 {
        for _ in 0..10 {
            daemon.push_random(&mut rng, 3000);
        }
        daemon.commit().unwrap();
        if daemon.writer.file().0 == 6 && snapshot.is_none() {
            snapshot = Some(daemon.snapshot(|_| {}).unwrap());
        }
    }
    let count = |prefix: &str| {
        let names = disk.list().unwrap();
        names.iter().filter(|name| name.starts_with(prefix)).count()
    };
    assert_eq!((count("log-"), count("spare-")), (9, 0));
    let start = snapshot.unwrap().publish(daemon.writer.durable()).unwrap();
    let done = reclaim(&*disk, start, 2).unwrap();
    assert_eq!((done.recycled, done.removed), (2, 3));
    assert_eq!(
        (count("log-"), count("spare-"), count("snapshot-")),
        (4, 2, 1)
    );
    let opened = open_tail(&*disk, &config(2)).unwrap();
    let mut daemon = Daemon::start(&daemon.storage, &opened, (config(2), daemon.history)).unwrap();
    daemon.snapshot_and_reclaim().unwrap();
    assert_eq!((count("log-"), count("snapshot-")), (1, 1));
    daemon
        .model
        .assert_is(&recover(&*disk, &config(2)).unwrap(), "reclaimed");
}

/// A live task with a key.
fn keyed_task(rng: &mut fastrand::Rng) -> (Task, KeyId) {
    let key = key(rng);
    let mut task = Task::random(rng, id(1, 0), 60);
    task.whole.key = Some((key, 99));
    (task, key)
}

#[test]
fn key_that_is_given_back_is_gone_also_where_a_snapshot_lists_it_beside_its_live_task() {
    let (_, mut daemon, mut rng) = new_daemon();
    let (task, key) = keyed_task(&mut rng);
    let id = task.whole.id;
    daemon.push(Op::Task(Box::new(task))).unwrap();
    // All keys that are alive, those of live tasks too.
    let mut snapshot = daemon.snapshot(|_| {}).unwrap();
    snapshot.push_key(key, id, 99).unwrap();
    daemon.commit().unwrap();
    snapshot.publish(daemon.writer.durable()).unwrap();
    let given_back = Record::Key {
        key,
        task: id,
        expires_unix_ms: 0,
    };
    daemon.appender.push_always(&given_back).unwrap();
    daemon.commit().unwrap();
    let recovered = recover(&*daemon.storage, &daemon.config).unwrap();
    assert!(recovered.snapshot.is_some());
    assert_eq!(recovered.tasks().next().unwrap().key, None);
    assert_eq!(recovered.keys().next(), None);
}

#[test]
fn task_that_is_recorded_again_after_a_move_of_the_origin_stands_where_it_stood_first() {
    let (_, mut daemon, mut rng) = new_daemon();
    let (mut old, _) = keyed_task(&mut rng);
    let mut young = Task::random(&mut rng, id(1, 1), 60);
    (old.whole.stamp, young.whole.stamp) = (1_000, 2_000);
    for task in [&old, &young] {
        daemon.push(Op::Task(Box::new(task.clone()))).unwrap();
    }
    // Of one alone a later start makes a record: it is old, so only its order is known there.
    for stamp in [5_000, 9_000] {
        old.whole.stamp = stamp;
        let again = Record::Task(old.whole());
        daemon.appender.push_always(&again).unwrap();
    }
    daemon.commit().unwrap();
    let recovered = recover(&*daemon.storage, &daemon.config).unwrap();
    let stamps: Vec<u64> = recovered.tasks().map(|task| task.stamp).collect();
    assert_eq!(stamps, [1_000, 2_000]);
    assert_eq!(recovered.max_stamp, 9_000);
}
