//! What must hold at any time, after each start, and at the end.

use qtf_engine::Lsn;
use qtf_journal::recover;
use qtf_shm::segment::ANCIENT_STAMPS;
use qtf_shm::{FLAG_CANCEL, Now, OutcomeKind, Part, Phase, TaskId};

use super::clients::Wish;
use super::facts::Known;
use super::holds::Hold;
use super::world::{Kind, MS, TTL_NS, World};
use qtf_world::journal_config;

/// Records say milliseconds.
const ROUNDING_NS: u64 = 5 * MS;
/// An end is told when its record is durable, for which a full disk may have to wait; its time counts from the record.
const TOLD_LATE_NS: u64 = 350 * MS;

impl World {
    /// What clients were told is there after a start; what is not known is found out again.
    pub(crate) fn assert_facts(&mut self, is_cold: bool) {
        let segment = std::sync::Arc::clone(self.base.engine.segment());
        self.base.assert_sound();
        let ids: Vec<TaskId> = self.facts.tasks.keys().copied().collect();
        for id in ids {
            match self.base.engine.check(id) {
                Ok(state) => {
                    self.assert_is_as_told(id, state, is_cold);
                    self.assert_has_reason(id);
                    self.assert_output(id);
                }
                Err(_) => self.assert_may_be_missing(id, is_cold),
            }
        }
        let unknown: Vec<TaskId> = self
            .base
            .slots()
            .map(|slot| {
                segment
                    .state(slot)
                    .id(slot)
                    .filter(|_| is_task(segment.state(slot).phase()))
            })
            .filter_map(|id| id.filter(|id| !self.facts.tasks.contains_key(id)))
            .collect();
        for id in unknown {
            assert!(
                !self.facts.gone.contains_key(&id),
                "{id} was forgotten, and is there again"
            );
            // A call that was cut off has made it.
            let is_orphan = core::mem::take(&mut self.may_have_orphan);
            assert!(is_orphan, "{id} was submitted by nobody");
            let known = orphan(&segment, id);
            self.last_stamp = self.last_stamp.max(known.stamp);
            self.facts.add(id, known);
        }
        (self.unsure, self.unsure_failed) = (None, false);
        self.assert_old_order();
    }

    fn assert_is_as_told(&mut self, id: TaskId, state: qtf_shm::StateWord, is_cold: bool) {
        let segment = std::sync::Arc::clone(self.base.engine.segment());
        let slot = segment.task(id.slot());
        let is_unsure = self.unsure == Some(id);
        let (now, unsure_failed) = (self.base.now, self.unsure_failed);
        self.settle_revival(id, state);
        self.settle_hold(id, state, is_cold);
        let task = self.facts.get(id);
        let phase = state.phase();
        assert!(!task.is_freed, "{id} was gone, and is there again");
        // What was cut off before its record may not have happened.
        task.forget_was_asked &= state.is_forgotten();
        assert_is_whole(&segment, id);
        assert_has_its_place(&segment, id, task);
        task.found_final = task
            .found_final
            .or(Some((phase, now)))
            .filter(|&(before, _)| before == phase && phase.is_final());
        if let Some((end, _)) = task.end {
            assert_eq!(phase, end, "{id} had ended");
        }
        if task.is_cancelled {
            assert_eq!(phase, Phase::Cancelled, "{id} was cancelled");
        }
        if is_cold && task.stop_was_told {
            assert!(phase.is_final(), "{id} was to be stopped, and waits again");
        } else if is_cold {
            // A request whose answer did not come may be lost.
            task.cancel_was_asked = phase == Phase::Cancelled;
        }
        if is_unsure && !task.stop_was_told {
            task.cancel_was_asked = phase == Phase::Cancelled || state.has_flag(FLAG_CANCEL);
        }
        task.attempts = state.fence();
        let failures = u32::from(slot.failures());
        if is_cold {
            task.failures = failures;
        } else if is_unsure
            && (matches!(phase, Phase::Ended | Phase::Failed) || failures > task.failures)
        {
            // The report that was cut off is in.
            task.failures += u32::from(unsure_failed);
        }
        assert!(
            failures <= task.failures,
            "{id} failed {failures} times: {task:?}"
        );
        let is_held = matches!(phase, Phase::Assigned | Phase::Running);
        task.assert_losses(id, slot.losses(), is_held);
        task.recorded = if is_held {
            task.attempts - 1
        } else {
            task.attempts
        };
        if (is_cold || is_unsure) && task.end.is_none() {
            task.output = None;
        }
        if is_cold || is_unsure {
            task.expected = phase.is_final().then_some(phase);
            if phase == Phase::Ended {
                // Judged by the next daemon; what comes out is told in time.
                task.expected = None;
                task.is_unsure = true;
            }
        }
    }

