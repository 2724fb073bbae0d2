//! Starts, recycling, instances, settings.

use std::sync::Arc;

use qtf_journal::{
    Appender, AppenderLimits, FILE_BYTES_MIN, FileKey, JournalConfig, JournalError, Lsn, Record,
    SimDisk, StdStorage, Step, Storage, make_spare, open_tail, reclaim, recover, write_group,
};

use crate::daemon::{Daemon, FILE_BYTES, RESERVE_BYTES, assert_cold_start, config};
use crate::model::Op;

fn logs(storage: &dyn Storage) -> Vec<String> {
    let mut names = storage.list().unwrap();
    names.retain(|name| name.starts_with("log-"));
    names.sort();
    names
}

#[test]
fn journal_that_does_not_exist_is_empty() {
    let disk = SimDisk::new();
    let opened = open_tail(&disk, &config(1)).unwrap();
    assert_eq!((opened.end, opened.files, opened.cut), (Lsn::NONE, 0, None));
    let recovered = recover(&disk, &config(1)).unwrap();
    assert_eq!(
        (recovered.opened.end, recovered.tasks_count()),
        (Lsn::NONE, 0)
    );
}

#[test]
fn new_daemon_begins_a_new_file_after_the_last_record() {
    let storage: Arc<dyn Storage> = Arc::new(SimDisk::new());
    let mut daemon = Daemon::first(&storage, 1);
    let mut rng = fastrand::Rng::with_seed(1);
    for start in 0..5_u64 {
        for _ in 0..20 {
            daemon.push_random(&mut rng, 100);
        }
        daemon.commit().unwrap();
        assert_eq!(daemon.writer.file().0, start + 1);
        let opened = assert_cold_start(
            &*storage,
            &daemon.config,
            (&daemon.history, daemon.acknowledged),
            "start",
        );
        assert_eq!(opened.end, daemon.acknowledged);
        assert_eq!(
            open_tail(&*storage, &daemon.config).unwrap().end,
            opened.end
        );
        daemon = Daemon::start(&storage, &opened, (config(start + 2), daemon.history)).unwrap();
    }
    assert_eq!(logs(&*storage).len(), 6);
}

#[test]
fn starts_without_records_leave_no_files_behind() {
    let storage: Arc<dyn Storage> = Arc::new(SimDisk::new());
    let mut daemon = Daemon::first(&storage, 1);
    daemon
        .push(Op::Plain(Record::Reserve { gen_limit: 5 }))
        .unwrap();
    daemon.commit().unwrap();
    for nonce in 2..30 {
        let opened = open_tail(&*storage, &config(nonce)).unwrap();
        assert_eq!(opened.end, Lsn::new(1));
        let mut next = opened.start(&*storage, &config(nonce)).unwrap();
        let file = make_spare(&*storage, next.file_plan()).unwrap();
        assert!(next.add_file(file).is_none());
    }
    let names = storage.list().unwrap();
    assert!(names.len() <= 5, "{names:?}");
    assert_eq!(recover(&*storage, &config(0)).unwrap().gen_limit, 5);
}

#[test]
fn start_on_a_full_disk_takes_the_one_file_that_was_made_ahead() {
    let disk = SimDisk::new();
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    let mut daemon = Daemon::first(&storage, 1);
    daemon
        .push(Op::Plain(Record::Reserve { gen_limit: 5 }))
        .unwrap();
    daemon.commit().unwrap();
    let file = make_spare(&disk, daemon.writer.file_plan()).unwrap();
    assert!(daemon.writer.add_file(file).is_none());
    disk.set_capacity(Some(disk.used()));
    let opened = open_tail(&disk, &config(2)).unwrap();
    opened.start(&disk, &config(2)).unwrap();
    assert_eq!(open_tail(&disk, &config(3)).unwrap().end, Lsn::new(1));
    assert_eq!(recover(&disk, &config(3)).unwrap().gen_limit, 5);
}

