//! Looking up, reserving, confirming, removing keys.

use core::fmt;
use core::ops::{Deref, Range};

use super::{BUCKET_ENTRIES, KeyEntry, KeyId, KeyPlace, KeysFull, SettledKeys};
use crate::id::TaskId;
use crate::sync::{AtomicU64, Ordering, fence};
use crate::time::{Now, STAMP_MAX};

/// Words of an entry: task, key (two), expiry.
const ENTRY_WORDS: usize = 4;
/// In a task word: the task exists.
const CONFIRMED: u64 = 1 << 63;
/// In a task word: the task was acknowledged.
const SPENT: u64 = 1 << 62;
/// What a task word says beside the task.
const FLAGS: u64 = CONFIRMED | SPENT;
/// LIMIT: copies of an entry that changed meanwhile, made by one look of an inspector.
const COPIES_MAX: u32 = 8;

/// The keys to look at.
#[derive(Clone, Copy)]
pub struct KeyView<'s, const ENTRIES: usize = BUCKET_ENTRIES> {
    words: &'s [AtomicU64],
    buckets: u32,
    seed: u64,
}

/// The keys, for the one process that writes them.
#[derive(Clone, Copy)]
pub struct KeyTable<'s, const ENTRIES: usize = BUCKET_ENTRIES> {
    view: KeyView<'s, ENTRIES>,
    used: &'s AtomicU64,
}

/// The words of one entry.
struct Entry<'s> {
    task: &'s AtomicU64,
    low: &'s AtomicU64,
    high: &'s AtomicU64,
    expiry: &'s AtomicU64,
}

/// What is free in a bucket, and what may be.
#[derive(Clone, Copy, Default)]
struct Room {
    free: u32,
    spent: u32,
    first_free: Option<u32>,
}

impl Room {
    /// The larger, the better for a new key. Buckets that are half empty of keys that may not go are equally good in that, so that no
    /// spent one goes before the oldest of all without need.
    fn rank(self, entries: u32) -> (u32, u32, u32) {
        let room = self.free + self.spent;
        (room.min(entries / 2), self.free, room)
    }
}

impl<'s, const ENTRIES: usize> KeyView<'s, ENTRIES> {
    /// Looks at words as a table; `seed` makes the places of keys differ from segment to segment.
    #[must_use]
    pub fn new(words: &'s [AtomicU64], seed: u64) -> Self {
        let buckets = words.len() / (ENTRIES * ENTRY_WORDS);
        Self {
            words,
            // LIMIT: geometry keeps the table at 8 MiB.
            buckets: u32::try_from(buckets).unwrap_or(u32::MAX),
            seed,
        }
    }

    /// Hands over where the end of each key in use is written: for a move of the origin, while nobody else is attached.
    pub(crate) fn each_expiry(&self, each: impl Fn(&AtomicU64)) {
        for at in (0..self.capacity()).filter_map(|index| self.words_at(index)) {
            // ORDERING: nobody else writes.
            if at.task.load(Ordering::Relaxed) != 0 {
                each(at.expiry);
            }
        }
    }

