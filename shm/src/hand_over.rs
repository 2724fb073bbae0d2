//! The hand-over lane of a local worker: where it hands over what it has to say about its attempts, beside the slots.
//!
//! A local worker writes no field of a slot: if its process is stopped for long enough, the slot may be another task's by the time it writes.
//! It writes an entry of its own instead, and changes the state word; the PLM moves the entry into the slot. An entry names task
//! and attempt, so whatever is read from it is about that attempt and no other, however late it comes.
//!
//! ```text
//! entry of 64 bytes
//!      0  task     id; 0 = the entry is free                 worker; whoever clears it, by compare-and-swap
//!      8  ending   fence 16 << 16 | outcome 16               worker; an outcome of 0: the attempt runs
//!     16  result   blob reference                            worker
//!     24  started  stamp                                     worker
//!     32  ended    stamp                                     worker
//!     40  uses     how often the entry was begun; wraps      worker
//!     48  used     as in the slot; 0, nobody writes it yet
//!     56  pause    milliseconds for which the next attempt is to wait, of one that asks for it; 0 = it does not say   worker
//! ```
//! Order: `ended` and `result`, then `ending`, then the state word of the task RUNNING -> ENDED. The lane's memory is a chunk of the arena that is
//! claimed by the worker's attach record; the worker slot says where (`WorkerSlot::lane`). Who uses it: `segment/completion.rs`.
//!
//! # Sync points
//! | label | what | against |
//! |---|---|---|
//! | `lane.entry` | what belongs to a start, then the task (release); what belongs to an end, then the outcome (release) | `read`: task, outcome (acquire), then the rest |
//! | `lane.reuse` | the use counted (release), release fence, then the words of the next attempt | `read`: the uses (acquire), the words, acquire fence, then the uses again |
//! | `lane.moved` | the end written into the slot, then the task zeroed (release) | `read`, `task`: the task (acquire), then the slot |
//!
//! Modelled in `shm/tests/loom_hand_over.rs`, tested in `segment/tests/completion.rs`.

use crate::id::SlotIndex;
use crate::sync::{AtomicU64, Ordering, fence};

/// Words of an entry.
pub const ENTRY_WORDS: usize = 8;
/// Entries of a lane: attempts that run, and ends that the PLM has not moved yet, of one local worker.
pub const ENTRIES: usize = 64;
/// Bytes of a lane.
pub const LANE_BYTES: usize = ENTRIES * ENTRY_WORDS * 8;

/// Where the entry of a task in a slot is best put, and first looked for. Any other place is as good.
#[must_use]
pub const fn home_of(slot: SlotIndex) -> usize {
    slot.position() % ENTRIES
}

/// What an entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Id of the task.
    pub task: u64,
    /// Which attempt of it: the fence of its hand-out.
    pub fence: u16,
    /// How it ended, as the bits of the slot; 0 = it runs.
    pub outcome: u16,
    /// Where its result lies, as the bits of the slot.
    pub result: u64,
    /// Stamp of its start.
    pub started: u64,
    /// Stamp of its end.
    pub ended: u64,
    /// Milliseconds for which the next attempt is to wait; 0 = it does not say.
    pub pause_ms: u64,
}

/// An entry as it lies in the segment.
#[derive(Debug, Clone, Copy)]
pub struct EntryPlace<'s> {
    task: &'s AtomicU64,
    ending: &'s AtomicU64,
    result: &'s AtomicU64,
    started: &'s AtomicU64,
    ended: &'s AtomicU64,
    uses: &'s AtomicU64,
    pause: &'s AtomicU64,
}

impl<'s> EntryPlace<'s> {
    /// The entry in these words; `None` if there are too few.
    #[must_use]
    pub const fn of(words: &'s [AtomicU64]) -> Option<Self> {
        let [task, ending, result, started, ended, uses, _, pause, ..] = words else {
            return None;
        };
        Some(Self {
            task,
            ending,
            result,
            started,
            ended,
            uses,
            pause,
        })
    }

    /// The task of the entry; 0 = it is free.
    #[must_use]
    pub fn task(&self) -> u64 {
        // ORDERING: [lane.entry] Acquire pairs with `begin`; [lane.moved] pairs with `clear`: whoever finds the entry cleared meets the
        // slot into which it was moved.
        let order = unless(
            cfg!(qtf_mutant = "lane_task_without_acquire"),
            Ordering::Acquire,
        );
        // ORDERING: as chosen above.
        self.task.load(order)
    }

    /// Frees the entry whatever it says. Only by its worker, before anybody else knows of it.
    pub fn reset(&self) {
        // ORDERING: published by [worker.state], when the slot that names the lane goes live.
        self.task.store(0, Ordering::Relaxed);
    }

