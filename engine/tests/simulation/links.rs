//! The connection of a worker: in order, and gone at once with all that is under way.
//!
//! It is up; or it is a black hole, which nobody has noticed yet: what is sent is never heard; or it is cut, and both sides know. A
//! worker that comes back has a new one.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a run is of one sort of message; everything else ends it"
)]

use std::collections::VecDeque;

use qtf_engine::{Beat, Caller, Effect, Held, Holding, StopReason, TaskRef};
use qtf_shm::TaskId;

use crate::model::Report;
use crate::world::World;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkState {
    Up,
    BlackHole,
    Cut,
}

/// To the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Down {
    Assign(TaskRef),
    Stop(TaskRef, StopReason),
    Probe(u64),
    Drain,
    Evict,
}

/// What a heartbeat says of what its worker holds: each worker says it as it likes.
#[derive(Debug, Clone)]
pub(crate) enum Says {
    Nothing,
    Count(u32),
    Names(Vec<Held>),
}

impl Says {
    fn holding(&self) -> Holding<'_> {
        match self {
            Self::Nothing => Holding::Unsaid,
            Self::Count(count) => Holding::Count(*count),
            Self::Names(held) => Holding::Named(held),
        }
    }
}

/// To the daemon.
#[derive(Debug, Clone)]
pub(crate) enum Up {
    Beat { says: Says, draining: bool },
    Started(TaskRef),
    Result(TaskRef, Report),
    Credits(u32, bool),
    Answer(u64),
}

#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) state: LinkState,
    pub(crate) down: VecDeque<Down>,
    pub(crate) up: VecDeque<Up>,
    /// Heartbeats that came through.
    pub(crate) beats: u64,
}

impl Link {
    pub(crate) const fn new() -> Self {
        Self {
            state: LinkState::Up,
            down: VecDeque::new(),
            up: VecDeque::new(),
            beats: 0,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.state == LinkState::Up
    }
}

impl World {
    /// What the daemon sends to a worker. Orders for a worker without a stream reach nobody.
    pub(crate) fn send_down(&mut self, effect: Effect) {
        let (worker, message) = match effect {
            Effect::Dispatch {
                worker,
                task,
                attempt,
            } => (worker, Down::Assign(task_ref(task, attempt))),
            Effect::Stop {
                worker,
                task,
                attempt,
                reason,
            } => (worker, Down::Stop(task_ref(task, attempt), reason)),
            Effect::Probe { worker, nonce } => (worker, Down::Probe(nonce)),
            Effect::Evict { worker } => (worker, Down::Evict),
            Effect::Drain { worker } => (worker, Down::Drain),
            Effect::Finished { .. } => return,
        };
        let to = self.workers.iter_mut().find(|to| to.id == worker);
        if let Some(to) = to.filter(|to| to.link.state != LinkState::Cut) {
            if let Down::Assign(_) = message {
                assert!(to.open > 0, "{to:?} got more than it granted");
                to.open -= 1;
            }
            to.link.down.push_back(message);
        } else if let Down::Assign(one) = message {
            let taken_back = self
                .base
                .engine
                .dispatch_undelivered(self.base.now, worker, one);
            if !taken_back {
                self.ghosts.push((worker, one));
            }
        }
    }

