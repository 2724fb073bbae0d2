//! The worker's one loop: keeps a link to the daemon, and decides what runs and what is said when.
//!
//! Invariants:
//! - A1: the loop never waits for the daemon to read: what has no room in a queue is gathered into the
//!   next message.
//! - A2: what runs and what is to be delivered outlives a link; only an eviction, another segment or an
//!   unknown worker id ends it.
//! - A3: results go out at once, all that wait in one message; credits go with them, or follow in the same flush. Where gathering is asked for they
//!   wait that long at most, and only while there is enough to run besides. Starts alone wait a millisecond, so that most need not be told.
//!
//! `events` is what happens here, `tasks` holds the state, `start` starts attempts, `programs` has the threads on which programs run, `link` has the streams, `serve` the loop while there is a link.

mod events;
mod link;
mod programs;
mod serve;
mod start;
mod tasks;

use core::time::Duration;

use qtf_proto::channel::Pace;
use qtf_proto::v1::{Outcome, TaskRef, WorkerHello, WorkerWelcome};
use qtf_proto::version::PROTOCOL_VERSION;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::attempt;
use crate::builder::{Settings, WorkerError};
use crate::handler::Runner;
use crate::transfer::Access;
use events::Event;
use link::{LinkError, Session};
use programs::{Programs, Tell};
use start::Starts;
use tasks::{RunNumber, Tasks};

const BACKOFF_FIRST: Duration = Duration::from_millis(50);
// A good part shorter than a lease: a daemon that is started again gives each worker one lease to come back.
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// Time between two turns of the loop.
const TURN_MAX: Duration = Duration::from_secs(2);
/// A link that held for so long was a good one.
const GOOD_LINK: Duration = Duration::from_secs(2);
/// Largest output when the daemon does not say.
const OUTPUT_LIMIT_BYTES: u64 = 64 << 20;
/// What is killed has this long to be gone before the worker leaves.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);

/// What the program that holds the worker asks of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Control {
    /// Finish and leave.
    Drain,
    /// Kill and leave.
    Abort,
}

/// On its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    No,
    /// Takes nothing new, finishes what runs until then.
    Draining {
        until: Instant,
    },
    /// What runs is being stopped; gone then at the latest.
    Stopping {
        until: Instant,
    },
}

/// Who the worker is for the daemon.
#[derive(Clone, Copy, Debug)]
struct Registration {
    worker_id: u64,
    token: u64,
    segment_id: u64,
}

#[derive(Debug)]
pub(crate) struct Agent {
    settings: Settings,
    control: mpsc::Receiver<Control>,
    tasks: Tasks,
    programs: Programs,
    /// At most one ending and one upload for each attempt that is held, so it needs no bound of its own.
    events: mpsc::UnboundedReceiver<Event>,
    event_sender: mpsc::UnboundedSender<Event>,
    registration: Option<Registration>,
    /// Of the last welcome's lease.
    pace: Pace,
    access: watch::Sender<Option<Access>>,
    output_limit_bytes: u64,
    leaving: Leaving,
    starts: Starts,
    /// What there is to tell has waited for others already.
    is_gathered: bool,
    /// The machine was short of something: nothing is started before, unless something ends.
    short_until: Option<Instant>,
    shortage_told: Option<Instant>,
    link_number: u64,
}

enum Opened {
    Session(Box<Session>),
    Failed(LinkError),
    Left,
}

impl Agent {
    pub(crate) fn new(settings: Settings, control: mpsc::Receiver<Control>) -> Self {
        let (event_sender, events) = mpsc::unbounded_channel();
        let tasks = Tasks::new(settings.slots, settings.capacity());
        let is_program = |runner: &Runner| matches!(runner, Runner::Exec);
        let runs_programs = settings.kinds.values().any(is_program);
        let told = event_sender.clone();
        let tell = Tell(Box::new(move |news| {
            // A closed queue means that the agent is gone, and with it the wish to know.
            let _ = told.send(Event::Programs(news));
        }));
        let programs = if runs_programs {
            let pace = programs::Pace {
                slots: settings.slots,
                ahead: settings.prefetch,
                gather: settings.gather,
            };
            Programs::start(&pace, &settings.exec, tell)
        } else {
            Programs::none(tell)
        };
        Self {
            programs,
            settings,
            control,
            tasks,
            events,
            event_sender,
            registration: None,
            pace: Pace::default(),
            access: watch::Sender::new(None),
            output_limit_bytes: OUTPUT_LIMIT_BYTES,
            leaving: Leaving::No,
            starts: Starts::here(),
            is_gathered: false,
            short_until: None,
            shortage_told: None,
            link_number: 0,
        }
    }

