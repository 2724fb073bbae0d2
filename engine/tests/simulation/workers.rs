//! What workers do in the simulation, well or badly.

use qtf_engine::{Beat, Disposition, Held, Output, Reconnect, ResultReport, TaskRef, WorkerHello};
use qtf_shm::{Outcome, OutcomeKind, TaskId, WorkerId};

use crate::world::World;

/// One worker process.
#[derive(Debug)]
pub(crate) struct SimWorker {
    pub(crate) id: WorkerId,
    token: u64,
    pub(crate) capacity: u32,
    kinds: Vec<String>,
    /// Credits that it has granted and that are not used up.
    pub(crate) granted: u32,
    /// On the way to it.
    pub(crate) mail: Vec<TaskRef>,
    pub(crate) holds: Vec<TaskRef>,
    /// It can neither send nor receive.
    pub(crate) is_cut_off: bool,
    /// It was told, or has found out, that it is no longer known.
    pub(crate) is_evicted: bool,
    /// The probe it was asked to answer.
    pub(crate) probe: u64,
}

impl World {
    pub(crate) fn worker_joins(&mut self) {
        let capacity = self.rng.u32(1..5);
        let mut kinds = vec!["exec".to_owned()];
        if self.rng.bool() {
            kinds.push("render".to_owned());
        }
        self.worker_joins_with(capacity, kinds);
    }

    pub(crate) fn worker_joins_with(&mut self, capacity: u32, kinds: Vec<String>) {
        let hello = hello(capacity, &kinds);
        if let Ok(welcome) = self.engine.worker_hello(self.now, &hello) {
            self.workers.push(SimWorker {
                id: welcome.id,
                token: welcome.token,
                capacity,
                kinds,
                granted: 0,
                mail: Vec::new(),
                holds: Vec::new(),
                is_cut_off: false,
                is_evicted: false,
                probe: 0,
            });
            self.grant(self.workers.len() - 1, capacity, true);
        }
    }

    pub(crate) fn grant(&mut self, place: usize, credits: u32, restart: bool) {
        let worker = &mut self.workers[place];
        let known = self
            .engine
            .worker_credits(self.now, worker.id, credits, restart);
        if known.is_ok() {
            let before = if restart { 0 } else { worker.granted };
            worker.granted = before + credits;
        } else {
            worker.is_evicted = true;
        }
    }

    /// A worker that behaves.
    pub(crate) fn worker_acts(&mut self, place: usize) {
        let worker = &mut self.workers[place];
        if worker.is_cut_off || worker.is_evicted {
            if self.rng.u8(..) < 20 {
                self.worker_comes_back(place);
            }
            return;
        }
        worker.holds.append(&mut worker.mail);
        let holding = u32::try_from(worker.holds.len()).expect("few");
        assert!(holding <= worker.capacity, "{worker:?}");
        if worker.probe != 0 {
            let nonce = std::mem::take(&mut worker.probe);
            let id = worker.id;
            self.engine.probe_answered(self.now, id, nonce);
        }
        match self.rng.u8(0..4) {
            0 => self.worker_starts(place),
            1 | 2 => self.worker_ends(place),
            _ => {}
        }
        self.worker_beats(place);
    }

    fn worker_beats(&mut self, place: usize) {
        let worker = &mut self.workers[place];
        let beat = Beat {
            holding: u32::try_from(worker.holds.len()).expect("few"),
            ..Beat::default()
        };
        if self.engine.worker_beat(self.now, worker.id, &beat).is_err() {
            worker.is_evicted = true;
        }
    }

    fn worker_starts(&mut self, place: usize) {
        let worker = &self.workers[place];
        for &one in &worker.holds {
            self.engine.task_started(self.now, worker.id, one);
        }
    }

    pub(crate) fn worker_ends(&mut self, place: usize) {
        let worker = &mut self.workers[place];
        if worker.holds.is_empty() {
            return;
        }
        let one = worker
            .holds
            .swap_remove(self.rng.usize(..worker.holds.len()));
        let id = worker.id;
        let outcome = match self.rng.u8(0..6) {
            0 => (OutcomeKind::Exited, 1),
            1 => (OutcomeKind::Signalled, 9),
            _ => (OutcomeKind::Exited, 0),
        };
        self.report(id, one, outcome);
        if self.rng.u8(..) < 30 {
            // The verdict was lost: the same result once more.
            self.report(id, one, outcome);
        }
        self.ghosts.push((id, one));
        self.grant(place, 1, false);
    }

