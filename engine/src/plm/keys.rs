//! Idempotency keys: a repeated submission gets the first one's task.
//!
//! A key stands for a task from its submission until its own time is over or its client gives it back, whatever becomes
//! of the task. Only the key is compared: a different payload under the same key is the client's mistake and gets the
//! first task too. Keys that a client makes up by itself are short-lived and given back as soon as it has the answer; where
//! the journal may bring such a key back it is told that the key is gone, by a record of the key with no time left that nobody waits for.
//!
//! Each key is counted for the principal who submitted with it ([`KeyHolders`]), as long as it lies in the table. The table
//! refuses by chance from three quarters on, so shares are those of three quarters.
//!
//! The entry is reserved before the task exists and confirmed after, so a kill leaves no key without a task
//! (`shm/src/keys/`). Expired entries count as free; the background sweep clears them, a stripe at a time.
//! Tested in `engine/tests/rules/keys.rs` and `shares.rs`.

use qtf_journal::Record;
use qtf_shm::{ClientIndex, Counter, KeyId, KeyPlace, Now, Segment, TaskId, TaskOptions};

use super::Plm;
use super::submission::{Durability, Submission};
use crate::answers::Accepted;
use crate::register::Clients;
use crate::rejection::{Detail, RejectReason, Rejection};
use crate::shares::{HolderIndex, ShareRule, ShareUsedUp, Shares};
use crate::turn::{Turn, find};

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
    pub(crate) fn release_keys(&mut self, turn: &mut Turn<'_>, keys: &[KeyId]) {
        let table = turn.segment.keys();
        let mut count = 0;
        for &key in keys {
            if let Some((place, entry)) = table.find_placed(key, turn.now)
                && table.remove_at(place, entry.task)
            {
                count += 1;
                self.key_holders.gone(&mut turn.clients.shares, place);
                self.note_released(turn, key, entry.task);
            }
        }
        turn.segment.counters().add(Counter::KeyReleased, count);
    }

    /// Records that a key is gone which a cold start could bring back: that of a journal task, or of one that is forgotten, which
    /// a snapshot may show. Without room it comes back at a cold start, and goes first if places run short then.
    fn note_released(&mut self, turn: &Turn<'_>, key: KeyId, task: TaskId) {
        let Some(journal) = &mut self.journal else {
            return;
        };
        let options = find(turn.segment, task).map(|(slot, _)| turn.segment.task(slot).options());
        let dies_with_memory = options.is_ok_and(|options| !options.has(TaskOptions::JOURNAL));
        if !dies_with_memory
            && journal.check_change().is_ok()
            && !cfg!(qtf_mutant = "sim_key_that_is_given_back_is_not_recorded")
        {
            journal.append(&Record::Key {
                key,
                task,
                expires_unix_ms: 0,
            });
        }
    }

    /// Clears expired keys in the next stripe of the table.
    pub(crate) fn expire_keys(&mut self, turn: &mut Turn<'_>) {
        let table = turn.segment.keys();
        if !table.is_used() {
            return;
        }
        let start = self.keys_cursor;
        let end = start.saturating_add(ENTRIES_PER_STRIPE);
        let (holders, shares) = (&mut self.key_holders, &mut turn.clients.shares);
        let count = table.expire(start..end, turn.now, |place| holders.gone(shares, place));
        turn.segment
            .counters()
            .add(Counter::KeyExpired, u64::from(count));
        self.keys_cursor = if end < table.capacity() { end } else { 0 };
    }

    /// Makes a key stand for a task that is about to exist.
    pub(super) fn reserve_key(
        &mut self,
        turn: &mut Turn<'_>,
        (key, expiry): (KeyId, u64),
        (task, client): (TaskId, ClientIndex),
    ) -> Result<KeyPlace, Rejection> {
        if let Err(refused) = check_key_share(turn, client) {
            // Some that are counted may have expired.
            self.expire_keys(turn);
            check_key_share(turn, client).map_err(|_| refused)?;
        }
        let reserved = turn.segment.keys().reserve(key, task, expiry, turn.now);
        let place = reserved.map_err(|full| {
            let count = u64::from(full.capacity);
            let what = "places for idempotency keys";
            Rejection::for_now(RejectReason::KeysFull, Detail::Full { what, count })
        })?;
        let holder = turn.clients.holder_of(client);
        self.key_holders
            .taken(&mut turn.clients.shares, place.index(), holder);
        Ok(place)
    }

    /// A submission came to nothing: its key stands for nothing either.
    pub(super) fn forget_key(&mut self, turn: &mut Turn<'_>, place: KeyPlace, task: TaskId) {
        if turn.segment.keys().remove_at(place.index(), task) {
            let shares = &mut turn.clients.shares;
            self.key_holders.gone(shares, place.index());
        }
    }
}

