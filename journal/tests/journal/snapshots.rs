//! Snapshots read while others write, and when they may be used.

use std::sync::Arc;

use qtf_journal::{JournalError, Lsn, SimDisk, Storage, open_tail, reclaim, recover};

use crate::daemon::{Daemon, assert_cold_start, config};

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
