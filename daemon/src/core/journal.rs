//! The core's end of the journal: what is written next, what has become stable, how much room there is, when a
//! snapshot is due. Nothing here does I/O or waits: the driver executes the writes, the chores thread everything else.
//!
//! Invariants:
//! - I1: one write is under way at a time; meanwhile the next group fills.
//! - I2: at most one file is being made, and at most one snapshot taken.
//! - I3: after a failure nothing is written and nothing becomes stable any more.
//!
//! Tested in `tests/daemon/journal.rs`, `tests/daemon/full_disk.rs` and `tests/daemon/faults.rs`.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use qtf_engine::WallTime;
use qtf_engine::snapshot::WholeTasks;
use qtf_journal::{FileKey, JournalConfig, JournalError, Lsn, SpareFile, Step, Write, Writer};
use qtf_shm::Now;
use qtf_shm::histogram::Stage;
use qtf_shm::segment::Took;
use tokio::sync::Notify;

use super::{Core, now_since, shortage};
use crate::journal::chores::{Chores, Job, Kind};
use crate::journal::snapshot::{SnapshotError, SnapshotJob, SnapshotReport};
use crate::sys::synced_write::{Answer, SyncedWrite};

/// LIMIT: files that are ready beside the one that is written: two in reserve, one to go on with.
const FILES_AHEAD: usize = 3;
/// LIMIT: the last files are kept for what cannot be refused.
pub(crate) const FILES_RESERVED: u64 = 2;

/// What the core knows of the journal.
#[derive(Debug)]
pub(crate) struct Journal {
    writer: Writer,
    /// The files that the writer may name, in its order.
    files: VecDeque<(FileKey, Arc<File>)>,
    /// A step that waits for the driver.
    next: Option<Write>,
    is_writing: bool,
    /// When the group that is being written was taken.
    begun: Now,
    /// Bytes of the group that is being written.
    under_way: u64,
    is_file_asked: bool,
    kick: Rc<Notify>,
    pub(crate) chores: Chores,
    pub(crate) snapshots: Snapshots,
    pub(crate) facts: JournalFacts,
    /// Files that hold records or are being written, as last counted.
    pub(crate) files_in_use: u64,
    /// Why there is no file ahead, if there is none.
    shortage: Option<String>,
    failure: Option<String>,
}

/// What does not change while the daemon runs.
#[derive(Debug, Clone)]
pub(crate) struct JournalFacts {
    pub(crate) backend: &'static str,
    pub(crate) data_dir: PathBuf,
    pub(crate) config: JournalConfig,
    pub(crate) reserve_bytes: u64,
    pub(crate) snapshot_after_bytes: u64,
    pub(crate) snapshot_interval: Duration,
}

impl JournalFacts {
    /// Why there is no further file, with what would help.
    pub(crate) fn shortage(&self, error: &JournalError) -> String {
        shortage::text(error, &self.data_dir, self.config.file_bytes)
    }
}

/// Which snapshot there is, and what came after it.
#[derive(Debug, Default)]
pub(crate) struct Snapshots {
    /// Where the last one starts; 0 = there is none.
    pub(crate) newest: Lsn,
    pub(crate) is_under_way: bool,
    /// Bytes of records since the last one was begun, and before it.
    bytes_since: u64,
    bytes_before: u64,
    begun: Now,
    /// Why the last one could not be made.
    trouble: Option<String>,
    /// Which one was the newest when there was first no room for a further file and a snapshot beside it: the next one may make
    /// that room, and until it was tried nothing is wrong.
    missed_room_at: Option<Lsn>,
    /// Longest turn of the loop while one was under way.
    pub(crate) longest_turn: Duration,
}

impl Snapshots {
    /// There is no room for a further file and a snapshot beside it. Whether a snapshot that has not been tried yet may make it.
    fn may_make_room(&mut self) -> bool {
        let newest = *self.missed_room_at.get_or_insert(self.newest);
        newest == self.newest
            && self.trouble.is_none()
            && (self.is_under_way || self.bytes_since > 0)
    }
}

