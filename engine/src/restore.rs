//! Cold start: from what the journal remembers to tasks in a new segment.
//!
//! Each task goes back into its own slot and generation, at its old place in the order. Nobody runs anything after a
//! cold start: what was handed out waits again, with its attempt; what was to be cancelled is cancelled. Delays and
//! times to live are converted by the wall clock, here and nowhere else. Memory tasks are gone, their ids are never
//! given again (`plm/records/reservation.rs`).
//!
//! To be called on a new segment before anybody else attaches; it rebuilds the segment's caches at the end. The engine
//! that follows ([`crate::Engine::with_journal`]) journals what was changed here. Tested in
//! `engine/tests/rules/cold_start.rs`.

use std::collections::BTreeMap;

use qtf_journal::{Blob, ClientRef, Recovered, WholeTask};
use qtf_shm::{
    ClientFields, ClientIndex, Counter, KeyId, KindsFull, Now, Outcome, OutcomeKind, Phase,
    RestoreError as SlotError, RestoredBytes, RestoredTask, Segment, SideRecord, TaskId,
    TaskOptions,
};

use crate::clients::OPERATOR_RECORDS;
use crate::lookup::find;
use crate::places::Places;
use crate::plm::{LSN_UNDER_WAY, restorable_keys, usable_keys};
use crate::shares::{ShareRule, Usage};
use crate::wall::WallTime;

/// What a cold start has brought back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Restored {
    /// Tasks that are there again.
    pub tasks: u64,
    /// Those of them that were to be cancelled, and are.
    pub cancelled: u64,
    /// Idempotency keys that are known again.
    pub keys: u64,
    /// Keys for which there was no room whose tasks are there: a repeat of one of these would be a new task.
    pub keys_dropped: u64,
    /// The same of tasks that are forgotten.
    pub keys_dropped_of_forgotten: u64,
    /// Keys that the segment can know in daily work; those that were brought back leave some of them free.
    pub keys_capacity: u64,
    /// When the first place of those is free again, as its key has no time left; 0 if none was brought back.
    pub first_key_ends_unix_ms: u64,
    /// When all of them are.
    pub last_key_ends_unix_ms: u64,
}

/// A journal and a segment do not fit each other.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// A task cannot be put into its slot.
    #[error(transparent)]
    Task(#[from] SlotError),
    /// There are more kinds than the segment's table holds.
    #[error("task {task} is of kind {kind}, and the segment's table of kinds is full: {source}")]
    Kind {
        /// The task.
        task: TaskId,
        /// Its kind.
        kind: String,
        /// What was said.
        source: KindsFull,
    },
}

/// Puts everything that the journal remembers into a new segment, whose time and wall clock are `wall`.
///
/// # Errors
/// The segment is too small, or not new. It is to be thrown away then.
pub fn restore(
    segment: &Segment,
    recovered: &Recovered,
    wall: WallTime,
) -> Result<Restored, RestoreError> {
    let mut restored = Restored::default();
    let places = Places::of(segment.stamps_moved(), recovered);
    let mut clients = RestoredClients::new(segment);
    let mut keys = Vec::new();
    for whole in recovered.tasks() {
        // Also of a task that nobody wants any more: a repeat must not run it again.
        if let Some((key, expires_unix_ms)) = whole.key {
            keys.push(RestoredKey {
                is_of_forgotten: is_unwanted(&whole),
                key,
                task: whole.id,
                expires_unix_ms,
            });
        }
        if is_unwanted(&whole) {
            continue;
        }
        let mut task = task_of(segment, &whole, wall)?;
        task.stamp = places.stamp_of(whole.stamp);
        let client = clients.index(segment, wall.now, whole.client);
        task.client = Some(client);
        segment.restore_task(&task)?;
        clients.count(segment, client, task.phase);
        restored.tasks = restored.tasks.saturating_add(1);
        restored.cancelled = restored.cancelled.saturating_add(u64::from(
            whole.cancel_requested && task.phase == Phase::Cancelled && task.lsn == LSN_UNDER_WAY,
        ));
    }
    let of_forgotten = |(key, task, expires_unix_ms)| RestoredKey {
        is_of_forgotten: true,
        key,
        task,
        expires_unix_ms,
    };
    keys.extend(recovered.keys().map(of_forgotten));
    put_keys(segment, wall, keys, &mut restored);
    spend_keys(segment, recovered);
    segment.restore_key_places();
    segment.rebuild_caches(wall.now);
    segment
        .counters()
        .add(Counter::TaskRestored, restored.tasks);
    Ok(restored)
}

