//! Who is alive: heartbeats, leases, probes, and the ways out (lost, left, drained).
//!
//! ```text
//!   LIVE, DRAINING --lease over--> SUSPECT, probe sent --probe time over--> LOST --clean pass-->
//!   FREE
//!        ^                            |                                      ^
//!        +----- any sign of life -----+      kernel says dead, goodbye ------+
//! ```
//! A worker that calls instead of holding streams has a lease that nobody renews, and is never suspected (`calling.rs`).
//!
//! A worker that is to leave is told so with each heartbeat in which it does not say that it does.
//!
//! After a gap of the loop over a quarter of the lease every lease starts over: then it was the
//! daemon that did not listen. Tested in `engine/tests/rules/liveness.rs`.

use qtf_shm::{AttachIndex, Counter, Key, Now, WorkerEvent, WorkerIndex, WorkerPhase};

use super::joining::Held;
use super::workers::{Workers, apply};
use crate::effects::Effect;
use crate::lookup::serves;
use crate::turn::Turn;
use crate::work_count::WorkCount;

/// What a worker says that it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Holding<'a> {
    /// Nothing is said, and nothing compared.
    #[default]
    Unsaid,
    /// So many tasks, results of the same report not among them.
    Count(u32),
    /// These attempts, and no other; those whose result has no verdict yet are among them.
    Named(&'a [Held]),
}

/// What a heartbeat says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Beat<'a> {
    /// What it holds.
    pub holding: Holding<'a>,
    /// Load of its machine: run-queue length per core, times 1000.
    pub load_milli: u32,
    /// It takes no more tasks.
    pub draining: bool,
}

impl Workers {
    /// Any sign of life: the lease starts over, a suspicion ends.
    pub(crate) fn seen(&mut self, turn: &mut Turn<'_>, worker: WorkerIndex) {
        let slot = turn.write_worker(worker);
        slot.set_heartbeat(turn.now.stamp());
        if slot.state().phase() == WorkerPhase::Suspect {
            apply(&slot, WorkerEvent::Recover);
            self.notes[worker.position()].probe = 0;
            self.refresh(turn.segment, worker);
        }
        self.renew_lease(turn, worker);
    }

    /// A report about a task. Each report is followed by a heartbeat, so this only ends a
    /// suspicion.
    pub(crate) fn heard_of(&mut self, turn: &mut Turn<'_>, worker: WorkerIndex) {
        if turn.segment.worker(worker).state().phase() == WorkerPhase::Suspect {
            self.seen(turn, worker);
        }
    }

    /// A heartbeat. Returns how many attempts it should hold, and does not by its own word: they go to others.
    pub(crate) fn beat(
        &mut self,
        turn: &mut Turn<'_>,
        worker: WorkerIndex,
        beat: &Beat<'_>,
    ) -> u32 {
        self.seen(turn, worker);
        let slot = turn.write_worker(worker);
        slot.set_load_milli(beat.load_milli);
        if beat.draining {
            self.begin_drain(turn, worker);
        } else {
            self.tell_drain_again(turn, worker);
        }
        self.look_for_unstarted(turn, worker);
        // What a kill or foreign hands took out of the heap or put there is mended here: nothing else writes the leaf of a
        // worker that stays idle.
        self.refresh(turn.segment, worker);
        self.compare(turn, worker, beat.holding)
    }

    /// The worker grants credits; `restart` voids those before.
    pub(crate) fn grant(
        &mut self,
        turn: &Turn<'_>,
        worker: WorkerIndex,
        credits: u32,
        restart: bool,
    ) {
        let slot = turn.write_worker(worker);
        let before = if restart { 0 } else { slot.credits() };
        let most = u32::from(slot.state().capacity());
        slot.set_credits(before.saturating_add(credits).min(most));
        self.refresh(turn.segment, worker);
    }

    /// An answer to a probe; a wrong number is no sign of life.
    pub(crate) fn answered(&mut self, turn: &mut Turn<'_>, worker: WorkerIndex, nonce: u64) {
        let is_of_lease = nonce != 0 && self.notes[worker.position()].probe == nonce;
        if self.hear_of_arrival(turn.now, worker, nonce) || is_of_lease {
            self.seen(turn, worker);
        }
    }

    /// The worker takes no more tasks. Returns whether that is new.
    pub(crate) fn begin_drain(&mut self, turn: &Turn<'_>, worker: WorkerIndex) -> bool {
        let slot = turn.write_worker(worker);
        if slot.state().drains() || !apply(&slot, WorkerEvent::Drain) {
            return false;
        }
        self.notes[worker.position()].drains_since = turn.now;
        turn.segment.counters().add(Counter::WorkerDraining, 1);
        self.refresh(turn.segment, worker);
        true
    }