    /// Delivers a result, and tells the model what became of it.
    pub(crate) fn report(&mut self, id: WorkerId, one: TaskRef, (kind, code): (OutcomeKind, u8)) {
        let bytes = vec![2; self.rng.usize(0..300)];
        let report = ResultReport {
            outcome: Outcome {
                kind,
                code,
                result_dropped: false,
            },
            output: Output::Bytes(&bytes),
        };
        let told = self
            .engine
            .task_result(self.now, id, one, &report)
            .disposition;
        if told == Disposition::Recorded {
            let attempt = u8::try_from(one.attempt).expect("attempts have 8 bits");
            self.model.recorded(one.task, attempt, (kind, code));
        }
        self.note(one.task, told as u64);
    }

    /// Something goes wrong with a worker.
    pub(crate) fn worker_suffers(&mut self, place: usize) {
        match self.rng.u8(0..8) {
            0 => self.worker_dies(place, true),
            1 => self.worker_dies(place, false),
            2 => {
                let worker = self.workers.swap_remove(place);
                self.engine.worker_goodbye(self.now, worker.id);
                self.remember(&worker);
            }
            3 => {
                let id = self.workers[place].id;
                let _ = self.engine.drain_worker(self.now, id);
            }
            4 | 5 => self.workers[place].is_cut_off = true,
            6 => self.workers[place].mail.clear(),
            _ => self.worker_comes_back(place),
        }
    }

    fn worker_dies(&mut self, place: usize, is_told: bool) {
        let worker = self.workers.swap_remove(place);
        if is_told {
            self.engine.worker_gone(self.now, worker.id);
        }
        self.remember(&worker);
    }

    /// What a worker held may still come in late.
    fn remember(&mut self, worker: &SimWorker) {
        let all = worker.holds.iter().chain(&worker.mail);
        self.ghosts.extend(all.map(|&one| (worker.id, one)));
    }

    /// An old result comes in once more, or much too late.
    pub(crate) fn ghost_speaks(&mut self) {
        if self.ghosts.is_empty() {
            return;
        }
        let (id, one) = self.ghosts.swap_remove(self.rng.usize(..self.ghosts.len()));
        let is_held = self.workers.iter().any(|worker| {
            worker.id == id && (worker.holds.contains(&one) || worker.mail.contains(&one))
        });
        if !is_held {
            self.report(id, one, (OutcomeKind::Exited, 0));
        }
    }

    /// A worker opens its streams again, with what it holds; some of it may have got lost.
    pub(crate) fn worker_comes_back(&mut self, place: usize) {
        let segment_id = self.engine.segment().header().segment_id;
        let worker = &mut self.workers[place];
        worker.is_cut_off = false;
        worker.mail.clear();
        worker.probe = 0;
        if self.rng.u8(..) < 40 {
            worker.holds.pop();
        }
        let held: Vec<Held> = worker
            .holds
            .iter()
            .map(|one| Held {
                task_id: one.task.as_raw(),
                attempt: one.attempt,
                finished: false,
            })
            .collect();
        let hello = WorkerHello {
            reconnect: Some(Reconnect {
                worker_id: worker.id.as_raw(),
                token: worker.token,
                segment_id,
            }),
            held: &held,
            ..hello(worker.capacity, &worker.kinds)
        };
        let Ok(welcome) = self.engine.worker_hello(self.now, &hello) else {
            worker.is_evicted = true;
            return;
        };
        assert_eq!(welcome.is_known, welcome.id == worker.id);
        worker.is_evicted = false;
        (worker.id, worker.token) = (welcome.id, welcome.token);
        for gone in welcome.abandon {
            let task = TaskId::from_raw(gone.task_id).expect("it came from the engine");
            worker
                .holds
                .retain(|one| one.task != task || one.attempt != gone.attempt);
        }
        let left = u32::try_from(worker.holds.len()).expect("few");
        let credits = worker.capacity - left;
        self.grant(place, credits, true);
    }
}

fn hello(capacity: u32, kinds: &[String]) -> WorkerHello<'_> {
    WorkerHello {
        name: "simulated",
        host: "nowhere",
        pid: 1,
        uid: None,
        capacity,
        kinds,
        reconnect: None,
        held: &[],
    }
}
