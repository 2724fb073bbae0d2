//! The engine as a whole, and the duty cycle that wires its roles together. The calls from outside
//! are in `calls.rs`.
//!
//! Order of a cycle, upstream first, so that a lost worker's task can be handed out again in the
//! same turn: what waited for the journal, leases, lanes, sweep, timers, assignments. Every part is bounded by the configuration; what
//! is left is done by the next cycle, and the returned [`WorkCount`] says that there was something.
//! Tested in `engine/tests/rules/`.

use std::sync::Arc;

use qtf_shm::time::STAMP_MAX;
use qtf_shm::{
    AttachIndex, BlobRef, Counter, GateWatch, Now, PhaseCensus, PlmRight, RoleLoop, Segment, Tally,
};

use crate::attaches::Departed;
use crate::clients::Clients;
use crate::config::{ConfigError, EngineConfig};
use crate::effects::{Effect, EffectQueue, LostFiles};
use crate::lanes::Lanes;
use crate::plm::{Plm, Recorder, Repaired};
use crate::register::Workers;
use crate::scheduler::Scheduler;
use crate::sweep::Sweep;
use crate::turn::Turn;
use crate::work_count::WorkCount;

/// PLM, Scheduler and Register over one segment. See the crate's head.
#[derive(Debug)]
pub struct Engine {
    pub(crate) segment: Arc<Segment>,
    pub(crate) right: PlmRight,
    config: EngineConfig,
    effects: EffectQueue,
    lost_files: LostFiles,
    sweep: Sweep,
    tally: Tally,
    departed: Departed,
    /// Of the tasks that the sweep has met in its pass.
    census: PhaseCensus,
    /// Slots that have come to a number for the second time.
    gates: GateWatch,
    pub(crate) clients: Clients,
    lanes: Lanes,
    pub(crate) workers: Workers,
    pub(crate) plm: Plm,
    scheduler: Scheduler,
    rng: fastrand::Rng,
    /// Moment of the last cycle.
    last_cycle: Now,
    /// Moment at which the next cycle was to come at the latest.
    expected: Now,
}

/// The parts of the engine that a call works with.
pub(crate) struct Parts<'e> {
    pub(crate) turn: Turn<'e>,
    pub(crate) plm: &'e mut Plm,
    pub(crate) workers: &'e mut Workers,
    pub(crate) rng: &'e mut fastrand::Rng,
    pub(crate) departed: &'e mut Departed,
    pub(crate) census: &'e mut PhaseCensus,
    gates: &'e mut GateWatch,
    scheduler: &'e mut Scheduler,
}

impl Engine {
    /// Adopts a segment, without a journal ([`Engine::with_journal`] has one). Workers that it knows get a fresh lease and must come back; the caches
    /// of the segment must be in order (`Segment::rebuild_caches` after a crash).
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub fn new(segment: Arc<Segment>, config: EngineConfig, now: Now) -> Result<Self, ConfigError> {
        Self::over(segment, config, now, None)
    }

    pub(crate) fn over(
        segment: Arc<Segment>,
        config: EngineConfig,
        now: Now,
        recorder: Option<Box<Recorder>>,
    ) -> Result<Self, ConfigError> {
        let config = config.checked()?;
        let right = segment.plm_right().ok_or(ConfigError::NotTheDaemon)?;
        let mut rng = fastrand::Rng::with_seed(config.seed);
        let mut clients = Clients::new(&segment, &config);
        let workers = Workers::new(&segment, right, rng.u64(..));
        let plm = Plm::new(&segment, &mut clients, rng.u64(..), now, recorder);
        let mut engine = Self {
            effects: EffectQueue::new(config.effects_max),
            lost_files: LostFiles::default(),
            sweep: Sweep::new(
                config.sweep_slots_per_cycle,
                config.background_sweep_ns,
                now,
            ),
            tally: Tally::default(),
            departed: Departed::default(),
            census: PhaseCensus::begin(&segment),
            gates: GateWatch::default(),
            clients,
            lanes: Lanes::default(),
            workers,
            plm,
            scheduler: Scheduler::default(),
            rng,
            last_cycle: now,
            expected: now,
            segment,
            right,
            config,
        };
        let mut parts = engine.parts(now);
        parts.workers.adopt(&mut parts.turn);
        let turn = &mut parts.turn;
        turn.clients
            .adopt_local(turn.segment, turn.right, turn.sweep);
        parts.plm.adopt(&mut parts.turn, parts.workers);
        drop(parts);
        Ok(engine)
    }