    /// Of a revival whose answer did not come, or that was not durable yet, nobody knows.
    fn settle_revival(&mut self, id: TaskId, state: qtf_shm::StateWord) {
        let is_dead = state.phase() == Phase::DeadLetter;
        if self.revived_just_now == Some(id) && !is_dead {
            self.facts.revived(id);
            self.assert_is_as_before(id);
            return;
        }
        let (now, losses) = (
            self.base.now,
            self.base.engine.segment().task(id.slot()).losses(),
        );
        let task = self.facts.get(id);
        let Some(revival) = task.revival.filter(|_| task.end.is_none()) else {
            return;
        };
        let is_same = state.fence() == revival.attempts;
        // Its losses start over, so it never became a dead letter.
        let is_before = state.fence() < revival.attempts || is_same && losses > 0;
        if is_dead && is_same {
            assert!(!revival.was_told, "{id} was revived, and is dead as before");
            self.facts.revival_is_lost(id, now, true);
        } else if is_before {
            assert!(!revival.was_told && !revival.was_dead, "{id} was revived");
            self.facts.revival_is_lost(id, now, false);
        }
    }

    /// What is handed out is what was submitted.
    pub(crate) fn assert_payload(&self, id: TaskId) {
        if let Some(bytes) = self.facts.tasks.get(&id).and_then(|task| task.payload) {
            self.assert_bytes(id, Part::Payload, &vec![1; bytes]);
        }
    }

    /// The output of what is done is the one that was recorded.
    fn assert_output(&self, id: TaskId) {
        let task = &self.facts.tasks[&id];
        if let (Some((Phase::Done, _)), Some(bytes)) = (task.end, task.output) {
            self.assert_bytes(id, Part::Result, &vec![2; bytes]);
        }
    }

    fn assert_bytes(&self, id: TaskId, part: Part, wanted: &[u8]) {
        let mut found = vec![0; wanted.len() + 1];
        let count = self.base.engine.segment().load(id, part, 0, &mut found);
        let count = count.unwrap_or_else(|error| panic!("{part:?} of {id}: {error}"));
        assert!(&found[..count] == wanted, "{part:?} of {id} is another");
    }

    /// A dead letter says why it is one.
    pub(crate) fn assert_has_reason(&self, id: TaskId) {
        let task = self.base.engine.segment().task(id.slot());
        let state = task.state();
        if state.is_of(id) && state.phase() == Phase::DeadLetter {
            let reason = task.outcome().kind;
            assert_eq!(reason, OutcomeKind::WorkerLost, "{id} is dead");
        }
    }

    fn assert_may_be_missing(&mut self, id: TaskId, is_cold: bool) {
        let now = self.base.now;
        let task = self.facts.get(id);
        let lasts = task.is_accepted && task.is_journalled;
        let is_over =
            task.is_of_an_earlier_age || task.first_end().is_some_and(|(_, at)| is_over(at, now));
        let was_done = task.discards
            && (task.expected == Some(Phase::Done) || task.is_unsure || self.unsure == Some(id));
        let may_be_missing =
            task.is_freed || task.forget_was_asked || is_over || was_done || (is_cold && !lasts);
        assert!(may_be_missing, "{id} was acknowledged, and is lost");
        let is_lost = is_cold && !task.is_journalled && !task.is_freed && task.end.is_none();
        task.is_freed = true;
        if is_lost {
            self.facts.lost.insert(id);
        }
    }

    /// Results whose time is over are gone, and no others.
    pub(crate) fn note_expired(&mut self) {
        let engine = &self.base.engine;
        for (id, task) in &mut self.facts.tasks {
            if !task.is_freed && engine.check(*id).is_err() {
                let (phase, at) = task.first_end().unwrap_or_else(|| panic!("{id} is lost"));
                let is_kept = phase == Phase::DeadLetter && !task.forget_was_asked;
                assert!(!is_kept, "{id} is kept until it is forgotten");
                let is_unwanted = task.forget_was_asked || task.discards && phase == Phase::Done;
                assert!(
                    is_over(at, self.base.now) || is_unwanted || task.is_of_an_earlier_age,
                    "{id} expired too early, at {}: {task:?}",
                    self.base.now.ns
                );
                task.is_freed = true;
            }
        }
    }

    /// The end of a journal task is told only when its record is durable.
    pub(crate) fn assert_durable(&self, id: TaskId) {
        let task = self.base.engine.segment().task(id.slot());
        let is_journalled = self
            .facts
            .tasks
            .get(&id)
            .is_some_and(|task| task.is_journalled);
        // The last record of a forgotten task is a later one than that of its end.
        if is_journalled && task.state().is_of(id) && !task.state().is_forgotten() {
            let lsn = Lsn::new(task.lsn());
            assert!(
                lsn <= self.disk.writer.durable(),
                "the end of {id} was told before lsn {lsn} was durable"
            );
        }
    }

