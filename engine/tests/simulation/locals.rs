//! Local workers in the simulation: they take tasks from the segment themselves, are stopped anywhere, and die anywhere.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test names what it is about; everything else is wrong"
)]

use std::collections::BTreeSet;

use qtf_engine::TaskRef;
use qtf_shm::{AttachIndex, FLAG_CANCEL, KindSet, OutcomeKind, Phase, TaskId, WorkerId};

use crate::model::Report;
use crate::process::{Ask, Process, ProcessSpec, Said};
use crate::world::{LOSSES_MAX, World};

/// An operation can be held up after so many of its writes.
const WRITES_MAX: u32 = 24;

/// So long local processes come, and so long they go.
const TIDE_STEPS: u64 = 700;

/// What stands still in the middle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Doing {
    Take,
    Start(TaskRef),
    Finish(TaskRef),
    GiveBack(TaskRef),
}

/// One local worker.
#[derive(Debug)]
pub(crate) struct Local {
    process: Process,
    pub(crate) attach: AttachIndex,
    pub(crate) id: WorkerId,
    pub(crate) kinds: KindSet,
    pub(crate) capacity: usize,
    pub(crate) holds: Vec<TaskRef>,
    /// It stands still, until this step.
    pub(crate) standing: Option<(Doing, u64)>,
    /// Takes that found nothing, one after the other.
    pub(crate) vain_takes: u64,
}

impl World {
    /// They come with the tide and leave with the ebb, so that what only they could run waits for long, and must stop nobody.
    pub(crate) fn locals_come_and_go(&mut self) {
        let is_ebb = (self.steps / TIDE_STEPS) % 2 == 1;
        let ready_to_leave = |local: &Local| local.standing.is_none() && local.holds.is_empty();
        if is_ebb {
            if let Some(place) = self.locals.iter().position(ready_to_leave) {
                self.local_leaves(place);
            }
        } else if self.locals.len() < 3 && self.rng.u8(0..4) == 0 {
            self.local_joins();
        }
    }

    fn local_joins(&mut self) {
        let mut kinds = BTreeSet::new();
        for (kind, odds) in [("exec", 160), ("render", 100), ("odd", 60), ("local", 100)] {
            if self.rng.u8(..) < odds {
                kinds.insert(kind);
            }
        }
        let capacity = self.rng.u16(1..4);
        self.local_joins_with(&kinds, capacity);
    }

    fn local_joins_with(&mut self, names: &BTreeSet<&str>, capacity: u16) {
        let mut kinds = KindSet::EMPTY;
        for name in names {
            let kind = self.base.engine.segment().kinds().intern(name);
            kinds.insert(kind.expect("there are few"));
        }
        let spec = ProcessSpec {
            shm_id: self
                .base
                .engine
                .segment()
                .shm_id()
                .expect("it is the kernel's"),
            folder: self.base.folder().to_owned(),
            lock_file: self.lock_file(),
            kinds,
            capacity,
            losses_max: LOSSES_MAX,
        };
        let (mut process, said) = Process::start(spec, self.base.now);
        match said {
            Said::Joined(attach, id) => self.locals.push(Local {
                process,
                attach,
                id,
                kinds,
                capacity: usize::from(capacity),
                holds: Vec::new(),
                standing: None,
                vain_takes: 0,
            }),
            Said::Refused => process.join(),
            said => panic!("it did not join: {said:?}"),
        }
    }

    /// A local worker does something, or goes on with what it was doing.
    pub(crate) fn local_acts(&mut self, place: usize) {
        let local = &self.locals[place];
        if let Some((doing, until)) = local.standing.clone() {
            if self.steps >= until {
                let said = local.process.go_on(self.base.now);
                self.locals[place].standing = None;
                self.local_said(place, doing, said);
            }
            return;
        }
        let flagged = self.local_is_asked_to_stop(place);
        let held = local.holds.len();
        let one = (held > 0).then(|| self.rng.usize(..held));
        match (flagged, one, self.rng.u8(0..8)) {
            (Some((one, kind)), ..) => self.local_ends(place, one, kind, 0),
            (None, Some(one), 0 | 1) => self.local_starts(place, one),
            (None, Some(one), 2..=4) => {
                let code = u8::from(self.rng.u8(0..4) == 0);
                self.local_ends(place, one, OutcomeKind::Exited, code);
            }
            (None, Some(one), 5) if self.rng.u8(0..4) == 0 => {
                let held = self.locals[place].holds[one];
                self.local_does(place, Ask::GiveBack(one), Doing::GiveBack(held));
            }
            _ if held < self.locals[place].capacity => {
                self.local_does(place, Ask::Take, Doing::Take);
            }
            _ => {}
        }
    }

    /// An attempt that it is asked to stop, and why.
    fn local_is_asked_to_stop(&self, place: usize) -> Option<(usize, OutcomeKind)> {
        let local = &self.locals[place];
        (0..local.holds.len()).find_map(|one| {
            match local.process.ask(self.base.now, Ask::Flags(one), None) {
                Said::Flags(0) => None,
                Said::Flags(flags) if flags & FLAG_CANCEL != 0 => {
                    Some((one, OutcomeKind::Cancelled))
                }
                Said::Flags(_) => Some((one, OutcomeKind::TimedOut)),
                said => panic!("{said:?}"),
            }
        })
    }

    fn local_starts(&mut self, place: usize, one: usize) {
        let held = self.locals[place].holds[one];
        let state = self.base.engine.segment().state(held.task.slot());
        if state.is_of(held.task) && state.phase() == Phase::Assigned {
            self.local_does(place, Ask::Start(one), Doing::Start(held));
        }
    }

