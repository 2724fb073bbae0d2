//! Groups, files, short and failed writes, room.

use std::io;
use std::sync::Arc;

use qtf_journal::{
    Appender, AppenderLimits, Lsn, PushError, Record, SimDisk, Step, Storage, Write, make_spare,
    write_group,
};

use crate::daemon::{Daemon, FILE_BYTES, RESERVE_BYTES, assert_cold_start};
use crate::model::{Op, Task, id};

fn reserve(gen_limit: u64) -> Op {
    Op::Plain(Record::Reserve { gen_limit })
}

fn new_daemon() -> (SimDisk, Daemon) {
    let disk = SimDisk::new();
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    let daemon = Daemon::first(&storage, 5);
    (disk, daemon)
}

#[test]
fn ordinary_records_leave_room_for_outcomes() {
    let limits = AppenderLimits {
        group_bytes: 1,
        reserve_bytes: 1,
    };
    let mut appender = Appender::new(Lsn::new(7), limits);
    let record = Record::Reserve { gen_limit: 1 };
    let mut count = 0;
    let refused = loop {
        match appender.push(&record) {
            Ok(lsn) => {
                assert_eq!(lsn, Lsn::new(7 + count));
                count += 1;
            }
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, PushError::Full { .. }), "{refused}");
    assert_eq!(appender.push_always(&record), Ok(Lsn::new(7 + count)));
    while appender.push_always(&record).is_ok() {}
    let group = appender.take_group().unwrap();
    assert_eq!(
        (group.first(), group.last()),
        (Lsn::new(7), appender.last_lsn())
    );
}

#[test]
fn records_gather_while_a_group_is_written() {
    let (_, mut daemon) = new_daemon();
    daemon.push(reserve(1)).unwrap();
    let Some(Step::Write(write)) = daemon.begin() else {
        panic!("a write");
    };
    daemon.push(reserve(2)).unwrap();
    daemon.push(reserve(3)).unwrap();
    assert!(
        daemon.appender.take_group().is_none(),
        "both buffers are in use"
    );
    let (buffer, result) = write_group(&*daemon.storage, write);
    let step = daemon.writer.written(buffer, result);
    assert!(
        matches!(step, Step::Durable(lsn) if lsn == Lsn::new(1)),
        "{step:?}"
    );
    daemon
        .appender
        .give_back(daemon.writer.take_buffer().unwrap());
    let group = daemon.appender.take_group().unwrap();
    assert_eq!((group.first(), group.last()), (Lsn::new(2), Lsn::new(3)));
}

#[test]
fn group_larger_than_a_file_goes_over_several() {
    let (_, mut daemon) = new_daemon();
    let mut rng = fastrand::Rng::with_seed(1);
    for slot in 0..60 {
        let mut task = Task::random(&mut rng, id(1, slot), 0);
        task.payload = crate::model::Content::Bytes(vec![1; 40_000]);
        daemon.push(Op::Task(Box::new(task))).unwrap();
    }
    assert!(daemon.commit().unwrap());
    assert_eq!(daemon.acknowledged, Lsn::new(60));
    assert!(daemon.writer.file().0 > 4);
    assert_cold_start(
        &*daemon.storage,
        &daemon.config,
        (&daemon.history, daemon.acknowledged),
        "several files",
    );
}

#[test]
fn group_waits_for_a_file_and_goes_on_when_it_is_there() {
    let (_, mut daemon) = new_daemon();
    let room = daemon.writer.room_bytes();
    assert_eq!(room, FILE_BYTES - 4096);
    while (daemon.appender.pending_bytes() as u64) <= room {
        daemon.push(reserve(1)).unwrap();
    }
    let last = daemon.appender.last_lsn();
    let step = daemon.begin().unwrap();
    let Step::Write(write) = step else {
        panic!("{step:?}")
    };
    let (buffer, result) = write_group(&*daemon.storage, write);
    let step = daemon.writer.written(buffer, result);
    assert!(matches!(step, Step::NeedFile), "{step:?}");
    assert!(daemon.writer.durable() > Lsn::NONE && daemon.writer.durable() < last);
    assert!(!daemon.writer.is_idle());
    let file = make_spare(&*daemon.storage, daemon.writer.file_plan()).unwrap();
    let step = daemon.writer.add_file(file).expect("the group goes on");
    assert!(daemon.drive(step, &mut write_group).unwrap());
    assert_eq!(daemon.acknowledged, last);
}

