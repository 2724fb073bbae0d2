//! Reports of workers about attempts: started, ended.
//!
//! A report is fenced by worker (with incarnation), task (with generation) and attempt: it counts
//! only while the segment says that this worker holds this attempt. A success that comes when the attempt has run beyond its time limit
//! and the grace is a timeout, unless the result was there before and waited (`register/in_time.rs`). The result lies in the slot
//! before the CAS to ENDED, at which it linearizes; the judgement follows in the same call, so
//! unjudged ENDED is met by others only when a daemon died in between (the sweep then judges). Tested
//! in `engine/tests/rules/results.rs` and `journal.rs`.

use qtf_shm::histogram::Stage;
use qtf_shm::{
    BlobRef, Counter, Event, Outcome, OutcomeKind, Phase, Purpose, Segment, SlotIndex, StateWord,
    StoreError, TaskOptions, TaskSlot, WorkerCounter, WorkerIndex,
};

use super::stops::overdue_at;
use crate::lookup::{TaskRef, find, held, stop_reason};
use crate::plm::answers::{Disposition, ResultAnswer};
use crate::plm::ends::endings::{EndedAttempt, HandBack};
use crate::plm::ends::history::{Said, keep_reported};
use crate::plm::outcome::{Judgement, Tries, judge};
use crate::plm::{APPLY_TRIES_MAX, LSN_UNDER_WAY, Plm};
use crate::register::Workers;
use crate::turn::Turn;

/// Code of a timeout that the engine recorded on its own because the worker did not answer; a
/// timeout that a worker reports has code 0. A late result is told from a repeated one by this.
pub(crate) const TIMED_OUT_UNANSWERED: u8 = 1;

/// What becomes of a success that comes when the attempt has run beyond its limit and the grace.
const TIMED_OUT: Outcome = Outcome {
    kind: OutcomeKind::TimedOut,
    code: 0,
    result_dropped: false,
    output_cut: false,
};

/// What a task left behind, encoded.
#[derive(Debug, Clone, Copy)]
pub enum Output<'a> {
    /// Nothing.
    None,
    /// To be copied into the segment, or into a file if it has no room.
    Bytes(&'a [u8]),
    /// To be copied into the segment. If it has no room nothing is recorded ([`Disposition::NeedsFile`]): for callers that must
    /// not wait for a disk.
    InMemory(&'a [u8]),
    /// There was something, and it could not be stored: it is dropped, and the outcome says so.
    Lost,
    /// In a spill file already. It becomes the engine's if the answer is [`Disposition::Recorded`],
    /// else it stays the caller's, who removes it.
    Stored(BlobRef),
}

/// What a worker reports about the end of an attempt.
#[derive(Debug, Clone, Copy)]
pub struct ResultReport<'a> {
    /// How it ended.
    pub outcome: Outcome,
    /// What it left.
    pub output: Output<'a>,
    /// What is kept of it if it failed.
    pub said: Said<'a>,
    /// The pause that the worker asks for, if it has put the attempt off ([`OutcomeKind::Again`]).
    pub asked_pause_ns: Option<u64>,
}

/// Who reports about what, with the worker checked already.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fence {
    pub(crate) worker: WorkerIndex,
    pub(crate) asked: TaskRef,
}

impl Plm {
    /// The worker has begun an attempt. Returns false, and changes nothing, if it does not hold this attempt.
    pub(crate) fn started(
        &mut self,
        turn: &mut Turn<'_>,
        workers: &mut Workers,
        fence: Fence,
    ) -> bool {
        for _ in 0..APPLY_TRIES_MAX {
            let Ok((slot, state)) = held(turn.segment, fence.worker, fence.asked) else {
                return false;
            };
            if state.phase() == Phase::Running {
                return true;
            }
            let task = turn.write(slot);
            let ordered = task.phase_time();
            task.set_started(turn.now.stamp());
            if let Some(running) = turn.advance(slot, state, Event::Start) {
                turn.took(Stage::Dispatch, ordered);
                workers.note_started(turn.segment, fence.worker);
                if stop_reason(running).is_some() {
                    return true;
                }
                if let Some(at) = overdue_at(turn, slot) {
                    turn.set_timer(slot, running, at);
                }
                return true;
            }
        }
        true
    }

