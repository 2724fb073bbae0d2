//! A repair of the whole segment, in steps: who is dead, slots, blocks, counts, then the records of the dead.
//!
//! Invariant: an attach record is given back only after a whole pass, begun after its process was found dead, in which nothing of it was left
//! that could not be repaired; the same for the slot of a dead local worker. So whoever gets the record or the slot next has
//! nothing of the dead under its name.
//!
//! Several may be under way at once, in one process or in several, and each may be left at any step. Tested in
//! `segment/tests/repair.rs` and `segment/tests/torture`.

use crate::counters::Counter;
use crate::id::{AttachIndex, WorkerIndex};
use crate::layout::attach::AttachPhase;
use crate::segment::Segment;
use crate::segment::census::PhaseCensus;
use crate::segment::lock_file::LockFile;
use crate::segment::process::Liveness;
use crate::segment::quiet::Quiet;
use crate::segment::repair::{RepairCounts, RepairScope};
use crate::task::state::{Owner, Phase};
use crate::worker::{WorkerEvent, WorkerPhase};

/// LIMIT: blocks looked at together with a stripe of slots: at most 8,192 chunks.
const BLOCKS_PER_STEP: u32 = 8;
/// Slots that [`Repairer::run`] looks at in one step.
const SLOTS_PER_STEP: u32 = 4_096;

/// A repair under way.
#[derive(Debug)]
pub struct Repairer {
    scope: RepairScope,
    counts: RepairCounts,
    next_slot: u32,
    next_block: u32,
    end: u32,
    census: Census,
}

/// What was counted on the way.
#[derive(Debug)]
struct Census {
    quiet: Option<Quiet>,
    phases: PhaseCensus,
    /// Tasks at each worker, and the worker's word at the beginning.
    owned: Vec<(u64, u16)>,
    /// Claims of each attach record that are left.
    claims: Vec<u32>,
}

impl Repairer {
    /// Judges who is dead, and begins. Without a living daemon it takes tasks of dead local workers back.
    #[must_use]
    pub fn new(segment: &Segment, lock: Option<&LockFile>) -> Self {
        let convicted = segment.convict(lock);
        let daemon_lives = segment.attach == AttachIndex::DAEMON
            || segment
                .attach_info(AttachIndex::DAEMON)
                .is_some_and(|info| segment.judge(&info, lock) != Liveness::Dead);
        let takes_back = !daemon_lives;
        Self::with_scope(
            segment,
            RepairScope {
                convicted,
                takes_back,
            },
        )
    }

    /// Begins with a scope of the caller's.
    #[must_use]
    pub fn with_scope(segment: &Segment, scope: RepairScope) -> Self {
        if scope.takes_back {
            segment.lose_dead_workers(&scope);
        }
        let census = Census {
            quiet: segment.quiet(&scope.convicted),
            phases: PhaseCensus::begin(segment),
            owned: segment.worker_words().map(|word| (word, 0)).collect(),
            claims: vec![0; segment.view.parts.attaches.len()],
        };
        Self {
            scope,
            counts: RepairCounts::default(),
            next_slot: 0,
            next_block: 0,
            // What the dead have claimed lies below: they raised the mark before.
            end: segment.high_water(),
            census,
        }
    }

    /// Who is taken for dead.
    #[must_use]
    pub const fn scope(&self) -> &RepairScope {
        &self.scope
    }

    /// Looks at up to `slots` slots and some blocks. True when the pass is complete; then it may be dropped.
    pub fn step(&mut self, segment: &Segment, slots: u32) -> bool {
        let stripe = self.next_slot..self.next_slot.saturating_add(slots).min(self.end);
        if !stripe.is_empty() {
            self.add(segment.repair_slots(stripe.clone(), &self.scope));
            for slot in stripe.clone().filter_map(|number| segment.slot(number)) {
                self.census.count(segment.task(slot).state());
            }
            self.next_slot = stripe.end;
        }
        let count = segment.geometry().arena_blocks();
        let blocks = self.next_block..self.next_block.saturating_add(BLOCKS_PER_STEP).min(count);
        if !blocks.is_empty() {
            self.add(segment.repair_blocks(blocks.clone(), &self.scope));
            self.next_block = blocks.end;
        }
        let complete = self.next_slot >= self.end && self.next_block >= count;
        if complete {
            self.finish(segment);
        }
        complete
    }

    /// All steps at once; returns what was not in order.
    pub fn run(mut self, segment: &Segment) -> RepairCounts {
        while !self.step(segment, SLOTS_PER_STEP) {}
        self.counts
    }

    /// What was not in order so far.
    #[must_use]
    pub const fn counts(&self) -> RepairCounts {
        self.counts
    }

