//! Who waits for the end of which task: in the memory of this process, by slot.
//!
//! When a task ends only its id moves to the streams that wait for it; outcome and output are read from
//! the segment when the stream is polled. A slow reader can therefore hold no more than the ids that it
//! named itself, and their number is bounded over all streams: an id counts from its naming until its end is told.
//!
//! Tested at the end of this file.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::task::Waker;

use qtf_shm::{Phase, TaskId};

/// Names one watching stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct WatchKey(u64);

#[derive(Debug, Default)]
struct Watcher {
    /// Ended, and not yet told.
    ended: VecDeque<(TaskId, Phase)>,
    /// Tasks that it waits for.
    waiting: usize,
    waker: Option<Waker>,
}

/// All watches.
#[derive(Debug)]
pub(crate) struct Watches {
    by_task: BTreeSet<(u64, WatchKey)>,
    watchers: HashMap<WatchKey, Watcher>,
    /// What all streams wait for, and what has ended and is not told.
    named: usize,
    last_key: u64,
    watches_max: usize,
}

/// There are too many watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooManyWatches {
    pub(crate) limit: usize,
}

impl Watches {
    /// None yet; at most `watches_max` at the same time.
    pub(crate) fn new(watches_max: usize) -> Self {
        Self {
            by_task: BTreeSet::new(),
            watchers: HashMap::new(),
            named: 0,
            last_key: 0,
            watches_max,
        }
    }

    /// Opens a watching stream.
    pub(crate) fn open(&mut self) -> WatchKey {
        self.last_key = self.last_key.saturating_add(1);
        let key = WatchKey(self.last_key);
        self.watchers.insert(key, Watcher::default());
        key
    }

    /// The stream waits for the end of this task. Waiting twice is waiting once.
    pub(crate) fn add(&mut self, key: WatchKey, task: TaskId) -> Result<(), TooManyWatches> {
        self.check_room()?;
        if let Some(watcher) = self.watchers.get_mut(&key)
            && self.by_task.insert((task.as_raw(), key))
        {
            watcher.waiting = watcher.waiting.saturating_add(1);
            self.named = self.named.saturating_add(1);
        }
        Ok(())
    }

    /// The stream is to be told of an end that it need not wait for.
    pub(crate) fn add_ended(
        &mut self,
        key: WatchKey,
        task: TaskId,
        phase: Phase,
    ) -> Result<(), TooManyWatches> {
        self.check_room()?;
        if let Some(watcher) = self.watchers.get_mut(&key) {
            watcher.ended.push_back((task, phase));
            self.named = self.named.saturating_add(1);
        }
        Ok(())
    }

    const fn check_room(&self) -> Result<(), TooManyWatches> {
        if self.named < self.watches_max {
            return Ok(());
        }
        Err(TooManyWatches {
            limit: self.watches_max,
        })
    }

    /// A task has ended: everybody who waits for it is to be told.
    pub(crate) fn finished(&mut self, task: TaskId, phase: Phase) {
        let raw = task.as_raw();
        let range = (raw, WatchKey(0))..=(raw, WatchKey(u64::MAX));
        while let Some(&found) = self.by_task.range(range.clone()).next() {
            self.by_task.remove(&found);
            if let Some(watcher) = self.watchers.get_mut(&found.1) {
                watcher.waiting = watcher.waiting.saturating_sub(1);
                watcher.ended.push_back((task, phase));
                if let Some(waker) = watcher.waker.take() {
                    waker.wake();
                }
            }
        }
    }

    /// Takes the next end that the stream is to tell.
    pub(crate) fn next_ended(&mut self, key: WatchKey) -> Option<(TaskId, Phase)> {
        let ended = self.watchers.get_mut(&key)?.ended.pop_front()?;
        self.named = self.named.saturating_sub(1);
        Some(ended)
    }