    /// Works until it is told to leave.
    pub(crate) async fn run(mut self) -> Result<(), WorkerError> {
        let mut backoff = BACKOFF_FIRST;
        let mut is_told = false;
        loop {
            let error = match self.open().await {
                Opened::Left => return Ok(()),
                Opened::Failed(error) => error,
                Opened::Session(session) => {
                    is_told = false;
                    let linked_at = Instant::now();
                    let end = self.serve(*session).await;
                    // What an upload over that link comes to counts for nothing from now on: the next one begins anew.
                    self.link_number += 1;
                    if linked_at.elapsed() > GOOD_LINK {
                        backoff = BACKOFF_FIRST;
                    }
                    self.access.send_replace(None);
                    match end {
                        None => return Ok(()),
                        Some(error) => error,
                    }
                }
            };
            match error {
                LinkError::Refused(message) => {
                    let address = self.settings.address.to_string();
                    return Err(WorkerError::Refused { address, message });
                }
                LinkError::UnknownWorker => {
                    tracing::warn!("the daemon does not know this worker any more");
                    self.forget_registration();
                }
                LinkError::Untrusted(cause) if self.registration.is_none() => {
                    return Err(WorkerError::Untrusted { cause });
                }
                // Whoever is there now gets nothing; what runs is for the daemon that will come back.
                LinkError::Untrusted(cause) | LinkError::Broken(cause) => {
                    let address = &self.settings.address;
                    if is_told {
                        tracing::debug!(%address, cause, "still no link to the daemon");
                    } else {
                        tracing::warn!(%address, cause, "no link to the daemon, trying again");
                    }
                    is_told = true;
                }
            }
            // Between half and all of it, so that a thousand workers do not come back as one.
            let pause = backoff.mul_f64(fastrand::f64().mul_add(0.5, 0.5));
            if self.attending(tokio::time::sleep(pause)).await.is_none() {
                return Ok(());
            }
            backoff = backoff.saturating_mul(2).min(BACKOFF_MAX);
        }
    }

    /// Registers, while it goes on listening to what happens.
    async fn open(&mut self) -> Opened {
        let known = self.registration;
        let hello = WorkerHello {
            name: self.settings.name.clone(),
            host: self.settings.host.clone(),
            pid: std::process::id(),
            capacity: self.settings.capacity(),
            kinds: self.settings.kinds.keys().cloned().collect(),
            worker_id: known.map_or(0, |known| known.worker_id),
            token: known.map_or(0, |known| known.token),
            segment_id: known.map_or(0, |known| known.segment_id),
            held: self.tasks.held(),
            protocol_version: PROTOCOL_VERSION,
        };
        let address = self.settings.address.clone();
        let mut pace = self.pace;
        let opened = self
            .attending(link::register(address, hello, &mut pace))
            .await;
        self.pace = pace;
        match opened {
            Some(Ok(session)) => Opened::Session(Box::new(session)),
            Some(Err(error)) => Opened::Failed(error),
            None => Opened::Left,
        }
    }

    /// Awaits one step of opening a link, while it goes on listening to what happens; `None` when it is
    /// time to leave instead.
    async fn attending<T>(&mut self, step: impl Future<Output = T>) -> Option<T> {
        let mut step = core::pin::pin!(step);
        loop {
            self.settings.vitals.turned(self.tasks.holding());
            self.starts.look_up();
            if self.may_leave_unlinked() {
                return None;
            }
            let until = self.leaving_until();
            tokio::select! {
                result = &mut step => return Some(result),
                () = tokio::time::sleep_until(next_turn()) => {}
                event = self.events.recv() => self.on_event(event),
                control = next_control(&mut self.control) => self.on_control(control),
                () = at(until) => self.on_leaving_time(),
                () = at(self.short_until) => self.try_again(),
                () = self.starts.go_on() => self.start_tasks(),
            }
        }
    }

