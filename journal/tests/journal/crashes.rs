//! Power cuts and killed daemons at random moments, over many seeds.

use std::io;
use std::sync::Arc;

use qtf_journal::{
    JournalError, Lsn, SimDisk, Step, Storage, Write, make_spare, open_tail, reclaim,
};

use crate::daemon::{Daemon, assert_cold_start, config};
use crate::model::Op;

const SEEDS: u64 = 250;
const LIVES: u64 = 12;

/// How a life of the daemon ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    /// The process was killed between two steps.
    Killed,
    /// The machine stopped.
    PowerCut,
    /// A sync failed, then the daemon stopped as it must.
    SyncFailed,
}

/// Writes like a driver, but dies before or after the sync when it is told to.
fn write_and_perhaps_die(
    rng: &mut fastrand::Rng,
    storage: &dyn Storage,
    write: Write,
) -> (Vec<u8>, io::Result<usize>) {
    let count = write.bytes().len();
    let result = storage.open(&write.file.name()).and_then(|file| {
        if rng.bool() {
            return Err(io::Error::other("died before the write"));
        }
        let part = if rng.bool() {
            count
        } else {
            rng.usize(1..=count)
        };
        file.write_at(write.offset, &write.bytes()[..part])?;
        if rng.bool() {
            file.sync_data()?;
        }
        Err(io::Error::other("died after the write"))
    });
    (write.into_buffer(), result)
}

struct Life {
    history: Vec<Op>,
    acknowledged: Lsn,
    death: Death,
}

/// One life, from its start to its death.
fn live(disk: &SimDisk, rng: &mut fastrand::Rng, mut daemon: Daemon) -> Result<Life, JournalError> {
    let mut snapshot = None;
    let mut death = if rng.bool() {
        Death::Killed
    } else {
        Death::PowerCut
    };
    for _ in 0..rng.usize(1..25) {
        for _ in 0..rng.usize(0..30) {
            daemon.push_random(rng, 3000);
        }
        match rng.u8(0..16) {
            0 if daemon.writer.files_prepared() < 2 => {
                let file = make_spare(disk, daemon.writer.file_plan())?;
                assert!(daemon.writer.add_file(file).is_none());
            }
            1 if snapshot.is_none() => snapshot = Some(daemon.snapshot(|_| {})?),
            2 | 3 => match snapshot.take() {
                None => {}
                Some(mut ready) => match ready.publish(daemon.writer.durable()) {
                    Ok(start) => drop(reclaim(disk, start, rng.usize(0..3))?),
                    Err(JournalError::NotYetDurable { .. }) => snapshot = Some(ready),
                    Err(error) => return Err(error),
                },
            },
            4 if rng.u8(0..8) == 0 => {
                daemon.push_random(rng, 100);
                disk.break_next_sync();
                let durable = daemon.writer.durable();
                // It may hit a file that is being made instead.
                match daemon.commit() {
                    Ok(true) => {}
                    Ok(false) => {
                        assert_eq!(daemon.writer.durable(), daemon.acknowledged.max(durable));
                        death = Death::SyncFailed;
                        break;
                    }
                    Err(_) => {
                        death = Death::SyncFailed;
                        break;
                    }
                }
            }
            _ => assert!(daemon.commit()?),
        }
    }
    // The last thing it does may be a write that does not end.
    if death != Death::SyncFailed
        && rng.bool()
        && let Some(Step::Write(write)) = daemon.begin()
    {
        let storage = Arc::clone(&daemon.storage);
        let (buffer, result) = write_and_perhaps_die(rng, &*storage, write);
        assert!(matches!(
            daemon.writer.written(buffer, result),
            Step::Failed
        ));
    }
    Ok(Life {
        acknowledged: daemon.acknowledged,
        history: daemon.history,
        death,
    })
}

fn run(seed: u64) -> [u64; 3] {
    let mut rng = fastrand::Rng::with_seed(seed);
    let disk = SimDisk::new();
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    let mut daemon = Daemon::first(&storage, seed);
    let mut deaths = [0; 3];
    for life in 1..=LIVES {
        let what = format!("seed {seed}, life {life}");
        let lived = live(&disk, &mut rng, daemon).unwrap_or_else(|error| panic!("{what}: {error}"));
        deaths[lived.death as usize] += 1;
        disk.process_died();
        let config = config(seed * LIVES * 2 + life);
        let known = (&lived.history[..], lived.acknowledged);
        let hot = lived.death != Death::PowerCut && rng.bool();
        let opened = if hot {
            let opened =
                open_tail(&disk, &config).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(opened.end >= lived.acknowledged, "{what}");
            opened
        } else {
            if lived.death == Death::PowerCut || rng.bool() {
                disk.crash(rng.u64(..));
            }
            let opened = assert_cold_start(&disk, &config, known, &what);
            assert_eq!(open_tail(&disk, &config).unwrap().end, opened.end, "{what}");
            opened
        };
        let started = Daemon::start(&storage, &opened, (config, lived.history));
        daemon = started.unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    deaths
}

#[test]
fn nothing_acknowledged_is_lost_in_any_crash() {
    let mut deaths = [0; 3];
    for seed in 0..SEEDS {
        for (total, count) in deaths.iter_mut().zip(run(seed)) {
            *total += count;
        }
    }
    assert!(deaths.iter().all(|&count| count > 20), "{deaths:?}");
}

#[test]
fn crash_during_a_start_is_as_good_as_none() {
    for seed in 0..60 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let disk = SimDisk::new();
        let storage: Arc<dyn Storage> = Arc::new(disk.clone());
        let mut daemon = Daemon::first(&storage, seed);
        for _ in 0..200 {
            daemon.push_random(&mut rng, 2000);
        }
        daemon.commit().unwrap();
        if rng.bool() {
            daemon.snapshot_and_reclaim().unwrap();
        }
        let known = (&daemon.history[..], daemon.acknowledged);
        for start in 0..6 {
            let what = format!("seed {seed}, start {start}");
            let opened = open_tail(&disk, &config(start)).unwrap();
            drop(opened.start(&disk, &config(start)).unwrap());
            disk.crash(rng.u64(..));
            let opened = assert_cold_start(&disk, &config(start), known, &what);
            assert_eq!(opened.end, daemon.acknowledged, "{what}");
        }
    }
}