#[test]
fn start_on_a_full_disk_without_a_spare_waits_for_its_file_and_changes_nothing() {
    let disk = SimDisk::new();
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    let mut daemon = Daemon::first(&storage, 1);
    daemon
        .push(Op::Plain(Record::Reserve { gen_limit: 5 }))
        .unwrap();
    daemon.commit().unwrap();
    disk.set_capacity(Some(disk.used()));
    for nonce in 2..5 {
        let opened = open_tail(&disk, &config(nonce)).unwrap();
        let error = opened.start(&disk, &config(nonce)).unwrap_err();
        assert!(error.is_disk_full(), "{error}");
        let (mut writer, waits) = opened.start_or_wait(&disk, &config(nonce)).unwrap();
        assert!(waits.is_some_and(|error| error.is_disk_full()));
        assert!(!writer.has_begun());
        assert_eq!((writer.room_bytes(), writer.durable()), (0, Lsn::new(1)));
        let mut appender = Appender::new(opened.end.next(), AppenderLimits::default());
        appender
            .push_always(&Record::Reserve { gen_limit: 9 })
            .unwrap();
        let step = writer.begin(appender.take_group().unwrap());
        assert!(matches!(step, Step::NeedFile), "{step:?}");
        assert!(writer.waits_for_file());
        assert_eq!(disk.list().unwrap(), [FileKey(1).name()]);
        if nonce < 4 {
            continue;
        }
        disk.set_capacity(None);
        let file = make_spare(&disk, writer.file_plan()).unwrap();
        let Some(Step::Write(write)) = writer.add_file(file) else {
            panic!("the group goes on");
        };
        let (buffer, result) = write_group(&disk, write);
        assert!(matches!(writer.written(buffer, result), Step::Durable(lsn) if lsn == Lsn::new(2)));
    }
    assert_eq!(recover(&disk, &config(9)).unwrap().gen_limit, 9);
    assert_eq!(logs(&disk).len(), 2);
}

#[test]
fn first_file_of_a_start_is_small_where_the_disk_has_no_room_for_a_whole_one() {
    let disk = SimDisk::new();
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    let mut daemon = Daemon::first(&storage, 1);
    daemon
        .push(Op::Plain(Record::Reserve { gen_limit: 5 }))
        .unwrap();
    daemon.commit().unwrap();
    let large = JournalConfig {
        file_bytes: 4 * FILE_BYTES_MIN,
        ..config(2)
    };
    disk.set_capacity(Some(disk.used() + usize::try_from(FILE_BYTES_MIN).unwrap()));
    let writer = open_tail(&disk, &large)
        .unwrap()
        .start(&disk, &large)
        .unwrap();
    assert!((1..FILE_BYTES_MIN).contains(&writer.room_bytes()));
    let refused = make_spare(&disk, writer.file_plan()).unwrap_err();
    assert!(refused.is_disk_full(), "later files are whole: {refused}");
    let opened = open_tail(&disk, &large).unwrap();
    assert_eq!((opened.end, opened.files), (Lsn::new(1), 2));
    disk.set_capacity(None);
    let writer = opened.start(&disk, &large).unwrap();
    assert!(writer.room_bytes() > FILE_BYTES_MIN);
    assert_eq!(logs(&disk).len(), 2, "the small one held nothing");
    assert_eq!(recover(&disk, &large).unwrap().gen_limit, 5);
}

