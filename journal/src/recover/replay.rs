//! What each record does to the tasks.
//!
//! Invariants:
//! - I1: a record applies only if its lsn is above the task's and the generation is the same; a submission also if its
//!   generation is higher than that of the slot's last tenant. So nothing that a snapshot shows already is done again, and
//!   nothing that was meant for an earlier tenant touches a later one.
//! - I2: nothing is copied: an entry holds what records change, and points to the record with the rest.
//! - I3: memory grows with the slots that were used, in pages of 4,096 entries, 48 bytes each.

use std::collections::{HashMap, HashSet};

use qtf_shm::{KeyId, Phase, SlotIndex, TaskId, TaskOptions};

use crate::Lsn;
use crate::error::Why;
use crate::record::decode::{self, BadRecord};
use crate::record::frame::{self, Frame, HEAD_BYTES, Kind};
use crate::record::{Record, WholeTask};
use crate::storage::Mapped;

const PAGE_ENTRIES: usize = 4096;
const OFFSET_BITS: u32 = 48;
const OFFSET_MASK: u64 = (1 << OFFSET_BITS) - 1;

const FLAG_CANCEL: u8 = 1;
/// The outcome that the submission carries no longer counts.
const FLAG_VOID: u8 = 2;
const FLAG_GONE: u8 = 4;
const FLAG_KEY: u8 = 8;

/// Where a record lies: number of the file 16 bits | offset 48 bits. 0 = nowhere, since a file begins with its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Place(u64);

impl Place {
    pub(crate) fn new(file: u16, offset: usize) -> Self {
        Self((u64::from(file) << OFFSET_BITS) | (offset as u64 & OFFSET_MASK))
    }

    const fn is_none(self) -> bool {
        self.0 == 0
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    /// Raw task id; 0 = the slot was never used.
    id: u64,
    lsn: Lsn,
    /// The submission.
    base: Place,
    /// The outcome, if a record of its own says it.
    ending: Place,
    due_unix_ms: u64,
    phase: u8,
    attempt: u16,
    failures: u8,
    losses: u8,
    priority: u8,
    flags: u8,
}

const _: () = assert!(size_of::<Entry>() == 48, "a million tasks take 48 MB");

impl Entry {
    const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// [`PAGE_ENTRIES`] of them.
type Page = Box<[Entry]>;

/// The tasks so far.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    files: Vec<Mapped>,
    pages: Vec<Option<Page>>,
    keys: Vec<(KeyId, TaskId, u64)>,
    /// Keys whose task was acknowledged.
    spent: HashSet<(KeyId, TaskId)>,
    /// Keys that were given back, or ended with their task. One is never given to the same task again.
    released: HashSet<(KeyId, TaskId)>,
    /// The first place in the order that was recorded of a task, where a later record has another one: its segment's origin was moved in between,
    /// and had no room for the distance of what is old. Of others that were not recorded again the first place counts, too.
    first_stamps: HashMap<TaskId, u64>,
    gen_limit: u64,
    max_stamp: u64,
    live: usize,
}

impl Replay {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// LIMIT: 65,535 files; the number of one more would be taken for that of the last.
    pub(crate) fn add_file(&mut self, file: Mapped) -> u16 {
        self.files.push(file);
        u16::try_from(self.files.len() - 1).unwrap_or(u16::MAX)
    }

    pub(crate) fn reserved(&mut self, gen_limit: u64) {
        if !cfg!(qtf_mutant = "sim_reservation_is_not_replayed") {
            self.gen_limit = self.gen_limit.max(gen_limit);
        }
    }

    pub(crate) const fn gen_limit(&self) -> u64 {
        self.gen_limit
    }

    pub(crate) const fn tasks_count(&self) -> usize {
        self.live
    }

    pub(crate) const fn max_stamp(&self) -> u64 {
        self.max_stamp
    }

