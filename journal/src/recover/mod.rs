//! Cold start: the newest snapshot that is whole, and every record after it.
//!
//! | file | what |
//! |---|---|
//! | `replay.rs` | what each record does to the tasks; 48 bytes a slot, which point into the maps |
//!
//! A damaged snapshot is passed over only if an older one, or the journal from its first record on, leads to the same state.
//! Tested in `journal/tests/`: against a model, with damage everywhere, after crashes.

mod replay;

use qtf_shm::{KeyId, TaskId};

use crate::Lsn;
use crate::error::{JournalError, Why};
use crate::file::{JournalConfig, snapshot_name, snapshot_of_name};
use crate::open::{Opened, map_from};
use crate::progress::Progress;
use crate::record::WholeTask;
use crate::record::frame::BadFrame;
use crate::snapshot::{self, SnapshotEnd};
use crate::storage::{Mapped, Storage};
use crate::walk::{Log, Walk, logs};

use replay::{Place, Replay};

/// Everything a journal holds.
#[derive(Debug)]
pub struct Recovered {
    /// Its end, and how to go on.
    pub opened: Opened,
    /// Up to which generation ids may have been given; 0 if no record says so.
    pub gen_limit: u64,
    /// No live task has a higher stamp.
    pub max_stamp: u64,
    /// Where the newest snapshot that was used starts.
    pub snapshot: Option<Lsn>,
    /// Records that were read behind it.
    pub records: u64,
    /// What a person should know.
    pub notes: Vec<String>,
    replay: Replay,
    progress: Progress,
}

impl Recovered {
    /// The live tasks, by slot. A task that was submitted is READY or DELAYED here, one that was with a worker is READY with
    /// its attempt; the lsn is that of the last record that counts. `cancel_requested` is kept: whoever takes such a task over
    /// must end it.
    pub fn tasks(&self) -> impl Iterator<Item = WholeTask<'_>> {
        self.replay.tasks().inspect(|_| self.progress.note())
    }

    /// Number of live tasks.
    #[must_use]
    pub fn tasks_count(&self) -> usize {
        self.replay.tasks_count()
    }

    /// Keys whose task is gone: key, task, wall clock at which the key may be forgotten.
    pub fn keys(&self) -> impl Iterator<Item = (KeyId, TaskId, u64)> + '_ {
        self.replay.keys()
    }

    /// Whether the task of one of [`Recovered::keys`] was acknowledged, if it is gone. One that expired, or that nobody wanted to keep,
    /// was not.
    #[must_use]
    pub fn is_spent(&self, key: KeyId, task: TaskId) -> bool {
        self.replay.is_spent(key, task)
    }
}

/// Reads everything. A journal that does not exist yet is empty.
///
/// # Errors
/// Something that was on stable storage is damaged or missing, of another version or instance, or cannot be read.
pub fn recover(storage: &dyn Storage, config: &JournalConfig) -> Result<Recovered, JournalError> {
    recover_any(storage, Some(config))
}