    /// Takes a welcome: who we are now, and what of the earlier session is still ours.
    fn on_welcome(&mut self, welcome: &WorkerWelcome, access: Access) {
        self.take_back();
        let news = Registration {
            worker_id: welcome.worker_id,
            token: welcome.token,
            segment_id: welcome.segment_id,
        };
        let is_same = self.registration.is_some_and(|known| {
            known.worker_id == news.worker_id && known.segment_id == news.segment_id
        });
        if !is_same {
            self.tasks.abandon_all();
        }
        for task in &welcome.abandon {
            self.tasks.abandon((*task).into());
        }
        self.registration = Some(news);
        self.output_limit_bytes = match welcome.output_limit_bytes {
            0 => OUTPUT_LIMIT_BYTES,
            said => said,
        };
        self.warn_of_limits();
        self.link_number += 1;
        self.tasks.relink();
        self.access.send_replace(Some(access));
        let worker = qtf_shm::WorkerId::from_raw(welcome.worker_id);
        let worker = worker.map_or_else(|| "?".to_owned(), |worker| worker.to_string());
        let address = &self.settings.address;
        self.settings.vitals.registered();
        tracing::info!(name: "worker-registered", worker, %address, slots = self.settings.slots, "registered");
    }

    /// Before an output is cut, and not only then.
    fn warn_of_limits(&self) {
        let taken = attempt::each_output_limit(self.output_limit_bytes);
        let asked = self.settings.exec.output_limit_bytes;
        let runs_programs = self
            .settings
            .kinds
            .values()
            .any(|runner| matches!(runner, Runner::Exec));
        if runs_programs && asked > taken {
            tracing::warn!(
                output_limit = asked,
                taken,
                "the daemon takes less of each output than --output-limit says: raise its payload_bytes_max to twice that, and a little"
            );
        }
    }

    /// Told only to who asks for debug lines: each attempt would be a line.
    fn tell_end(&self, run: RunNumber, outcome: &Outcome) {
        if !tracing::enabled!(tracing::Level::DEBUG) {
            return;
        }
        let Some(task) = self.tasks.task_of(run) else {
            return;
        };
        let id = self.registration.map_or(0, |known| known.worker_id);
        let worker = qtf_shm::WorkerId::from_raw(id);
        tracing::debug!(
            name: "attempt-ended",
            task = task_text(task),
            attempt = task.attempt,
            worker = worker.map_or_else(|| "?".to_owned(), |worker| worker.to_string()),
            reason = outcome.kind().as_str_name(),
            "attempt ended"
        );
    }

    fn forget_registration(&mut self) {
        self.take_back();
        self.registration = None;
        self.tasks.abandon_all();
    }

    /// Without a link: when nothing is left that a daemon would want to know, or time is up.
    fn may_leave_unlinked(&self) -> bool {
        match self.leaving {
            Leaving::No => false,
            Leaving::Draining { .. } => self.tasks.is_quiet(),
            Leaving::Stopping { until } => self.tasks.is_idle() || Instant::now() >= until,
        }
    }

    const fn leaving_until(&self) -> Option<Instant> {
        match self.leaving {
            Leaving::No => None,
            Leaving::Draining { until } | Leaving::Stopping { until } => Some(until),
        }
    }

    fn on_control(&mut self, control: Control) {
        match (control, self.leaving) {
            (Control::Drain, Leaving::No) => self.drain("it was told to"),
            (Control::Drain, _) => {}
            (Control::Abort, _) => {
                tracing::info!("killing what runs and leaving");
                self.take_back();
                self.tasks.kill_all();
                let until = Instant::now() + KILL_TIMEOUT;
                self.leaving = Leaving::Stopping { until };
            }
        }
    }

    fn drain(&mut self, why: &str) {
        if self.leaving == Leaving::No {
            tracing::info!(why, "draining: finishes what runs, takes nothing new");
            self.take_back();
            let until = Instant::now() + self.settings.drain_timeout;
            self.leaving = Leaving::Draining { until };
        }
    }

    /// The time of the present way of leaving is over.
    fn on_leaving_time(&mut self) {
        if let Leaving::Draining { .. } = self.leaving {
            tracing::warn!("the drain timeout is over: stopping what runs, handing it back");
            self.tasks.abandon_unfinished();
            let until = Instant::now() + self.settings.exec.stop_grace + KILL_TIMEOUT;
            self.leaving = Leaving::Stopping { until };
        }
    }
}

/// A task as people name it.
fn task_text(task: TaskRef) -> String {
    let id = qtf_shm::TaskId::from_raw(task.task_id);
    id.map_or_else(|| task.task_id.to_string(), |id| id.to_string())
}

async fn next_control(control: &mut mpsc::Receiver<Control>) -> Control {
    match control.recv().await {
        Some(control) => control,
        None => core::future::pending().await,
    }
}

/// The loop comes round so often, also when nothing happens: whoever watches it must see that it does.
fn next_turn() -> Instant {
    Instant::now() + TURN_MAX
}

async fn at(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => core::future::pending().await,
    }
}