#[test]
fn cut_of_a_torn_tail_holds_for_ever() {
    let disk = SimDisk::new();
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    let mut daemon = Daemon::first(&storage, 1);
    let reserve = |gen_limit| Op::Plain(Record::Reserve { gen_limit });
    for gen_limit in 0..10 {
        daemon.push(reserve(gen_limit)).unwrap();
    }
    daemon.commit().unwrap();
    for gen_limit in 100..110 {
        daemon.push(reserve(gen_limit)).unwrap();
    }
    daemon.commit().unwrap();
    // The third record of the last group did not get to the disk.
    let name = daemon.writer.file().name();
    let mut bytes = disk.content(&name).unwrap();
    let torn = 4096 + 12 * RESERVE_BYTES;
    let whole = bytes.clone();
    bytes[torn..torn + RESERVE_BYTES].fill(0);
    disk.put(&name, &bytes);
    let opened = open_tail(&*storage, &config(2)).unwrap();
    assert_eq!(opened.end, Lsn::new(12));
    let cut = opened.cut.clone().unwrap();
    assert_eq!(
        (cut.file, cut.offset, cut.lsn),
        (name.clone(), torn as u64, Lsn::new(13))
    );
    let mut next = Daemon::start(&storage, &opened, (config(2), daemon.history)).unwrap();
    next.push(reserve(50)).unwrap();
    next.commit().unwrap();
    // Even if the disk gives the lost record back, it is not read again.
    disk.put(&name, &whole);
    let recovered = recover(&*storage, &config(3)).unwrap();
    assert_eq!(recovered.gen_limit, 101);
    assert_eq!(recovered.opened.end, Lsn::new(13));
    let again = open_tail(&*storage, &config(3)).unwrap();
    assert_eq!((again.end, again.cut), (Lsn::new(13), None));
}

#[test]
fn old_records_of_a_recycled_file_are_not_read() {
    let disk = SimDisk::new();
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    let mut daemon = Daemon::first(&storage, 1);
    let mut rng = fastrand::Rng::with_seed(4);
    while daemon.writer.file().0 < 4 {
        for _ in 0..200 {
            daemon.push_random(&mut rng, 200);
        }
        daemon.commit().unwrap();
    }
    let start = daemon.appender.last_lsn();
    daemon.snapshot_and_reclaim().unwrap();
    let names = storage.list().unwrap();
    assert_eq!(
        names
            .iter()
            .filter(|name| name.starts_with("spare-"))
            .count(),
        2,
        "{names:?}"
    );
    assert_eq!(logs(&*storage).len(), 1);
    let used = disk.used();
    while daemon.writer.file().0 < 6 {
        for _ in 0..20 {
            daemon.push_random(&mut rng, 200);
        }
        daemon.commit().unwrap();
        // Behind the end of a recycled file lie records that were valid once.
        let opened = assert_cold_start(
            &*storage,
            &daemon.config,
            (&daemon.history, daemon.acknowledged),
            "recycled",
        );
        assert_eq!((opened.end, opened.cut), (daemon.acknowledged, None));
        assert_eq!(
            open_tail(&*storage, &daemon.config).unwrap().end,
            daemon.acknowledged
        );
    }
    assert_eq!(disk.used(), used, "recycled files are used, none are made");
    let recovered = recover(&*storage, &config(9)).unwrap();
    assert_eq!(recovered.snapshot, Some(start));
}

#[test]
fn spares_of_another_size_are_not_used() {
    let storage: Arc<dyn Storage> = Arc::new(SimDisk::new());
    let mut daemon = Daemon::first(&storage, 1);
    let mut rng = fastrand::Rng::with_seed(4);
    while daemon.writer.file().0 < 3 {
        daemon.push_random(&mut rng, 2000);
        daemon.commit().unwrap();
    }
    daemon.snapshot_and_reclaim().unwrap();
    let opened = open_tail(&*storage, &config(2)).unwrap();
    let larger = JournalConfig {
        file_bytes: 2 * FILE_BYTES,
        ..config(2)
    };
    let writer = opened.start(&*storage, &larger).unwrap();
    assert_eq!(writer.room_bytes(), 2 * FILE_BYTES - 4096);
    assert_eq!(recover(&*storage, &larger).unwrap().opened.end, opened.end);
}

