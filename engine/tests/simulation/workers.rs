//! What workers do in the simulation, well or badly.

use qtf_engine::{
    Caller, Disposition, Held, Output, Reconnect, ResultReport, StopReason, TaskRef, WorkerHello,
};
use qtf_shm::{Now, Outcome, OutcomeKind, Phase, TaskId, WorkerId};
use qtf_world::{held_list, hello};

use crate::links::{Down, Link, LinkState, Says, Up};
use crate::model::Report;
use crate::world::World;

/// Cycles that an attempt takes at most.
const LONG: u64 = 1_200;

/// An attempt that a worker has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hold {
    pub(crate) one: TaskRef,
    pub(crate) is_started: bool,
    /// Runs until this cycle at least, unless it is stopped.
    pub(crate) until: u64,
    /// It was told to stop it.
    pub(crate) stop: Option<StopReason>,
}

/// One worker process.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "what has become of it, each by itself"
)]
pub(crate) struct SimWorker {
    pub(crate) id: WorkerId,
    token: u64,
    pub(crate) capacity: u32,
    pub(crate) kinds: Vec<String>,
    pub(crate) link: Link,
    /// Credits that the daemon knows of and has not used up.
    pub(crate) open: u32,
    pub(crate) holds: Vec<Hold>,
    /// Ended; no verdict has come.
    pub(crate) finished: Vec<(TaskRef, Report)>,
    /// It was told, or has found out, that it is no longer known.
    pub(crate) is_evicted: bool,
    pub(crate) drains: bool,
    /// It takes tasks and never begins them.
    pub(crate) is_lazy: bool,
    /// How its heartbeats say what it holds: not at all, as a number, by name.
    says: u8,
    /// The probe it was asked to answer.
    pub(crate) probe: u64,
    /// Nothing has ever gone wrong with it or its connection: while it has nothing it is as good as any.
    pub(crate) is_unhurt: bool,
}

impl SimWorker {
    /// By name, what it has.
    fn held(&self) -> Vec<Held> {
        let running = self.holds.iter().map(|hold| hold.one);
        held_list(running, self.finished.iter().map(|(one, _)| *one))
    }
}

fn said(report: &Report) -> ResultReport<'_> {
    ResultReport {
        said: qtf_engine::Said::default(),
        outcome: report.outcome,
        output: Output::Bytes(&report.output),
        asked_pause_ns: None,
    }
}

impl World {
    pub(crate) fn worker_joins(&mut self) {
        let capacity = self.rng.u32(1..5);
        let mut kinds = vec!["exec".to_owned()];
        for (kind, odds) in [("render", 128), ("odd", 24)] {
            if self.rng.u8(..) < odds {
                kinds.push(kind.to_owned());
            }
        }
        if self.rng.u8(..) < 16 {
            kinds.remove(0);
        }
        if kinds.is_empty() {
            kinds.push("odd".to_owned());
        }
        self.worker_joins_with(capacity, kinds);
        let is_lazy = self.has_faults() && self.rng.u8(..) < 24;
        if let Some(worker) = self.workers.last_mut() {
            worker.is_lazy = is_lazy;
            worker.is_unhurt = !is_lazy;
        }
    }

    pub(crate) fn worker_joins_with(&mut self, capacity: u32, kinds: Vec<String>) {
        let hello = hello(capacity, &kinds);
        let says = self.rng.u8(0..3);
        if let Ok(welcome) = self.base.engine.worker_hello(self.base.now, &hello) {
            self.workers.push(SimWorker {
                id: welcome.id,
                token: welcome.token,
                capacity,
                kinds,
                link: Link::new(),
                open: 0,
                holds: Vec::new(),
                says,
                finished: Vec::new(),
                is_evicted: false,
                drains: false,
                is_lazy: false,
                probe: 0,
                is_unhurt: true,
            });
            let place = self.workers.len() - 1;
            self.send_up(place, Up::Credits(capacity, true));
            self.read_link(place);
        }
    }

