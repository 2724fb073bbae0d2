//! Every operation of a fixed run fails once, in every way.

use std::sync::Arc;

use qtf_journal::{Fault, FaultyStorage, JournalError, Lsn, SimDisk, Storage, open_tail, recover};

use crate::daemon::{Daemon, assert_cold_start, config};
use crate::model::Op;

const EINTR: i32 = 4;
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// What is known after a run that may have ended early.
struct Known {
    history: Vec<Op>,
    acknowledged: Lsn,
    error: Option<String>,
}

/// Two daemons, three files, two snapshots, a hot and a cold start.
fn run(storage: &Arc<dyn Storage>) -> Known {
    let mut known = Known {
        history: Vec::new(),
        acknowledged: Lsn::NONE,
        error: None,
    };
    known.error = run_into(storage, &mut known)
        .err()
        .map(|error| error.to_string());
    known
}

fn run_into(storage: &Arc<dyn Storage>, known: &mut Known) -> Result<(), JournalError> {
    let mut rng = fastrand::Rng::with_seed(7);
    for start in 0..3 {
        let config = config(start);
        let opened = if start == 2 {
            recover(&**storage, &config)?.opened
        } else {
            open_tail(&**storage, &config)?
        };
        assert!(opened.end >= known.acknowledged);
        let history = known.history.clone();
        let mut daemon = Daemon::start(storage, &opened, (config, history))?;
        let done = work(&mut daemon, &mut rng);
        known.acknowledged = daemon.acknowledged;
        known.history = daemon.history;
        if !done? {
            let failure = daemon.writer.failure().expect("it says so").to_string();
            known.error = Some(failure);
            return Err(JournalError::NotYetDurable {
                shown: Lsn::NONE,
                durable: Lsn::NONE,
            });
        }
    }
    Ok(())
}

/// False if a write failed.
fn work(daemon: &mut Daemon, rng: &mut fastrand::Rng) -> Result<bool, JournalError> {
    for step in 0..6 {
        for _ in 0..40 {
            daemon.push_random(rng, 6000);
        }
        if !daemon.commit()? {
            return Ok(false);
        }
        if step == 3 {
            daemon.snapshot_and_reclaim()?;
            if daemon.writer.failure().is_some() {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

#[test]
fn every_operation_fails_once_and_nothing_acknowledged_is_lost() {
    let counting = FaultyStorage::new(Arc::new(SimDisk::new()));
    let storage: Arc<dyn Storage> = Arc::new(counting.clone());
    assert_eq!(run(&storage).error, None);
    let operations = counting.count();
    assert!(operations > 100, "{operations}");
    let faults = [
        Fault::Errno(EIO),
        Fault::Errno(ENOSPC),
        Fault::Errno(EINTR),
        Fault::AfterAll(EIO),
        Fault::Short,
    ];
    let (mut survived, mut ended) = (0, 0);
    for fault in faults {
        for number in 0..operations {
            let disk = SimDisk::new();
            let faulty = FaultyStorage::new(Arc::new(disk.clone()));
            faulty.fail(number, fault);
            let storage: Arc<dyn Storage> = Arc::new(faulty.clone());
            let known = run(&storage);
            let what = format!("operation {number} ({:?}) with {fault:?}", faulty.hit());
            assert!(faulty.hit().is_some(), "{what}");
            match &known.error {
                None => survived += 1,
                Some(_) => ended += 1,
            }
            if fault == Fault::Short {
                assert_eq!(known.error, None, "{what}");
            }
            // The daemon stops; then the machine as well.
            disk.process_died();
            let hot =
                open_tail(&disk, &config(90)).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(hot.end >= known.acknowledged, "{what}");
            disk.crash(number);
            let opened = assert_cold_start(
                &disk,
                &config(90),
                (&known.history, known.acknowledged),
                &what,
            );
            let again = opened
                .start(&disk, &config(91))
                .unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(again.durable(), opened.end);
        }
    }
    assert!(survived > 100 && ended > 100, "{survived} {ended}");
}
