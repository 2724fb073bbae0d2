//! What workers do: they keep a result until they are told that it is durable, and report it again after a break.

use qtf_engine::{
    Beat, Disposition, Holding, Output, Reconnect, ResultReport, TaskRef, WorkerHello,
};
use qtf_shm::{Outcome, OutcomeKind, TaskId, WorkerId};
use qtf_world::{held_list, hello};

use super::facts::Told;
use super::world::World;

/// One worker process.
#[derive(Debug)]
pub(crate) struct SimWorker {
    pub(crate) id: WorkerId,
    token: u64,
    segment_id: u64,
    capacity: u32,
    /// On the way to it.
    pub(crate) mail: Vec<TaskRef>,
    pub(crate) holds: Vec<TaskRef>,
    /// Done; the outcome is not yet known to be durable.
    pub(crate) finished: Vec<(TaskRef, u8)>,
    pub(crate) is_cut_off: bool,
    pub(crate) is_evicted: bool,
    pub(crate) probe: u64,
    /// It was told to take nothing more, or has decided so: it ends what it has, and leaves.
    pub(crate) drains: bool,
}

impl World {
    pub(crate) fn worker_joins(&mut self, capacity: u32) {
        if let Ok(welcome) = self
            .base
            .engine
            .worker_hello(self.base.now, &hello(capacity, kinds()))
        {
            self.workers.push(SimWorker {
                id: welcome.id,
                token: welcome.token,
                segment_id: self.base.engine.segment().header().segment_id,
                capacity,
                mail: Vec::new(),
                holds: Vec::new(),
                finished: Vec::new(),
                is_cut_off: false,
                is_evicted: false,
                probe: 0,
                drains: false,
            });
            self.grant(self.workers.len() - 1, capacity, true);
        }
    }

    fn grant(&mut self, place: usize, credits: u32, restart: bool) {
        let worker = &mut self.workers[place];
        let granted = self
            .base
            .engine
            .worker_credits(self.base.now, worker.id, credits, restart);
        worker.is_evicted |= granted.is_err();
    }

    /// A worker that behaves.
    pub(crate) fn worker_acts(&mut self, place: usize) {
        let worker = &mut self.workers[place];
        if worker.is_cut_off || worker.is_evicted {
            if self.rng.u8(..) < 40 {
                self.worker_comes_back(place);
            }
            return;
        }
        worker.holds.append(&mut worker.mail);
        if worker.probe != 0 {
            let nonce = core::mem::take(&mut worker.probe);
            let id = worker.id;
            self.base.engine.probe_answered(self.base.now, id, nonce);
        }
        if self.dies_of_its_task(place) || self.leaves_when_drained(place) {
            return;
        }
        match self.rng.u8(0..8) {
            0 => self.worker_starts(place),
            1..=4 => self.worker_ends(place, None),
            5 => self.worker_reports_again(place),
            _ => {}
        }
        self.worker_beats(place);
    }

    fn worker_beats(&mut self, place: usize) {
        let Some(worker) = self.workers.get_mut(place) else {
            return;
        };
        let beat = Beat {
            holding: Holding::Count(u32::try_from(worker.holds.len()).expect("few")),
            draining: worker.drains,
            ..Beat::default()
        };
        let answer = self
            .base
            .engine
            .worker_beat(self.base.now, worker.id, &beat);
        worker.is_evicted |= answer.is_err();
        if worker.drains && answer.is_ok() {
            self.drained.insert(worker.id);
        }
    }

    /// Returns whether it is gone.
    fn dies_of_its_task(&mut self, place: usize) -> bool {
        let worker = &self.workers[place];
        let mut holds = worker.holds.iter().map(|one| one.task);
        let is_poisoned = holds.any(|id| {
            let task = self.facts.tasks.get(&id);
            task.is_some_and(|task| task.is_poison)
        });
        if is_poisoned {
            self.worker_dies(place);
            self.worker_joins(2);
        }
        is_poisoned
    }