/// Its slot was freed when it had succeeded, and no record says so.
fn is_unwanted(whole: &WholeTask<'_>) -> bool {
    whole.phase == Phase::Done
        && TaskOptions::from_bits(whole.options).has(TaskOptions::DISCARD_RESULT)
}

fn task_of<'a>(
    segment: &Segment,
    whole: &WholeTask<'a>,
    wall: WallTime,
) -> Result<RestoredTask<'a>, RestoreError> {
    let kind = segment
        .kinds()
        .intern(whole.kind)
        .map_err(|source| RestoreError::Kind {
            task: whole.id,
            kind: whole.kind.to_owned(),
            source,
        })?;
    let mut task = RestoredTask {
        phase: phase_of(whole, wall),
        fence: whole.attempt,
        failures: whole.failures,
        losses: whole.losses,
        max_attempts: whole.max_attempts,
        options: TaskOptions::from_bits(whole.options)
            .with(TaskOptions::JOURNAL)
            .without(TaskOptions::TELLS_LANE),
        priority: whole.priority,
        timeout_ms: whole.timeout_ms,
        kind: Some(kind),
        outcome: whole.outcome,
        payload: if cfg!(qtf_mutant = "sim_payload_is_restored_once") && whole.attempt > 0 {
            RestoredBytes::None
        } else {
            bytes_of(whole.payload)
        },
        result: bytes_of(whole.result),
        side: side_of(whole, wall),
        lsn: whole.lsn.get(),
        ..RestoredTask::new(whole.id)
    };
    let moment = |unix_ms| wall.moment_of(unix_ms).stamp();
    let is_held_until_later = task.phase == Phase::Held && whole.due_unix_ms > wall.unix_ms;
    task.phase_time = if task.phase == Phase::Delayed || is_held_until_later {
        moment(whole.due_unix_ms)
    } else if task.phase.is_final() && whole.ended_unix_ms > 0 {
        moment(whole.ended_unix_ms)
    } else {
        wall.now.stamp()
    };
    if whole.cancel_requested && !task.phase.is_final() {
        task.phase = Phase::Cancelled;
        task.phase_time = wall.now.stamp();
        task.outcome = Outcome {
            kind: OutcomeKind::Cancelled,
            ..Outcome::default()
        };
        // Not in the journal yet: the engine sees to it.
        task.lsn = LSN_UNDER_WAY;
    }
    if is_begun_for_good(whole) {
        task.phase = Phase::DeadLetter;
        task.phase_time = wall.now.stamp();
        task.losses = task.losses.saturating_add(1);
        task.outcome = Outcome {
            kind: OutcomeKind::WorkerLost,
            ..Outcome::default()
        };
        task.lsn = LSN_UNDER_WAY;
    }
    Ok(task)
}

/// A task that runs at most once was with a worker, which may have begun it.
fn is_begun_for_good(whole: &WholeTask<'_>) -> bool {
    let is_once = TaskOptions::from_bits(whole.options).has(TaskOptions::AT_MOST_ONCE);
    // Not a dead letter that was revived, nor one that a worker gave back unbegun: those wait.
    is_once && whole.phase == Phase::Assigned && !whole.cancel_requested
}