#[test]
fn files_made_ahead_count_as_room() {
    let (_, mut daemon) = new_daemon();
    for ahead in 1..=3 {
        let file = make_spare(&*daemon.storage, daemon.writer.file_plan()).unwrap();
        assert!(daemon.writer.add_file(file).is_none());
        assert_eq!(daemon.writer.files_prepared(), ahead);
        assert_eq!(
            daemon.writer.room_bytes(),
            (FILE_BYTES - 4096) * (ahead as u64 + 1)
        );
    }
}

/// Writes as the disk of a test wants it: the count that is really written, then an error if there is one.
fn hindered(
    plan: impl Fn(u32, usize) -> (usize, Option<i32>),
) -> impl FnMut(&dyn Storage, Write) -> (Vec<u8>, io::Result<usize>) {
    let mut call = 0;
    move |storage, write| {
        call += 1;
        let bytes = write.bytes();
        let (count, errno) = plan(call, bytes.len());
        let file = storage.open(&write.file.name()).unwrap();
        if count > 0 {
            assert_eq!(file.write_at(write.offset, &bytes[..count]).unwrap(), count);
            file.sync_data().unwrap();
        }
        let result = errno.map_or(Ok(count), |errno| Err(io::Error::from_raw_os_error(errno)));
        (write.into_buffer(), result)
    }
}

#[test]
fn short_and_interrupted_writes_are_carried_on() {
    const EINTR: i32 = 4;
    const EAGAIN: i32 = 11;
    let (_, mut daemon) = new_daemon();
    let mut rng = fastrand::Rng::with_seed(3);
    for _ in 0..50 {
        daemon.push_random(&mut rng, 500);
    }
    let step = daemon.begin().unwrap();
    let mut execute = hindered(|call, asked| match call % 4 {
        1 => (0, Some(EINTR)),
        2 => (0, Some(EAGAIN)),
        _ => (asked.div_ceil(3), None),
    });
    assert!(daemon.drive(step, &mut execute).unwrap());
    assert_eq!(daemon.acknowledged, Lsn::new(50));
    assert_cold_start(
        &*daemon.storage,
        &daemon.config,
        (&daemon.history, daemon.acknowledged),
        "in pieces",
    );
}

#[test]
fn failed_write_is_never_tried_again_and_nothing_is_acknowledged_any_more() {
    const EIO: i32 = 5;
    const ENOSPC: i32 = 28;
    for (written, errno) in [(0, Some(EIO)), (300, Some(ENOSPC)), (0, None)] {
        let (_, mut daemon) = new_daemon();
        daemon.push(reserve(1)).unwrap();
        assert!(daemon.commit().unwrap());
        for _ in 0..20 {
            daemon.push(reserve(2)).unwrap();
        }
        let step = daemon.begin().unwrap();
        let ok = daemon
            .drive(step, &mut hindered(|_, _| (written, errno)))
            .unwrap();
        assert!(!ok);
        assert_eq!(daemon.writer.durable(), Lsn::new(1));
        let failure = daemon.writer.failure().unwrap().to_string();
        assert!(
            failure.contains("lsn 2") && failure.contains(".qtj"),
            "{failure}"
        );
        daemon.push(reserve(3)).unwrap();
        assert!(daemon.begin().is_none(), "its buffer does not come back");
        let mut other = Appender::new(Lsn::new(22), AppenderLimits::default());
        other.push(&Record::Reserve { gen_limit: 4 }).unwrap();
        let step = daemon.writer.begin(other.take_group().unwrap());
        assert!(matches!(step, Step::Failed), "{step:?}");
    }
}

#[test]
fn sealed_group_says_what_was_durable_before_it() {
    let (disk, mut daemon) = new_daemon();
    for group in 0..3_u64 {
        daemon.push(reserve(group)).unwrap();
        daemon.push(reserve(group)).unwrap();
        daemon.commit().unwrap();
    }
    let name = daemon.writer.file().name();
    let bytes = disk.content(&name).unwrap();
    let field = |record: usize, at: usize| {
        let from = 4096 + record * RESERVE_BYTES + at;
        u64::from_le_bytes(*bytes[from..].first_chunk().unwrap())
    };
    let durable: Vec<u64> = (0..6).map(|record| field(record, 24)).collect();
    assert_eq!(durable, [0, 0, 2, 2, 4, 4]);
    let lsns: Vec<u64> = (0..6).map(|record| field(record, 16)).collect();
    assert_eq!(lsns, [1, 2, 3, 4, 5, 6]);
    let index: Vec<u64> = (0..6).map(|record| field(record, 40)).collect();
    assert_eq!(index, lsns);
    assert!((0..6).all(|record| field(record, 32) == 1 && field(record, 48) != 0));
}