    /// Returns whether it is gone.
    fn leaves_when_drained(&mut self, place: usize) -> bool {
        let worker = &self.workers[place];
        let is_empty = worker.holds.is_empty() && worker.finished.is_empty();
        let leaves = worker.drains && is_empty && self.rng.u8(0..4) == 0;
        if leaves {
            let worker = self.workers.swap_remove(place);
            self.base.engine.worker_goodbye(self.base.now, worker.id);
        }
        leaves
    }

    fn worker_starts(&mut self, place: usize) {
        let worker = &self.workers[place];
        for &one in &worker.holds {
            self.base.engine.task_started(self.base.now, worker.id, one);
        }
    }

    pub(crate) fn worker_ends(&mut self, place: usize, cut: Option<u32>) {
        let worker = &mut self.workers[place];
        if worker.holds.is_empty() {
            return;
        }
        let one = worker
            .holds
            .swap_remove(self.rng.usize(..worker.holds.len()));
        let bad_in = if cut.is_some() { 2 } else { 6 };
        let code = u8::from(self.rng.u8(0..bad_in) == 0);
        worker.finished.push((one, code));
        self.report(place, one, code, cut);
    }

    /// A verdict did not come: the same result once more.
    fn worker_reports_again(&mut self, place: usize) {
        let worker = &self.workers[place];
        if let Some(&(one, code)) = worker.finished.first() {
            self.report(place, one, code, None);
        }
    }

    fn report(&mut self, place: usize, one: TaskRef, code: u8, cut: Option<u32>) {
        let (now, id) = (self.base.now, self.workers[place].id);
        let bytes = vec![2; self.rng.usize(0..300)];
        let file = (!bytes.is_empty() && self.rng.u8(0..4) == 0).then(|| {
            let stored = self.base.engine.segment().spill().store(&bytes);
            stored.unwrap_or_else(|error| panic!("{error}"))
        });
        let report = ResultReport {
            said: qtf_engine::Said::default(),
            outcome: Outcome {
                kind: OutcomeKind::Exited,
                code,
                result_dropped: false,
                output_cut: false,
            },
            output: file.map_or(Output::Bytes(&bytes), Output::Stored),
            asked_pause_ns: None,
        };
        (self.unsure, self.unsure_failed) = (Some(one.task), code != 0);
        let answer = self.cut_off(cut, |engine| engine.task_result(now, id, one, &report));
        let Some(answer) = answer else {
            return;
        };
        (self.unsure, self.unsure_failed) = (None, false);
        if let Some(file) = file
            && answer.disposition != Disposition::Recorded
        {
            let removed = self.base.engine.segment().spill().remove(file);
            removed.unwrap_or_else(|error| panic!("{error}"));
        }
        self.note(one.task, answer.disposition as u64);
        match answer.disposition {
            Disposition::Recorded => {
                let attempt = u16::try_from(one.attempt).expect("attempts have 12 bits");
                let output = (code == 0).then_some(bytes.len());
                self.facts.recorded(one.task, attempt, output);
                self.ghosts.push((id, one));
                self.grant(place, 1, false);
            }
            Disposition::AlreadyRecorded | Disposition::Stale => {}
            Disposition::NeedsFile => panic!("{one:?}: a file was not refused"),
            Disposition::NotNow => {
                self.put_off += 1;
                return;
            }
        }
        self.wait_for(answer.durable, Told::Verdict(id, one));
    }

    /// The verdict has come: the worker forgets the result.
    pub(crate) fn verdict(&mut self, id: WorkerId, one: TaskRef) {
        for worker in self.workers.iter_mut().filter(|worker| worker.id == id) {
            worker.finished.retain(|(held, _)| *held != one);
        }
    }

    /// Something goes wrong with a worker.
    pub(crate) fn worker_suffers(&mut self, place: usize) {
        match self.rng.u8(0..7) {
            0 | 1 => self.worker_dies(place),
            // It has reasons of its own.
            6 => self.workers[place].drains = true,
            2 => {
                let worker = self.workers.swap_remove(place);
                self.base.engine.worker_goodbye(self.base.now, worker.id);
                self.remember(&worker);
            }
            3 | 4 => self.workers[place].is_cut_off = true,
            _ => {
                // Lost on the way; it may arrive, and be done, when nobody waits for it any more.
                let worker = &mut self.workers[place];
                let lost = worker.mail.drain(..).chain(worker.holds.pop());
                self.ghosts.extend(lost.map(|one| (worker.id, one)));
            }
        }
    }