    /// An attempt begins, whose hand-out has the fence `of`. The entry is free, and the caller is its worker.
    pub fn begin(&self, task: u64, of: u16, started: u64) {
        // ORDERING: its worker alone writes it.
        let uses = self.uses.load(Ordering::Relaxed).wrapping_add(1);
        // ORDERING: [lane.reuse] Release: who counts this use meets the entry free, or in this use. The task alone does not tell uses
        // apart: it may come here again with another attempt.
        let order = unless(
            cfg!(qtf_mutant = "lane_use_without_release"),
            Ordering::Release,
        );
        // ORDERING: as chosen above.
        self.uses.store(uses, order);
        if !cfg!(qtf_mutant = "lane_begin_without_fence") {
            // ORDERING: [lane.reuse] Release: whoever meets a word of this attempt also meets this use; pairs with the fence in `read`.
            fence(Ordering::Release);
        }
        // ORDERING: published by [lane.entry].
        let write = |word: &AtomicU64, value: u64| word.store(value, Ordering::Relaxed);
        write(self.ending, u64::from(of) << 16);
        write(self.result, 0);
        write(self.started, started);
        write(self.ended, 0);
        write(self.pause, 0);
        // ORDERING: [lane.entry] Release: what the entry says is there for whoever sees its task.
        let order = unless(
            cfg!(qtf_mutant = "lane_begin_without_release"),
            Ordering::Release,
        );
        // ORDERING: as chosen above.
        self.task.store(task, order);
    }

    /// The attempt of the entry, whose hand-out has the fence `of`, has ended. The caller is its worker, and changes the task's state next.
    pub fn end(&self, of: u16, outcome: u16, (result, ended, pause_ms): (u64, u64, u64)) {
        // ORDERING: published by the word below.
        self.result.store(result, Ordering::Relaxed);
        // ORDERING: as above.
        self.ended.store(ended, Ordering::Relaxed);
        // ORDERING: as above.
        self.pause.store(pause_ms, Ordering::Relaxed);
        let ending = (u64::from(of) << 16) | u64::from(outcome);
        // ORDERING: [lane.entry] Release: who sees the outcome sees what belongs to it; pairs with `read`.
        let order = unless(
            cfg!(qtf_mutant = "lane_end_without_release"),
            Ordering::Release,
        );
        // ORDERING: as chosen above.
        self.ending.store(ending, order);
    }

    /// What the entry says; `None` if it is free, or is being changed.
    #[must_use]
    pub fn read(&self) -> Option<Entry> {
        // ORDERING: [lane.reuse] Acquire: what is read next is of this use, or of a later one.
        let order = unless(
            cfg!(qtf_mutant = "lane_uses_without_acquire"),
            Ordering::Acquire,
        );
        // ORDERING: as chosen above.
        let uses = self.uses.load(order);
        let task = self.task();
        if task == 0 {
            return None;
        }
        // ORDERING: [lane.entry] Acquire pairs with `end`.
        let order = unless(
            cfg!(qtf_mutant = "lane_ending_without_acquire"),
            Ordering::Acquire,
        );
        // ORDERING: as chosen above.
        let ending = self.ending.load(order);
        // ORDERING: published by the two words above.
        let read = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let (result, started, ended) = (read(self.result), read(self.started), read(self.ended));
        let pause_ms = read(self.pause);
        if !cfg!(qtf_mutant = "lane_read_without_fence") {
            // ORDERING: [lane.reuse] Acquire: orders the copies before the second look; pairs with the fence in `begin`.
            fence(Ordering::Acquire);
        }
        // The task by `task()`, since whoever finds it cleared looks into the slot.
        if read(self.uses) != uses || self.task() != task {
            return None;
        }
        let [.., fence_high, fence_low, high, low] = ending.to_be_bytes();
        Some(Entry {
            task,
            fence: u16::from_be_bytes([fence_high, fence_low]),
            outcome: u16::from_be_bytes([high, low]),
            result,
            started,
            ended,
            pause_ms,
        })
    }

    /// The words that are stamps, if the entry is in use.
    #[must_use]
    pub fn stamps(&self) -> Option<[&'s AtomicU64; 2]> {
        (self.task() != 0).then_some([self.started, self.ended])
    }

    /// Frees the entry if it still is this task's. Whoever has moved it, or knows that nobody wants it.
    pub fn clear(&self, task: u64) -> bool {
        // ORDERING: [lane.moved] Release: who finds the entry cleared finds its words in the slot.
        let order = unless(
            cfg!(qtf_mutant = "lane_clear_without_release"),
            Ordering::Release,
        );
        // ORDERING: as chosen above; a failure says nothing.
        self.task
            .compare_exchange(task, 0, order, Ordering::Relaxed)
            .is_ok()
    }
}

/// The order of an access; none in a mutant.
const fn unless(is_mutant: bool, order: Ordering) -> Ordering {
    if is_mutant {
        // ORDERING: a mutant.
        Ordering::Relaxed
    } else {
        order
    }
}
