//! The disk's own speed: one synced write after the other, on a file that is zero-filled as the journal's are; and the
//! journal's writer on the same folder, without a daemon.

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Instant;

use hdrhistogram::Histogram;
use qtf_journal::{
    Appender, AppenderLimits, JournalConfig, Record, StdStorage, Step, make_spare, open_tail,
    write_group,
};
use qtf_shm::TaskId;

use crate::Failure;
use crate::machine::histogram;

const FILE_BYTES: u64 = 64 << 20;

/// How a write is brought to stable storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// `write`, then `fdatasync`.
    Fdatasync,
    /// A write that includes its sync (`O_DSYNC`, for one write the same as `RWF_DSYNC`).
    Dsync,
}

/// Times of single synced writes of `bytes` each.
///
/// # Errors
/// The file cannot be made or written.
pub fn synced_writes(
    folder: &Path,
    sync: Sync,
    (bytes, rounds): (usize, u32),
) -> Result<Histogram<u64>, Failure> {
    let path = folder.join("bench-sync");
    let flags = match sync {
        Sync::Fdatasync => 0,
        Sync::Dsync => nix::libc::O_DSYNC,
    };
    let whole = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)?;
    let zeros = vec![0; 1 << 20];
    for place in (0..FILE_BYTES).step_by(1 << 20) {
        whole.write_all_at(&zeros, place)?;
    }
    whole.sync_all()?;
    let file = OpenOptions::new()
        .write(true)
        .custom_flags(flags)
        .open(&path)?;
    let block = vec![0x5a; bytes];
    let mut times = histogram();
    let mut place = 0;
    for _ in 0..rounds {
        let begun = Instant::now();
        file.write_all_at(&block, place)?;
        if sync == Sync::Fdatasync {
            file.sync_data()?;
        }
        times.record(ns_since(begun))?;
        place = (place + bytes as u64) % (FILE_BYTES - (bytes as u64));
    }
    drop(file);
    std::fs::remove_file(&path)?;
    Ok(times)
}

/// Nanoseconds since a moment.
#[must_use]
pub fn ns_since(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// The journal's writer alone: groups of so many records, each written and synced before the next one is begun.
/// Returns the times of groups, and the bytes of one.
///
/// # Errors
/// The journal cannot be made or written.
pub fn journal_groups(
    folder: &Path,
    (records, rounds): (u32, u32),
) -> Result<(Histogram<u64>, usize), Failure> {
    let folder = folder.join("bench-groups");
    std::fs::create_dir_all(&folder)?;
    let storage = StdStorage::open_dir(&folder)?;
    let config = JournalConfig::new("bench", 1);
    let opened = open_tail(&storage, &config)?;
    let mut writer = opened.start(&storage, &config)?;
    let mut appender = Appender::new(opened.end.next(), AppenderLimits::default());
    let mut times = histogram();
    let mut group_bytes = 0;
    let task = TaskId::from_raw(1 << 24).ok_or("no task id")?;
    for _ in 0..rounds {
        let begun = Instant::now();
        for _ in 0..records {
            appender.push(&Record::Attempt {
                task,
                attempt: 1,
                worker: 7,
            })?;
        }
        let group = appender.take_group().ok_or("no group")?;
        group_bytes = group.bytes();
        let mut step = writer.begin(group);
        loop {
            step = match step {
                Step::Write(write) => {
                    let (buffer, result) = write_group(&storage, write);
                    writer.written(buffer, result)
                }
                Step::NeedFile => writer
                    .add_file(make_spare(&storage, writer.file_plan())?)
                    .ok_or("no group waits for the file")?,
                Step::Durable(_) => break,
                Step::Failed => return Err(format!("{:?}", writer.failure()).into()),
            };
        }
        appender.give_back(writer.take_buffer().ok_or("no buffer")?);
        times.record(ns_since(begun))?;
    }
    std::fs::remove_dir_all(&folder)?;
    Ok((times, group_bytes))
}