    fn finish(&mut self, segment: &Segment) {
        self.counts.nodes_mended += segment.view.parts.bitmap().scrub();
        self.counts.nodes_mended += segment.worker_heap().scrub();
        self.counts.nodes_mended += segment.leases().scrub();
        self.counts.counts_corrected += self.census.phases.correct(segment);
        let quiet = self.census.quiet.as_ref();
        let settled = quiet.is_some() && segment.quiet(&self.scope.convicted).as_ref() == quiet;
        let mut of_workers = vec![0_u32; segment.view.parts.attaches.len()];
        for (position, &(word, owned)) in self.census.owned.iter().enumerate() {
            let number = u16::try_from(position).unwrap_or(u16::MAX);
            let Some(worker) = segment.worker_index(number) else {
                continue;
            };
            self.counts.counts_corrected += u64::from(
                settled && self.scope.takes_back && segment.correct_running(worker, word, owned),
            );
            if owned == 0 {
                self.counts.workers_freed +=
                    u64::from(segment.free_dead_worker(worker, &self.scope));
            }
            if let Some(attach) = segment.local_process_of(worker)
                && let Some(count) = of_workers.get_mut(usize::from(attach))
            {
                *count += 1;
            }
        }
        for (index, state) in self.scope.convicted.iter() {
            let of = |counts: &[u32]| counts.get(index.position()).copied().unwrap_or(0);
            if of(&of_workers) == 0
                && of(&self.census.claims) == 0
                && index != AttachIndex::DAEMON
                && let Some(record) = segment.view.parts.attaches.get(index.position())
            {
                self.counts.attaches_freed += u64::from(record.change(state, state.freed()));
            }
        }
        // Tasks that were taken back wait for whoever is free.
        segment.ring();
    }

    fn add(&mut self, more: RepairCounts) {
        let sum = &mut self.counts;
        sum.claims_freed += more.claims_freed;
        sum.bits_settled += more.bits_settled;
        sum.leaves_restored += more.leaves_restored;
        sum.leaves_removed += more.leaves_removed;
        sum.nodes_mended += more.nodes_mended;
        sum.tasks_requeued += more.tasks_requeued;
        sum.chunks_freed += more.chunks_freed;
        sum.counts_corrected += more.counts_corrected;
        sum.quarantined += more.quarantined;
    }
}

impl Census {
    fn count(&mut self, state: crate::task::state::StateWord) {
        self.phases.count(state);
        match state.owner() {
            Owner::Worker(worker) => {
                if let Some((_, owned)) = self.owned.get_mut(worker.position()) {
                    *owned = owned.saturating_add(1);
                }
            }
            Owner::Attach(attach) if state.phase() == Phase::Claimed => {
                if let Some(claims) = self.claims.get_mut(attach.position()) {
                    *claims = claims.saturating_add(1);
                }
            }
            Owner::Attach(_) | Owner::None => {}
        }
    }
}

impl Segment {
    /// Gives an attach record back whose process is dead and has left nothing behind, as the caller's own pass over the
    /// segment has shown. For callers that repair in stripes of their own.
    pub fn release_attach(&self, index: AttachIndex, scope: &RepairScope) -> bool {
        let convicted = scope
            .convicted
            .iter()
            .find(|&(convicted, _)| convicted == index);
        let record = self.view.parts.attaches.get(index.position());
        let (Some((_, state)), Some(record)) = (convicted, record) else {
            return false;
        };
        index != AttachIndex::DAEMON && record.change(state, state.freed())
    }

