//! Who waits for which record of the journal to be on stable storage.
//!
//! An answer that names a record may be given only then. Waiters are woken once: those that a write has made answerable, in
//! their order, by [`Stability::tend`], a bounded number a turn. Invariants:
//! - I1: `durable` never falls; after a failure it never rises.
//! - I2: each waiter stands here once, under the record that it waits for, and is gone when its place is dropped.
//!
//! Tested at the end of this file.

use std::collections::{BTreeMap, VecDeque};
use std::task::{Context, Poll, Waker};

use qtf_engine::Lsn;

use super::core_cell::attend;
use super::watches::STEPS;

/// The journal cannot be written: what is not stable yet never will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct JournalFailed;

/// Why a record will not become stable for whoever waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotStable {
    /// The journal cannot be written.
    Failed(JournalFailed),
    /// The daemon has gone from this thread.
    Gone,
}

type Key = (Lsn, u64);

/// All waiters, by record.
#[derive(Debug, Default)]
pub(crate) struct Stability {
    durable: Lsn,
    has_failed: bool,
    waiting: BTreeMap<Key, Waker>,
    /// Those that are to be woken.
    answerable: VecDeque<BTreeMap<Key, Waker>>,
    last_number: u64,
}

impl Stability {
    /// Nobody waits; everything up to `durable` is stable.
    pub(crate) fn starting_at(durable: Lsn) -> Self {
        Self {
            durable,
            ..Self::default()
        }
    }

    /// Everything up to `lsn` is stable.
    pub(crate) fn reached(&mut self, lsn: Lsn) {
        if self.has_failed || lsn <= self.durable {
            return;
        }
        self.durable = lsn;
        let later = self
            .waiting
            .split_off(&(Lsn::new(lsn.get().saturating_add(1)), 0));
        let answerable = std::mem::replace(&mut self.waiting, later);
        if !answerable.is_empty() {
            self.answerable.push_back(answerable);
        }
        self.tend();
    }

    /// Nothing more becomes stable.
    pub(crate) fn fail(&mut self) {
        self.has_failed = true;
        let all = std::mem::take(&mut self.waiting);
        self.answerable.push_back(all);
        self.tend();
    }

    /// Wakes some of those that are to be woken; the first are woken at once. Returns how many.
    pub(crate) fn tend(&mut self) -> usize {
        let mut woken = 0;
        while woken < STEPS
            && let Some(first) = self.answerable.front_mut()
        {
            match first.pop_first() {
                Some((_, waker)) => {
                    waker.wake();
                    woken = woken.saturating_add(1);
                }
                None => drop(self.answerable.pop_front()),
            }
        }
        woken
    }

    /// A waiter is gone, or waits for something else.
    fn give_up(&mut self, key: Key) {
        self.waiting.remove(&key);
    }