    /// Keys that the table can hold at most.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.buckets
            .saturating_mul(u32::try_from(ENTRIES).unwrap_or(u32::MAX))
    }

    /// What a key stands for, unless it has expired.
    #[must_use]
    pub fn find(&self, key: KeyId, now: Now) -> Option<KeyEntry> {
        self.find_placed(key, now).map(|(_, entry)| entry)
    }

    /// The same, with the place of the entry.
    #[must_use]
    pub fn find_placed(&self, key: KeyId, now: Now) -> Option<(u32, KeyEntry)> {
        self.entries_of(key)
            .filter_map(|index| Some((index, self.entry(index)?)))
            .find(|(_, entry)| entry.key == key && !now.has_reached(entry.expiry))
    }

    /// The entry at a place, whosever it is, expired or not.
    #[must_use]
    pub fn at(&self, place: u32) -> Option<KeyEntry> {
        self.entry(place)
    }

    /// The entry at a place, if it is this task's, expired or not.
    #[must_use]
    pub fn at_place(&self, place: u32, task: TaskId) -> Option<KeyEntry> {
        self.entry(place).filter(|entry| entry.task == task)
    }

    /// All entries in use with their places, expired ones too. Reads a quarter of the table.
    pub fn places(&self) -> impl Iterator<Item = (u32, KeyEntry)> + use<'s, ENTRIES> {
        let this = *self;
        (0..this.capacity()).filter_map(move |index| Some((index, this.entry(index)?)))
    }

    /// All entries in use, expired ones too. Reads a quarter of the table.
    pub fn iter(&self) -> impl Iterator<Item = KeyEntry> + use<'s, ENTRIES> {
        self.places().map(|(_, entry)| entry)
    }

    /// Whether an entry lies where a look for its key finds it; for `verify`.
    pub fn misplaced(&self) -> impl Iterator<Item = (u32, KeyEntry)> + use<'s, ENTRIES> {
        let this = *self;
        self.places()
            .filter(move |(index, entry)| !this.is_found(*index, entry))
    }

    /// A look for the entry's key finds this one, and not another or none.
    fn is_found(&self, index: u32, entry: &KeyEntry) -> bool {
        let same = |found: KeyEntry| found.key == entry.key;
        let mut places = self.entries_of(entry.key);
        places.find(|&place| self.entry(place).is_some_and(same)) == Some(index)
    }

    /// Entries whose task word is none; for `verify`.
    pub fn impossible(&self) -> impl Iterator<Item = (u32, u64)> + use<'s, ENTRIES> {
        let this = *self;
        (0..this.capacity()).filter_map(move |index| {
            // ORDERING: a single word, only looked at.
            let word = this.words_at(index)?.task.load(Ordering::Acquire);
            (word != 0 && task_of(word).is_none()).then_some((index, word))
        })
    }

    /// Copies an entry; `None` when it is free, makes no sense, or changed each time.
    pub(super) fn entry(&self, index: u32) -> Option<KeyEntry> {
        let at = self.words_at(index)?;
        // ORDERING: [keys.entry] Acquire: pairs with the release in `write`.
        let mut before = at.task.load(entry_order());
        for _ in 0..COPIES_MAX {
            let task = task_of(before)?;
            // ORDERING: [keys.entry] published by the task word just read.
            let words = [
                at.low.load(Ordering::Relaxed),
                at.high.load(Ordering::Relaxed),
            ];
            // ORDERING: as above.
            let expiry = at.expiry.load(Ordering::Relaxed);
            if !cfg!(qtf_mutant = "keys_read_without_acquire_fence") {
                // ORDERING: [keys.reuse] Acquire: pairs with the release fence in `write`.
                fence(Ordering::Acquire);
            }
            // ORDERING: [keys.reuse] ordered after the copies by the fence above.
            let after = at.task.load(Ordering::Acquire);
            if after & !FLAGS == before & !FLAGS {
                return Some(KeyEntry {
                    key: KeyId::from_words(words)?,
                    task,
                    expiry: expiry.min(STAMP_MAX),
                    confirmed: after & CONFIRMED != 0,
                    spent: after & SPENT != 0,
                });
            }
            before = after;
        }
        None
    }

    /// The entries that a key may lie in.
    pub fn entries_of(&self, key: KeyId) -> impl Iterator<Item = u32> + use<'s, ENTRIES> {
        // LIMIT: a bucket has at most 8 entries.
        let entries = u32::try_from(ENTRIES).unwrap_or(1);
        let [first, second] = self.buckets_of(key);
        // One look when both are the same.
        let second = (second != first).then_some(second);
        [Some(first), second]
            .into_iter()
            .flatten()
            .flat_map(move |bucket| (0..entries).map(move |slot| bucket * entries + slot))
    }

    /// The places of a bucket.
    #[must_use]
    pub fn places_of_bucket(&self, bucket: u32) -> Range<u32> {
        // LIMIT: a bucket has at most 8 entries.
        let entries = u32::try_from(ENTRIES).unwrap_or(1);
        let first = bucket.saturating_mul(entries);
        first..first.saturating_add(entries)
    }

    /// The two buckets of a key.
    fn buckets_of(&self, key: KeyId) -> [u32; 2] {
        let [low, high] = key.words();
        let first = mix(low ^ mix(high ^ self.seed));
        let second = mix(first ^ 0x9e37_79b9_7f4a_7c15);
        [first, second].map(|hash| self.bucket_of(hash))
    }

    /// Spreads the upper half of a hash over the buckets.
    fn bucket_of(&self, hash: u64) -> u32 {
        let scaled = (hash >> 32).wrapping_mul(u64::from(self.buckets)) >> 32;
        u32::try_from(scaled).unwrap_or(0)
    }

    fn words_at(&self, index: u32) -> Option<Entry<'s>> {
        let (bucket, slot) = (index as usize / ENTRIES, index as usize % ENTRIES);
        let start = bucket * ENTRIES * ENTRY_WORDS + slot;
        let word = |field: usize| self.words.get(start + field * ENTRIES);
        Some(Entry {
            task: word(0)?,
            low: word(1)?,
            high: word(2)?,
            expiry: word(3)?,
        })
    }
}

impl<'s, const ENTRIES: usize> KeyTable<'s, ENTRIES> {
    /// The table for its writer; `used` is set before the first key, so that a table never used need not be read.
    #[must_use]
    pub const fn new(view: KeyView<'s, ENTRIES>, used: &'s AtomicU64) -> Self {
        Self { view, used }
    }