    /// The segment.
    #[must_use]
    pub fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// One turn of every role. Calls that came in are to be made before it, effects to be taken
    /// after.
    pub fn cycle(&mut self, now: Now) -> WorkCount {
        let work = self.turn(now);
        let turned = if work.is_zero() {
            Counter::CycleIdle
        } else {
            Counter::CycleBusy
        };
        self.segment.counters().add(turned, 1);
        work
    }

    fn turn(&mut self, now: Now) -> WorkCount {
        let is_late = now.since_ns(self.expected) > self.config.lease_ns / 4;
        let mut parts = self.parts(now);
        let mut work = parts.plm.serve_durable(&mut parts.turn, parts.workers);
        if parts.plm.is_adopting() {
            work += parts.plm.adopt_more(&mut parts.turn, parts.workers);
            parts.workers.renew_all_leases(&parts.turn);
            parts.workers.spare_attempts(&parts.turn);
            drop(parts);
            // Two of the roles wait by rule.
            for of in RoleLoop::ALL {
                self.segment.count_turn(self.right, of);
            }
            self.last_cycle = now;
            self.expected = now;
            return work;
        }
        if is_late {
            // The daemon did not listen: nobody's silence counts.
            parts.workers.renew_all_leases(&parts.turn);
            parts.workers.spare_attempts(&parts.turn);
        }
        work += parts
            .plm
            .serve_attempt_leases(&mut parts.turn, parts.workers);
        work += parts.workers.serve_leases(&mut parts.turn);
        work += parts.workers.serve_offers_end(&parts.turn);
        parts.turn.turned(RoleLoop::Register);
        parts.workers.hear_of_locals(parts.turn.segment);
        work += parts.serve_lanes();
        let newly_offered = parts.workers.take_newly_offered();
        if parts.plm.has_parked(newly_offered) {
            parts.turn.sweep.request();
        }
        work += parts.plm.serve_fresh_ends(&parts.turn);
        work += parts.sweep();
        work += parts.plm.serve_timers(&mut parts.turn, parts.workers);
        parts.turn.turned(RoleLoop::Plm);
        work += parts
            .scheduler
            .duty_cycle(&mut parts.turn, parts.plm, parts.workers);
        parts.turn.turned(RoleLoop::Scheduler);
        drop(parts);
        self.last_cycle = now;
        self.expected = self.next_deadline().map_or(now, |next| next.max(now));
        work
    }

    /// When the next cycle is needed at the latest if nothing comes in.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Now> {
        let timers = self.segment.timers().first_key();
        let leases = self.segment.leases().first_key();
        [timers, leases]
            .into_iter()
            .flatten()
            // The last stamp never comes.
            .filter(|key| key.timed_stamp() < STAMP_MAX)
            .map(|key| Now::from_stamp(key.timed_stamp()))
            .chain(Some(self.sweep.due(self.last_cycle)))
            .chain(self.workers.next_of_callers())
            .chain(self.plm.next_fresh_end())
            .chain(self.plm.has_durable_waits().then_some(self.last_cycle))
            .chain(self.owes_answers().then_some(self.last_cycle))
            .min()
    }

    /// Answers to commands of lanes may be given.
    fn owes_answers(&self) -> bool {
        self.lanes.owes(self.plm.durable_lsn())
    }

    /// Takes the next effect.
    #[inline]
    pub fn pop_effect(&mut self) -> Option<Effect> {
        self.effects.pop()
    }

    /// Takes the next lane whose owner was told something: it is to be rung, as it may sleep (`Segment::ring_lane`).
    pub fn pop_lane_to_ring(&mut self) -> Option<AttachIndex> {
        self.lanes.pop_to_ring()
    }

    /// Takes the next spill file that no task, and no record that could bring one back, refers to any more: the caller
    /// removes it (`SpillStore::remove_given_up`), whenever it has the time.
    pub fn pop_lost_file(&mut self) -> Option<BlobRef> {
        self.lost_files.pop()
    }

    /// Says whether so many effects wait that they should be taken before the next batch of calls: one batch finds room in the
    /// reserve.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        !self.effects.has_room(0)
    }

    /// How often an effect found the queue and its reserve full, because nobody took effects.
    #[must_use]
    pub fn effect_overruns(&self) -> u64 {
        self.effects.overruns()
    }

    /// The slots that stand at a gate, and who keeps them there.
    #[must_use]
    pub const fn gates(&self) -> &GateWatch {
        &self.gates
    }

    /// From now on submissions are refused.
    pub fn stop_intake(&mut self) {
        self.plm.stop_intake();
    }

    pub(crate) fn parts(&mut self, now: Now) -> Parts<'_> {
        Parts {
            turn: Turn {
                now,
                segment: &self.segment,
                right: self.right,
                config: &self.config,
                effects: &mut self.effects,
                lost_files: &mut self.lost_files,
                sweep: &mut self.sweep,
                tally: &self.tally,
                clients: &mut self.clients,
                lanes: &mut self.lanes,
            },
            plm: &mut self.plm,
            workers: &mut self.workers,
            scheduler: &mut self.scheduler,
            rng: &mut self.rng,
            departed: &mut self.departed,
            census: &mut self.census,
            gates: &mut self.gates,
        }
    }
}

