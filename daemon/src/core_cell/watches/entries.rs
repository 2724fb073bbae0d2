//! The entries of all watches in one slab, and the lists that they stand in.
//!
//! An entry is one stream's interest in one task. It stands in up to three lists, linked by number: that of its task, while
//! the end has not come; that of its hash, by which it is found again; that of its stream. Each step here is O(1), or as long
//! as a list of one hash, whose key is random. Invariants:
//! - I1: an entry stands in the list of its task exactly while its `phase` is `None`.
//! - I2: no two entries have the same stream and task.
//! - I3: memory is taken in pieces and never moved, so that no step copies what was there before.
//!
//! Tested in `tests.rs`.

use std::hash::{BuildHasher as _, RandomState};

use qtf_shm::Phase;

/// Entries in one piece of memory.
const PIECE: u32 = 4096;

/// Number of an entry; 0 is none.
pub(super) type Link = u32;

/// One stream's interest in one task; or the head of a list that was taken off a task.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Entry {
    pub(super) task: u64,
    /// Number of the stream; 0 in a head.
    pub(super) watcher: u32,
    /// How the task ended; `None` while it is waited for.
    pub(super) phase: Option<Phase>,
    pub(super) next_of_task: Link,
    prev_of_task: Link,
    next_of_hash: Link,
    next: Link,
    prev: Link,
}

/// A list of one stream's entries.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct List {
    pub(super) first: Link,
    last: Link,
    pub(super) len: usize,
}

/// All entries.
#[derive(Debug)]
pub(super) struct Entries {
    pieces: Vec<Box<[Entry]>>,
    free: Link,
    used: u32,
    /// First of the entries that wait for a task, by the task's slot.
    by_slot: Vec<Link>,
    /// First of the entries of a hash.
    by_hash: Vec<Link>,
    hasher: RandomState,
}

impl Entries {
    /// None yet. What is made here for `slots` tasks is zeroed memory, which costs nothing before it is used.
    pub(super) fn new(slots: usize) -> Self {
        let slots = slots.max(1);
        Self {
            pieces: Vec::new(),
            free: 0,
            used: 0,
            by_slot: vec![0; slots],
            by_hash: vec![0; slots],
            hasher: RandomState::new(),
        }
    }

    pub(super) fn get(&self, link: Link) -> &Entry {
        &self.pieces[(link / PIECE) as usize][(link % PIECE) as usize]
    }

    pub(super) fn get_mut(&mut self, link: Link) -> &mut Entry {
        &mut self.pieces[(link / PIECE) as usize][(link % PIECE) as usize]
    }

    fn take_free(&mut self) -> Link {
        if self.free != 0 {
            let link = self.free;
            self.free = self.get(link).next;
            return link;
        }
        self.used = self.used.saturating_add(1);
        if (self.used / PIECE) as usize >= self.pieces.len() {
            self.pieces
                .push(vec![Entry::default(); PIECE as usize].into_boxed_slice());
        }
        self.used
    }

    pub(super) fn give_back(&mut self, link: Link) {
        let next = self.free;
        *self.get_mut(link) = Entry {
            next,
            ..Entry::default()
        };
        self.free = link;
    }

    fn slot_of(&self, task: u64) -> usize {
        let slot = usize::try_from(task & 0x00FF_FFFF).unwrap_or(0);
        slot % self.by_slot.len()
    }

    /// Whether two tasks are tenants of one slot.
    pub(super) fn share_a_slot(&self, task: u64, other: u64) -> bool {
        self.slot_of(task) == self.slot_of(other)
    }

    fn hash_of(&self, watcher: u32, task: u64) -> usize {
        let hash = self.hasher.hash_one((watcher, task));
        usize::try_from(hash).unwrap_or(0) % self.by_hash.len()
    }

    /// The entry of this stream and task.
    pub(super) fn find(&self, watcher: u32, task: u64) -> Option<Link> {
        let mut link = self.by_hash[self.hash_of(watcher, task)];
        while link != 0 {
            let entry = self.get(link);
            if entry.watcher == watcher && entry.task == task {
                return Some(link);
            }
            link = entry.next_of_hash;
        }
        None
    }