    fn worker_words(&self) -> impl Iterator<Item = u64> + '_ {
        self.view
            .parts
            .workers
            .iter()
            .map(|slot| slot.state().as_raw())
    }

    /// The attach record behind a worker slot, if it is a local process's.
    fn local_process_of(&self, worker: WorkerIndex) -> Option<u16> {
        let slot = self.worker(worker);
        let state = slot.state();
        match state.phase() {
            WorkerPhase::Free | WorkerPhase::Reserved => None,
            WorkerPhase::Joining => state.joiner().filter(|&attach| attach != 0),
            WorkerPhase::Live
            | WorkerPhase::Draining
            | WorkerPhase::Suspect
            | WorkerPhase::Lost => slot.local(),
        }
    }

    /// Its process is dead: a local one's by its record, that of one who was filling the slot in as well.
    fn is_dead_worker(&self, worker: WorkerIndex, scope: &RepairScope) -> bool {
        let state = self.worker(worker).state();
        let attach = if state.phase() == WorkerPhase::Joining {
            state.joiner()
        } else {
            self.local_process_of(worker)
        };
        let count = self.geometry().attaches();
        attach
            .and_then(|attach| AttachIndex::new_checked(attach, count))
            .is_some_and(|attach| self.is_dead(attach, &scope.convicted))
    }

    /// Local workers whose process is dead -> LOST.
    fn lose_dead_workers(&self, scope: &RepairScope) {
        for number in 0..u16::MAX {
            let Some(worker) = self.worker_index(number) else {
                return;
            };
            // The worker's word first, then the record: see `judge.rs`.
            let slot = self.worker(worker);
            let state = slot.state();
            if state.after(WorkerEvent::Lose).is_ok()
                && self.is_dead_worker(worker, scope)
                && slot.apply(state, WorkerEvent::Lose).is_ok()
            {
                self.counters().add(Counter::WorkerLost, 1);
            }
        }
    }

    /// LOST (or JOINING) -> FREE, for a dead local worker that no task names any more.
    fn free_dead_worker(&self, worker: WorkerIndex, scope: &RepairScope) -> bool {
        let slot = self.worker(worker);
        let state = slot.state();
        let over = match state.phase() {
            WorkerPhase::Lost => scope.takes_back,
            WorkerPhase::Joining => true,
            WorkerPhase::Free
            | WorkerPhase::Live
            | WorkerPhase::Draining
            | WorkerPhase::Suspect
            | WorkerPhase::Reserved => false,
        };
        if !over || !self.is_dead_worker(worker, scope) || self.has_waiting_end(worker) {
            // What waits in its lane is the PLM's to move.
            return false;
        }
        self.vacate(worker, state)
    }

    /// Makes a worker's count the number of tasks that name it, if its word still is the one seen before they were counted.
    fn correct_running(&self, worker: WorkerIndex, word: u64, running: u16) -> bool {
        let slot = self.worker(worker);
        let state = slot.state();
        state.as_raw() == word
            && state.running() != running
            && slot.apply(state, WorkerEvent::Recount { running }).is_ok()
    }

    /// Brings the segment in order at the start of a daemon, whose record this process has: all caches anew if nobody
    /// else is there, else slot by slot beside those who are. Who is alone also moves the origin, if that is due at this reading of the
    /// monotonic clock.
    pub(super) fn bring_in_order(&mut self, lock: Option<&LockFile>, clock_ns: u64) {
        let is_alone = self.be_alone(lock);
        // Not before: who lives hands over until the moment of its end. And not after a move of the origin: stamps in lanes are of the origin
        // until now.
        self.accept_what_is_handed_over();
        if is_alone {
            self.rebase_if_due(clock_ns);
        }
        self.put_in_order(is_alone, lock, clock_ns);
    }

    /// Moves what local workers have handed over into the slots, if this process is the daemon.
    pub(super) fn accept_what_is_handed_over(&self) {
        if let Some(right) = self.plm_right() {
            self.accept_completions(right);
        }
    }

    /// The same with the origin where it is; `is_alone` is what `be_alone` said.
    pub(super) fn put_in_order(&self, is_alone: bool, lock: Option<&LockFile>, clock_ns: u64) {
        if is_alone {
            self.rebuild_caches(self.now_at(clock_ns));
            self.remove_lost_spills();
            self.let_others_in();
            if self.convict(lock).is_empty() {
                return;
            }
        }
        let scope = RepairScope {
            convicted: self.convict(lock).and_earlier_daemon(),
            takes_back: true,
        };
        Repairer::with_scope(self, scope).run(self);
        // The PLM alone writes keys and counts of clients, and that is this process now.
        self.settle_keys();
        self.recount_clients();
    }

    /// A daemon is building the caches anew, or was killed in the middle of a move of the origin.
    pub(super) fn is_being_rebuilt(&self) -> bool {
        self.view.parts.control().gate().is_closed() || self.is_half_rebased()
    }

    /// Keeps others from attaching, if nobody alive is attached but this process. True if so; ends with `let_others_in`.
    pub(super) fn be_alone(&self, lock: Option<&LockFile>) -> bool {
        self.view.parts.control().gate().close();
        // Who is in the way of a half-done move has come to look and goes again: nobody gets in until it is done.
        // A mark that is damaged says nothing about who is attached.
        let alone = self.has_move_to_end()
            || self.attached().all(|info| {
                info.index == AttachIndex::DAEMON
                    || info.state.phase() == AttachPhase::Free
                    || self.judge(&info, lock) == Liveness::Dead
            });
        if !alone {
            self.let_others_in();
        }
        alone
    }

    pub(super) fn let_others_in(&self) {
        self.view.parts.control().gate().open();
    }
}
