//! The lane of a local worker: where it hands over what it has to say about its attempts, beside the slots.
//!
//! A local worker writes no field of a slot: if its process is stopped for long enough, the slot may be another task's by the time it writes.
//! It writes an entry of its own instead, and changes the state word; the PLM moves the entry into the slot. An entry names task
//! and attempt, so whatever is read from it is about that attempt and no other, however late it comes.
//!
//! ```text
//! entry of 64 bytes
//!      0  task     id; 0 = the entry is free                 worker; whoever clears it, by compare-and-swap
//!      8  ending   attempt 8 << 16 | outcome 16              worker; an outcome of 0: the attempt runs
//!     16  result   blob reference                            worker
//!     24  started  stamp                                     worker
//!     32  ended    stamp                                     worker
//!     40  reserved 24 bytes
//! ```
//! Order: `ended` and `result`, then `ending`, then the state word of the task RUNNING -> ENDED. The lane's memory is a chunk of the arena that is
//! claimed by the worker's attach record; the worker slot says where (`WorkerSlot::lane`). It is the first piece of a lane in both
//! directions: events out. Who uses it: `segment/completion.rs`.
//!
//! Sync points: `lane.entry`, `lane.reuse`, `lane.moved`. Not modelled yet; tested in `segment/tests/completion.rs`.

use crate::sync::{AtomicU64, Ordering, fence};

/// Words of an entry.
pub const ENTRY_WORDS: usize = 8;
/// Entries of a lane: attempts that run, and ends that the PLM has not moved yet, of one local worker.
pub const ENTRIES: usize = 64;
/// Bytes of a lane.
pub const LANE_BYTES: usize = ENTRIES * ENTRY_WORDS * 8;

/// What an entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Id of the task.
    pub task: u64,
    /// Which attempt of it.
    pub attempt: u8,
    /// How it ended, as the bits of the slot; 0 = it runs.
    pub outcome: u16,
    /// Where its result lies, as the bits of the slot.
    pub result: u64,
    /// Stamp of its start.
    pub started: u64,
    /// Stamp of its end.
    pub ended: u64,
}

/// An entry as it lies in the segment.
#[derive(Debug, Clone, Copy)]
pub struct EntryPlace<'s> {
    task: &'s AtomicU64,
    ending: &'s AtomicU64,
    result: &'s AtomicU64,
    started: &'s AtomicU64,
    ended: &'s AtomicU64,
}

impl<'s> EntryPlace<'s> {
    /// The entry in these words; `None` if there are too few.
    #[must_use]
    pub const fn of(words: &'s [AtomicU64]) -> Option<Self> {
        let [task, ending, result, started, ended, ..] = words else {
            return None;
        };
        Some(Self {
            task,
            ending,
            result,
            started,
            ended,
        })
    }

    /// The task of the entry; 0 = it is free.
    #[must_use]
    pub fn task(&self) -> u64 {
        // ORDERING: [lane.entry] Acquire pairs with `begin`; [lane.moved] pairs with `clear`: whoever finds the entry cleared meets the
        // slot into which it was moved.
        self.task.load(Ordering::Acquire)
    }

    /// Frees the entry whatever it says. Only by its worker, before anybody else knows of it.
    pub fn reset(&self) {
        // ORDERING: published by [worker.state], when the slot that names the lane goes live.
        self.task.store(0, Ordering::Relaxed);
    }

    /// An attempt begins. The entry is free, and the caller is its worker.
    pub fn begin(&self, task: u64, attempt: u8, started: u64) {
        // ORDERING: [lane.reuse] Release: whoever meets a word of this attempt also meets that the entry is no longer the one
        // before's; pairs with the fence in `read`.
        fence(Ordering::Release);
        // ORDERING: published by [lane.entry].
        let write = |word: &AtomicU64, value: u64| word.store(value, Ordering::Relaxed);
        write(self.ending, u64::from(attempt) << 16);
        write(self.result, 0);
        write(self.started, started);
        write(self.ended, 0);
        // ORDERING: [lane.entry] Release: what the entry says is there for whoever sees its task.
        self.task.store(task, Ordering::Release);
    }

    /// The attempt of the entry has ended. The caller is its worker, and changes the task's state next.
    pub fn end(&self, attempt: u8, outcome: u16, (result, ended): (u64, u64)) {
        // ORDERING: published by the word below.
        self.result.store(result, Ordering::Relaxed);
        // ORDERING: as above.
        self.ended.store(ended, Ordering::Relaxed);
        // ORDERING: [lane.entry] Release: who sees the outcome sees what belongs to it; pairs with `read`.
        self.ending.store(
            (u64::from(attempt) << 16) | u64::from(outcome),
            Ordering::Release,
        );
    }

    /// What the entry says; `None` if it is free, or is being changed.
    #[must_use]
    pub fn read(&self) -> Option<Entry> {
        let task = self.task();
        if task == 0 {
            return None;
        }
        // ORDERING: [lane.entry] Acquire pairs with `end`.
        let ending = self.ending.load(Ordering::Acquire);
        // ORDERING: published by the two words above.
        let read = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let (result, started, ended) = (read(self.result), read(self.started), read(self.ended));
        // ORDERING: [lane.reuse] Acquire: orders the copies before the second look; pairs with the fence in `begin`.
        fence(Ordering::Acquire);
        if read(self.task) != task || read(self.ending) != ending {
            return None;
        }
        let [.., attempt, high, low] = ending.to_be_bytes();
        Some(Entry {
            task,
            attempt,
            outcome: u16::from_be_bytes([high, low]),
            result,
            started,
            ended,
        })
    }

    /// Frees the entry if it still is this task's. Whoever has moved it, or knows that nobody wants it.
    pub fn clear(&self, task: u64) -> bool {
        // ORDERING: [lane.moved] Release: who finds the entry cleared finds its words in the slot.
        self.task
            .compare_exchange(task, 0, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }
}