    /// Was a key ever put in?
    #[must_use]
    pub fn is_used(&self) -> bool {
        // ORDERING: written by this process, or by one that has ended.
        self.used.load(Ordering::Relaxed) != 0
    }

    /// Makes a key stand for a task, unconfirmed. A place of the same key, or else of an expired one, is used again.
    ///
    /// # Errors
    /// The bucket it belongs in is full. [`KeysFull::spent_in`] names that bucket where one of its keys may go; else both buckets are
    /// full of keys that may not.
    pub fn reserve(
        &self,
        key: KeyId,
        task: TaskId,
        expiry: u64,
        now: Now,
    ) -> Result<KeyPlace, KeysFull> {
        let full = |spent_in| KeysFull {
            capacity: self.capacity(),
            spent_in,
        };
        let index = self.place_for(key, now).map_err(full)?;
        Ok(self.reserve_at(index, key, task, expiry))
    }

    /// The same at a place of the key that is free.
    pub(super) fn reserve_at(&self, index: u32, key: KeyId, task: TaskId, expiry: u64) -> KeyPlace {
        if !self.is_used() {
            // ORDERING: read by the next daemon, after this process has ended.
            self.used.store(1, Ordering::Relaxed);
        }
        self.write(index, key, task, expiry);
        KeyPlace { index, task }
    }

    /// The task of a reserved key exists now. False when the place is another task's.
    pub fn confirm(&self, place: KeyPlace) -> bool {
        let Some(entry) = self.words_at(place.index) else {
            return false;
        };
        // ORDERING: own word (I1); the key was published before.
        let word = entry.task.load(Ordering::Relaxed);
        let same = word & !FLAGS == place.task.as_raw();
        if same {
            // ORDERING: [keys.entry] Release, as the store before it.
            entry.task.store(word | CONFIRMED, Ordering::Release);
        }
        same
    }

    /// The task of the entry at a place was acknowledged: the place may be another key's when it is needed. False when the place
    /// is another task's, or spent already.
    pub fn spend_at(&self, place: u32, task: TaskId) -> bool {
        let Some(entry) = self.words_at(place) else {
            return false;
        };
        // ORDERING: own word (I1); the key was published before.
        let word = entry.task.load(Ordering::Relaxed);
        let is_new = word & !CONFIRMED == task.as_raw();
        if is_new {
            // ORDERING: [keys.entry] Release, as the stores before it.
            entry.task.store(word | SPENT, Ordering::Release);
        }
        is_new
    }

    /// Forgets a key, if it stands for this task.
    pub fn remove(&self, key: KeyId, task: TaskId) -> bool {
        let found = self.entries_of(key).find(|&index| {
            let entry = self.entry(index);
            entry.is_some_and(|entry| entry.key == key && entry.task == task)
        });
        found.is_some_and(|index| self.erase(index))
    }

    /// Forgets the entry at a place, if it is this task's.
    pub fn remove_at(&self, place: u32, task: TaskId) -> bool {
        self.at_place(place, task).is_some() && self.erase(place)
    }

    /// Forgets what has expired among some entries (`0..capacity()` are all) and tells `seen` of each one in use: its place, and
    /// when it will expire, or `None` of one that is gone now. Returns how many those are.
    pub fn expire(
        &self,
        entries: Range<u32>,
        now: Now,
        mut seen: impl FnMut(u32, Option<u64>),
    ) -> u32 {
        if !self.is_used() {
            return 0;
        }
        let mut count = 0;
        for index in entries.start..entries.end.min(self.capacity()) {
            let Some(entry) = self.entry(index) else {
                continue;
            };
            if now.has_reached(entry.expiry) && self.erase(index) {
                count += 1;
                seen(index, None);
            } else {
                seen(index, Some(entry.expiry));
            }
        }
        count
    }

    /// At a start: confirms what is unconfirmed and whose task exists, removes what is not, and what is no task at all. Safe to
    /// repeat, and to be killed in. Reads a quarter of the table.
    pub fn settle_by(&self, exists: impl Fn(TaskId) -> bool) -> SettledKeys {
        let mut settled = SettledKeys::default();
        if !self.is_used() {
            return settled;
        }
        for index in 0..self.capacity() {
            let Some(at) = self.words_at(index) else {
                break;
            };
            // ORDERING: own word (I1).
            let word = at.task.load(Ordering::Relaxed);
            if word == 0 {
                continue;
            }
            match task_of(word) {
                Some(_) if word & CONFIRMED != 0 => {}
                Some(task) if exists(task) => {
                    settled.confirmed += u32::from(self.confirm(KeyPlace { index, task }));
                }
                Some(_) | None => settled.removed += u32::from(self.erase(index)),
            }
        }
        settled
    }

