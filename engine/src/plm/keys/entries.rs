//! Idempotency keys: a repeated submission gets the first one's task.
//!
//! A key stands for a task from its submission until its own time is over or its client gives it back, whatever becomes
//! of the task. Only the key is compared: a different payload under the same key is the client's mistake and gets the
//! first task too.
//!
//! - An *automatic* key, which a client library made up to repeat what was not answered, ends with the acknowledgement of its task at
//!   the latest: whoever acknowledges has the task's id, and so the answer (`docs/adr/0025`). It goes before the task does.
//! - One that somebody chose is *spent* then: it is known for the rest of its time, unless its place is needed.
//! - Where places run short, in the table or of a principal's share, spent keys go ([`super::key_places`]), and never another one.
//!
//! Where the journal may bring a key back that was given back or has lost its place it is told so, by a record of the key with no time
//! left that nobody waits for. That an automatic key has ended it knows by the record of the acknowledgement.
//!
//! Each key is counted for the principal who submitted with it as long as it lies in the table. The table cannot be filled
//! much beyond three quarters, so shares are those of three quarters; it may refuse single keys by chance before (`shm/src/keys/`).
//!
//! The entry is reserved before the task exists and confirmed after, so a kill leaves no key without a task
//! (`shm/src/keys/`). Expired entries count as free; the background sweep clears them, a stripe at a time.
//! Tested in `engine/tests/rules/keys.rs`, `spent_keys.rs` and `shares.rs`.

use qtf_journal::Record;
use qtf_shm::{
    ClientIndex, Counter, KeyEntry, KeyId, KeyPlace, Now, Segment, SlotIndex, TaskId, TaskOptions,
};

use crate::lookup::find;
use crate::plm::Durability;
use crate::plm::Plm;
use crate::plm::answers::Accepted;
use crate::plm::submission::Submission;
use crate::rejection::{Detail, RejectReason, Rejection};
use crate::shares::{ShareRule, ShareUsedUp, Usage};
use crate::turn::Turn;

/// Time to live of a key whose submission names none: one hour.
const KEY_TTL_MS_DEFAULT: u64 = 3_600_000;
/// LIMIT: a week; longer ones fill the table with what nobody repeats.
const KEY_TTL_MS_MAX: u64 = 604_800_000;
/// LIMIT: entries looked at with each background stripe: 128 KiB of the table, some microseconds.
const ENTRIES_PER_STRIPE: u32 = 4_096;
const NS_PER_MS: u64 = 1_000_000;
/// LIMIT: how often refusals look for what has expired, beside the background.
const SWEEP_AGAIN_NS: u64 = NS_PER_MS;
/// LIMIT: the sweep has been round by then, and knows which key ends next.
const LOOK_AGAIN_MS: u32 = 1_000;

/// A task that is about to exist, and the key that is to stand for it.
#[derive(Debug, Clone, Copy)]
pub(in crate::plm) struct NamedTask {
    pub(in crate::plm) key: KeyId,
    /// Stamp from which on the key is forgotten.
    pub(in crate::plm) expiry: u64,
    pub(in crate::plm) task: TaskId,
    pub(in crate::plm) client: ClientIndex,
}

impl Plm {
    /// The answer to a submission whose key is known, asked for without one.
    pub(crate) fn submitted_before(
        &self,
        segment: &Segment,
        now: Now,
        key: KeyId,
    ) -> Result<Option<Accepted>, Rejection> {
        if let Some(recorder) = &self.recorder {
            recorder.check_open()?;
        }
        self.repeated(segment, now, key)
    }

