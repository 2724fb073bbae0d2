//! Counters that any process can read: how often something happened, how many tasks stand where.
//!
//! ```text
//! words 0 to 1023      transitions: [from phase][to phase], 32 of each
//! words 1024 to 1055   base of each phase's gauge, set by a recount
//! words 1056 to 1151   named counters
//! ```
//! Invariants:
//! - I1: each successful change of a task's phase adds one to one word of the matrix, after the change. So the number of
//!   tasks in a phase is its base plus all that came in minus all that went out: one locked instruction a transition
//!   instead of two, and the counts of events come for free.
//! - I2: counters are caches: a kill between change and count leaves a gauge off by one until the next recount.
//!
//! All accesses are relaxed: a reader sees each word as it is, not all of one moment. Tested at the end of this file.

use crate::sync::{AtomicU64, Ordering};
use crate::task::state::Phase;

/// Phases that there is room for.
const PHASES_MAX: usize = 32;
const MATRIX_WORDS: usize = PHASES_MAX * PHASES_MAX;
pub(crate) const NAMED_AT: usize = MATRIX_WORDS + PHASES_MAX;
const NAMED_WORDS: usize = 96;
/// Words of the counters' region.
pub const COUNTER_WORDS: usize = NAMED_AT + NAMED_WORDS;

macro_rules! named_counters {
    ($( $(#[$doc:meta])* $name:ident = $text:literal, )*) => {
        /// A named counter; it only rises.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Counter {
            $( $(#[$doc])* $name, )*
        }

        impl Counter {
            /// All named counters, in the order in which they lie.
            pub const ALL: &'static [Self] = &[$( Self::$name, )*];

            /// The name in listings.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $( Self::$name => $text, )*
                }
            }
        }
    };
}

named_counters! {
    /// Submissions refused because no slot was free.
    RefusedTasksFull = "refused_tasks_full",
    /// Submissions refused because the arena was full.
    RefusedArenaFull = "refused_arena_full",
    /// Submissions refused for another reason.
    RefusedOther = "refused_other",
    /// Results recorded.
    ResultRecorded = "result_recorded",
    /// Results that had been recorded before.
    ResultRepeated = "result_repeated",
    /// Results of attempts that were no longer current.
    ResultStale = "result_stale",
    /// Results whose output could not be kept.
    ResultDropped = "result_dropped",
    /// Results given up because their time was over.
    ResultExpired = "result_expired",
    /// Workers that registered.
    WorkerJoined = "worker_joined",
    /// Workers that came back with what they held.
    WorkerReturned = "worker_returned",
    /// Workers that left in order.
    WorkerLeft = "worker_left",
    /// Workers that died.
    WorkerLost = "worker_lost",
    /// Workers told to take no more.
    WorkerDraining = "worker_draining",
    /// Workers whose lease ended and who were asked once more.
    WorkerSuspected = "worker_suspected",
    /// Clients that registered and had no connection before.
    ClientJoined = "client_joined",
    /// Clients whose last connection closed.
    ClientLeft = "client_left",
    /// Tasks handed back because their worker was lost or did not know them.
    TaskRequeued = "task_requeued",
    /// Attempts told to stop because of time.
    TaskTimedOut = "task_timed_out",
    /// Attempts told to stop because of a cancellation.
    TaskStopped = "task_stopped",
    /// Tasks whose priority was changed.
    TaskUpdated = "task_updated",
    /// Assignments that a comparison with their worker took back.
    AssignmentReconciled = "assignment_reconciled",
    /// Leaves put back by a sweep.
    LeafRestored = "leaf_restored",
    /// Leaves of moved-on slots that were taken out.
    LeafStale = "leaf_stale",
    /// Slots whose free bit was put back by a sweep.
    SlotReclaimed = "slot_reclaimed",
    /// Blobs written to files.
    SpillWritten = "spill_written",
    /// Bytes written to files.
    SpillBytes = "spill_bytes",
    /// Files that could not be written or read.
    SpillFailed = "spill_failed",
    /// Words that named something which does not exist.
    WordImpossible = "word_impossible",
    /// Turns of the engine that did something.
    CycleBusy = "cycle_busy",
    /// Turns of the engine that found nothing.
    CycleIdle = "cycle_idle",
    /// Chunks of tasks that were gone, freed by a sweep.
    ChunkReclaimed = "chunk_reclaimed",
    /// Dead letters that an operator gave new attempts.
    TaskRevived = "task_revived",
    /// Submissions whose record was appended to the journal.
    TaskJournalled = "task_journalled",
    /// Tasks that were written to the journal once more, as a whole.
    TaskJournalledAgain = "task_journalled_again",
    /// Tasks that a cold start brought back from the journal.
    TaskRestored = "task_restored",
    /// Submissions refused because the journal had no room.
    RefusedJournalFull = "refused_journal_full",
    /// Submissions refused because the table of idempotency keys was full.
    RefusedKeysFull = "refused_keys_full",
    /// Submissions that were answered with the first task of their key.
    KeyRepeated = "key_repeated",
    /// Keys that clients gave back.
    KeyReleased = "key_released",
    /// Keys whose time was over.
    KeyExpired = "key_expired",
    /// Automatic keys that ended with the acknowledgement of their task.
    KeyEnded = "key_ended",
    /// Keys of acknowledged tasks that went before their time, as their places were needed.
    KeyEvicted = "key_evicted",
    /// Times that a task was not handed out but parked, because its outcome might find no room in the journal.
    DispatchPutOff = "dispatch_put_off",
    /// Results that a worker must report again, because the journal had no room.
    ResultPutOff = "result_put_off",
    /// Times that the journal has reserved more ids.
    IdsReserved = "ids_reserved",
    /// Times that a local process has woken the daemon.
    DoorbellHeard = "doorbell_heard",
    /// Of the results whose time was over, those of tasks that had failed.
    FailedExpired = "failed_expired",
    /// Attempts of workers that call whose lease was over.
    AttemptLeaseOver = "attempt_lease_over",
    /// Free slots that were let through a gate, after 67 million tasks each.
    GatePassed = "gate_passed",
    /// Commands taken from lanes.
    LaneCommand = "lane_command",
    /// Events that found no room in their lane.
    LaneMissed = "lane_missed",
    /// Lanes whose counts made no sense, once for each owner.
    LaneNonsense = "lane_nonsense",
}

const _: () = assert!(Phase::COUNT <= PHASES_MAX);
const _: () = assert!(Counter::ALL.len() <= NAMED_WORDS);

/// A look at the counters.
#[derive(Debug, Clone, Copy)]
pub struct Counters<'s> {
    words: &'s [AtomicU64],
}