/// So many places of the table can be used before it refuses by chance.
pub(crate) const fn usable_keys(capacity: u32) -> u64 {
    (capacity - capacity / 4) as u64
}

/// So many keys a cold start brings back: it leaves more than a quarter of the table free, and an eighth of it before shares are used
/// up, for the keys of those who come.
pub(crate) const fn restorable_keys(capacity: u32) -> u64 {
    usable_keys(capacity) - (capacity / 8) as u64
}

/// Says whose share of the keys is used up.
fn check_key_share(turn: &Turn<'_>, client: ClientIndex) -> Result<(), Rejection> {
    let shares = &turn.clients.shares;
    let holder = shares.of(turn.clients.holder_of(client));
    let size = usable_keys(turn.segment.keys().capacity());
    let counts = (holder.keys, shares.total().keys, size);
    // One that has nothing is refused by the table itself, if at all.
    if shares.rule == ShareRule::Whole || holder.keys == 0 || shares.rule.allows(counts, 1) {
        return Ok(());
    }
    let used_up = ShareUsedUp {
        principal: holder.principal,
        held: holder.keys,
        size,
        what: "places for idempotency keys",
        until: "places are free again as its keys are given back or their time to live ends",
    };
    Err(Rejection::for_now(
        RejectReason::KeysFull,
        Detail::Share(used_up),
    ))
}

/// Who is counted for the key in each place of the table. In memory only: after a start a key is counted for whom its task is, or, when
/// that is gone, for nobody known.
#[derive(Debug)]
pub(crate) struct KeyHolders(Vec<u16>);

impl KeyHolders {
    /// In a place that is free.
    const NOBODY: u16 = u16::MAX;

    pub(super) fn new(segment: &Segment, clients: &mut Clients) -> Self {
        let table = segment.keys();
        let capacity = usize::try_from(table.capacity()).unwrap_or(0);
        let mut holders = Self(vec![Self::NOBODY; capacity]);
        if table.is_used() {
            for (place, entry) in table.places() {
                let task = find(segment, entry.task).map(|(slot, _)| segment.task(slot));
                let holder = task.map_or(HolderIndex::UNKNOWN, |task| {
                    clients.holder_of(task.client())
                });
                holders.taken(&mut clients.shares, place, holder);
            }
        }
        holders
    }

    fn taken(&mut self, shares: &mut Shares, place: u32, holder: HolderIndex) {
        self.gone(shares, place);
        let place = usize::try_from(place).unwrap_or(usize::MAX);
        if let Some(entry) = self.0.get_mut(place) {
            *entry = holder.number();
            shares.add_key(holder);
        }
    }

    fn gone(&mut self, shares: &mut Shares, place: u32) {
        let place = usize::try_from(place).unwrap_or(usize::MAX);
        if let Some(entry) = self.0.get_mut(place)
            && *entry != Self::NOBODY
        {
            shares.remove_key(HolderIndex::of_number(*entry));
            *entry = Self::NOBODY;
        }
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
