//! What the engine asks the daemon to do, and the bounded queue it waits in.
//!
//! Invariant: no effect is ever dropped. What the engine starts on its own (assignments, timers,
//! probes, sweeps) looks at [`EffectQueue::has_room`] first and stays undone until there is room.
//! What a call from outside causes (at most [`PER_CALL_MAX`] effects a call) goes into the reserve
//! above that mark. The caller takes the effects after each batch of calls; one that never does
//! makes the queue grow instead of losing effects, which [`EffectQueue::overruns`] counts.
//! Tested at the end of this file.

use std::collections::VecDeque;

use qtf_shm::{BlobRef, Phase, Segment, TaskId, WorkerId};

/// LIMIT: calls of one batch (1024 entries in a message) times the effects of each.
const RESERVE: usize = 1_024 * PER_CALL_MAX;

/// Most effects that one call from outside causes.
pub(crate) const PER_CALL_MAX: usize = 2;

/// Why a worker is told to stop an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StopReason {
    /// Its client cancelled it.
    Cancelled,
    /// It ran longer than its timeout.
    TimedOut,
    /// The attempt is no longer the worker's.
    Stale,
}

/// One thing for the daemon to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Send the task to the worker. What to send: [`crate::Engine::payload_for`]; if that refuses,
    /// the attempt is over already and nothing is to be sent.
    Dispatch {
        /// Who gets it.
        worker: WorkerId,
        /// The task.
        task: TaskId,
        /// The attempt that the result must name.
        attempt: u16,
    },
    /// Tell the worker to stop the attempt. Said again until the attempt has ended.
    Stop {
        /// Who holds it.
        worker: WorkerId,
        /// The task.
        task: TaskId,
        /// The attempt.
        attempt: u16,
        /// Why.
        reason: StopReason,
    },
    /// Ask the worker for a sign of life; the answer goes to [`crate::Engine::probe_answered`].
    Probe {
        /// Who was silent.
        worker: WorkerId,
        /// The number to answer with; never 0.
        nonce: u64,
    },
    /// Tell the worker, if it can be reached, that it was lost and must register anew.
    Evict {
        /// Who was lost.
        worker: WorkerId,
    },
    /// Tell the worker to take no more, to end what runs, and to leave. Said again until it says that it does.
    Drain {
        /// Who is to leave.
        worker: WorkerId,
    },
    /// The task has ended, or never will; whoever waits for it can be told. Its slot may be free by now.
    Finished {
        /// The task.
        task: TaskId,
        /// How: `Done`, `Failed`, `Cancelled`, `DeadLetter` or `Quarantine`.
        phase: Phase,
    },
}

/// First in, first out; bounded for what the engine does on its own.
#[derive(Debug)]
pub(crate) struct EffectQueue {
    waiting: VecDeque<Effect>,
    mark: usize,
    overruns: u64,
}

impl EffectQueue {
    pub(crate) fn new(effects_max: u32) -> Self {
        let mark = usize::try_from(effects_max).unwrap_or(usize::MAX >> 1);
        Self {
            waiting: VecDeque::with_capacity(mark.saturating_add(RESERVE)),
            mark,
            overruns: 0,
        }
    }

    /// Says whether the engine may do something of its own that needs `count` effects.
    pub(crate) fn has_room(&self, count: usize) -> bool {
        self.waiting.len().saturating_add(count) <= self.mark
    }

    /// How many effects the engine may cause on its own.
    pub(crate) fn room(&self) -> u32 {
        let room = self.mark.saturating_sub(self.waiting.len());
        u32::try_from(room).unwrap_or(u32::MAX)
    }

    pub(crate) fn push(&mut self, effect: Effect) {
        if self.waiting.len() == self.waiting.capacity() {
            self.overruns = self.overruns.saturating_add(1);
        }
        self.waiting.push_back(effect);
    }

    #[inline]
    pub(crate) fn pop(&mut self) -> Option<Effect> {
        self.waiting.pop_front()
    }

    /// How often an effect found the reserve used up.
    pub(crate) fn overruns(&self) -> u64 {
        self.overruns
    }
}

/// Spill files that no task refers to any more, to be removed by whoever has the time for it. What a killed daemon leaves
/// here is removed at the next start (`Segment::remove_lost_spills`).
///
/// All of them wait here, and none is removed by the engine. Their number is bounded because the store makes no new file while
/// `qtf_shm::spill::GIVEN_UP_FILES_MAX` wait: there are never more than those, and two for each slot.
#[derive(Debug, Default)]
pub(crate) struct LostFiles {
    waiting: VecDeque<BlobRef>,
}

impl LostFiles {
    pub(crate) fn push(&mut self, segment: &Segment, file: BlobRef) {
        match file {
            BlobRef::Spill { .. } => {
                // Its bytes are free at once: an output that comes next must not be dropped for want of them.
                segment.spill().give_up(file);
                self.waiting.push_back(file);
            }
            BlobRef::None | BlobRef::Inline { .. } | BlobRef::Arena { .. } => {}
        }
    }

    pub(crate) fn pop(&mut self) -> Option<BlobRef> {
        self.waiting.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(nonce: u64) -> Effect {
        Effect::Probe {
            worker: WorkerId::from_raw(1 << 16).unwrap(),
            nonce,
        }
    }

    #[test]
    fn effects_come_out_in_the_order_they_went_in() {
        let mut queue = EffectQueue::new(4);
        queue.push(probe(1));
        queue.push(probe(2));
        assert_eq!(queue.pop(), Some(probe(1)));
        assert_eq!(queue.pop(), Some(probe(2)));
        assert_eq!(queue.pop(), None);
    }

    #[test]
    fn room_ends_at_the_mark_but_the_reserve_still_takes_effects() {
        let mut queue = EffectQueue::new(2);
        assert!(queue.has_room(2));
        queue.push(probe(1));
        assert!(!queue.has_room(2));
        queue.push(probe(2));
        assert!(!queue.has_room(1));
        queue.push(probe(3));
        assert_eq!(queue.overruns(), 0);
        assert_eq!(std::iter::from_fn(|| queue.pop()).count(), 3);
    }

    #[test]
    fn a_queue_that_is_emptied_when_it_is_crowded_takes_every_batch_without_growing() {
        let mut queue = EffectQueue::new(100);
        for nonce in 1..=20 * 1_024 * 2 {
            // As the daemon does between two batches.
            if nonce % (1_024 * 2) == 0 && !queue.has_room(0) {
                while queue.pop().is_some() {}
            }
            queue.push(probe(nonce));
        }
        assert_eq!(queue.overruns(), 0);
    }

    #[test]
    fn a_queue_that_nobody_empties_loses_nothing_and_counts_it() {
        let mut queue = EffectQueue::new(1);
        let count = u64::try_from(RESERVE).unwrap() + 100;
        for nonce in 1..=count {
            queue.push(probe(nonce));
        }
        assert!(queue.overruns() > 0);
        for nonce in 1..=count {
            assert_eq!(queue.pop(), Some(probe(nonce)));
        }
    }
}