impl<'s> Counters<'s> {
    pub(crate) const fn new(words: &'s [AtomicU64]) -> Self {
        Self { words }
    }

    /// Adds to a named counter.
    #[inline]
    pub fn add(&self, counter: Counter, count: u64) {
        self.add_to_word(NAMED_AT + counter as usize, count);
    }

    /// Adds to a word.
    #[inline]
    pub(crate) fn add_to_word(&self, word: usize, count: u64) {
        if let Some(word) = self.words.get(word) {
            // ORDERING: statistics.
            word.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// A named counter.
    #[must_use]
    pub fn get(&self, counter: Counter) -> u64 {
        self.word(NAMED_AT + counter as usize)
    }

    /// How often a task went from one phase to another.
    #[must_use]
    pub fn transitions(&self, from: Phase, to: Phase) -> u64 {
        self.word(transition_at(from, to))
    }

    /// How many tasks stand in a phase; meaningless for FREE.
    #[must_use]
    pub fn gauge(&self, phase: Phase) -> u64 {
        let mut gauge = self.word(MATRIX_WORDS + phase as usize);
        for other in Phase::ALL {
            gauge = gauge
                .wrapping_add(self.transitions(other, phase))
                .wrapping_sub(self.transitions(phase, other));
        }
        // Words of different moments may add up to less than nothing.
        if gauge > u64::from(u32::MAX) {
            0
        } else {
            gauge
        }
    }

    /// All changes of phase that were counted.
    #[must_use]
    pub fn changes(&self) -> u64 {
        let matrix = 0..MATRIX_WORDS;
        matrix.fold(0, |sum, index| sum.wrapping_add(self.word(index)))
    }

    /// All named counters.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> + use<'s> {
        let this = *self;
        Counter::ALL
            .iter()
            .map(move |&counter| (counter.name(), this.get(counter)))
    }

    /// All gauges but that of FREE.
    pub fn gauges(&self) -> impl Iterator<Item = (Phase, u64)> + use<'s> {
        let this = *self;
        Phase::ALL
            .into_iter()
            .skip(1)
            .map(move |phase| (phase, this.gauge(phase)))
    }

    /// Counts one change of phase, after it was made.
    #[inline]
    pub(crate) fn count_transition(&self, from: Phase, to: Phase) {
        if from as u8 == to as u8 {
            return;
        }
        self.add_to_word(transition_at(from, to), 1);
    }