/// Whether the journal takes submissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JournalState {
    Open,
    Full,
    Failed,
}

/// What a journal starts with.
#[derive(Debug)]
pub(crate) struct JournalParts {
    pub(crate) writer: Writer,
    pub(crate) files: VecDeque<(FileKey, Arc<File>)>,
    pub(crate) chores: Chores,
    pub(crate) facts: JournalFacts,
    pub(crate) newest_snapshot: Lsn,
    /// Bytes of the files that a cold start would have to read.
    pub(crate) bytes_since: u64,
    /// Why there is no file to begin with, if there is none.
    pub(crate) shortage: Option<String>,
}

impl Journal {
    /// Puts the parts together. `kick` wakes the driver.
    pub(crate) fn new(parts: JournalParts, now: Now, kick: Rc<Notify>) -> Self {
        shortage::note(parts.shortage.as_deref());
        Self {
            writer: parts.writer,
            files: parts.files,
            next: None,
            is_writing: false,
            begun: Now::default(),
            under_way: 0,
            is_file_asked: false,
            kick,
            chores: parts.chores,
            snapshots: Snapshots {
                newest: parts.newest_snapshot,
                bytes_since: parts.bytes_since,
                begun: now,
                ..Snapshots::default()
            },
            facts: parts.facts,
            files_in_use: 1,
            shortage: parts.shortage,
            failure: None,
        }
    }

    /// Bytes that the files still take beside the group that is being written.
    pub(crate) fn room_bytes(&self) -> u64 {
        self.writer.room_bytes().saturating_sub(self.under_way)
    }

    /// Why nothing is written any more, if so.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Whether it takes submissions, and what is wrong if not.
    pub(crate) fn state(&self) -> (JournalState, &str) {
        if let Some(failure) = &self.failure {
            return (JournalState::Failed, failure);
        }
        let shortage = self.shortage.as_deref().unwrap_or_default();
        if self.room_bytes() <= self.facts.reserve_bytes {
            (JournalState::Full, shortage)
        } else {
            (JournalState::Open, shortage)
        }
    }

    /// Nothing can be written before a file was made, for which the disk has no room.
    pub(crate) fn waits_for_room(&self) -> bool {
        let has_no_file = !self.writer.has_begun() || self.writer.waits_for_file();
        has_no_file && self.shortage.is_some()
    }

    /// The first file of this daemon was made.
    pub(crate) fn has_begun(&self) -> bool {
        self.writer.has_begun()
    }

    /// A write is under way, or about to be.
    pub(crate) fn is_busy(&self) -> bool {
        self.is_writing || self.next.is_some()
    }

    /// Has a file made if there are too few ahead.
    fn ask_for_file(&mut self) {
        let is_enough = self.writer.files_prepared() >= FILES_AHEAD;
        if is_enough || self.is_file_asked || self.failure.is_some() {
            return;
        }
        // One that is refused its place is asked for again at the next look.
        self.is_file_asked = self.chores.hand(Job::MakeFile(self.writer.file_plan()));
    }

    /// The order for a write.
    fn synced_write_of(&mut self, write: Write) -> io::Result<SyncedWrite> {
        while self.files.front().is_some_and(|(key, _)| *key < write.file) {
            self.files.pop_front();
        }
        let (key, offset) = (write.file, write.offset);
        let (bytes, range) = write.into_parts();
        match self.files.front() {
            Some((found, file)) if *found == key => Ok(SyncedWrite {
                file: Arc::clone(file),
                offset,
                bytes,
                range,
            }),
            _ => Err(io::Error::other(format!("{} is not open", key.name()))),
        }
    }
}

