//! Idempotency keys: a repeated submission gets the first one's task.
//!
//! A key stands for a task from its submission until its own time is over or its client gives it back, whatever becomes
//! of the task. Only the key is compared: a different payload under the same key is the client's mistake and gets the
//! first task too. Keys that a client makes up by itself are short-lived and given back as soon as it has the answer.
//!
//! The entry is reserved before the task exists and confirmed after, so a kill leaves no key without a task
//! (`shm/src/keys/`). Expired entries count as free; the background sweep clears them, a stripe at a time.
//! Tested in `engine/tests/rules/keys.rs`.

use qtf_shm::{Counter, KeyId, KeyPlace, Now, Segment, TaskId};

use super::Plm;
use super::submission::{Durability, Submission};
use crate::answers::Accepted;
use crate::rejection::{Detail, RejectReason, Rejection};
use crate::turn::Turn;

/// Time to live of a key whose submission names none: one hour.
const KEY_TTL_MS_DEFAULT: u64 = 3_600_000;
/// LIMIT: a week; longer ones fill the table with what nobody repeats.
const KEY_TTL_MS_MAX: u64 = 604_800_000;
/// LIMIT: entries looked at with each background stripe: 128 KiB of the table, some microseconds.
const ENTRIES_PER_STRIPE: u32 = 4_096;
const NS_PER_MS: u64 = 1_000_000;

impl Plm {
    /// The answer to a submission whose key is known, asked for without one.
    pub(crate) fn submitted_before(
        &self,
        segment: &Segment,
        now: Now,
        key: KeyId,
    ) -> Result<Option<Accepted>, Rejection> {
        if let Some(journal) = &self.journal {
            journal.check_open()?;
        }
        self.repeated(segment, now, key)
    }

    /// The answer to a submission whose key is known.
    pub(super) fn repeated(
        &self,
        segment: &Segment,
        now: Now,
        key: KeyId,
    ) -> Result<Option<Accepted>, Rejection> {
        let Some(entry) = segment.keys().find(key, now) else {
            return Ok(None);
        };
        let first = self
            .find(segment, entry.task)
            .ok()
            .map(|(slot, state)| (segment.task(slot), state.phase()));
        segment.counters().add(Counter::KeyRepeated, 1);
        let mut accepted = Accepted {
            task: entry.task,
            durable: None,
            durability: Durability::Memory,
            is_repeat: true,
            result_expired: first.is_none(),
        };
        if let Some((task, phase)) = first.filter(|(task, _)| self.is_journalled(task)) {
            accepted.durable = self.answer(task, phase)?.durable;
            accepted.durability = Durability::Journal;
        }
        Ok(Some(accepted))
    }

    /// Client keys that need not be known any more.
    pub(crate) fn release_keys(&self, turn: &Turn<'_>, keys: &[KeyId]) {
        let table = turn.segment.keys();
        let known = keys.iter().filter(|&&key| {
            let entry = table.find(key, turn.now);
            entry.is_some_and(|entry| table.remove(key, entry.task))
        });
        let count = u64::try_from(known.count()).unwrap_or(u64::MAX);
        turn.segment.counters().add(Counter::KeyReleased, count);
    }

    /// Clears expired keys in the next stripe of the table.
    pub(crate) fn expire_keys(&mut self, turn: &Turn<'_>) {
        let table = turn.segment.keys();
        if !table.is_used() {
            return;
        }
        let start = self.keys_cursor;
        let end = start.saturating_add(ENTRIES_PER_STRIPE);
        let count = u64::from(table.expire(start..end, turn.now));
        turn.segment.counters().add(Counter::KeyExpired, count);
        self.keys_cursor = if end < table.capacity() { end } else { 0 };
    }
}

/// The stamp from which on the key of a submission is forgotten.
pub(super) fn key_expiry(turn: &Turn<'_>, submission: &Submission<'_>) -> Result<u64, Rejection> {
    let ttl_ms = match submission.key_ttl_ms {
        0 => KEY_TTL_MS_DEFAULT,
        ttl_ms if ttl_ms <= KEY_TTL_MS_MAX => ttl_ms,
        ttl_ms => return Err(Rejection::range("key_ttl_ms", ttl_ms, 0, KEY_TTL_MS_MAX)),
    };
    Ok(turn.now.plus_ns(ttl_ms.saturating_mul(NS_PER_MS)).stamp())
}

/// Makes a key stand for a task that is about to exist.
pub(super) fn reserve_key(
    turn: &Turn<'_>,
    (key, expiry): (KeyId, u64),
    task: TaskId,
) -> Result<KeyPlace, Rejection> {
    turn.segment
        .keys()
        .reserve(key, task, expiry, turn.now)
        .map_err(|full| {
            let count = u64::from(full.capacity);
            let what = "places for idempotency keys";
            Rejection::for_now(RejectReason::KeysFull, Detail::Full { what, count })
        })
}