    /// The answer to a submission whose key is known.
    pub(in crate::plm) fn repeated(
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
                self.keys.places.gone(&mut turn.clients.shares, place);
                self.note_released(turn, key, entry.task);
            }
        }
        turn.segment.counters().add(Counter::KeyReleased, count);
    }

    /// Records that a key is gone which a cold start could bring back: that of a journal task, or of one that is forgotten, which
    /// a snapshot may show. Without room it comes back at a cold start, and goes first if places run short then.
    fn note_released(&mut self, turn: &Turn<'_>, key: KeyId, task: TaskId) {
        let Some(recorder) = &mut self.recorder else {
            return;
        };
        let options = find(turn.segment, task).map(|(slot, _)| turn.segment.task(slot).options());
        let dies_with_memory = options.is_ok_and(|options| !options.has(TaskOptions::JOURNAL));
        if !dies_with_memory
            && recorder.check_letting_go().is_ok()
            && !cfg!(qtf_mutant = "sim_key_that_is_given_back_is_not_recorded")
        {
            recorder.append(&Record::Key {
                key,
                task,
                expires_unix_ms: 0,
            });
        }
    }

    /// The task of this slot is about to be acknowledged: an automatic key ends. Before the task goes, so that a kill leaves no such key
    /// behind it.
    pub(in crate::plm) fn end_automatic_key(
        &mut self,
        turn: &mut Turn<'_>,
        slot: SlotIndex,
        id: TaskId,
    ) {
        let options = turn.segment.task(slot).options();
        let outlives = cfg!(qtf_mutant = "sim_automatic_key_outlives_its_task");
        if !options.has(TaskOptions::AUTOMATIC_KEY) || outlives {
            return;
        }
        if let Some((place, _)) = key_of(turn, slot, id)
            && turn.segment.keys().remove_at(place, id)
        {
            self.keys.places.gone(&mut turn.clients.shares, place);
            turn.segment.counters().add(Counter::KeyEnded, 1);
        }
    }

    /// The place of the key of a task that is about to be acknowledged, if it will be spent.
    pub(in crate::plm) fn key_to_spend(
        &self,
        turn: &Turn<'_>,
        slot: SlotIndex,
        id: TaskId,
    ) -> Option<u32> {
        key_of(turn, slot, id).map(|(place, _)| place)
    }

    /// The task of the key at this place was acknowledged.
    pub(in crate::plm) fn spend_key(&mut self, turn: &Turn<'_>, place: Option<u32>, id: TaskId) {
        if let Some(place) = place
            && turn.segment.keys().spend_at(place, id)
        {
            self.keys.places.is_spent(place);
        }
    }

    /// Clears expired keys in the next stripe of the table.
    pub(crate) fn expire_keys(&mut self, turn: &mut Turn<'_>) {
        let table = turn.segment.keys();
        if !table.is_used() {
            return;
        }
        let start = self.keys.cursor;
        let end = start.saturating_add(ENTRIES_PER_STRIPE);
        let (places, shares) = (&mut self.keys.places, &mut turn.clients.shares);
        let count = table.expire(start..end, turn.now, |place, end| match end {
            None => places.gone(shares, place),
            Some(end) => places.met(place, end),
        });
        turn.segment
            .counters()
            .add(Counter::KeyExpired, u64::from(count));
        self.keys.cursor = if end < table.capacity() {
            end
        } else {
            self.keys.places.has_been_round();
            0
        };
    }

    /// Makes a key stand for a task that is about to exist.
    pub(in crate::plm) fn reserve_key(
        &mut self,
        turn: &mut Turn<'_>,
        named: NamedTask,
    ) -> Result<KeyPlace, Rejection> {
        let NamedTask {
            key,
            expiry,
            task,
            client,
        } = named;
        self.make_room_in_share(turn, client)?;
        let reserve = || turn.segment.keys().reserve(key, task, expiry, turn.now);
        let place = match reserve() {
            Ok(place) => place,
            Err(full) => {
                let spent_in = full.spent_in;
                let near = spent_in.map(|bucket| turn.segment.keys().places_of_bucket(bucket));
                let oldest = near.and_then(|near| self.keys.places.oldest_among(near));
                let refused = |_| refused_by_table(turn, key, full.capacity);
                oldest.ok_or(()).map_err(refused)?;
                self.evict(turn, oldest);
                let reserved = turn.segment.keys().reserve(key, task, expiry, turn.now);
                reserved.map_err(|full| refused_by_table(turn, key, full.capacity))?
            }
        };
        let holder = turn.clients.holder_of(client);
        let shares = &mut turn.clients.shares;
        self.keys
            .places
            .taken(shares, place.index(), holder, expiry);
        if cfg!(qtf_mutant = "sim_unspent_keys_are_evicted") {
            self.keys.places.is_spent(place.index());
        }
        Ok(place)
    }

    /// Sees to it that a principal may take one place more. LIMIT: as many spent keys go as are missing, which are a thirty-second of
    /// the table at most, once; after that one for each that comes.
    fn make_room_in_share(
        &mut self,
        turn: &mut Turn<'_>,
        client: ClientIndex,
    ) -> Result<(), Rejection> {
        while let Some(used_up) = share_used_up(turn, client) {
            let oldest = self.keys.places.oldest_of_the_longest_line();
            if self.evict(turn, oldest) {
                continue;
            }
            // Some that are counted may have expired. LIMIT: one stripe in so much time, however many are refused in it.
            let may_look = |at: Now| turn.now.since_ns(at) >= SWEEP_AGAIN_NS;
            if self.keys.looked_at.is_none_or(may_look) {
                self.keys.looked_at = Some(turn.now);
                self.expire_keys(turn);
                continue;
            }
            if turn.clients.shares.rule == ShareRule::Whole {
                // The table itself says when it is full.
                return Ok(());
            }
            let end = self.keys.places.first_end(turn.clients.holder_of(client));
            let retry_after_ms = until(turn.now, end);
            let detail = Detail::KeyShare(used_up, retry_after_ms);
            let reason = RejectReason::KeysFull;
            return Err(Rejection::until(reason, retry_after_ms, detail));
        }
        Ok(())
    }

    /// The key at this place goes before its time. False when there is none.
    fn evict(&mut self, turn: &mut Turn<'_>, place: Option<u32>) -> bool {
        let found = place.and_then(|place| Some((place, turn.segment.keys().at(place)?)));
        let Some((place, entry)) = found else {
            return false;
        };
        turn.segment.keys().remove_at(place, entry.task);
        self.keys.places.gone(&mut turn.clients.shares, place);
        turn.segment.counters().add(Counter::KeyEvicted, 1);
        self.note_released(turn, entry.key, entry.task);
        true
    }

    /// A submission came to nothing: its key stands for nothing either.
    pub(in crate::plm) fn forget_key(
        &mut self,
        turn: &mut Turn<'_>,
        place: KeyPlace,
        task: TaskId,
    ) {
        if turn.segment.keys().remove_at(place.index(), task) {
            let shares = &mut turn.clients.shares;
            self.keys.places.gone(shares, place.index());
        }
    }
}