impl Core {
    /// What the driver is to write next; `None` if nothing waits, or a write is under way.
    pub(crate) fn next_journal_write(&mut self) -> Option<SyncedWrite> {
        let journal = self.journal.as_mut()?;
        if journal.is_writing || journal.failure.is_some() {
            return None;
        }
        if journal.next.is_none() && journal.writer.is_idle() {
            let now = now_since(&*self.clock, self.origin_ns);
            let group = self.engine.take_journal_group()?;
            self.engine.segment().set_journal_end(group.last().get());
            let bytes = u64::try_from(group.bytes()).unwrap_or(u64::MAX);
            let since = &mut journal.snapshots.bytes_since;
            *since = since.saturating_add(bytes);
            journal.under_way = bytes;
            journal.begun = now;
            let step = journal.writer.begin(group);
            self.take_step(step);
        }
        let journal = self.journal.as_mut()?;
        let write = journal.next.take()?;
        match journal.synced_write_of(write) {
            Ok(order) => {
                journal.is_writing = true;
                Some(order)
            }
            Err(error) => {
                self.fail_journal(error.to_string());
                None
            }
        }
    }

    /// The driver has written, or tried to.
    pub(crate) fn journal_written(&mut self, (result, buffer): Answer) {
        let Some(journal) = self.journal.as_mut() else {
            return;
        };
        journal.is_writing = false;
        let step = journal.writer.written(buffer, result);
        self.take_step(step);
    }

    /// What came of the last step of the writer.
    fn take_step(&mut self, step: Step) {
        let now = self.now();
        let Some(journal) = self.journal.as_mut() else {
            return;
        };
        match step {
            Step::Write(write) => journal.next = Some(write),
            Step::NeedFile => tracing::warn!(
                why = journal
                    .shortage
                    .as_deref()
                    .unwrap_or("the chores thread is at it"),
                "the journal waits for a file"
            ),
            Step::Durable(_) => {
                journal.under_way = 0;
                let took = Took::once(now.since_ns(journal.begun));
                self.engine.count_stage(now, Stage::Sync, took);
                if let Some(buffer) = journal.writer.take_buffer() {
                    self.engine.give_back_journal_buffer(buffer);
                }
            }
            Step::Failed => {
                let failure = journal.writer.failure().map(ToString::to_string);
                return self.fail_journal(failure.unwrap_or_default());
            }
        }
        let durable = journal.writer.durable();
        journal.ask_for_file();
        let (room, reserve) = (journal.room_bytes(), journal.facts.reserve_bytes);
        self.engine.set_journal_room(room, reserve);
        if durable > self.engine.durable_lsn() {
            self.engine.journal_durable(now, durable);
            self.stability.reached(durable);
        }
    }

    /// The chores thread has made a file, or could not.
    pub(crate) fn journal_file_made(&mut self, made: Result<(SpareFile, Arc<File>), JournalError>) {
        let Some(journal) = self.journal.as_mut() else {
            return;
        };
        journal.is_file_asked = false;
        match made {
            Ok((spare, file)) => {
                journal.snapshots.missed_room_at = None;
                if journal.shortage.take().is_some() {
                    shortage::note(None);
                    tracing::info!("the journal has room again");
                }
                journal.files.push_back((spare.key(), file));
                if let Some(step) = journal.writer.add_file(spare) {
                    self.take_step(step);
                } else {
                    journal.ask_for_file();
                    let (room, reserve) = (journal.room_bytes(), journal.facts.reserve_bytes);
                    self.engine.set_journal_room(room, reserve);
                }
                self.kick_journal();
            }
            Err(JournalError::NoRoomForSnapshot { .. }) if journal.snapshots.may_make_room() => {}
            Err(error) => {
                let text = journal.facts.shortage(&error);
                if journal.shortage.as_ref() != Some(&text) {
                    tracing::warn!(
                        "no further file for the journal, tried again until it succeeds: {text}"
                    );
                }
                shortage::note(Some(&text));
                journal.shortage = Some(text);
            }
        }
    }

    /// A job of the chores thread is done: what waited for its place takes it.
    pub(crate) fn chore_done(&mut self, kind: Kind) {
        if let Some(journal) = self.journal.as_mut() {
            journal.chores.done(kind);
        }
    }