impl Parts<'_> {
    /// One stripe of the sweep, if it is due. Slots that were in order count as work only while
    /// somebody waits for the pass.
    fn sweep(&mut self) -> WorkCount {
        let mut work = WorkCount::NONE;
        // A slot causes two effects at most: a stop, and the notice of an end. The reserve takes the odd one.
        let room = self.turn.effects.room().div_ceil(2);
        if room == 0 || self.turn.sweep.due(self.turn.now) > self.turn.now {
            return work;
        }
        let high_water = self.turn.segment.high_water();
        let stripe = self.turn.sweep.next_stripe(self.turn.now, high_water, room);
        let was_urgent = self.turn.sweep.is_urgent();
        let segment = self.turn.segment;
        self.turn.settle_counts();
        if stripe.start == 0 {
            *self.census = PhaseCensus::begin(segment);
        }
        let blocks = 0..segment.geometry().arena_blocks();
        self.departed.repair(segment, stripe.clone(), blocks);
        // A process that was killed on its way up a tree hides a leaf that is in order itself.
        let ready = self.turn.segment.ready().scrub_leaves(stripe.clone());
        let timers = self.turn.segment.timers().scrub_leaves(stripe.clone());
        self.turn
            .segment
            .counters()
            .add(Counter::LeafRestored, ready.saturating_add(timers));
        segment.watch_gates(self.turn.right, self.gates, stripe.clone());
        for slot in self.turn.segment.allocated_slots(stripe) {
            self.turn.clients.refile(segment, self.turn.right, slot);
            let right = self.turn.right;
            self.turn.clients.adopt_orphan(segment, right, slot);
            self.census.count(segment.task(slot).state());
            match self.plm.repair(&mut self.turn, self.workers, slot) {
                Repaired::Nothing => {}
                Repaired::Index => work += WorkCount::ONE,
                Repaired::TakenFrom(worker) => {
                    self.workers.found_task_of(&mut self.turn, worker);
                    work += WorkCount::ONE;
                }
            }
        }
        if !was_urgent {
            self.plm.expire_keys(&mut self.turn);
            self.plm.look_at_ids(&self.turn);
            let blocks = self
                .turn
                .sweep
                .next_blocks(segment.geometry().arena_blocks());
            // Whether another process lives is not ours to judge: what it has claimed stays.
            let freed = segment.sweep_chunks(blocks, |_| false);
            segment.counters().add(Counter::ChunkReclaimed, freed);
        }
        if self.turn.sweep.stripe_done(high_water) {
            // A process that was killed between a change and its count leaves a gauge wrong.
            self.turn.settle_counts();
            self.census.correct(segment);
            self.workers.pass_completed(&self.turn);
            self.turn.clients.end_folding(segment, self.turn.sweep);
            self.turn.clients.end_orphans(segment, self.turn.sweep);
            let have_gone = self
                .departed
                .pass_completed(segment, self.turn.sweep, self.workers);
            if have_gone {
                self.turn.lanes.look_again();
            }
        }
        if was_urgent {
            work += WorkCount::ONE;
        }
        work
    }
}