    /// Tells a worker that it is to leave, if it is.
    pub(crate) fn tell_drain(&mut self, turn: &mut Turn<'_>, worker: WorkerIndex) {
        if turn.segment.worker(worker).state().drains() {
            self.notes[worker.position()].drain_told = turn.now;
            let worker = turn.worker_id(worker);
            turn.effects.push(Effect::Drain { worker });
        }
    }

    /// The worker does not say that it drains: it has not heard so, or will not. Once in each heartbeat period.
    fn tell_drain_again(&mut self, turn: &mut Turn<'_>, worker: WorkerIndex) {
        let since_told = turn.now.since_ns(self.notes[worker.position()].drain_told);
        let is_due = since_told >= turn.config.heartbeat_ns && turn.effects.has_room(1);
        if is_due && !cfg!(qtf_mutant = "sim_drain_is_told_once") {
            self.tell_drain(turn, worker);
        }
    }

    /// The worker is dead; its tasks count as lost.
    pub(crate) fn lose(&mut self, turn: &mut Turn<'_>, worker: WorkerIndex) {
        let id = turn.worker_id(worker);
        if self.part(turn, worker, false) {
            turn.segment.counters().add(Counter::WorkerLost, 1);
            turn.effects.push(Effect::Evict { worker: id });
        }
    }

    /// The workers of a local process that has died.
    pub(crate) fn lose_local(&mut self, turn: &mut Turn<'_>, attach: AttachIndex) {
        let lost: Vec<_> = self.local(turn.segment, attach).collect();
        for worker in lost {
            self.note_used(worker);
            self.lose(turn, worker);
        }
        // It may have died right after one of its workers had left, and before it said so.
        self.look_at_offers(turn.segment);
    }

    /// The worker says goodbye; what it holds goes back.
    pub(crate) fn leave(&mut self, turn: &mut Turn<'_>, worker: WorkerIndex) {
        if self.part(turn, worker, true) {
            turn.segment.counters().add(Counter::WorkerLeft, 1);
        }
    }

    fn part(&mut self, turn: &mut Turn<'_>, worker: WorkerIndex, has_left: bool) -> bool {
        let slot = turn.write_worker(worker);
        if !apply(&slot, WorkerEvent::Lose) {
            return false;
        }
        slot.set_credits(0);
        turn.segment
            .leases()
            .set(u32::from(worker.get()), Key::EMPTY);
        let note = &mut self.notes[worker.position()];
        note.probe = 0;
        note.has_left = has_left;
        note.held = None;
        self.forget_caller(worker);
        let note = &mut self.notes[worker.position()];
        if note.reconciled_after.take().is_none() {
            self.waiting = self.waiting.saturating_add(1);
        }
        self.await_clean_pass(turn, worker);
        self.refresh(turn.segment, worker);
        true
    }

    /// The slot of a LOST worker stays taken until a whole pass from now on.
    fn await_clean_pass(&mut self, turn: &mut Turn<'_>, worker: WorkerIndex) {
        self.notes[worker.position()].clean_after = Some(turn.sweep.request());
    }

    /// The sweep has found a task of this worker: if it is lost, the pass was not clean.
    pub(crate) fn found_task_of(&mut self, turn: &mut Turn<'_>, worker: WorkerIndex) {
        if let Some(note) = self.notes.get_mut(worker.position())
            && note.clean_after.is_some()
        {
            note.clean_after = Some(turn.sweep.request_another());
        }
    }

    /// A pass of the sweep is over: slots that it has proved clean become free, and workers that
    /// came back may be given tasks again.
    pub(crate) fn pass_completed(&mut self, turn: &Turn<'_>) {
        if self.waiting == 0 {
            return;
        }
        for worker in self.indices() {
            let note = &mut self.notes[worker.position()];
            if note
                .reconciled_after
                .is_some_and(|pass| turn.sweep.has_completed(pass))
            {
                note.reconciled_after = None;
                note.held = None;
                self.waiting = self.waiting.saturating_sub(1);
                turn.write_worker(worker).set_reconciled(turn.now.stamp());
                self.refresh(turn.segment, worker);
            } else if note
                .clean_after
                .is_some_and(|pass| turn.sweep.has_completed(pass))
            {
                note.clean_after = None;
                note.has_left = false;
                self.waiting = self.waiting.saturating_sub(1);
                turn.segment.free_lost_worker(turn.right, worker);
                self.free.give_back(worker);
                self.refresh(turn.segment, worker);
            }
        }
    }