    /// So many files have the name of a log; those that are ready beside the first one hold nothing yet.
    pub(crate) fn note_journal_files(&mut self, logs: u64) {
        if let Some(journal) = self.journal.as_mut() {
            let ready = u64::try_from(journal.writer.files_prepared()).unwrap_or(u64::MAX);
            journal.files_in_use = logs.saturating_sub(ready);
        }
    }

    /// Has the chores thread see whether the file that is being written is still there; not again while it is at it.
    pub(crate) fn look_at_journal_file(&mut self) {
        if let Some(journal) = &mut self.journal
            && journal.failure.is_none()
            && let Some((key, file)) = journal.files.front()
        {
            journal.chores.hand(Job::LookAt(*key, Arc::clone(file)));
        }
    }

    /// What is to be done now and then: tries again what failed, takes a snapshot when one is due.
    pub(crate) fn tend_journal(&mut self) {
        let now = self.now();
        let Some(journal) = self.journal.as_mut() else {
            return;
        };
        journal.ask_for_file();
        let (room, reserve) = (journal.room_bytes(), journal.facts.reserve_bytes);
        self.engine.set_journal_room(room, reserve);
        let (snapshots, facts) = (&journal.snapshots, &journal.facts);
        let waited = Duration::from_nanos(now.since_ns(snapshots.begun));
        let has_grown = snapshots.bytes_since > 0;
        let is_due = snapshots.bytes_since >= facts.snapshot_after_bytes
            || has_grown && waited >= facts.snapshot_interval
            || has_grown && (journal.shortage.is_some() || snapshots.missed_room_at.is_some());
        if is_due && !snapshots.is_under_way && journal.failure.is_none() {
            self.begin_snapshot(now);
        }
    }

    /// What is not stable when it begins is replayed on top, so replay starts behind what is.
    fn begin_snapshot(&mut self, now: Now) {
        let unix_ms = self.unix_ms();
        let Some(journal) = self.journal.as_mut() else {
            return;
        };
        let snapshots = &mut journal.snapshots;
        snapshots.is_under_way = true;
        snapshots.bytes_before = std::mem::take(&mut snapshots.bytes_since);
        snapshots.begun = now;
        snapshots.longest_turn = Duration::ZERO;
        let wall = WallTime { now, unix_ms };
        let mut whole_tasks = WholeTasks::new(Arc::clone(self.engine.segment()), wall);
        if let (true, Some(journal)) = (self.engine.is_adopting(), self.engine.journal()) {
            whole_tasks = whole_tasks.reflecting_at_most(journal.last_lsn());
        }
        journal.chores.hand(Job::Snapshot(Box::new(SnapshotJob {
            whole_tasks,
            config: journal.facts.config.clone(),
            lineage: journal.writer.lineage(),
            start: self.engine.durable_lsn(),
            gen_limit: self.engine.reserved_generations(),
        })));
    }

    /// The snapshot is there, or could not be made: then it is tried again soon.
    pub(crate) fn snapshot_taken(&mut self, taken: Result<SnapshotReport, SnapshotError>) {
        let Some(journal) = self.journal.as_mut() else {
            return;
        };
        let snapshots = &mut journal.snapshots;
        snapshots.is_under_way = false;
        match taken {
            Ok(report) => {
                tracing::info!(
                    start = report.start.get(),
                    tasks = report.tasks,
                    took_ms = report.took.as_millis(),
                    longest_turn_us = snapshots.longest_turn.as_micros(),
                    "snapshot taken"
                );
                snapshots.newest = report.start;
                snapshots.trouble = None;
                journal.chores.hand(Job::Reclaim(report.start));
            }
            Err(error) => {
                let trouble = trouble_of(&error.to_string());
                if snapshots.trouble.as_ref() != Some(&trouble) {
                    tracing::warn!(%error, "no snapshot; tried again until it succeeds");
                }
                snapshots.trouble = Some(trouble);
                let before = snapshots.bytes_before;
                snapshots.bytes_since = snapshots.bytes_since.saturating_add(before);
            }
        }
    }