    /// Makes the gauges those of a recount. Only while nobody else changes phases.
    pub(crate) fn rebase(&self, counted: &[u64; Phase::COUNT]) {
        for phase in Phase::ALL {
            let Some(base) = self.words.get(MATRIX_WORDS + phase as usize) else {
                return;
            };
            let mut moved = 0_u64;
            for other in Phase::ALL {
                moved = moved
                    .wrapping_add(self.transitions(other, phase))
                    .wrapping_sub(self.transitions(phase, other));
            }
            // ORDERING: statistics.
            base.store(
                counted[phase as usize].wrapping_sub(moved),
                Ordering::Relaxed,
            );
        }
    }

    /// Changes into and out of each phase so far.
    #[must_use]
    pub(crate) fn traffic(&self) -> [u64; Phase::COUNT] {
        let mut traffic = [0; Phase::COUNT];
        for phase in Phase::ALL {
            traffic[phase as usize] = Phase::ALL.into_iter().fold(0_u64, |sum, other| {
                sum.wrapping_add(self.transitions(other, phase))
                    .wrapping_add(self.transitions(phase, other))
            });
        }
        traffic
    }

    /// Makes the gauges those of a recount, as far as nothing has changed since `before`, the traffic at its
    /// beginning; returns how many were wrong. Others may change phases and correct gauges meanwhile.
    pub(crate) fn correct(
        &self,
        before: &[u64; Phase::COUNT],
        counted: &[u64; Phase::COUNT],
    ) -> u64 {
        let mut corrected = 0;
        for phase in Phase::ALL.into_iter().skip(1) {
            let Some(base) = self.words.get(MATRIX_WORDS + phase as usize) else {
                return corrected;
            };
            // ORDERING: statistics.
            let old = base.load(Ordering::Relaxed);
            let moved = Phase::ALL.into_iter().fold(0_u64, |sum, other| {
                sum.wrapping_add(self.transitions(other, phase))
                    .wrapping_sub(self.transitions(phase, other))
            });
            let new = counted[phase as usize].wrapping_sub(moved);
            if new == old || self.traffic()[phase as usize] != before[phase as usize] {
                continue;
            }
            // ORDERING: statistics. By compare-and-swap, so that two that count at once correct once.
            let done = base.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed);
            corrected += u64::from(done.is_ok());
        }
        corrected
    }

    fn word(&self, index: usize) -> u64 {
        // ORDERING: statistics.
        self.words
            .get(index)
            .map_or(0, |word| word.load(Ordering::Relaxed))
    }
}

/// Where a change of phase is counted.
pub(crate) const fn transition_at(from: Phase, to: Phase) -> usize {
    from as usize * PHASES_MAX + to as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::zeroed_words;

    #[test]
    fn gauges_follow_the_transitions() {
        let words = zeroed_words(COUNTER_WORDS);
        let counters = Counters::new(&words);
        for _ in 0..3 {
            counters.count_transition(Phase::Free, Phase::Claimed);
            counters.count_transition(Phase::Claimed, Phase::Ready);
        }
        counters.count_transition(Phase::Ready, Phase::Assigned);
        counters.count_transition(Phase::Assigned, Phase::Assigned);
        assert_eq!(counters.gauge(Phase::Ready), 2);
        assert_eq!(counters.gauge(Phase::Assigned), 1);
        assert_eq!(counters.gauge(Phase::Claimed), 0);
        assert_eq!(counters.transitions(Phase::Free, Phase::Claimed), 3);
    }

    #[test]
    fn recount_replaces_the_gauges_and_keeps_the_transitions() {
        let words = zeroed_words(COUNTER_WORDS);
        let counters = Counters::new(&words);
        counters.count_transition(Phase::Claimed, Phase::Ready);
        let mut counted = [0; Phase::COUNT];
        counted[Phase::Ready as usize] = 7;
        counters.rebase(&counted);
        assert_eq!(counters.gauge(Phase::Ready), 7);
        assert_eq!(counters.gauge(Phase::Claimed), 0);
        counters.count_transition(Phase::Ready, Phase::Assigned);
        assert_eq!(
            (
                counters.gauge(Phase::Ready),
                counters.gauge(Phase::Assigned)
            ),
            (6, 1)
        );
        assert_eq!(counters.transitions(Phase::Claimed, Phase::Ready), 1);
    }

    #[test]
    fn named_counters_have_different_names() {
        let mut names: Vec<_> = Counter::ALL.iter().map(|counter| counter.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Counter::ALL.len());
        let words = zeroed_words(COUNTER_WORDS);
        let counters = Counters::new(&words);
        counters.add(Counter::WorkerLost, 2);
        assert_eq!(counters.get(Counter::WorkerLost), 2);
        assert!(
            counters
                .named()
                .any(|(name, value)| (name, value) == ("worker_lost", 2))
        );
    }
}