/// Where a task stands when no worker has it.
fn phase_of(whole: &WholeTask<'_>, wall: WallTime) -> Phase {
    match whole.phase {
        Phase::Submitted | Phase::Delayed if whole.due_unix_ms > wall.unix_ms => Phase::Delayed,
        Phase::Held if cfg!(qtf_mutant = "sim_restart_releases_what_is_held") => Phase::Ready,
        phase @ (Phase::Held
        | Phase::Done
        | Phase::Failed
        | Phase::Cancelled
        | Phase::DeadLetter) => phase,
        Phase::Free
        | Phase::Claimed
        | Phase::Submitted
        | Phase::Blocked
        | Phase::Delayed
        | Phase::Ready
        | Phase::Assigned
        | Phase::Running
        | Phase::Ended
        | Phase::Quarantine
        | Phase::Reserved => Phase::Ready,
    }
}

const fn bytes_of(blob: Blob<'_>) -> RestoredBytes<'_> {
    match blob {
        Blob::None => RestoredBytes::None,
        Blob::Bytes(bytes) => RestoredBytes::Bytes(bytes),
        Blob::Spill { number, len, .. } => RestoredBytes::Spill { number, len },
    }
}

fn side_of(whole: &WholeTask<'_>, wall: WallTime) -> Option<SideRecord> {
    // The key of a task without a side record goes into the table only.
    if whole.estimate_ms == 0 && whole.keep_s == 0 && whole.array.is_none() {
        return None;
    }
    let (array_id, array_index) = whole.array.unwrap_or((0, 0));
    let (key, key_expiry) = match whole.key {
        Some((key, expires_unix_ms)) => (key.words(), wall.moment_of(expires_unix_ms).stamp()),
        None => ([0, 0], 0),
    };
    Some(SideRecord {
        array_id,
        array_index,
        estimate_ms: whole.estimate_ms,
        keep_s: whole.keep_s,
        submitted_unix_ms: whole.submitted_unix_ms,
        key,
        key_expiry,
        ..SideRecord::default()
    })
}

/// LIMIT: searches for room that fail; a table in which so many did is full.
const FULL_SEARCHES_MAX: u32 = 64;

/// A key that the journal remembers.
#[derive(Debug, Clone, Copy)]
struct RestoredKey {
    /// Its task is acknowledged, purged or expired.
    is_of_forgotten: bool,
    key: KeyId,
    task: TaskId,
    expires_unix_ms: u64,
}

/// Makes keys stand for their tasks again, for the rest of their time. Places are left for those that come: what does not fit goes,
/// keys of forgotten tasks first, and of equals the one that expires first: keys that people chose live long; of those that
/// client libraries make for a moment, only the newest may still be repeated.
fn put_keys(
    segment: &Segment,
    wall: WallTime,
    mut keys: Vec<RestoredKey>,
    restored: &mut Restored,
) {
    if cfg!(qtf_mutant = "sim_keys_are_not_restored") {
        return;
    }
    keys.retain(|key| key.expires_unix_ms > wall.unix_ms);
    keys.sort_unstable_by_key(|key| {
        let age = core::cmp::Reverse((key.expires_unix_ms, key.task.as_raw()));
        (key.is_of_forgotten, age, key.key)
    });
    let table = segment.keys();
    let room = restorable_keys(table.capacity());
    restored.keys_capacity = usable_keys(table.capacity());
    let mut full = 0;
    for known in keys {
        if table.find(known.key, wall.now).is_some() {
            continue;
        }
        let is_put =
            restored.keys < room && put_key(segment, wall, known, full < FULL_SEARCHES_MAX);
        if is_put {
            restored.keys = restored.keys.saturating_add(1);
            restored.last_key_ends_unix_ms =
                restored.last_key_ends_unix_ms.max(known.expires_unix_ms);
            let first = &mut restored.first_key_ends_unix_ms;
            *first = match *first {
                0 => known.expires_unix_ms,
                first => first.min(known.expires_unix_ms),
            };
        } else {
            full += 1;
            let dropped = if known.is_of_forgotten {
                &mut restored.keys_dropped_of_forgotten
            } else {
                &mut restored.keys_dropped
            };
            *dropped = dropped.saturating_add(1);
        }
    }
}

/// Marks the keys of acknowledged tasks: they go where places run short.
fn spend_keys(segment: &Segment, recovered: &Recovered) {
    for (place, entry) in segment.keys().places() {
        if recovered.is_spent(entry.key, entry.task) && find(segment, entry.task).is_err() {
            segment.keys().spend_at(place, entry.task);
        }
    }
}

/// Puts a key into the table; whether there was a place. With `searches` it is looked for in the whole table.
fn put_key(segment: &Segment, wall: WallTime, known: RestoredKey, searches: bool) -> bool {
    let (key, task, now) = (known.key, known.task, wall.now);
    let expiry = wall.moment_of(known.expires_unix_ms).stamp();
    let table = segment.keys();
    if searches {
        return table.put_back(key, task, expiry, now).is_ok();
    }
    let reserved = table.reserve(key, task, expiry, now);
    reserved.is_ok_and(|place| table.confirm(place))
}

/// Records of the clients whose tasks come back. As in daily work a user whose share of the records is used up gets one for all of
/// his programs.
#[derive(Debug)]
struct RestoredClients {
    size: u64,
    held: BTreeMap<Option<u32>, u64>,
    known: BTreeMap<(Option<u32>, String, String), ClientIndex>,
    /// The client of the task before: tasks of one client come in rows.
    last: Option<(Option<u32>, String, String, ClientIndex)>,
}

impl RestoredClients {
    fn new(segment: &Segment) -> Self {
        Self {
            // Record 0 is nobody's, and the operators' are theirs.
            size: u64::from(segment.geometry().clients()).saturating_sub(1 + OPERATOR_RECORDS),
            held: BTreeMap::new(),
            known: BTreeMap::new(),
            last: None,
        }
    }

    /// The record of a client; record 0 for one that is not known, or if there are no more.
    fn index(&mut self, segment: &Segment, now: Now, client: ClientRef<'_>) -> ClientIndex {
        if client.name.is_empty() && client.uid.is_none() {
            return ClientIndex::UNKNOWN;
        }
        if let Some((uid, name, host, index)) = &self.last
            && *uid == client.uid
            && name == client.name
            && host == client.host
        {
            return *index;
        }
        let identity =
            |client: ClientRef<'_>| (client.uid, client.name.to_owned(), client.host.to_owned());
        let mut who = client;
        let used = u64::try_from(self.known.len()).unwrap_or(u64::MAX);
        let held = self.held.get(&client.uid).copied().unwrap_or(0);
        let usage = Usage {
            held,
            used,
            size: self.size,
        };
        let may_have_more = ShareRule::Shared.allows(usage, 1);
        if !may_have_more && !self.known.contains_key(&identity(client)) {
            (who.name, who.host) = ("", "");
        }
        let (uid, name, host) = identity(client);
        let index = match self.known.get(&identity(who)) {
            Some(&known) => known,
            None if who.name.is_empty() && who.uid.is_none() => ClientIndex::UNKNOWN,
            None => {
                let next = self.known.len().saturating_add(1);
                let index = open(segment, now, next, who);
                self.known.insert(identity(who), index);
                self.held.insert(uid, held.saturating_add(1));
                index
            }
        };
        self.last = Some((uid, name, host, index));
        index
    }

    fn count(&self, segment: &Segment, client: ClientIndex, phase: Phase) {
        let record = segment.client(client);
        record.set_submitted(record.submitted().saturating_add(1));
        if phase.is_final() {
            record.set_kept(record.kept().saturating_add(1));
        } else {
            record.set_unfinished(record.unfinished().saturating_add(1));
        }
    }
}

/// Opens the record of this number for a client, without connections.
fn open(segment: &Segment, now: Now, number: usize, client: ClientRef<'_>) -> ClientIndex {
    let Some(index) = u16::try_from(number)
        .ok()
        .and_then(|number| segment.client_index(number))
    else {
        return ClientIndex::UNKNOWN;
    };
    segment.client(index).open(&ClientFields {
        name: client.name,
        host: client.host,
        address: "",
        pid: 0,
        uid: client.uid.unwrap_or(u32::MAX),
        registered: now.stamp(),
    });
    index
}