    /// Notes how long a turn of the loop took.
    pub(super) fn note_turn(&mut self, took: Duration) {
        if let Some(journal) = self.journal.as_mut()
            && journal.snapshots.is_under_way
        {
            let longest = &mut journal.snapshots.longest_turn;
            *longest = (*longest).max(took);
        }
    }

    /// Wakes the driver if there is something to write.
    pub(crate) fn kick_journal(&self) {
        let Some(journal) = &self.journal else {
            return;
        };
        let has_group = self
            .engine
            .journal()
            .is_some_and(|appender| appender.pending_bytes() > 0);
        if !journal.is_writing && (has_group || journal.next.is_some()) {
            journal.kick.notify_one();
        }
    }

    /// Nothing is acknowledged any more; the daemon ends.
    pub(crate) fn fail_journal(&mut self, failure: String) {
        let Some(journal) = self.journal.as_mut() else {
            return;
        };
        if journal.failure.is_none() {
            tracing::error!("{failure}");
            journal.failure = Some(failure);
            self.engine.journal_failed();
            self.stability.fail();
        }
    }

    /// How many records wait to be written, and whether anybody waits for them. While a write is under way its
    /// records count too.
    pub(crate) fn unwritten(&self) -> (u64, bool) {
        let Some(last) = self.unstable_end() else {
            return (0, false);
        };
        let count = last.get().saturating_sub(self.engine.durable_lsn().get());
        let is_awaited = self.stability.is_awaited()
            || self.engine.awaited_lsn().is_some()
            || self.engine.is_adopting();
        (count, is_awaited)
    }

    /// Whether everything that was found at the start, or reserved, is in the journal, or cannot be for lack of room: then what
    /// there is is served, and everything else waits or is refused.
    pub(crate) fn is_settled(&self) -> bool {
        let is_written = !self.engine.is_adopting() && self.unstable_end().is_none();
        is_written || self.journal.as_ref().is_some_and(Journal::waits_for_room)
    }

    /// The last record that a stop waits for: none where the disk has no room for it.
    pub(crate) fn last_to_write(&self) -> Option<Lsn> {
        let end = self.unstable_end()?;
        if self.journal.as_ref().is_some_and(Journal::waits_for_room) {
            tracing::warn!(
                lsn = end.get(),
                "the disk has no room for the last records of the journal: the segment keeps what they say, and the next start writes them"
            );
            return None;
        }
        Some(end)
    }

    /// Whether a write of the journal is under way.
    pub(crate) fn is_writing(&self) -> bool {
        self.journal.as_ref().is_some_and(Journal::is_busy)
    }

    /// Why the journal has failed, if it has.
    pub(crate) fn journal_failure(&self) -> Option<&str> {
        self.journal.as_ref().and_then(Journal::failure)
    }

    /// The last record that was appended, if it is not stable yet.
    pub(crate) fn unstable_end(&self) -> Option<Lsn> {
        let last = self.engine.journal()?.last_lsn();
        (last > self.engine.durable_lsn()).then_some(last)
    }
}

/// What is the same in each failure of one cause: every try has another file, named by its number, and another size.
fn trouble_of(error: &str) -> String {
    error
        .split(|letter: char| letter.is_ascii_hexdigit())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_of_the_next_snapshot_is_the_same_trouble_and_another_cause_is_not() {
        let first = "snapshot-00000000000001a4.qts.tmp: No space left on device (os error 28)";
        let next = "snapshot-0000000000f3b122.qts.tmp: No space left on device (os error 28)";
        let other = "snapshot-0000000000f3b122.qts.tmp: Input/output error (os error 5)";
        assert_eq!(trouble_of(first), trouble_of(next));
        assert_ne!(trouble_of(next), trouble_of(other));
    }
}