    /// A new entry, which waits if it has no phase. It is in no list of a stream yet.
    pub(super) fn insert(&mut self, watcher: u32, task: u64, phase: Option<Phase>) -> Link {
        let link = self.take_free();
        let hash = self.hash_of(watcher, task);
        *self.get_mut(link) = Entry {
            task,
            watcher,
            phase,
            next_of_hash: std::mem::replace(&mut self.by_hash[hash], link),
            ..Entry::default()
        };
        if phase.is_none() {
            self.put_at_task(link);
        }
        link
    }

    /// Removes an entry that is in no list of a stream any more.
    pub(super) fn remove(&mut self, link: Link) {
        let entry = *self.get(link);
        if entry.phase.is_none() {
            self.take_off_task(link);
        }
        let hash = self.hash_of(entry.watcher, entry.task);
        let mut before = self.by_hash[hash];
        if before == link {
            self.by_hash[hash] = entry.next_of_hash;
        } else {
            while before != 0 && self.get(before).next_of_hash != link {
                before = self.get(before).next_of_hash;
            }
            if before != 0 {
                self.get_mut(before).next_of_hash = entry.next_of_hash;
            }
        }
        self.give_back(link);
    }

    /// The first entry that waits for a task of this one's slot.
    pub(super) fn first_of_slot(&self, task: u64) -> Link {
        self.by_slot[self.slot_of(task)]
    }

    pub(super) fn put_at_task(&mut self, link: Link) {
        let slot = self.slot_of(self.get(link).task);
        let next = std::mem::replace(&mut self.by_slot[slot], link);
        let entry = self.get_mut(link);
        entry.next_of_task = next;
        entry.prev_of_task = 0;
        if next != 0 {
            self.get_mut(next).prev_of_task = link;
        }
    }

    /// Takes an entry off the list of its task, or off a list that was taken off the task before.
    pub(super) fn take_off_task(&mut self, link: Link) {
        let entry = self.get_mut(link);
        let (task, next, prev) = (entry.task, entry.next_of_task, entry.prev_of_task);
        (entry.next_of_task, entry.prev_of_task) = (0, 0);
        if next != 0 {
            self.get_mut(next).prev_of_task = prev;
        }
        if prev == 0 {
            let slot = self.slot_of(task);
            self.by_slot[slot] = next;
        } else {
            self.get_mut(prev).next_of_task = next;
        }
    }

    /// Takes the whole list off a task's slot, in one step: what it gives is a head, behind which the entries stand.
    pub(super) fn take_all_off(&mut self, task: u64, phase: Phase) -> Link {
        let slot = self.slot_of(task);
        let first = std::mem::take(&mut self.by_slot[slot]);
        let head = self.take_free();
        *self.get_mut(head) = Entry {
            task,
            phase: Some(phase),
            next_of_task: first,
            ..Entry::default()
        };
        if first != 0 {
            self.get_mut(first).prev_of_task = head;
        }
        head
    }

    /// Appends an entry to a list of its stream.
    pub(super) fn append(&mut self, list: &mut List, link: Link) {
        let last = std::mem::replace(&mut list.last, link);
        let entry = self.get_mut(link);
        (entry.next, entry.prev) = (0, last);
        if last == 0 {
            list.first = link;
        } else {
            self.get_mut(last).next = link;
        }
        list.len = list.len.saturating_add(1);
    }

    /// Takes an entry out of the list of its stream that it is in.
    pub(super) fn take_out(&mut self, list: &mut List, link: Link) {
        let entry = self.get_mut(link);
        let (next, prev) = (entry.next, entry.prev);
        (entry.next, entry.prev) = (0, 0);
        if prev == 0 {
            list.first = next;
        } else {
            self.get_mut(prev).next = next;
        }
        if next == 0 {
            list.last = prev;
        } else {
            self.get_mut(next).prev = prev;
        }
        list.len = list.len.saturating_sub(1);
    }
}