    /// All faults end, honest workers do what is left, clients forget: nothing may remain, not even in the journal.
    pub(crate) fn come_to_rest(&mut self) {
        self.is_calm = true;
        self.disk.disk.set_capacity(None);
        if self.disk.writer.failure().is_some() || self.kind == Kind::Ages {
            self.hot_start();
        }
        for worker in core::mem::take(&mut self.workers) {
            self.base.engine.worker_gone(self.base.now, worker.id);
        }
        for round in 0..20_000 {
            if self
                .facts
                .tasks
                .values()
                .all(|task| task.is_freed || task.end.is_some())
            {
                break;
            }
            if self.workers.len() < 3 {
                self.worker_joins(4);
            }
            for place in (0..self.workers.len()).rev() {
                if self.workers[place].is_evicted {
                    self.workers.swap_remove(place);
                } else {
                    self.worker_acts(place);
                }
            }
            for id in self.held() {
                self.change_hold(id, false, None);
            }
            if round % 16 == 0 {
                self.all_ask();
            }
            self.turn();
        }
        for (id, task) in &self.facts.tasks {
            let phase = self.base.engine.check(*id).map(|state| state.phase());
            assert!(
                task.is_freed || task.end.is_some(),
                "{id} never ends: {phase:?}"
            );
        }
        if self.kind == Kind::Ages {
            self.assert_purged_in_time();
        }
        self.forget_all();
    }

    /// Clients that missed a notice ask.
    fn all_ask(&mut self) {
        let ids: Vec<TaskId> = self.facts.tasks.keys().copied().collect();
        for id in ids {
            if let Ok(Some(phase)) = self.base.engine.settled_end(id) {
                self.facts.ended(id, phase, self.base.now);
            }
        }
    }

    fn forget_all(&mut self) {
        for _ in 0..5_000 {
            let mut tasks = self.facts.tasks.iter();
            let left = tasks.find(|(_, task)| !task.is_freed && !task.forget_was_asked);
            let Some((&id, _)) = left else { break };
            if let Ok(answer) = self.base.engine.forget(self.base.now, id) {
                self.facts.get(id).forget_was_asked = true;
                self.wait_for(answer.durable, super::facts::Told::Forgotten(id));
            }
            self.turn();
        }
        for _ in 0..200 {
            self.turn();
        }
        assert!(
            self.facts.tasks.values().all(|task| task.is_freed),
            "some are never forgotten"
        );
        assert!(
            self.facts.answers.is_empty(),
            "answers that never come: {:?}",
            self.facts.answers
        );
        let segment = self.base.engine.segment();
        self.base.assert_sound();
        let left = self
            .base
            .slots()
            .filter(|&slot| segment.state(slot).phase() != Phase::Free);
        let left: Vec<_> = left.map(|slot| segment.state(slot)).collect();
        assert!(left.is_empty(), "slots of no task: {left:?}");
        let (chunks, own) = self.base.chunks();
        assert_eq!(chunks, own, "bytes of no task");
        let files = segment.spill().files().expect("the folder can be read");
        assert!(files.is_empty(), "files of no task: {files:?}");
        self.disk.disk.crash(self.seed);
        let recovered =
            recover(&self.disk.disk, &journal_config(0)).unwrap_or_else(|error| panic!("{error}"));
        let back: Vec<TaskId> = recovered.tasks().map(|task| task.id).collect();
        assert!(
            back.iter().all(|id| !self.facts.gone.contains_key(id)),
            "{back:?}"
        );
    }
}

/// A task that is there is there with all its bytes.
fn assert_is_whole(segment: &qtf_shm::Segment, id: TaskId) {
    let task = segment.task(id.slot());
    for (part, blob) in [
        (Part::Payload, task.payload()),
        (Part::Result, task.result()),
    ] {
        let mut bytes = vec![0; usize::try_from(blob.len()).expect("a blob fits into memory")];
        let read = segment.load(id, part, 0, &mut bytes);
        let read = read.unwrap_or_else(|error| panic!("{part:?} of {id}: {error}"));
        assert_eq!(read, bytes.len(), "{part:?} of {id}");
    }
}

/// It stands where it stood. Of what is older than a moved origin reaches the order is kept and not the distance: see `assert_old_order`.
pub(crate) fn assert_has_its_place(segment: &qtf_shm::Segment, id: TaskId, task: &Known) {
    let place = segment.journal_stamp(segment.task(id.slot()).key().ready_stamp());
    let is_packed = task.stamp < segment.stamps_moved().saturating_add(ANCIENT_STAMPS);
    assert!(
        place == task.stamp || is_packed && task.is_of_an_earlier_age,
        "{id} has lost its place: {place}, {task:?}"
    );
}

/// The time of a result that was there at this moment.
const fn is_over(since: Now, now: Now) -> bool {
    now.since_ns(since) + ROUNDING_NS + TOLD_LATE_NS >= TTL_NS
}

const fn is_task(phase: Phase) -> bool {
    !matches!(phase, Phase::Free | Phase::Claimed)
}

/// A task of which only the segment knows.
fn orphan(segment: &qtf_shm::Segment, id: TaskId) -> Known {
    let slot = segment.task(id.slot());
    let options = slot.options();
    let stamp = segment.journal_stamp(slot.key().ready_stamp());
    let mut known = Wish::nothing().known(stamp);
    known.is_journalled = options.has(qtf_shm::TaskOptions::JOURNAL);
    known.discards = options.has(qtf_shm::TaskOptions::DISCARD_RESULT);
    known.max_attempts = u32::from(slot.max_attempts());
    known.payload = None;
    known.hold = Hold::submitted(slot.state().phase() == Phase::Held);
    known
}