    /// The daemon reads what has come from a worker.
    pub(crate) fn read_link(&mut self, place: usize) {
        if !self.workers[place].link.is_up() {
            return;
        }
        while let Some(message) = self.workers[place].link.up.pop_front() {
            let id = self.workers[place].id;
            let is_known = match message {
                Up::Beat { says, draining } => {
                    let beat = Beat {
                        holding: says.holding(),
                        draining,
                        ..Beat::default()
                    };
                    let answer = self.base.engine.worker_beat(self.base.now, id, &beat);
                    self.workers[place].link.beats += u64::from(answer.is_ok());
                    answer.is_ok()
                }
                Up::Started(one) => {
                    let begun = self.run_of(place, one, |up| match up {
                        Up::Started(one) => Some(*one),
                        _ => None,
                    });
                    let caller = Caller {
                        now: self.base.now,
                        who: id,
                    };
                    self.base.engine.started_batch(caller, begun.into_iter());
                    true
                }
                Up::Result(one, report) => {
                    let ended = self.run_of(place, (one, report), |up| match up {
                        Up::Result(one, report) => Some((*one, report.clone())),
                        _ => None,
                    });
                    self.report(id, &ended);
                    for (one, _) in ended {
                        self.verdict(place, one);
                    }
                    true
                }
                Up::Credits(credits, restart) => {
                    let answer =
                        self.base
                            .engine
                            .worker_credits(self.base.now, id, credits, restart);
                    let worker = &mut self.workers[place];
                    if answer.is_ok() {
                        let before = if restart { 0 } else { worker.open };
                        worker.open = before + credits;
                    }
                    answer.is_ok()
                }
                Up::Answer(nonce) => {
                    self.base.engine.probe_answered(self.base.now, id, nonce);
                    true
                }
            };
            if !is_known {
                self.workers[place].is_evicted = true;
            }
        }
    }

    /// What has come of the same sort right behind the first, which is taken as what one message says.
    fn run_of<T>(&mut self, place: usize, first: T, is_one: impl Fn(&Up) -> Option<T>) -> Vec<T> {
        let up = &mut self.workers[place].link.up;
        let mut run = vec![first];
        while let Some(next) = up.front().and_then(&is_one) {
            up.pop_front();
            run.push(next);
        }
        run
    }

    /// The connection breaks, and both sides notice: what was under way is lost. The daemon takes back what it knows it has not sent.
    pub(crate) fn cut_link(&mut self, place: usize) {
        let worker = &mut self.workers[place];
        let was = std::mem::replace(&mut worker.link.state, LinkState::Cut);
        if was == LinkState::Cut {
            return;
        }
        let id = worker.id;
        (worker.open, worker.probe) = (0, 0);
        worker.link.up.clear();
        let under_way: Vec<Down> = worker.link.down.drain(..).collect();
        // Nothing is known of a worker that is no longer believed in.
        let _ = self.base.engine.worker_credits(self.base.now, id, 0, true);
        let mut is_unsent = false;
        for message in under_way {
            is_unsent |= self.rng.u8(0..4) == 0;
            if let Down::Assign(one) = message
                && !(is_unsent
                    && self
                        .base
                        .engine
                        .dispatch_undelivered(self.base.now, id, one))
            {
                self.ghosts.push((id, one));
            }
        }
    }

    /// The stream of orders alone breaks and is opened again, without a new hello: what was on it is lost, but for tasks, which the daemon
    /// takes back.
    pub(crate) fn lose_orders(&mut self, place: usize) {
        let worker = &mut self.workers[place];
        if !worker.link.is_up() {
            return;
        }
        let id = worker.id;
        let under_way: Vec<Down> = worker.link.down.drain(..).collect();
        let mut taken_back = 0;
        for message in under_way {
            match message {
                Down::Assign(one) => {
                    taken_back += 1;
                    if !self
                        .base
                        .engine
                        .dispatch_undelivered(self.base.now, id, one)
                    {
                        self.ghosts.push((id, one));
                    }
                }
                Down::Drain | Down::Evict => self.workers[place].link.down.push_back(message),
                Down::Stop(..) | Down::Probe(_) => {}
            }
        }
        self.workers[place]
            .link
            .up
            .push_back(Up::Credits(taken_back, false));
        self.read_link(place);
    }

    /// All connections of a daemon that has died.
    pub(crate) fn lose_links(&mut self) {
        for worker in &mut self.workers {
            worker.link.state = LinkState::Cut;
            worker.is_unhurt = false;
            (worker.open, worker.probe) = (0, 0);
            worker.link.up.clear();
            let id = worker.id;
            for message in worker.link.down.drain(..) {
                if let Down::Assign(one) = message {
                    self.ghosts.push((id, one));
                }
            }
        }
    }
}

fn task_ref(task: TaskId, attempt: u16) -> TaskRef {
    TaskRef {
        task,
        attempt: u32::from(attempt),
    }
}
