//! Holding a waiting task back from workers, and releasing it.
//!
//! ```text
//! SUBMITTED, BLOCKED, DELAYED, READY --hold--> HELD --release--> READY, or DELAYED if its start is later
//! ```
//! A held task has no leaf: no daemon and no local worker finds it. It keeps its place in the order, its later start (which
//! goes on counting), its attempts, its key and everything else. It is held until it is released or cancelled: no time ends a hold.
//!
//! What a worker has is not held: the attempt is its own, and what becomes of the task afterwards is judged when that ends. A
//! task that waits for its next attempt is a waiting one like any other.
//!
//! Invariants:
//! - I1: no step but a release or a cancellation leaves HELD.
//! - I2: a journal task leaves it only when its submission is durable, as SUBMITTED is left: it is accepted then and not before.
//!
//! Tested in `engine/tests/rules/holds.rs`; that none is ever started, in `engine/tests/simulation/`.

use qtf_shm::{Event, FLAG_CANCEL, Now, Phase, SlotIndex, StateWord, TaskId};

use super::cancel::too_quick;
use crate::plm::answers::Answer;
use crate::plm::ends::endings::starts_later;
use crate::plm::{APPLY_TRIES_MAX, Plm};
use crate::rejection::{Detail, RejectReason, Rejection};
use crate::turn::Turn;

impl Plm {
    /// Keeps a waiting task from being started; one that is held stays so. The answer is its phase after the call.
    pub(crate) fn hold(&mut self, turn: &Turn<'_>, id: TaskId) -> Result<Answer, Rejection> {
        for _ in 0..APPLY_TRIES_MAX {
            let (slot, state) = turn.find(id)?;
            let why = match state.phase() {
                Phase::Held => return self.answer(turn.segment.task(slot), Phase::Held),
                Phase::Submitted | Phase::Blocked | Phase::Delayed | Phase::Ready
                    if !state.has_flag(FLAG_CANCEL) =>
                {
                    self.check_change(turn.segment.task(slot))?;
                    if self.set_aside(turn, slot, state) {
                        return self.answer(turn.segment.task(slot), Phase::Held);
                    }
                    // A local worker was quicker.
                    continue;
                }
                Phase::Submitted | Phase::Blocked | Phase::Delayed | Phase::Ready => {
                    "it is to be cancelled and cannot be held"
                }
                Phase::Assigned | Phase::Running | Phase::Ended => {
                    "a worker has it, and only a task that waits can be held"
                }
                Phase::Done | Phase::Failed | Phase::Cancelled | Phase::DeadLetter => {
                    "it has ended and cannot be held"
                }
                Phase::Free | Phase::Claimed | Phase::Quarantine | Phase::Reserved => {
                    "it cannot be held"
                }
            };
            return Err(Rejection::wrong_state(id, state.phase(), why));
        }
        Err(too_quick(turn, id))
    }

    /// SUBMITTED, BLOCKED, DELAYED, READY -> HELD. Returns whether it did.
    fn set_aside(&mut self, turn: &Turn<'_>, slot: SlotIndex, waiting: StateWord) -> bool {
        let task = turn.write(slot);
        let mark = self.mark(task, waiting);
        let held = if starts_later(turn, slot, waiting) {
            turn.segment.apply(slot, waiting, Event::Hold).ok()
        } else {
            turn.advance(slot, waiting, Event::Hold)
        };
        let Some(held) = held else {
            self.unmark(task, mark);
            return false;
        };
        if waiting.phase() == Phase::Ready {
            turn.segment.unindex_ready_key(slot, task.key());
        } else if waiting.phase() == Phase::Blocked {
            if let Some(kind) = task.kind() {
                self.count_unparked(kind);
            }
        } else {
            // Of one that is delayed its due time, of one that a local process submitted the call for a look.
            turn.clear_timer(slot);
        }
        if cfg!(qtf_mutant = "sim_hold_is_not_recorded") {
            self.unmark(task, mark);
        } else {
            self.note_requeue(turn, slot, mark, held);
        }
        true
    }

    /// Lets a held task go on; one that is not held has nothing to be released from. The answer is its phase after the call.
    pub(crate) fn release_held(
        &mut self,
        turn: &Turn<'_>,
        id: TaskId,
    ) -> Result<Answer, Rejection> {
        let (slot, held) = turn.find(id)?;
        let phase = held.phase();
        if phase != Phase::Held {
            return if phase.is_unfinished() {
                self.answer(turn.segment.task(slot), phase)
            } else {
                let action = "it has ended, and nothing holds it";
                Err(Rejection::wrong_state(id, phase, action))
            };
        }
        let task = turn.write(slot);
        self.check_change(&task)?;
        if let Some(recorder) = self.recorder_of(&task)
            && !(recorder.has_record_of(&task) && recorder.is_durable(&task))
        {
            return Err(Rejection::for_now(
                RejectReason::JournalFull,
                Detail::Plain(
                    "what was said of this task last is not in the journal yet: release it again in a moment",
                ),
            ));
        }
        let mark = self.mark(task, held);
        let is_later = starts_later(turn, slot, held);
        let released = if is_later {
            turn.segment.apply(slot, held, Event::ReleaseDelayed).ok()
        } else {
            turn.advance(slot, held, Event::Release)
        };
        let Some(released) = released else {
            self.unmark(task, mark);
            return Err(too_quick(turn, id));
        };
        if is_later {
            turn.set_timer(slot, released, Now::from_stamp(task.phase_time()));
        } else {
            turn.index_ready(slot, released);
        }
        self.note_requeue(turn, slot, mark, released);
        self.answer(&task, released.phase())
    }
}