    fn worker_dies(&mut self, place: usize) {
        let worker = self.workers.swap_remove(place);
        if self.rng.bool() {
            self.base.engine.worker_gone(self.base.now, worker.id);
        }
        self.remember(&worker);
    }

    /// What a worker held may still come in late.
    pub(crate) fn remember(&mut self, worker: &SimWorker) {
        let held = worker.holds.iter().chain(&worker.mail);
        self.ghosts.extend(held.map(|&one| (worker.id, one)));
        self.ghosts
            .extend(worker.finished.iter().map(|&(one, _)| (worker.id, one)));
    }

    /// A result comes in that nobody waits for any more: also one of an earlier attempt from a worker that has the later one.
    pub(crate) fn ghost_speaks(&mut self) {
        if self.ghosts.is_empty() {
            return;
        }
        let (id, one) = self.ghosts[self.rng.usize(..self.ghosts.len())];
        let report = ResultReport {
            said: qtf_engine::Said::default(),
            outcome: Outcome {
                kind: OutcomeKind::Exited,
                code: 0,
                result_dropped: false,
                output_cut: false,
            },
            output: Output::None,
            asked_pause_ns: None,
        };
        let is_held = self.workers.iter().any(|worker| {
            worker.id == id && (worker.holds.contains(&one) || worker.mail.contains(&one))
        });
        if is_held {
            return;
        }
        let answer = self
            .base
            .engine
            .task_result(self.base.now, id, one, &report);
        if answer.disposition == Disposition::Recorded {
            let attempt = u16::try_from(one.attempt).expect("attempts have 12 bits");
            self.facts.recorded(one.task, attempt, Some(0));
        }
    }

    /// A worker opens its streams again, with what it holds; some of it may have got lost.
    pub(crate) fn worker_comes_back(&mut self, place: usize) {
        let segment_id = self.base.engine.segment().header().segment_id;
        let worker = &mut self.workers[place];
        (worker.is_cut_off, worker.probe) = (false, 0);
        let mut lost: Vec<TaskRef> = worker.mail.drain(..).collect();
        if self.rng.u8(..) < 30 {
            lost.extend(worker.holds.pop());
        }
        self.ghosts
            .extend(lost.into_iter().map(|one| (worker.id, one)));
        let finished = worker.finished.iter().map(|&(one, _)| one);
        let held = held_list(worker.holds.iter().copied(), finished);
        let hello = WorkerHello {
            reconnect: Some(Reconnect {
                worker_id: worker.id.as_raw(),
                token: worker.token,
                segment_id: worker.segment_id,
            }),
            held: &held,
            ..hello(worker.capacity, kinds())
        };
        let Ok(welcome) = self.base.engine.worker_hello(self.base.now, &hello) else {
            worker.is_evicted = true;
            return;
        };
        worker.is_evicted = false;
        if !welcome.is_known {
            // Another segment, or it was given up: nothing that it holds is wanted.
            worker.holds.clear();
            worker.finished.clear();
        }
        (worker.id, worker.token, worker.segment_id) = (welcome.id, welcome.token, segment_id);
        let must_be_told = self.drained.contains(&welcome.id);
        for gone in welcome.abandon {
            let task = TaskId::from_raw(gone.task_id).expect("it came from the engine");
            worker
                .holds
                .retain(|one| one.task != task || one.attempt != gone.attempt);
        }
        let left = u32::try_from(worker.holds.len()).expect("few");
        let free = worker.capacity.saturating_sub(left);
        self.grant(place, free, true);
        self.take_effects(None);
        let worker = &self.workers[place];
        assert!(
            worker.drains || !must_be_told,
            "{worker:?} came back and was not told that it is to drain"
        );
    }
}

/// A list that lives as long as the program.
fn kinds() -> &'static [String] {
    static KINDS: std::sync::OnceLock<Vec<String>> = std::sync::OnceLock::new();
    KINDS.get_or_init(|| vec!["exec".to_owned(), "render".to_owned()])
}