#[test]
fn cold_start_counts_each_record_that_it_reads_and_each_task_that_it_hands_out() {
    let storage: Arc<dyn Storage> = Arc::new(SimDisk::new());
    let mut daemon = Daemon::first(&storage, 1);
    let mut rng = fastrand::Rng::with_seed(4);
    for _ in 0..100 {
        daemon.push_random(&mut rng, 200);
        daemon.commit().unwrap();
    }
    let config = config(2);
    let recovered = recover(&*storage, &config).unwrap();
    let read = config.progress.count();
    assert!(recovered.records > 0);
    assert_eq!(read, recovered.records);
    let tasks = u64::try_from(recovered.tasks().count()).unwrap();
    assert!(tasks > 0);
    assert_eq!(config.progress.count(), read + tasks);
}

#[test]
fn journal_of_another_instance_is_refused() {
    let storage: Arc<dyn Storage> = Arc::new(SimDisk::new());
    Daemon::first(&storage, 1);
    let other = JournalConfig::new("other", 2);
    for error in [
        open_tail(&*storage, &other).unwrap_err(),
        recover(&*storage, &other).unwrap_err(),
    ] {
        assert!(matches!(error, JournalError::Instance { .. }), "{error}");
    }
}

#[test]
fn files_that_are_too_small_are_refused() {
    let disk = SimDisk::new();
    let small = JournalConfig {
        file_bytes: FILE_BYTES_MIN - 1,
        ..config(1)
    };
    let opened = open_tail(&disk, &small).unwrap();
    let error = opened.start(&disk, &small).unwrap_err();
    assert!(matches!(error, JournalError::FileBytes { .. }), "{error}");
}

#[test]
fn missing_file_is_told() {
    let disk = SimDisk::new();
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    let mut daemon = Daemon::first(&storage, 1);
    let mut rng = fastrand::Rng::with_seed(4);
    while daemon.writer.file().0 < 4 {
        daemon.push_random(&mut rng, 2000);
        daemon.commit().unwrap();
    }
    for name in logs(&*storage) {
        if name == daemon.writer.file().name() {
            continue;
        }
        let copy = disk.copy();
        copy.remove(&name).unwrap();
        let error = recover(&copy, &config(2)).unwrap_err();
        assert!(
            matches!(error, JournalError::Damaged { .. }),
            "{name}: {error}"
        );
        let said = error.to_string();
        assert!(said.contains("log-0") && !said.contains("lsn 0"), "{said}");
    }
}

#[test]
fn full_disk_refuses_a_file_and_takes_it_when_there_is_room_again() {
    let disk = SimDisk::new();
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    let mut daemon = Daemon::first(&storage, 1);
    for round in 0..20 {
        disk.set_capacity(Some(disk.used() + 300_000));
        let refused = make_spare(&disk, daemon.writer.file_plan()).unwrap_err();
        assert!(refused.is_disk_full(), "{refused}");
        assert!(
            disk.list()
                .unwrap()
                .iter()
                .all(|name| name.starts_with("log-")),
            "{round}"
        );
        disk.set_capacity(None);
        let file = make_spare(&disk, daemon.writer.file_plan()).unwrap();
        assert!(daemon.writer.add_file(file).is_none());
    }
    reclaim(&disk, Lsn::NONE, 2).unwrap();
    assert_eq!(logs(&disk).len(), 21);
}

#[test]
fn real_directory_does_what_the_simulated_one_does() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data/journal");
    let storage: Arc<dyn Storage> = Arc::new(StdStorage::open_dir(&path).unwrap());
    let mut daemon = Daemon::first(&storage, 1);
    let mut rng = fastrand::Rng::with_seed(8);
    for start in 0..4 {
        for _ in 0..300 {
            for _ in 0..5 {
                daemon.push_random(&mut rng, 1500);
            }
            daemon.commit().unwrap();
        }
        if start == 2 {
            daemon.snapshot_and_reclaim().unwrap();
        }
        let opened = assert_cold_start(
            &*storage,
            &daemon.config,
            (&daemon.history, daemon.acknowledged),
            "real",
        );
        assert_eq!(opened.end, daemon.acknowledged);
        daemon = Daemon::start(&storage, &opened, (config(start + 2), daemon.history)).unwrap();
    }
    assert!(recover(&*storage, &config(7)).unwrap().snapshot.is_some());
}