    /// What a worker says while it believes its connection to stand.
    fn send_up(&mut self, place: usize, message: Up) {
        let link = &mut self.workers[place].link;
        if link.state != LinkState::Cut {
            link.up.push_back(message);
        }
    }

    /// A worker that behaves, as far as its connection lets it.
    pub(crate) fn worker_acts(&mut self, place: usize) {
        let worker = &mut self.workers[place];
        if worker.link.state == LinkState::Cut || worker.is_evicted {
            if self.rng.u8(..) < 50 {
                self.worker_comes_back(place);
            }
            return;
        }
        self.worker_hears(place);
        let worker = &mut self.workers[place];
        let holding = u32::try_from(worker.holds.len()).expect("few");
        assert!(holding <= worker.capacity, "{worker:?}");
        if worker.probe != 0 {
            let nonce = std::mem::take(&mut worker.probe);
            self.send_up(place, Up::Answer(nonce));
        }
        self.worker_stops(place);
        match self.rng.u8(0..4) {
            0 => self.worker_starts(place),
            1 | 2 => self.worker_ends(place),
            _ => {}
        }
        self.worker_beats(place);
        if self.rng.u8(0..4) > 0 {
            self.read_link(place);
        }
    }

    /// It reads what was sent to it, perhaps not to the end.
    fn worker_hears(&mut self, place: usize) {
        let some = self.rng.u8(0..4) == 0;
        let worker = &mut self.workers[place];
        if !worker.link.is_up() {
            return;
        }
        let count = worker.link.down.len();
        let count = if some { count / 2 } else { count };
        let (rng, now) = (&mut self.rng, self.cycles);
        for message in worker.link.down.drain(..count) {
            match message {
                Down::Assign(one) => worker.holds.push(Hold {
                    one,
                    is_started: false,
                    until: if rng.u8(..) < 48 {
                        now + rng.u64(..LONG)
                    } else {
                        now
                    },
                    stop: None,
                }),
                Down::Stop(one, reason) => {
                    for hold in worker.holds.iter_mut().filter(|hold| hold.one == one) {
                        hold.stop = Some(reason);
                    }
                }
                Down::Probe(nonce) => worker.probe = nonce,
                Down::Drain => worker.drains = true,
                Down::Evict => worker.is_evicted = true,
            }
        }
    }

    fn worker_beats(&mut self, place: usize) {
        let worker = &self.workers[place];
        let says = match worker.says {
            0 => Says::Nothing,
            1 => Says::Count(u32::try_from(worker.holds.len()).expect("few")),
            _ => Says::Names(worker.held()),
        };
        let draining = worker.drains;
        self.send_up(place, Up::Beat { says, draining });
    }

    fn worker_starts(&mut self, place: usize) {
        if self.workers[place].is_lazy {
            return;
        }
        let worker = &mut self.workers[place];
        let mut begun = Vec::new();
        for hold in &mut worker.holds {
            hold.is_started = true;
            begun.push(hold.one);
        }
        for one in begun {
            self.send_up(place, Up::Started(one));
        }
    }

    /// What it was told to stop ends soon.
    fn worker_stops(&mut self, place: usize) {
        for hold in self.workers[place].holds.clone() {
            if let Some(reason) = hold.stop
                && self.rng.bool()
            {
                let kind = match reason {
                    StopReason::Cancelled => OutcomeKind::Cancelled,
                    StopReason::TimedOut | StopReason::Stale => OutcomeKind::TimedOut,
                };
                self.worker_is_done(place, hold.one, kind, 0);
            }
        }
    }

