//! The comparison: what a worker says in a heartbeat that it holds, against what the segment says.
//!
//! What it names and does not own it is told to stop. What it owns and does not hold goes to others, and counts as lost with it; but an
//! order that is still on its way is not lost, however slow the link. So before that the worker is asked whether all that was sent to it
//! has come: by a probe behind the orders, on the same stream. Without an answer nothing is taken away here: a link that is dead
//! ends, and a hello follows; an attempt that nobody starts goes back by its own bound (`pace.rs`). Tested in `engine/tests/rules/holding.rs`.

use qtf_shm::{Now, TaskId, WorkerIndex};

use super::joining::{Held, is_own};
use super::liveness::Holding;
use super::workers::Workers;
use crate::effects::{Effect, StopReason};
use crate::turn::Turn;

/// The question to a worker whether all that was sent to it has come: a probe behind it, on the same stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival {
    /// The number that it asks for; never 0.
    pub(super) nonce: u64,
    /// What it is about: all that was sent until then.
    pub(super) sent: Now,
    /// When the answer came.
    pub(super) answered: Option<Now>,
}

impl Workers {
    /// Compares what a worker says that it holds with what the segment says. Results ride on the same stream and came first. So
    /// if nothing was sent to it for a whole lease, and all that was sent before has come to it, it has forgotten what it does not hold.
    pub(super) fn compare(
        &mut self,
        turn: &mut Turn<'_>,
        worker: WorkerIndex,
        holding: Holding<'_>,
    ) -> u32 {
        let named = match holding {
            Holding::Unsaid => return 0,
            // Fewer than there should be, but which?
            Holding::Count(count) if count > 0 => return 0,
            Holding::Count(_) => &[],
            Holding::Named(named) => named,
        };
        let mut held: u32 = 0;
        for &one in named {
            if is_own(turn.segment, worker, one) {
                held = held.saturating_add(1);
            } else {
                stop_stale(turn, worker, one);
            }
        }
        let owned = u32::from(turn.segment.worker(worker).state().running());
        let missing = owned.saturating_sub(held);
        let note = &self.notes[worker.position()];
        if missing == 0
            || note.held.is_some()
            || turn.now.since_ns(note.sent) <= turn.config.lease_ns
            || !self.has_arrived(turn, worker)
        {
            return 0;
        }
        let own = named
            .iter()
            .filter(|&&held| is_own(turn.segment, worker, held));
        let held = own
            .filter_map(|held| TaskId::from_raw(held.task_id))
            .collect();
        self.reconcile(turn, worker, held);
        // The heartbeat may be as old as the daemon was stopped.
        self.notes[worker.position()].is_concluded = true;
        missing
    }

    /// All that was sent to a worker has come to it, and this heartbeat is later. If nobody knows it is asked, with each heartbeat: a link
    /// may be slow, and what is still on its way is not lost.
    fn has_arrived(&mut self, turn: &mut Turn<'_>, worker: WorkerIndex) -> bool {
        let note = &mut self.notes[worker.position()];
        let asked = note.arrival.filter(|asked| asked.sent >= note.sent);
        if let Some(at) = asked.and_then(|asked| asked.answered) {
            // The answer may have overtaken heartbeats, which come on another stream.
            return turn.now.since_ns(at) >= turn.config.heartbeat_ns;
        }
        if turn.effects.has_room(1) {
            let nonce = match asked {
                Some(asked) => asked.nonce,
                None => {
                    self.arrivals_asked = self.arrivals_asked.saturating_add(1);
                    self.arrivals_asked
                }
            };
            note.arrival = Some(Arrival {
                nonce,
                sent: note.sent,
                answered: None,
            });
            let worker = turn.worker_id(worker);
            turn.effects.push(Effect::Probe { worker, nonce });
        }
        false
    }

    /// An answer of a worker. Returns whether it is the one to the question whether all has come.
    pub(super) fn hear_of_arrival(&mut self, now: Now, worker: WorkerIndex, nonce: u64) -> bool {
        let arrival = &mut self.notes[worker.position()].arrival;
        let Some(asked) = arrival.as_mut().filter(|asked| asked.nonce == nonce) else {
            return false;
        };
        asked.answered.get_or_insert(now);
        true
    }
}

/// Tells a worker to stop what it names and does not own any more; where there is no room, at the next heartbeat. One whose result
/// is on its way gets a verdict anyway.
fn stop_stale(turn: &mut Turn<'_>, worker: WorkerIndex, held: Held) {
    let named = (TaskId::from_raw(held.task_id), u16::try_from(held.attempt));
    if let (Some(task), Ok(attempt)) = named
        && !held.finished
        && turn.effects.has_room(1)
    {
        let worker = turn.worker_id(worker);
        turn.effects.push(Effect::Stop {
            worker,
            task,
            attempt,
            reason: StopReason::Stale,
        });
    }
}