    /// Serves leases that are over, up to a number of workers.
    pub(crate) fn serve_leases(&mut self, turn: &mut Turn<'_>) -> WorkCount {
        let mut work = WorkCount::NONE;
        for _ in 0..turn.config.tasks_per_cycle_max {
            if !turn.effects.has_room(1) {
                break;
            }
            let Some((leaf, key)) = turn.segment.leases().locate() else {
                break;
            };
            if !turn.now.has_reached(key.timed_stamp()) {
                break;
            }
            let count = turn.segment.geometry().workers();
            let worker = u16::try_from(leaf)
                .ok()
                .and_then(|raw| WorkerIndex::new_checked(raw, count));
            match worker {
                Some(worker) => self.lease_over(turn, worker),
                None => turn.segment.leases().set(leaf, Key::EMPTY),
            }
            work += WorkCount::ONE;
        }
        work
    }

    fn lease_over(&mut self, turn: &mut Turn<'_>, worker: WorkerIndex) {
        let slot = turn.write_worker(worker);
        match slot.state().phase() {
            WorkerPhase::Live | WorkerPhase::Draining if self.is_caller(worker) => {
                self.caller_lease_over(turn, worker);
            }
            WorkerPhase::Live | WorkerPhase::Draining => {
                apply(&slot, WorkerEvent::Suspect);
                turn.segment.counters().add(Counter::WorkerSuspected, 1);
                let nonce = self.rng.u64(1..);
                self.notes[worker.position()].probe = nonce;
                set_lease(turn, worker, turn.now.plus_ns(turn.config.probe_ns));
                self.refresh(turn.segment, worker);
                let worker = turn.worker_id(worker);
                turn.effects.push(Effect::Probe { worker, nonce });
            }
            WorkerPhase::Suspect => self.lose(turn, worker),
            WorkerPhase::Free
            | WorkerPhase::Lost
            | WorkerPhase::Joining
            | WorkerPhase::Reserved => {
                turn.segment
                    .leases()
                    .set(u32::from(worker.get()), Key::EMPTY);
            }
        }
    }

    /// Starts the lease of a worker over.
    pub(super) fn renew_lease(&self, turn: &Turn<'_>, worker: WorkerIndex) {
        let end = turn.now.plus_ns(turn.config.lease_ns);
        set_lease(turn, worker, self.caller_lease_end(turn, worker, end));
    }

    /// Starts every lease over: it was the daemon that did not listen.
    pub(crate) fn renew_all_leases(&self, turn: &Turn<'_>) {
        for worker in self.indices() {
            if serves(turn.segment.worker(worker).state()) {
                self.renew_lease(turn, worker);
            }
        }
    }

    /// Adopts what the segment says about workers when the engine starts: all of them get a
    /// fresh lease and no credits, and the slots of lost ones wait for a clean pass.
    pub(crate) fn adopt(&mut self, turn: &mut Turn<'_>) {
        for worker in self.all_indices() {
            let slot = turn.write_worker(worker);
            let state = slot.state();
            if state.phase() == WorkerPhase::Free {
                continue;
            }
            self.note_used(worker);
            slot.set_credits(0);
            self.notes[worker.position()].sent = turn.now;
            self.notes[worker.position()].drains_since = turn.now;
            self.adopt_caller(turn, worker);
            if serves(state) {
                self.renew_lease(turn, worker);
            } else {
                turn.segment
                    .leases()
                    .set(u32::from(worker.get()), Key::EMPTY);
                self.waiting = self.waiting.saturating_add(1);
                self.await_clean_pass(turn, worker);
            }
            self.refresh(turn.segment, worker);
        }
        for worker in self.indices() {
            if turn.segment.worker(worker).state().phase() == WorkerPhase::Free {
                self.free.give_back(worker);
            }
        }
    }
}

fn set_lease(turn: &Turn<'_>, worker: WorkerIndex, end: Now) {
    let slot = turn.write_worker(worker);
    if slot.local().is_some() {
        // Of a local process the kernel tells whether it lives.
        return;
    }
    slot.set_lease_end(end.stamp());
    let key = Key::timed(end.stamp(), u64::from(slot.state().incarnation()));
    turn.segment.leases().set(u32::from(worker.get()), key);
}