    pub(crate) fn worker_ends(&mut self, place: usize) {
        let worker = &self.workers[place];
        let over = |hold: &&Hold| hold.until <= self.cycles;
        let ready: Vec<Hold> = worker.holds.iter().filter(over).copied().collect();
        if ready.is_empty() || worker.is_lazy {
            return;
        }
        let hold = ready[self.rng.usize(..ready.len())];
        let (kind, code) = match self.rng.u8(0..6) {
            0 => (OutcomeKind::Exited, 1),
            1 => (OutcomeKind::Signalled, 9),
            _ => (OutcomeKind::Exited, 0),
        };
        self.worker_is_done(place, hold.one, kind, code);
    }

    fn worker_is_done(&mut self, place: usize, one: TaskRef, kind: OutcomeKind, code: u8) {
        let report = self.new_report(one, kind, code);
        let worker = &mut self.workers[place];
        worker.holds.retain(|hold| hold.one != one);
        worker.finished.push((one, report.clone()));
        self.send_up(place, Up::Result(one, report.clone()));
        if self.rng.u8(..) < 30 {
            // The verdict does not come in time: the same result once more.
            self.send_up(place, Up::Result(one, report));
        }
        self.send_up(place, Up::Credits(1, false));
    }

    /// Bytes that tell of which attempt they are.
    pub(crate) fn new_report(&mut self, one: TaskRef, kind: OutcomeKind, code: u8) -> Report {
        let attempt = u16::try_from(one.attempt).expect("attempts have 12 bits");
        let mark = one.task.as_raw() ^ (u64::from(attempt) << 56);
        let count = if self.rng.bool() {
            0
        } else {
            self.rng.usize(1..40)
        };
        Report {
            attempt,
            outcome: Outcome {
                kind,
                code,
                result_dropped: false,
                output_cut: false,
            },
            output: mark.to_le_bytes().repeat(count),
        }
    }

    /// The attempt has run beyond its limit and the grace, and its result was not there before its worker came back.
    fn is_late(&self, id: WorkerId, one: TaskRef) -> bool {
        let task = self.base.engine.segment().task(one.task.slot());
        let state = task.state();
        let limit_ns = u64::from(task.timeout_ms()) * 1_000_000;
        let over = Now::from_stamp(task.phase_time())
            .plus_ns(limit_ns)
            .plus_ns(self.base.engine.config().stop_grace_ns);
        let came_with = self.came_with.get(&id);
        limit_ns > 0
            && state.is_of(one.task)
            && state.phase() == Phase::Running
            && self.base.now.has_reached(over.stamp())
            && !came_with.is_some_and(|ended| ended.contains(&one))
    }

    /// Delivers the results of a message, and tells the model what became of each.
    pub(crate) fn report(&mut self, id: WorkerId, reports: &[(TaskRef, Report)]) {
        let told: Vec<_> = reports
            .iter()
            .map(|(one, report)| (*one, said(report)))
            .collect();
        let late: Vec<bool> = reports
            .iter()
            .map(|(one, _)| self.is_late(id, *one))
            .collect();
        let caller = Caller {
            now: self.base.now,
            who: id,
        };
        let mut answers = Vec::new();
        let engine = &mut self.base.engine;
        engine.results_batch(caller, &told, |answer| answers.push(answer.disposition));
        assert_eq!(answers.len(), reports.len(), "each result has a verdict");
        for ((one, report), (told, is_late)) in reports.iter().zip(answers.into_iter().zip(late)) {
            if told == Disposition::Recorded {
                let mut report = report.clone();
                if is_late && report.is_success() {
                    report.outcome.kind = OutcomeKind::TimedOut;
                }
                // Judged in the same call.
                self.model.recorded(one.task, report, self.cycles + 2);
            }
            self.note(one.task, told as u64);
        }
    }

    pub(crate) fn verdict(&mut self, place: usize, one: TaskRef) {
        let worker = &mut self.workers[place];
        worker.finished.retain(|(held, _)| *held != one);
        self.ghosts.push((worker.id, one));
    }