/// The same, of any instance if there is no configuration.
pub(crate) fn recover_any(
    storage: &dyn Storage,
    config: Option<&JournalConfig>,
) -> Result<Recovered, JournalError> {
    let progress = config.map_or_else(Progress::default, |config| config.progress.clone());
    let logs = logs(storage, config)?;
    let names = storage
        .list()
        .map_err(JournalError::io("list", "the journal's directory"))?;
    let mut starts: Vec<Lsn> = names
        .iter()
        .filter_map(|name| snapshot_of_name(name))
        .collect();
    starts.sort_unstable_by(|a, b| b.cmp(a));
    let mut notes = Vec::new();
    let mut first_error = None;
    for start in starts {
        match read_snapshot(storage, start, &logs, &progress) {
            Ok((replay, end)) if is_covered(&logs, start) => {
                return replay_logs(storage, &logs, replay, Some(&end), (notes, progress));
            }
            Ok(_) => {
                first_error.get_or_insert_with(|| gap(&logs, start));
            }
            Err(error @ JournalError::Damaged { .. }) => {
                notes.push(format!("passed over: {error}"));
                first_error.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    let is_whole = logs.is_empty() || is_covered(&logs, Lsn::NONE);
    match first_error {
        Some(error) if logs.is_empty() || !is_whole => Err(error),
        None if !is_whole => Err(gap(&logs, Lsn::NONE)),
        _ => replay_logs(storage, &logs, Replay::new(), None, (notes, progress)),
    }
}

/// The logs hold everything behind `start`.
fn is_covered(logs: &[Log], start: Lsn) -> bool {
    first_needed(logs, start).is_some()
}

fn first_needed(logs: &[Log], start: Lsn) -> Option<usize> {
    logs.iter()
        .rposition(|log| log.first.is_some_and(|first| first <= start.next()))
}

fn gap(logs: &[Log], start: Lsn) -> JournalError {
    let is_first = start == Lsn::NONE;
    let missing = if is_first {
        "no file holds the first record".to_owned()
    } else {
        format!("no file holds the record that follows lsn {start}")
    };
    let (file, why) = match logs.first() {
        Some(first) => (
            first.name.clone(),
            format!("{missing}, this is the oldest one; files before it or a snapshot are missing"),
        ),
        None => (
            snapshot_name(start),
            format!("{missing}: no log is there at all"),
        ),
    };
    JournalError::damaged(&file, 0, start.next(), Why::Gap(why))
}

fn read_snapshot(
    storage: &dyn Storage,
    start: Lsn,
    logs: &[Log],
    progress: &Progress,
) -> Result<(Replay, SnapshotEnd), JournalError> {
    let name = snapshot_name(start);
    let bytes = storage.map(&name).map_err(JournalError::io("map", &name))?;
    let mut replay = Replay::new();
    let number = replay.add_file(bytes.clone());
    let end = snapshot::read(&name, &bytes, &mut |offset, frame| {
        progress.note();
        replay.restore(frame, Place::new(number, offset))
    })?;
    if logs
        .first()
        .is_some_and(|log| log.header.lineage != end.lineage)
    {
        let why = Why::Header("it belongs to another journal than the logs");
        return Err(JournalError::damaged(&name, 48, Lsn::NONE, why));
    }
    replay.reserved(end.gen_limit);
    Ok((replay, end))
}

fn replay_logs(
    storage: &dyn Storage,
    logs: &[Log],
    mut replay: Replay,
    snapshot: Option<&SnapshotEnd>,
    (notes, progress): (Vec<String>, Progress),
) -> Result<Recovered, JournalError> {
    let start = snapshot.map_or(Lsn::NONE, |end| end.start);
    let mut records = 0;
    let opened = if logs.is_empty() {
        Opened::nothing()
    } else {
        let from = first_needed(logs, start).ok_or_else(|| gap(logs, start))?;
        let maps = map_from(storage, logs, from)?;
        let numbers: Vec<u16> = maps
            .iter()
            .map(|map| replay.add_file(map.clone()))
            .collect();
        let content = |at: usize| -> Option<&Mapped> { maps.get(at.checked_sub(from)?) };
        let walk = Walk {
            logs,
            content: &content,
        };
        let end = walk.run(from, &mut |log, offset, frame| {
            if frame.lsn <= start {
                return Ok(());
            }
            records += 1;
            progress.note();
            let number = numbers.get(log - from).copied().unwrap_or(0);
            replay.apply(frame, Place::new(number, offset))
        })?;
        if let Some(shown) = snapshot
            .map(|end| end.shown)
            .filter(|&shown| shown > end.lsn)
        {
            let why = Why::Missing {
                frame: BadFrame::Nothing,
                witness: format!("{}, which shows lsn {shown},", snapshot_name(start)),
            };
            let name = &logs[end.log].name;
            return Err(JournalError::damaged(name, end.offset, end.lsn.next(), why));
        }
        Opened::at(logs, end, None)
    };
    Ok(Recovered {
        opened,
        gen_limit: replay.gen_limit(),
        max_stamp: replay.max_stamp(),
        snapshot: snapshot.map(|end| end.start),
        records,
        notes,
        replay,
        progress,
    })
}