    /// Where a key may be written: where it lies already, else in the bucket with fewer keys that may not go; where those are few in
    /// both, in the emptier one. `Err` when that is full: the bucket, if one of its keys is spent.
    ///
    /// Spent keys count as room, or in a table that is full of them those that may not go would gather wherever a spent one went, and
    /// fill both buckets of a new key long before they are many.
    fn place_for(&self, key: KeyId, now: Now) -> Result<u32, Option<u32>> {
        // LIMIT: a bucket has at most 8 entries.
        let entries = u32::try_from(ENTRIES).unwrap_or(1);
        let mut best: Option<(u32, Room)> = None;
        for bucket in self.buckets_of(key) {
            let mut room = Room::default();
            for index in self.places_of_bucket(bucket) {
                match self.entry(index) {
                    Some(entry) if entry.key == key => return Ok(index),
                    Some(entry) if !now.has_reached(entry.expiry) => {
                        room.spent += u32::from(entry.spent);
                    }
                    // Free, expired, or nonsense.
                    Some(_) | None if self.words_at(index).is_some() => {
                        room.free += 1;
                        room.first_free = room.first_free.or(Some(index));
                    }
                    Some(_) | None => {}
                }
            }
            if best.is_none_or(|(_, other)| room.rank(entries) > other.rank(entries)) {
                best = Some((bucket, room));
            }
        }
        let Some((bucket, room)) = best else {
            return Err(None);
        };
        room.first_free.ok_or((room.spent > 0).then_some(bucket))
    }

    /// Writes an entry: erased first, task word last (I2).
    fn write(&self, index: u32, key: KeyId, task: TaskId, expiry: u64) {
        let Some(at) = self.words_at(index) else {
            return;
        };
        self.erase(index);
        if !cfg!(qtf_mutant = "keys_reuse_without_release_fence") {
            // ORDERING: [keys.reuse] Release: whoever meets a word of the new key also meets the task word erased, or
            // the new one; pairs with the acquire fence in `entry`.
            fence(Ordering::Release);
        }
        let [low, high] = key.words();
        // ORDERING: [keys.entry] published by the task word below.
        at.low.store(low, Ordering::Relaxed);
        // ORDERING: as above.
        at.high.store(high, Ordering::Relaxed);
        // ORDERING: as above.
        at.expiry.store(expiry.min(STAMP_MAX), Ordering::Relaxed);
        let order = if cfg!(qtf_mutant = "keys_task_word_without_release") {
            // ORDERING: a mutant.
            Ordering::Relaxed
        } else {
            // ORDERING: [keys.entry] Release: key and expiry are there for whoever sees the task.
            Ordering::Release
        };
        // ORDERING: [keys.entry] as chosen above.
        at.task.store(task.as_raw(), order);
    }

    /// Moves an entry to a free place.
    pub(super) fn relocate(&self, from: u32, to: u32) {
        if let Some(entry) = self.entry(from) {
            self.write(to, entry.key, entry.task, entry.expiry);
            if entry.confirmed {
                self.confirm(KeyPlace {
                    index: to,
                    task: entry.task,
                });
            }
            if entry.spent {
                self.spend_at(to, entry.task);
            }
        }
        self.erase(from);
    }

    /// Frees an entry; false when it was free.
    fn erase(&self, index: u32) -> bool {
        let Some(at) = self.words_at(index) else {
            return false;
        };
        // ORDERING: own word (I1).
        let used = at.task.load(Ordering::Relaxed) != 0;
        if used {
            // ORDERING: [keys.reuse] the fence in `write` orders it before what comes next.
            at.task.store(0, Ordering::Relaxed);
        }
        used
    }
}

impl<'s, const ENTRIES: usize> Deref for KeyTable<'s, ENTRIES> {
    type Target = KeyView<'s, ENTRIES>;

    fn deref(&self) -> &KeyView<'s, ENTRIES> {
        &self.view
    }
}

impl<const ENTRIES: usize> fmt::Debug for KeyView<'_, ENTRIES> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyView")
            .field("capacity", &self.capacity())
            .finish_non_exhaustive()
    }
}

impl<const ENTRIES: usize> fmt::Debug for KeyTable<'_, ENTRIES> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyTable")
            .field("capacity", &self.capacity())
            .field("used", &self.is_used())
            .finish_non_exhaustive()
    }
}

/// The task of a task word; `None` when it is free or impossible.
fn task_of(word: u64) -> Option<TaskId> {
    TaskId::from_raw(word & !FLAGS)
}

/// How a reader loads the task word; weaker in a mutant.
fn entry_order() -> Ordering {
    if cfg!(qtf_mutant = "keys_task_word_without_acquire") {
        // ORDERING: a mutant.
        Ordering::Relaxed
    } else {
        // ORDERING: [keys.entry] Acquire.
        Ordering::Acquire
    }
}

/// Spreads the bits of a number over all bits of another: a bijection (splitmix64's finalizer).
const fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}