    /// Something goes wrong with a worker.
    pub(crate) fn worker_suffers(&mut self, place: usize) {
        self.workers[place].is_unhurt = false;
        match self.rng.u8(0..11) {
            9 | 10 => self.lose_orders(place),
            0 => self.worker_dies(place, true),
            1 => self.worker_dies(place, false),
            2 => {
                let worker = self.workers.swap_remove(place);
                self.base.engine.worker_goodbye(self.base.now, worker.id);
                self.remember(&worker);
            }
            3 => {
                let id = self.workers[place].id;
                let _ = self.base.engine.drain_worker(self.base.now, id);
            }
            4 | 5 => self.cut_link(place),
            6 => {
                let link = &mut self.workers[place].link;
                if link.is_up() {
                    link.state = LinkState::BlackHole;
                }
            }
            _ => {
                self.cut_link(place);
                self.worker_comes_back(place);
            }
        }
    }

    fn worker_dies(&mut self, place: usize, is_told: bool) {
        let worker = self.workers.swap_remove(place);
        if is_told {
            self.base.engine.worker_gone(self.base.now, worker.id);
        }
        self.remember(&worker);
    }

    /// What a worker held may still come in late.
    fn remember(&mut self, worker: &SimWorker) {
        let held = worker.holds.iter().map(|hold| hold.one);
        let finished = worker.finished.iter().map(|(one, _)| *one);
        self.ghosts
            .extend(held.chain(finished).map(|one| (worker.id, one)));
    }

    /// An old result comes in once more, or much too late.
    pub(crate) fn ghost_speaks(&mut self) {
        if self.ghosts.is_empty() {
            return;
        }
        let (id, one) = self.ghosts.swap_remove(self.rng.usize(..self.ghosts.len()));
        let is_held = self.workers.iter().any(|worker| {
            worker.id == id
                && (worker.holds.iter().any(|hold| hold.one == one)
                    || worker.finished.iter().any(|(held, _)| *held == one)
                    || worker.link.down.contains(&Down::Assign(one)))
        });
        if !is_held {
            let report = self.new_report(one, OutcomeKind::Exited, 0);
            self.report(id, &[(one, report)]);
        }
    }

    /// A worker opens its streams again, with what it holds; some of it may have got lost.
    pub(crate) fn worker_comes_back(&mut self, place: usize) {
        self.cut_link(place);
        let segment_id = self.base.engine.segment().header().segment_id;
        let forgets = self.has_faults() && self.rng.u8(..) < 40;
        let worker = &mut self.workers[place];
        if forgets {
            worker.holds.pop();
        }
        let held = worker.held();
        let hello = WorkerHello {
            reconnect: Some(Reconnect {
                worker_id: worker.id.as_raw(),
                token: worker.token,
                segment_id,
            }),
            held: &held,
            ..hello(worker.capacity, &worker.kinds)
        };
        let Ok(welcome) = self.base.engine.worker_hello(self.base.now, &hello) else {
            worker.is_evicted = true;
            return;
        };
        assert_eq!(welcome.is_known, welcome.id == worker.id);
        worker.is_evicted = false;
        worker.drains &= welcome.is_known;
        worker.link = Link::new();
        (worker.id, worker.token) = (welcome.id, welcome.token);
        for gone in welcome.abandon {
            let task = TaskId::from_raw(gone.task_id).expect("it came from the engine");
            let is_it = |one: &TaskRef| one.task == task && one.attempt == gone.attempt;
            worker.holds.retain(|hold| !is_it(&hold.one));
            worker.finished.retain(|(one, _)| !is_it(one));
        }
        let finished = worker.finished.clone();
        if welcome.is_known {
            let ended = finished.iter().map(|(one, _)| *one).collect();
            self.came_with.insert(welcome.id, ended);
        }
        let left = u32::try_from(worker.holds.len()).expect("few");
        let credits = worker.capacity.saturating_sub(left);
        for (one, report) in finished {
            self.send_up(place, Up::Result(one, report));
        }
        self.send_up(place, Up::Credits(credits, true));
        self.read_link(place);
    }
}