    /// Takes a record of a snapshot, whose whole tasks carry the lsn up to which they are true.
    pub(crate) fn restore(&mut self, frame: &Frame<'_>, place: Place) -> Result<(), Why> {
        if frame.kind == Kind::Passable {
            return Ok(());
        }
        let record = decode::record(frame)?;
        let shown = match &record {
            Record::Task(whole) => whole.lsn,
            // Said twice in a row: its task was acknowledged.
            &Record::Key {
                key,
                task,
                expires_unix_ms,
            } if self.keys.last() == Some(&(key, task, expires_unix_ms)) => {
                self.spent.insert((key, task));
                return Ok(());
            }
            Record::Key { .. } => frame.lsn,
            Record::Attempt { .. }
            | Record::Requeue { .. }
            | Record::Outcome { .. }
            | Record::Cancel { .. }
            | Record::Acknowledged { .. }
            | Record::Purge { .. }
            | Record::Reserve { .. }
            | Record::Update { .. } => return Err(BadRecord::Kind(frame.kind as u8).into()),
        };
        self.take(&record, shown, place)
    }

    /// Takes a record of a log.
    pub(crate) fn apply(&mut self, frame: &Frame<'_>, place: Place) -> Result<(), Why> {
        if frame.kind == Kind::Passable {
            return Ok(());
        }
        let record = decode::record(frame)?;
        self.take(&record, frame.lsn, place)
    }

    fn take(&mut self, record: &Record<'_>, lsn: Lsn, place: Place) -> Result<(), Why> {
        match *record {
            Record::Task(ref whole) => return self.task(whole, lsn, place),
            Record::Reserve { gen_limit } => self.reserved(gen_limit),
            Record::Key {
                key,
                task,
                expires_unix_ms,
            } => self.key((key, task, expires_unix_ms)),
            Record::Attempt { task, .. }
            | Record::Requeue { task, .. }
            | Record::Outcome { task, .. }
            | Record::Cancel { task }
            | Record::Acknowledged { task }
            | Record::Purge { task }
            | Record::Update { task, .. } => return self.change(task, record, lsn, place),
        }
        Ok(())
    }

    fn change(
        &mut self,
        task: TaskId,
        record: &Record<'_>,
        lsn: Lsn,
        place: Place,
    ) -> Result<(), Why> {
        let Some(entry) = self.entry_of(task, lsn) else {
            return Ok(());
        };
        change(entry, record, place);
        entry.lsn = lsn;
        if entry.has(FLAG_GONE) {
            let gone = *entry;
            self.live = self.live.saturating_sub(1);
            self.keep_key(&gone, was_acknowledged(&gone, record))?;
        }
        Ok(())
    }

    /// A key that is alive though its task is gone; one without time left was given back. The slot of its task says nothing of that, so
    /// a whole task may be older or younger: it has the key, or not.
    fn key(&mut self, (key, task, expires_unix_ms): (KeyId, TaskId, u64)) {
        if expires_unix_ms > 0 {
            self.keys.push((key, task, expires_unix_ms));
            return;
        }
        let entry = self.slot(task.slot());
        if let Some(entry) =
            entry.filter(|entry| entry.id == task.as_raw() && !entry.has(FLAG_GONE))
        {
            entry.flags &= !FLAG_KEY;
        }
        // A snapshot lists the keys of live tasks, too.
        self.released.insert((key, task));
    }

    /// The entry of a task that a record with this lsn may change.
    fn entry_of(&mut self, id: TaskId, lsn: Lsn) -> Option<&mut Entry> {
        self.slot(id.slot())
            .filter(|entry| entry.id == id.as_raw() && !entry.has(FLAG_GONE) && entry.lsn < lsn)
    }

    fn slot(&mut self, slot: SlotIndex) -> Option<&mut Entry> {
        let position = slot.position();
        let page = self.pages.get_mut(position / PAGE_ENTRIES)?.as_mut()?;
        page.get_mut(position % PAGE_ENTRIES)
    }

    fn slot_or_new(&mut self, slot: SlotIndex) -> &mut Entry {
        let position = slot.position();
        let page = position / PAGE_ENTRIES;
        if self.pages.len() <= page {
            self.pages.resize_with(page + 1, || None);
        }
        let empty = || vec![Entry::default(); PAGE_ENTRIES].into_boxed_slice();
        let page = self.pages[page].get_or_insert_with(empty);
        &mut page[position % PAGE_ENTRIES]
    }