/// So many places of the table are shared out: with more in use it refuses too many keys by chance.
pub(crate) const fn usable_keys(capacity: u32) -> u64 {
    (capacity - capacity / 4) as u64
}

/// So many keys a cold start brings back: it leaves more than a quarter of the table free, and an eighth of it before shares are used
/// up, for the keys of those who come.
pub(crate) const fn restorable_keys(capacity: u32) -> u64 {
    usable_keys(capacity) - (capacity / 8) as u64
}

/// Whose share of the keys is used up, if it is.
fn share_used_up(turn: &Turn<'_>, client: ClientIndex) -> Option<ShareUsedUp> {
    let shares = &turn.clients.shares;
    let holder = shares.of(turn.clients.holder_of(client));
    let size = usable_keys(turn.segment.keys().capacity());
    let usage = Usage {
        held: holder.keys,
        used: shares.total().keys,
        size,
    };
    // One that has nothing is refused by the table itself, if at all.
    if holder.keys == 0 || shares.rule.allows(usage, 1) {
        return None;
    }
    Some(ShareUsedUp {
        principal: holder.principal,
        held: holder.keys,
        size,
        what: "places for idempotency keys",
        until: "places are free again when keys are given back in received_keys, their tasks are acknowledged or their time \
                (key_ttl_ms) is over",
    })
}

/// Neither bucket of the key has a place, nor a key that may go.
fn refused_by_table(turn: &Turn<'_>, key: KeyId, capacity: u32) -> Rejection {
    let table = turn.segment.keys();
    let near = table.entries_of(key).filter_map(|place| table.at(place));
    let end = near.map(|entry| entry.expiry).min().unwrap_or(u64::MAX);
    let retry_after_ms = until(turn.now, end);
    let detail = Detail::NoPlaceForKey {
        count: u64::from(capacity),
        retry_after_ms,
    };
    Rejection::until(RejectReason::KeysFull, retry_after_ms, detail)
}

/// Milliseconds until a stamp; where that is over or not known, the time after which it is.
fn until(now: Now, end: u64) -> u32 {
    if end == u64::MAX || now.has_reached(end) {
        return LOOK_AGAIN_MS;
    }
    let ms = Now::from_stamp(end).since_ns(now).div_ceil(NS_PER_MS);
    u32::try_from(ms).unwrap_or(u32::MAX).max(1)
}

/// The key of a task that is there, with its place, for as long as it is known.
fn key_of(turn: &Turn<'_>, slot: SlotIndex, id: TaskId) -> Option<(u32, KeyEntry)> {
    let (segment, table) = (turn.segment, turn.segment.keys());
    if !table.is_used() {
        return None;
    }
    let task = segment.task(slot);
    if let Some(place) = task.key_place() {
        return table.at_place(place, id).map(|entry| (place, entry));
    }
    task.side_unit()?;
    let side = segment.read_side(&segment.read_task(slot)?.record)?;
    let found = table.find_placed(KeyId::from_words(side.key)?, turn.now);
    found.filter(|(_, entry)| entry.task == id)
}

/// The stamp from which on the key of a submission is forgotten.
pub(in crate::plm) fn key_expiry(
    turn: &Turn<'_>,
    submission: &Submission<'_>,
) -> Result<u64, Rejection> {
    let ttl_ms = match submission.key_ttl_ms {
        0 => KEY_TTL_MS_DEFAULT,
        ttl_ms if ttl_ms <= KEY_TTL_MS_MAX => ttl_ms,
        ttl_ms => return Err(Rejection::range("key_ttl_ms", ttl_ms, 0, KEY_TTL_MS_MAX)),
    };
    Ok(turn.now.plus_ns(ttl_ms.saturating_mul(NS_PER_MS)).stamp())
}
