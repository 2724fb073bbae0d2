//! What is written comes back, and no bytes make a reader panic.

use std::sync::Arc;

use proptest::prelude::*;
use qtf_journal::{
    Appender, AppenderLimits, Lsn, PushError, RECORD_BYTES_MAX, Record, SimDisk, Storage, recover,
};

use crate::daemon::{Daemon, RESERVE_BYTES, config};
use crate::model::{Content, Op, Task, id};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_history_is_replayed_as_the_model_says(seed: u64, count in 1_usize..200, payload in 0_usize..4000) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let storage: Arc<dyn Storage> = Arc::new(SimDisk::new());
        let mut daemon = Daemon::first(&storage, seed);
        for _ in 0..count {
            daemon.push_random(&mut rng, payload);
            if rng.u8(..) < 40 {
                daemon.commit().unwrap();
            }
        }
        daemon.commit().unwrap();
        let recovered = recover(&*storage, &config(0)).unwrap();
        prop_assert_eq!(recovered.opened.end, daemon.appender.last_lsn());
        prop_assert!(recovered.opened.cut.is_none());
        daemon.model.assert_is(&recovered, "whole");
    }

    #[test]
    fn no_content_of_a_file_makes_recovery_panic(seed: u64, count in 1_usize..60, hits in 1_usize..40) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let disk = SimDisk::new();
        let storage: Arc<dyn Storage> = Arc::new(disk.clone());
        let mut daemon = Daemon::first(&storage, seed);
        for _ in 0..count {
            daemon.push_random(&mut rng, 300);
        }
        daemon.commit().unwrap();
        let name = storage.list().unwrap().pop().unwrap();
        let mut bytes = disk.content(&name).unwrap();
        for _ in 0..hits {
            let from = rng.usize(..bytes.len().min(30_000));
            let until = (from + rng.usize(1..64)).min(bytes.len());
            rng.fill(&mut bytes[from..until]);
        }
        disk.put(&name, &bytes);
        // Whatever it says: an end, or an error with a name.
        if let Err(error) = recover(&*storage, &config(0)) {
            prop_assert!(error.to_string().contains(".qtj"), "{}", error);
        }
    }
}

#[test]
fn records_of_all_sizes_and_texts_come_back() {
    let storage: Arc<dyn Storage> = Arc::new(SimDisk::new());
    let mut daemon = Daemon::first(&storage, 1);
    let mut rng = fastrand::Rng::with_seed(9);
    let mut slot = 0;
    for payload in [0, 1, 7, 8, 63, 64, 65, 4096, 65_536] {
        for result in [0, 9, 65_536] {
            slot += 1;
            let mut task = Task::random(&mut rng, id(1, slot), 0);
            task.payload = Content::Bytes(vec![3; payload]);
            task.result = Content::Bytes(vec![4; result]);
            task.kind = "k".repeat(payload % 256);
            task.name = "é".repeat(127);
            task.host = String::new();
            daemon.push(Op::Task(Box::new(task))).unwrap();
        }
    }
    daemon.commit().unwrap();
    let recovered = recover(&*storage, &config(0)).unwrap();
    daemon.model.assert_is(&recovered, "all sizes");
}

#[test]
fn record_that_no_file_could_hold_is_refused_and_takes_no_lsn() {
    let mut appender = Appender::new(Lsn::new(1), AppenderLimits::default());
    let mut rng = fastrand::Rng::with_seed(9);
    let mut task = Task::random(&mut rng, id(1, 1), 0);
    task.payload = Content::Bytes(vec![0; RECORD_BYTES_MAX]);
    let refused = appender.push(&Record::Task(task.whole())).unwrap_err();
    assert!(matches!(refused, PushError::TooLarge { .. }), "{refused}");
    task.payload = Content::None;
    task.kind = "k".repeat(256);
    let refused = appender.push(&Record::Task(task.whole())).unwrap_err();
    assert_eq!(refused, PushError::TooLarge { bytes: 256 });
    assert_eq!(appender.last_lsn(), Lsn::NONE);
    assert_eq!(appender.pending_bytes(), 0);
}

#[test]
fn record_that_may_be_passed_over_has_its_place_and_says_nothing() {
    let disk = SimDisk::new();
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    let mut daemon = Daemon::first(&storage, 1);
    for gen_limit in [7, 8, 9] {
        daemon
            .push(Op::Plain(Record::Reserve { gen_limit }))
            .unwrap();
    }
    daemon.commit().unwrap();
    let name = daemon.writer.file().name();
    let mut bytes = disk.content(&name).unwrap();
    let epoch = u32::from_le_bytes(*bytes[32..].first_chunk().unwrap());
    let last = &mut bytes[4096 + 2 * RESERVE_BYTES..][..RESERVE_BYTES];
    last[8] = 200;
    let crc = crc32c::crc32c_append(epoch, &last[4..]);
    last[..4].copy_from_slice(&crc.to_le_bytes());
    disk.put(&name, &bytes);
    let recovered = recover(&*storage, &config(2)).unwrap();
    assert_eq!(
        (recovered.opened.end, recovered.gen_limit),
        (Lsn::new(3), 8)
    );
    assert!(recovered.opened.cut.is_none());
}