    fn local_ends(&mut self, place: usize, one: usize, kind: OutcomeKind, code: u8) {
        let held = self.locals[place].holds[one];
        let report = self.new_report(held, kind, code);
        if let Some(task) = self.model.tasks.get_mut(&held.task) {
            task.under_way = Some(report.clone());
        }
        let Report {
            outcome, output, ..
        } = report;
        self.local_does(
            place,
            Ask::Finish(one, outcome, output),
            Doing::Finish(held),
        );
    }

    fn local_does(&mut self, place: usize, ask: Ask, doing: Doing) {
        // Whatever it ends, it has it no more.
        if let Ask::Finish(one, ..) | Ask::GiveBack(one) = ask {
            self.locals[place].holds.swap_remove(one);
        }
        let stops = self.has_faults() && self.rng.u8(0..3) == 0;
        let pause_after = stops.then(|| self.rng.u32(1..WRITES_MAX));
        let said = self.locals[place]
            .process
            .ask(self.base.now, ask, pause_after);
        self.local_said(place, doing, said);
    }

    fn local_said(&mut self, place: usize, doing: Doing, said: Said) {
        let (id, cycle) = (self.locals[place].id, self.cycles);
        match (doing, said) {
            (doing, Said::Paused) => {
                let steps = match self.rng.u8(0..8) {
                    0 => self.rng.u64(1..400),
                    _ => self.rng.u64(1..12),
                };
                self.locals[place].standing = Some((doing, self.steps + steps));
                self.stops += 1;
            }
            (Doing::Take, Said::Took(taken)) => {
                let local = &mut self.locals[place];
                let Some((task, attempt)) = taken else {
                    local.vain_takes += 1;
                    return;
                };
                local.vain_takes = 0;
                local.holds.push(TaskRef {
                    task,
                    attempt: u32::from(attempt),
                });
                self.model.dispatched(task, attempt);
                self.local_takes += 1;
                self.note(task, u64::from(attempt));
            }
            (Doing::Finish(one), Said::Finished(phase)) => {
                self.local_finished(id, one, phase, cycle);
            }
            (Doing::Start(_), Said::Started) | (Doing::GiveBack(_), Said::GaveBack) => {}
            (doing, said) => panic!("{id} was to {doing:?} and said {said:?}"),
        }
    }

    /// It says whether it has ended the attempt, perhaps long after everybody could see that.
    fn local_finished(&mut self, id: WorkerId, one: TaskRef, phase: Option<Phase>, cycle: u64) {
        self.note(one.task, phase.map_or(0, |phase| phase as u64));
        if phase.is_some() {
            self.model.local_recorded(one.task, cycle + 60);
            return;
        }
        let Some(task) = self.model.tasks.get_mut(&one.task) else {
            return;
        };
        let Some(refused) = task.under_way.take() else {
            return;
        };
        let is_used = task.report.as_ref() == Some(&refused);
        assert!(
            !is_used,
            "{id} was told that its end of {one:?} does not count, and it was recorded"
        );
    }

    /// Something goes wrong with a local worker.
    pub(crate) fn local_suffers(&mut self, place: usize) {
        match self.rng.u8(0..4) {
            0 | 1 => self.local_dies(place),
            2 if self.locals[place].standing.is_none() => self.local_leaves(place),
            _ => {
                let state = self
                    .base
                    .engine
                    .segment()
                    .worker(self.locals[place].id.slot());
                if state.state().incarnation() == self.locals[place].id.incarnation() {
                    let id = self.locals[place].id;
                    let _ = self.base.engine.drain_worker(self.base.now, id);
                }
            }
        }
    }

    pub(crate) fn local_leaves(&mut self, place: usize) {
        let mut local = self.locals.swap_remove(place);
        let said = local.process.ask(self.base.now, Ask::Leave, None);
        assert!(matches!(said, Said::Left), "{said:?}");
        local.process.join();
    }

    fn local_dies(&mut self, place: usize) {
        let local = self.locals.swap_remove(place);
        if let Some((Doing::Finish(one), _)) = local.standing
            && let Some(task) = self.model.tasks.get_mut(&one.task)
        {
            // Whether it has ended it nobody will ever say.
            task.is_unsure = true;
        }
        local.process.kill();
        self.local_kills += 1;
        self.dead_locals.insert(local.attach, local.kinds);
    }

    /// The daemon looks after its neighbours.
    pub(crate) fn daemon_looks_around(&mut self) {
        let segment = std::sync::Arc::clone(self.base.engine.segment());
        for (attach, _) in segment.convict(Some(&self.judge)).iter() {
            self.base.engine.attach_gone(self.base.now, attach);
        }
        self.dead_locals
            .retain(|&attach, _| segment.attach_info(attach).is_some());
    }

    /// All local processes go on and end; the dead are buried.
    pub(crate) fn locals_end(&mut self) {
        self.steps += 1_000;
        for place in (0..self.locals.len()).rev() {
            while self.locals[place].standing.is_some() {
                self.steps += 1_000;
                self.local_acts(place);
            }
            self.local_leaves(place);
        }
    }

    /// Tasks that a standing process has its hands on.
    pub(crate) fn is_in_hands(&self, id: TaskId) -> bool {
        self.locals.iter().any(|local| match &local.standing {
            Some((Doing::GiveBack(one) | Doing::Finish(one) | Doing::Start(one), _)) => {
                one.task == id
            }
            Some((Doing::Take, _)) | None => false,
        })
    }

    pub(crate) fn any_stands(&self) -> bool {
        self.locals.iter().any(|local| local.standing.is_some())
    }
}