    fn task(&mut self, whole: &WholeTask<'_>, lsn: Lsn, place: Place) -> Result<(), Why> {
        let entry = self.slot_or_new(whole.id.slot());
        let raw = whole.id.as_raw();
        let is_new = entry.id == 0 || entry.id < raw;
        if !is_new && (entry.id != raw || entry.lsn >= lsn) {
            return Ok(());
        }
        let before = *entry;
        if !is_new && !before.has(FLAG_GONE) {
            let stamp = self.base(&before)?.stamp;
            if stamp != whole.stamp {
                self.first_stamps.entry(whole.id).or_insert(stamp);
            }
        }
        let entry = self.slot_or_new(whole.id.slot());
        let was_live = before.id != 0 && !before.has(FLAG_GONE);
        let mut flags = 0;
        if whole.cancel_requested {
            flags |= FLAG_CANCEL;
        }
        if whole.key.is_some() {
            flags |= FLAG_KEY;
        }
        *entry = Entry {
            id: raw,
            lsn,
            base: place,
            ending: Place::default(),
            due_unix_ms: whole.due_unix_ms,
            phase: whole.phase as u8,
            attempt: whole.attempt,
            failures: whole.failures,
            losses: whole.losses,
            priority: whole.priority,
            flags,
        };
        self.live += usize::from(!was_live);
        self.max_stamp = self.max_stamp.max(whole.stamp);
        if was_live && before.id != raw {
            // The slot was freed without a record, as that of a task whose result nobody wanted.
            self.keep_key(&before, false)?;
        }
        Ok(())
    }

    /// A key outlives its task, but for an automatic one whose task was acknowledged.
    fn keep_key(&mut self, entry: &Entry, was_acknowledged: bool) -> Result<(), Why> {
        if !entry.has(FLAG_KEY) {
            return Ok(());
        }
        let whole = self.base(entry)?;
        let options = TaskOptions::from_bits(whole.options);
        let (id, found) = (whole.id, whole.key);
        let Some((key, expiry)) = found else {
            return Ok(());
        };
        if was_acknowledged && options.has(TaskOptions::AUTOMATIC_KEY) {
            // Also if a snapshot has it.
            self.released.insert((key, id));
            return Ok(());
        }
        if was_acknowledged {
            self.spent.insert((key, id));
        }
        self.keys.push((key, id, expiry));
        Ok(())
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        let pages = self.pages.iter().flatten();
        pages
            .flat_map(|page| page.iter())
            .filter(|entry| entry.id != 0 && !entry.has(FLAG_GONE))
    }

    /// Format and body of a record.
    fn body(&self, place: Place) -> (u8, &[u8]) {
        let offset = usize::try_from(place.0 & OFFSET_MASK).unwrap_or(usize::MAX);
        let file = usize::try_from(place.0 >> OFFSET_BITS).unwrap_or(usize::MAX);
        let record = self
            .files
            .get(file)
            .and_then(|file| file.get(offset..))
            .unwrap_or_default();
        let length = frame::read_u32(record, frame::AT_BYTES) as usize;
        let format = record.get(frame::AT_FORMAT).copied().unwrap_or_default();
        (format, record.get(HEAD_BYTES..length).unwrap_or_default())
    }

    /// The submission; it was decoded once already, so this fails only if the file has changed since.
    fn base(&self, entry: &Entry) -> Result<WholeTask<'_>, BadRecord> {
        let (format, body) = self.body(entry.base);
        decode::whole_task(format, body)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = (KeyId, TaskId, u64)> + '_ {
        let released = &self.released;
        let keys = self.keys.iter().copied();
        keys.filter(move |(key, task, _)| !released.contains(&(*key, *task)))
    }

    /// Its task was acknowledged, unless it is there.
    pub(crate) fn is_spent(&self, key: KeyId, task: TaskId) -> bool {
        self.spent.contains(&(key, task))
    }