    /// Whether somebody waits for a record.
    pub(crate) fn is_awaited(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether a record is stable.
    pub(crate) fn is_stable(&self, lsn: Option<Lsn>) -> bool {
        lsn.is_none_or(|lsn| lsn <= self.durable)
    }

    fn poll(
        &mut self,
        place: &mut Option<Key>,
        lsn: Option<Lsn>,
        waker: &Waker,
    ) -> Poll<Result<(), JournalFailed>> {
        if let Some(key) = place.take_if(|key| Some(key.0) != lsn) {
            self.give_up(key);
        }
        let Some(lsn) = lsn.filter(|lsn| *lsn > self.durable) else {
            return Poll::Ready(Ok(()));
        };
        if self.has_failed {
            return Poll::Ready(Err(JournalFailed));
        }
        let key = place.get_or_insert_with(|| {
            self.last_number = self.last_number.saturating_add(1);
            (lsn, self.last_number)
        });
        self.waiting
            .entry(*key)
            .or_insert_with(|| waker.clone())
            .clone_from(waker);
        Poll::Pending
    }
}

/// The place of one stream or call among those that wait; given back when dropped.
#[derive(Debug, Default)]
pub(crate) struct StablePlace(Option<Key>);

impl StablePlace {
    /// Whether the record is stable; `None` waits for nothing. If not, the caller is woken when it is.
    pub(crate) fn poll(
        &mut self,
        lsn: Option<Lsn>,
        cx: &Context<'_>,
    ) -> Poll<Result<(), NotStable>> {
        if lsn.is_none() && self.0.is_none() {
            return Poll::Ready(Ok(()));
        }
        let waker = cx.waker();
        let polled = attend(|core| core.stability.poll(&mut self.0, lsn, waker));
        match polled {
            Some(polled) => polled.map_err(NotStable::Failed),
            None => Poll::Ready(Err(NotStable::Gone)),
        }
    }
}

impl Drop for StablePlace {
    fn drop(&mut self) {
        if let Some(key) = self.0 {
            attend(|core| core.stability.give_up(key));
        }
    }
}

/// Waits until a record is stable.
///
/// # Errors
/// It never will be.
pub(crate) async fn stable(lsn: Option<Lsn>) -> Result<(), NotStable> {
    let mut place = StablePlace::default();
    std::future::poll_fn(|cx| place.poll(lsn, cx)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll(stability: &mut Stability, place: &mut Option<Key>, lsn: u64) -> Poll<bool> {
        let cx = Context::from_waker(Waker::noop());
        stability
            .poll(place, Some(Lsn::new(lsn)), cx.waker())
            .map(|result| result.is_ok())
    }

    #[test]
    fn waiters_are_woken_up_to_what_is_stable_and_not_beyond() {
        let mut stability = Stability::default();
        let (mut first, mut second) = (None, None);
        assert!(poll(&mut stability, &mut first, 3).is_pending());
        assert!(poll(&mut stability, &mut second, 5).is_pending());
        stability.reached(Lsn::new(4));
        assert_eq!(stability.waiting.len(), 1);
        assert_eq!(poll(&mut stability, &mut first, 3), Poll::Ready(true));
        assert!(poll(&mut stability, &mut second, 5).is_pending());
        stability.reached(Lsn::new(2));
        assert!(stability.is_stable(Some(Lsn::new(4))), "it never falls");
        stability.reached(Lsn::new(5));
        assert_eq!(poll(&mut stability, &mut second, 5), Poll::Ready(true));
    }

    #[test]
    fn many_waiters_are_woken_a_bounded_number_a_turn() {
        let mut stability = Stability::default();
        let mut places = vec![None; 3 * STEPS + 1];
        for place in &mut places {
            assert!(poll(&mut stability, place, 3).is_pending());
        }
        stability.reached(Lsn::new(3));
        let woken: Vec<usize> = (0..5).map(|_| stability.tend()).collect();
        assert_eq!(woken, [STEPS, STEPS, 1, 0, 0]);
    }

    #[test]
    fn waiter_that_moves_on_to_another_record_stands_there_once() {
        let mut stability = Stability::default();
        let mut place = None;
        assert!(poll(&mut stability, &mut place, 3).is_pending());
        assert!(poll(&mut stability, &mut place, 3).is_pending());
        assert!(poll(&mut stability, &mut place, 7).is_pending());
        assert_eq!(stability.waiting.len(), 1);
    }

    #[test]
    fn after_a_failure_only_what_was_stable_is_answered() {
        let mut stability = Stability::default();
        let mut place = None;
        stability.reached(Lsn::new(2));
        assert!(poll(&mut stability, &mut place, 3).is_pending());
        stability.fail();
        assert_eq!(poll(&mut stability, &mut place, 3), Poll::Ready(false));
        stability.reached(Lsn::new(9));
        assert_eq!(poll(&mut stability, &mut place, 3), Poll::Ready(false));
        assert_eq!(poll(&mut stability, &mut None, 2), Poll::Ready(true));
    }
}