    /// How many ends the stream has not yet told.
    pub(crate) fn untold(&self, key: WatchKey) -> usize {
        self.watchers
            .get(&key)
            .map_or(0, |watcher| watcher.ended.len())
    }

    /// Whether the stream waits for nothing and has told everything.
    pub(crate) fn is_idle(&self, key: WatchKey) -> bool {
        self.watchers
            .get(&key)
            .is_none_or(|watcher| watcher.waiting == 0 && watcher.ended.is_empty())
    }

    /// The stream waits to be woken.
    pub(crate) fn park(&mut self, key: WatchKey, waker: &Waker) {
        if let Some(watcher) = self.watchers.get_mut(&key) {
            watcher.waker = Some(waker.clone());
        }
    }

    /// Every stream looks again.
    pub(crate) fn wake_all(&mut self) {
        for watcher in self.watchers.values_mut() {
            if let Some(waker) = watcher.waker.take() {
                waker.wake();
            }
        }
    }

    /// The stream is gone; `tasks` are those that it ever named.
    pub(crate) fn close(&mut self, key: WatchKey, tasks: impl IntoIterator<Item = TaskId>) {
        if let Some(gone) = self.watchers.remove(&key) {
            let count = gone.waiting.saturating_add(gone.ended.len());
            self.named = self.named.saturating_sub(count);
        }
        for task in tasks {
            self.by_task.remove(&(task.as_raw(), key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(number: u64) -> TaskId {
        TaskId::from_raw((1 << 24) | number).unwrap()
    }

    #[test]
    fn everybody_who_waits_is_told_once() {
        let mut watches = Watches::new(10);
        let (first, second) = (watches.open(), watches.open());
        watches.add(first, task(1)).unwrap();
        watches.add(first, task(1)).unwrap();
        watches.add(second, task(1)).unwrap();
        watches.finished(task(1), Phase::Done);
        watches.finished(task(1), Phase::Done);
        assert_eq!(watches.next_ended(first), Some((task(1), Phase::Done)));
        assert_eq!(watches.next_ended(first), None);
        assert_eq!(watches.next_ended(second), Some((task(1), Phase::Done)));
        assert!(watches.is_idle(first));
    }

    #[test]
    fn end_of_a_later_task_in_the_same_slot_is_told_to_nobody() {
        let mut watches = Watches::new(10);
        let key = watches.open();
        watches.add(key, task(1)).unwrap();
        watches.finished(TaskId::from_raw((2 << 24) | 1).unwrap(), Phase::Done);
        assert_eq!(watches.next_ended(key), None);
    }

    #[test]
    fn number_of_watches_is_bounded_and_given_back_at_the_close() {
        let mut watches = Watches::new(2);
        let key = watches.open();
        watches.add(key, task(1)).unwrap();
        watches.add(key, task(2)).unwrap();
        assert_eq!(watches.add(key, task(3)), Err(TooManyWatches { limit: 2 }));
        watches.close(key, [task(1), task(2)]);
        let key = watches.open();
        assert!(watches.add(key, task(3)).is_ok());
        assert_eq!(watches.named, 1);
    }

    #[test]
    fn ends_that_a_stream_does_not_take_count_until_it_does() {
        let full = Err(TooManyWatches { limit: 2 });
        let mut watches = Watches::new(2);
        let (slow, other) = (watches.open(), watches.open());
        watches.add(slow, task(1)).unwrap();
        watches.finished(task(1), Phase::Done);
        watches.add_ended(slow, task(2), Phase::Done).unwrap();
        assert_eq!(watches.add(other, task(3)), full);
        assert_eq!(watches.add_ended(other, task(4), Phase::Done), full);
        assert!(watches.next_ended(slow).is_some());
        assert_eq!(watches.add(other, task(3)), Ok(()));
        assert_eq!(watches.add(other, task(3)), full);
        watches.close(slow, []);
        assert_eq!(watches.add(other, task(3)), Ok(()), "waited for already");
        assert_eq!(watches.named, 1);
    }
}