    /// An assignment never reached its worker. Returns whether it went back.
    pub(crate) fn undelivered(
        &mut self,
        turn: &mut Turn<'_>,
        workers: &mut Workers,
        fence: Fence,
    ) -> bool {
        match held(turn.segment, fence.worker, fence.asked) {
            Ok((slot, state)) if state.phase() == Phase::Assigned => {
                self.hand_back(turn, workers, slot, HandBack::Returned)
            }
            Ok(_) | Err(_) => false,
        }
    }

    /// The worker has ended an attempt.
    pub(crate) fn ended(
        &mut self,
        turn: &mut Turn<'_>,
        workers: &mut Workers,
        fence: Fence,
        report: &ResultReport<'_>,
    ) -> ResultAnswer {
        let mut reported = report.outcome.of_worker();
        let mut is_kept = false;
        for _ in 0..APPLY_TRIES_MAX {
            let Ok((slot, state)) = held(turn.segment, fence.worker, fence.asked) else {
                return self.settled(turn.segment, fence);
            };
            let running = if state.phase() == Phase::Assigned {
                // Its start was never told: since when it may have run is all that is known.
                let task = turn.write(slot);
                task.set_started(task.phase_time());
                match turn.advance(slot, state, Event::Start) {
                    Some(running) => {
                        workers.note_started(turn.segment, fence.worker);
                        running
                    }
                    None => continue,
                }
            } else {
                state
            };
            if !is_kept {
                let waited = workers.was_in_time(fence.worker, fence.asked);
                let is_late = !waited && has_run_too_long(turn, slot);
                if is_late && is_success(reported) && !cfg!(qtf_mutant = "sim_late_success_counts")
                {
                    reported = TIMED_OUT;
                }
                if !self.has_room_for_outcome(turn.segment.task(slot), report.output) {
                    turn.segment.counters().add(Counter::ResultPutOff, 1);
                    if !is_late {
                        workers.note_in_time(fence.worker, fence.asked);
                    }
                    return ResultAnswer::at_once(Disposition::NotNow);
                }
                is_kept = keep(turn, slot, running, reported, report.output);
                if !is_kept {
                    if !is_late {
                        workers.note_in_time(fence.worker, fence.asked);
                    }
                    return ResultAnswer::at_once(Disposition::NeedsFile);
                }
                keep_reported(turn, slot, running, reported, report.said);
            }
            if let Some(ended) = turn.advance(slot, running, Event::End) {
                turn.took(Stage::Run, turn.segment.task(slot).started());
                turn.count(Counter::ResultRecorded);
                workers.forget_in_time(fence.worker, fence.asked);
                let ended = EndedAttempt {
                    slot,
                    state: ended,
                    asked_pause_ns: report.asked_pause_ns,
                };
                self.conclude_after(turn, workers, ended);
                return self.recorded(turn.segment, slot, Disposition::Recorded);
            }
        }
        // Another process changes this word again and again: nothing is recorded.
        ResultAnswer::at_once(Disposition::Stale)
    }
}

impl Plm {
    /// What to say about a result of an attempt that its worker does not hold (any more).
    fn settled(&self, segment: &Segment, fence: Fence) -> ResultAnswer {
        if was_recorded(segment, fence) {
            segment.counters().add(Counter::ResultRepeated, 1);
            let slot = fence.asked.task.slot();
            self.recorded(segment, slot, Disposition::AlreadyRecorded)
        } else {
            segment.counters().add(Counter::ResultStale, 1);
            segment.worker(fence.worker).count(WorkerCounter::Stale);
            ResultAnswer::at_once(Disposition::Stale)
        }
    }

    /// A result is acknowledged when its outcome is durable; one after which another attempt follows at once.
    #[inline]
    fn recorded(
        &self,
        segment: &Segment,
        slot: SlotIndex,
        disposition: Disposition,
    ) -> ResultAnswer {
        if self.recorder.is_none() {
            return ResultAnswer::at_once(disposition);
        }
        let task = segment.task(slot);
        let state = task.state();
        let waits = state.is_judged() || state.phase().is_final();
        let durable = match (waits, disposition) {
            (false, _) => None,
            // Its record was made just now: the number is right, whoever has taken the task over by now.
            (true, Disposition::Recorded) => self.awaited_just_now(task),
            (true, _) => self.awaited(task),
        };
        if disposition == Disposition::AlreadyRecorded
            && durable.is_some_and(|lsn| lsn.get() == LSN_UNDER_WAY)
        {
            // No record says so yet: whoever asks again learns for which to wait.
            return ResultAnswer::at_once(Disposition::NotNow);
        }
        ResultAnswer {
            disposition,
            durable,
        }
    }

