//! Adopting the tasks of a segment when the engine starts.
//!
//! The segment is the truth. Parked tasks are counted, for their kinds. With a journal, every task whose last change is
//! not in it is journalled again before anything else is: those with an lsn behind the end that was found (their record
//! was never synced), those that say that a change is under way, and everything SUBMITTED or ENDED, as what was to be
//! done when their records are durable was known to the daemon before only. If they do not all fit into a group, the
//! rest follows in later cycles, and until then nothing is taken in, handed out or changed. A walk over all slots costs
//! tens of milliseconds with a million tasks, so it is left out where the rebuild of the caches saw that it finds nothing.
//! Tested in `engine/tests/rules/restart.rs`.

use qtf_journal::Lsn;
use qtf_shm::segment::Rebuilt;
use qtf_shm::{Owner, Phase, Segment, SlotIndex, StateWord};

use crate::plm::Plm;
use crate::plm::records::recorder::Recorder;
use crate::register::Workers;
use crate::turn::Turn;
use crate::work_count::WorkCount;

/// LIMIT: slots looked at in one call; a million take some tens of milliseconds, at a start only.
const SLOTS_PER_CALL: u32 = 1 << 20;

impl Plm {
    /// Adopts parked tasks, and as many journal tasks as fit.
    pub(crate) fn adopt(&mut self, turn: &mut Turn<'_>, workers: &mut Workers) {
        let seen = Seen::take(turn.segment);
        if !seen.says_none_of(
            turn.segment,
            &[Phase::Blocked, Phase::Assigned, Phase::Running],
        ) {
            self.adopt_counts(turn, workers);
        }
        if let Some(recorder) = &mut self.recorder {
            // Each journal file chain then says how far ids are reserved, also if earlier files are lost.
            let limit = recorder.reservation.highest();
            if limit != 0 {
                let record = qtf_journal::Record::Reserve { gen_limit: limit };
                let _ = recorder.append(&record);
            }
            recorder.reserve_ids(turn.segment.gen_top());
            if seen.says_all_is_in(turn.segment, recorder.found) {
                recorder.adopting = None;
            }
        }
        self.adopt_more(turn, workers);
    }

    /// Counts what is parked, and what was handed out.
    fn adopt_counts(&mut self, turn: &Turn<'_>, workers: &mut Workers) {
        for slot in turn.segment.allocated_slots(0..turn.segment.high_water()) {
            let task = turn.segment.task(slot);
            let state = task.state();
            let phase = state.phase();
            if phase == Phase::Blocked
                && let Some(kind) = task.kind()
            {
                self.count_parked(kind);
                self.note_parked(turn, slot, state);
            }
            if phase == Phase::Running
                && let Owner::Worker(worker) = state.owner()
            {
                workers.adopt_started(worker);
            }
            if matches!(phase, Phase::Assigned | Phase::Running) {
                workers.adopt_attempt(turn, slot, state);
            }
            if matches!(phase, Phase::Assigned | Phase::Running)
                && let Some(recorder) = self.recorder_of(task)
            {
                recorder.room.handed_out();
            }
        }
    }

    /// Has ids reserved that local processes are about to use up.
    pub(crate) fn look_at_ids(&mut self, turn: &Turn<'_>) {
        if let Some(recorder) = &mut self.recorder {
            recorder.reserve_ids(turn.segment.gen_top());
        }
    }

    /// Says whether journal tasks are left to be adopted.
    pub(crate) fn is_adopting(&self) -> bool {
        self.recorder
            .as_ref()
            .is_some_and(|recorder| recorder.adopting.is_some())
    }

    /// Adopts the next journal tasks.
    pub(crate) fn adopt_more(&mut self, turn: &mut Turn<'_>, workers: &mut Workers) -> WorkCount {
        let mut work = WorkCount::NONE;
        let Some(start) = self
            .recorder
            .as_ref()
            .and_then(|recorder| recorder.adopting)
        else {
            return work;
        };
        let high_water = turn.segment.high_water();
        let end = start.saturating_add(SLOTS_PER_CALL).min(high_water);
        let mut next = (end < high_water).then_some(end);
        for slot in turn.segment.allocated_slots(start..end) {
            match self.adopt_task(turn, workers, slot) {
                Adopted::Nothing => {}
                Adopted::Written => work += WorkCount::ONE,
                Adopted::Full => {
                    next = Some(slot.get());
                    break;
                }
            }
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.adopting = next;
        }
        work
    }

    fn adopt_task(
        &mut self,
        turn: &mut Turn<'_>,
        workers: &mut Workers,
        slot: SlotIndex,
    ) -> Adopted {
        let task = turn.segment.task(slot);
        let state = task.state();
        if Self::is_unjudged(task, state) {
            // The command of its submitter, its timer leaf or the sweep has it judged.
            return Adopted::Nothing;
        }
        let Some(recorder) = self.recorder_of(task) else {
            return Adopted::Nothing;
        };
        if !is_left_open(recorder, task.lsn(), state) {
            if state.is_forgotten() {
                // That is durable: the daemon before was killed just then.
                turn.free(slot, state);
            }
            return Adopted::Nothing;
        }
        if !recorder.room.has_for_adoption(&recorder.appender) {
            return Adopted::Full;
        }
        let is_written = if state.phase() == Phase::Ended && !state.is_judged() {
            self.conclude(turn, workers, slot, state)
        } else {
            recorder.note_again(turn, slot).is_some()
        };
        if is_written {
            Adopted::Written
        } else {
            // Its bytes are damaged: the sweep reports it.
            Adopted::Nothing
        }
    }
}

/// What the rebuild just before this start saw in all slots, so that they need not be walked once more. There is nothing
/// if other processes were attached, and the slots changed behind it.
struct Seen(Option<Rebuilt>);

impl Seen {
    fn take(segment: &Segment) -> Self {
        Self(segment.take_last_rebuild())
    }

    /// No task stands in any of these phases.
    fn says_none_of(&self, segment: &Segment, phases: &[Phase]) -> bool {
        let counters = segment.counters();
        self.0.is_some() && phases.iter().all(|&phase| counters.gauge(phase) == 0)
    }

    /// No journal task is left open, as [`is_left_open`] would say of each.
    fn says_all_is_in(&self, segment: &Segment, found: Lsn) -> bool {
        let is_in = |seen: &Rebuilt| seen.unnumbered == 0 && seen.lsn_top <= found.get();
        self.says_none_of(segment, &[Phase::Submitted, Phase::Ended])
            && self.0.as_ref().is_some_and(is_in)
    }
}

/// What became of one slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Adopted {
    /// The journal has it.
    Nothing,
    /// It was journalled again.
    Written,
    /// No room in the group.
    Full,
}

/// Says whether a journal task has something that the journal does not have, or may not have.
fn is_left_open(recorder: &Recorder, lsn: u64, state: StateWord) -> bool {
    match state.phase() {
        Phase::Free | Phase::Claimed | Phase::Quarantine | Phase::Reserved => false,
        Phase::Submitted | Phase::Ended => !cfg!(qtf_mutant = "sim_adoption_leaves_pending_tasks"),
        Phase::Blocked
        | Phase::Held
        | Phase::Delayed
        | Phase::Ready
        | Phase::Assigned
        | Phase::Running
        | Phase::Done
        | Phase::Failed
        | Phase::Cancelled
        | Phase::DeadLetter => lsn == 0 || lsn > recorder.found.get(),
    }
}
