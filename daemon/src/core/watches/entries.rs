//! The entries of all watches in one slab, and the lists that they stand in.
//!
//! An entry is one stream's interest in one task. It stands in the list of its stream, and in one of its task's slot. Usually one
//! stream waits for a task: the first [`NEAR_MAX`] entries of a slot stand *near*, in a list that is walked to find them. All
//! others of the slot are *far*: they are found by a hash with a random key, and those that wait stand in a list of their own, which
//! is gone through in turns. So each step here is O(1), or as long as a list of one hash, however many wait for one task. Invariants:
//! - I1: a near entry stands in its slot's near list for all its life; there are at most [`NEAR_MAX`] of a slot.
//! - I2: a far entry stands in its slot's far list exactly while its `phase` is `None`, and in the list of its hash for all its life.
//! - I3: no two entries have the same stream and task.
//! - I4: memory is taken in pieces and never moved, so that no step copies what was there before.
//!
//! Tested in `tests.rs`.

use std::hash::{BuildHasher as _, RandomState};

use qtf_shm::Phase;

/// Entries in one piece of memory.
const PIECE: u32 = 4096;

/// LIMIT: entries of one slot that are walked through; what usually waits for a task is one.
pub(super) const NEAR_MAX: usize = 4;

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
    is_far: bool,
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

/// The entries of one task slot, whichever of its tenants they are about.
#[derive(Debug, Clone, Copy, Default)]
struct OfSlot {
    near: Link,
    /// First of the far ones that wait.
    far: Link,
    /// How many far ones there are, those that have ended among them.
    far_count: u32,
}

/// All entries.
#[derive(Debug)]
pub(super) struct Entries {
    pieces: Vec<Box<[Entry]>>,
    free: Link,
    used: u32,
    by_slot: Vec<OfSlot>,
    /// First of the far entries of a hash.
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
            by_slot: vec![OfSlot::default(); slots],
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
        let of_slot = &self.by_slot[self.slot_of(task)];
        let is_it = |&link: &Link| {
            let entry = self.get(link);
            entry.task == task && entry.watcher == watcher
        };
        let near = self.near(of_slot.near).find(is_it);
        if near.is_some() || of_slot.far_count == 0 {
            return near;
        }
        let mut link = self.by_hash[self.hash_of(watcher, task)];
        while link != 0 && !is_it(&link) {
            link = self.get(link).next_of_hash;
        }
        (link != 0).then_some(link)
    }

    /// A near list, from its first entry on.
    fn near(&self, first: Link) -> impl Iterator<Item = Link> + '_ {
        let some = |link: Link| (link != 0).then_some(link);
        std::iter::successors(some(first), move |&link| some(self.get(link).next_of_task))
    }

    /// The near entries that wait for this task.
    pub(super) fn near_waiting(&self, task: u64) -> ([Link; NEAR_MAX], usize) {
        let (mut found, mut count) = ([0; NEAR_MAX], 0);
        for link in self.near(self.by_slot[self.slot_of(task)].near) {
            let entry = self.get(link);
            let is_of_task =
                entry.task == task || cfg!(qtf_mutant = "sim_next_tenant_is_told_an_end");
            if is_of_task && entry.phase.is_none() && count < NEAR_MAX {
                found[count] = link;
                count += 1;
            }
        }
        (found, count)
    }

    #[cfg(test)]
    pub(super) fn near_count(&self, task: u64) -> usize {
        let of_slot = &self.by_slot[self.slot_of(task)];
        self.near(of_slot.near).count()
    }

    /// The first far entry that waits for a task of this one's slot.
    pub(super) fn first_far(&self, task: u64) -> Link {
        self.by_slot[self.slot_of(task)].far
    }

    /// A new entry, which waits if it has no phase. It is in no list of a stream yet.
    pub(super) fn insert(&mut self, watcher: u32, task: u64, phase: Option<Phase>) -> Link {
        let slot = self.slot_of(task);
        let is_far = self.near(self.by_slot[slot].near).count() >= NEAR_MAX;
        let link = self.take_free();
        *self.get_mut(link) = Entry {
            task,
            watcher,
            phase,
            is_far,
            ..Entry::default()
        };
        if is_far {
            let hash = self.hash_of(watcher, task);
            let next = std::mem::replace(&mut self.by_hash[hash], link);
            self.get_mut(link).next_of_hash = next;
            let count = &mut self.by_slot[slot].far_count;
            *count = count.saturating_add(1);
        }
        if !is_far || phase.is_none() {
            self.put_at_task(link);
        }
        link
    }

    /// Notes how the task of an entry has ended: it waits no more.
    pub(super) fn note_end(&mut self, link: Link, phase: Phase) {
        if self.get(link).is_far {
            self.take_off_task(link);
        }
        self.get_mut(link).phase = Some(phase);
    }

    /// Removes an entry that is in no list of a stream any more.
    pub(super) fn remove(&mut self, link: Link) {
        let entry = *self.get(link);
        if !entry.is_far || entry.phase.is_none() {
            self.take_off_task(link);
        }
        if entry.is_far {
            self.remove_from_hash(link, &entry);
            let slot = self.slot_of(entry.task);
            let count = &mut self.by_slot[slot].far_count;
            *count = count.saturating_sub(1);
        }
        self.give_back(link);
    }

    fn remove_from_hash(&mut self, link: Link, entry: &Entry) {
        let hash = self.hash_of(entry.watcher, entry.task);
        let mut before = self.by_hash[hash];
        if before == link {
            self.by_hash[hash] = entry.next_of_hash;
            return;
        }
        while before != 0 && self.get(before).next_of_hash != link {
            before = self.get(before).next_of_hash;
        }
        if before != 0 {
            self.get_mut(before).next_of_hash = entry.next_of_hash;
        }
    }

    pub(super) fn put_at_task(&mut self, link: Link) {
        let entry = self.get(link);
        let (slot, is_far) = (self.slot_of(entry.task), entry.is_far);
        let next = std::mem::replace(self.first_mut(slot, is_far), link);
        let entry = self.get_mut(link);
        entry.next_of_task = next;
        entry.prev_of_task = 0;
        if next != 0 {
            self.get_mut(next).prev_of_task = link;
        }
    }

    fn first_mut(&mut self, slot: usize, is_far: bool) -> &mut Link {
        let of_slot = &mut self.by_slot[slot];
        if is_far {
            &mut of_slot.far
        } else {
            &mut of_slot.near
        }
    }

    /// Takes an entry off the list of its task, or off a list that was taken off the task before.
    pub(super) fn take_off_task(&mut self, link: Link) {
        let entry = self.get_mut(link);
        let (task, is_far) = (entry.task, entry.is_far);
        let (next, prev) = (entry.next_of_task, entry.prev_of_task);
        (entry.next_of_task, entry.prev_of_task) = (0, 0);
        if next != 0 {
            self.get_mut(next).prev_of_task = prev;
        }
        if prev == 0 {
            let slot = self.slot_of(task);
            *self.first_mut(slot, is_far) = next;
        } else {
            self.get_mut(prev).next_of_task = next;
        }
    }

    /// Takes the whole list of those far off a task's slot, in one step: what it gives is a head, behind which the entries stand.
    pub(super) fn take_far_off(&mut self, task: u64, phase: Phase) -> Link {
        let slot = self.slot_of(task);
        let first = std::mem::take(&mut self.by_slot[slot].far);
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