    pub(crate) fn tasks(&self) -> impl Iterator<Item = WholeTask<'_>> {
        self.entries().filter_map(|entry| self.whole(entry).ok())
    }

    fn whole(&self, entry: &Entry) -> Result<WholeTask<'_>, BadRecord> {
        let mut whole = self.base(entry)?;
        if let Some(&stamp) = self.first_stamps.get(&whole.id) {
            whole.stamp = stamp;
        }
        whole.lsn = entry.lsn;
        whole.attempt = entry.attempt;
        whole.failures = entry.failures;
        whole.losses = entry.losses;
        whole.priority = entry.priority;
        whole.due_unix_ms = entry.due_unix_ms;
        whole.cancel_requested = entry.has(FLAG_CANCEL);
        whole.phase = resting(entry);
        if !entry.has(FLAG_KEY) {
            whole.key = None;
        }
        if entry.has(FLAG_VOID) {
            whole.outcome = qtf_shm::Outcome::default();
            whole.result = crate::Blob::None;
            whole.ended_unix_ms = 0;
        }
        if entry.ending.is_none() {
            return Ok(whole);
        }
        let (format, body) = self.body(entry.ending);
        if let Record::Outcome {
            outcome,
            ended_unix_ms,
            result,
            ..
        } = decode::body(Kind::Outcome, format, body)?
        {
            whole.outcome = outcome;
            whole.ended_unix_ms = ended_unix_ms;
            whole.result = result;
        }
        Ok(whole)
    }
}

fn change(entry: &mut Entry, record: &Record<'_>, place: Place) {
    match *record {
        Record::Attempt { attempt, .. } => {
            entry.phase = Phase::Assigned as u8;
            entry.attempt = attempt;
        }
        Record::Requeue {
            phase,
            attempt,
            failures,
            losses,
            due_unix_ms,
            ..
        } => {
            entry.phase = phase as u8;
            (entry.attempt, entry.failures, entry.losses) = (attempt, failures, losses);
            entry.due_unix_ms = due_unix_ms;
            entry.ending = Place::default();
            entry.flags |= FLAG_VOID;
            if attempt == 0 {
                // An operator wants it to be done after all.
                entry.flags &= !FLAG_CANCEL;
            }
        }
        Record::Outcome {
            attempt,
            phase,
            failures,
            losses,
            ..
        } => {
            entry.phase = phase as u8;
            (entry.attempt, entry.failures, entry.losses) = (attempt, failures, losses);
            entry.ending = place;
        }
        Record::Cancel { .. } => entry.flags |= FLAG_CANCEL,
        Record::Acknowledged { .. } | Record::Purge { .. } => entry.flags |= FLAG_GONE,
        Record::Update { priority, .. } => entry.priority = priority,
        Record::Task(_) | Record::Reserve { .. } | Record::Key { .. } => {}
    }
}

/// Somebody has said so; dead letters go in no other way.
fn was_acknowledged(entry: &Entry, record: &Record<'_>) -> bool {
    match record {
        Record::Acknowledged { .. } => true,
        Record::Purge { .. } => entry.phase == Phase::DeadLetter as u8,
        Record::Task(_)
        | Record::Attempt { .. }
        | Record::Requeue { .. }
        | Record::Outcome { .. }
        | Record::Cancel { .. }
        | Record::Reserve { .. }
        | Record::Update { .. }
        | Record::Key { .. } => false,
    }
}

/// Where a task stands when no worker has it; ASSIGNED says that one had it, and may have begun.
fn resting(entry: &Entry) -> Phase {
    let phase = Phase::ALL
        .get(usize::from(entry.phase))
        .copied()
        .unwrap_or(Phase::Ready);
    match phase {
        Phase::Submitted | Phase::Delayed if entry.due_unix_ms > 0 => Phase::Delayed,
        Phase::Assigned
        | Phase::Held
        | Phase::Done
        | Phase::Failed
        | Phase::Cancelled
        | Phase::DeadLetter => phase,
        Phase::Free
        | Phase::Claimed
        | Phase::Submitted
        | Phase::Blocked
        | Phase::Delayed
        | Phase::Ready
        | Phase::Running
        | Phase::Ended
        | Phase::Quarantine
        | Phase::Reserved => Phase::Ready,
    }
}