    #[inline]
    fn has_room_for_outcome(&self, task: &TaskSlot, output: Output<'_>) -> bool {
        let bytes = match output {
            Output::None | Output::Stored(_) | Output::Lost => 0,
            Output::Bytes(bytes) | Output::InMemory(bytes) => {
                u64::try_from(bytes.len()).unwrap_or(u64::MAX)
            }
        };
        match &self.recorder {
            Some(recorder) if task.options().has(TaskOptions::JOURNAL) => {
                recorder.has_room_for_outcome(bytes)
            }
            Some(_) | None => true,
        }
    }
}

/// Whether the attempt in this slot runs for longer than its limit and the grace. One whose start was never told has not begun.
fn has_run_too_long(turn: &Turn<'_>, slot: SlotIndex) -> bool {
    overdue_at(turn, slot).is_some_and(|at| turn.now.has_reached(at.stamp()))
}

fn is_success(outcome: Outcome) -> bool {
    outcome.kind == OutcomeKind::Exited && outcome.code == 0
}

/// Puts outcome and output into the slot, before the attempt is ENDED. An output that nobody will
/// ask for (another attempt follows, or the client does not want it) is dropped at once. False, and no outcome is there, if the output
/// needs a file.
fn keep(
    turn: &mut Turn<'_>,
    slot: SlotIndex,
    running: StateWord,
    mut outcome: Outcome,
    output: Output<'_>,
) -> bool {
    let task = turn.write(slot);
    let is_wanted = match judge(Tries::of(&task, running), outcome) {
        Judgement::Done => !task.options().has(TaskOptions::DISCARD_RESULT),
        Judgement::Later | Judgement::Again { .. } => false,
        Judgement::Cancelled | Judgement::Failed { .. } => true,
    };
    turn.drop_result(slot, running);
    if let Some(id) = running.id(slot) {
        match output {
            Output::None => {}
            Output::Bytes(bytes) if is_wanted && !bytes.is_empty() => {
                match turn.segment.store(id, bytes, Purpose::Result) {
                    Ok(blob) => task.set_result(blob),
                    Err(_) => outcome.result_dropped = true,
                }
            }
            Output::InMemory(bytes) if is_wanted && !bytes.is_empty() => {
                match turn.segment.store_in_memory(id, bytes, Purpose::Result) {
                    Ok(blob) => task.set_result(blob),
                    Err(StoreError::ArenaFull { .. }) => return false,
                    Err(_) => outcome.result_dropped = true,
                }
            }
            Output::Bytes(_) | Output::InMemory(_) => {}
            Output::Lost => outcome.result_dropped = is_wanted,
            Output::Stored(blob) if is_wanted => task.set_result(blob),
            Output::Stored(blob) => turn.release(id, blob),
        }
    }
    if outcome.result_dropped {
        turn.segment.counters().add(Counter::ResultDropped, 1);
    }
    task.set_outcome(outcome);
    true
}

/// Says whether the slot shows that this attempt's result was recorded: it is the last attempt, and
/// its outcome is one that a worker reported. An attempt that was taken back has no outcome, one
/// that the engine ended has an outcome of its own.
fn was_recorded(segment: &Segment, fence: Fence) -> bool {
    let Ok((slot, state)) = find(segment, fence.asked.task) else {
        return false;
    };
    if u32::from(state.fence()) != fence.asked.attempt || state.fence() == 0 {
        return false;
    }
    let was_its_own = if state.phase().is_final() || state.is_judged() {
        // A task that was cancelled while it waited has no last worker.
        state.last_worker() == Some(fence.worker)
    } else {
        matches!(
            state.phase(),
            Phase::Delayed | Phase::Ready | Phase::Blocked
        )
    };
    was_its_own && is_reported(segment.task(slot).outcome())
}

fn is_reported(outcome: Outcome) -> bool {
    match outcome.kind {
        OutcomeKind::None | OutcomeKind::WorkerLost => false,
        OutcomeKind::TimedOut => outcome.code != TIMED_OUT_UNANSWERED,
        OutcomeKind::Cancelled
        | OutcomeKind::Exited
        | OutcomeKind::Signalled
        | OutcomeKind::SpawnFailed
        | OutcomeKind::HandlerFailed
        | OutcomeKind::Refused
        | OutcomeKind::TransferFailed
        | OutcomeKind::FailedForGood
        | OutcomeKind::Again
        | OutcomeKind::Unknown => true,
    }
}
