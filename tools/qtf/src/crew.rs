//! A daemon and workers inside this process, for `qtf map` without a daemon and for `qtf dev`.
//!
//! The daemon runs on its own thread, each worker on another with its own runtime, so that neither
//! waits for this program's input or output. Invariant: after [`Crew::stop`], and after the process
//! has ended in whatever way, no segment and no process of theirs is left.
//! Tested in `tests/map_ends.rs` and `tests/dev.rs`.

use std::num::NonZero;
use std::thread::JoinHandle;
use std::time::Duration;

use qtf_daemon::config::RawConfig;
use qtf_daemon::{Daemon, RunningDaemon, Settings};
use qtf_proto::address::Address;
use qtf_worker::{ExecPolicy, Worker, WorkerError, prepare_containment, raise_descriptor_limit};
use tokio::sync::oneshot;

use crate::exit::{Exit, Failure};
use crate::output::message;

/// LIMIT: the most that a daemon takes of a task's stdout and stderr together: a reference has 30 bits for a length.
const MAP_RESULT_BYTES_MAX: u64 = (1 << 30) - 1;
/// Of each of the two, with room for what is around them.
const MAP_OUTPUT_BYTES_MAX: u64 = MAP_RESULT_BYTES_MAX / 2 - (4 << 10);
/// Room for some times the tasks that are in flight at once, and for the outputs that are held: a larger one takes longer to make than the
/// shortest run takes.
const MAP_SEGMENT_BYTES: u64 = 128 << 20;
/// The disk is the limit of what is kept for all tasks together.
const MAP_SPILL_BYTES_MAX: u64 = 1 << 60;

/// For connections, files and sockets of the daemon beside what its workers run.
const DAEMON_DESCRIPTORS: u64 = 2_048;

/// LIMIT: tasks that wait in the worker of `qtf map` itself, so that a slot has the next one at once; for many slots, as many as those.
const MAP_AHEAD: u32 = 512;
/// The most that a worker can hold, running and waiting.
const HELD_MAX: u32 = 65_535;
/// How long an end may wait for others, while there are enough tasks besides: less than anybody sees.
const MAP_GATHER: Duration = Duration::from_millis(50);

/// How tasks come to a worker, and news from it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    ahead: u32,
    gather: Duration,
}

impl Pace {
    /// A task for each free slot, and news at once: a task that waits could be run by another worker.
    pub(crate) const ONE_BY_ONE: Self = Self {
        ahead: 0,
        gather: Duration::ZERO,
    };

    /// For a worker that gets all tasks anyway.
    fn of_the_only_worker(slots: u16) -> Self {
        let slots = u32::from(slots);
        Self {
            ahead: slots.max(MAP_AHEAD).min(HELD_MAX - slots),
            gather: MAP_GATHER,
        }
    }
}

/// A daemon and its workers.
#[derive(Debug)]
pub(crate) struct Crew {
    daemon: RunningDaemon,
    workers: Vec<WorkerThread>,
    slots: u16,
    pace: Pace,
}

#[derive(Debug)]
struct WorkerThread {
    name: String,
    shutdown: oneshot::Sender<()>,
    ended: oneshot::Receiver<Result<(), WorkerError>>,
    thread: JoinHandle<()>,
}

/// Slots of a worker when nothing is said: one for each CPU this process may use.
pub(crate) fn default_slots() -> u16 {
    let cpus = std::thread::available_parallelism().map_or(1, NonZero::get);
    u16::try_from(cpus).unwrap_or(u16::MAX)
}

impl Crew {
    /// Starts a daemon and a worker that only this process can reach, for commands of its own user:
    /// they see the environment of the shell, as they would without a scheduler.
    pub(crate) fn start_for_map(slots: u16, policy: ExecPolicy) -> Result<Self, Failure> {
        let policy = policy
            .output_limit_bytes(MAP_OUTPUT_BYTES_MAX)
            .inherit_environment(true);
        let limits = RawConfig {
            segment_bytes: Some(MAP_SEGMENT_BYTES),
            payload_bytes_max: Some(MAP_RESULT_BYTES_MAX),
            spill_limit_bytes: Some(MAP_SPILL_BYTES_MAX),
            // The cores are the programs': the daemon looks for work only when it is told of some, and each of its sleeps and
            // wakes costs least this way.
            idle: Some("sleep".to_owned()),
            network: Some("tokio".to_owned()),
            ..RawConfig::default()
        };
        let settings = Settings::private_with(limits)
            .map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
        let pace = Pace::of_the_only_worker(slots);
        Crew::start(settings, 1, (slots, pace), &policy)
    }

    /// Starts a daemon and its workers.
    pub(crate) fn start(
        settings: Settings,
        workers: u16,
        (slots, pace): (u16, Pace),
        policy: &ExecPolicy,
    ) -> Result<Self, Failure> {
        // Before anything is opened: what guards the tasks takes a copy of this process.
        prepare_containment(policy.containment)
            .map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
        let running = u32::from(workers).saturating_mul(slots.into());
        let carried = raise_descriptor_limit(running, DAEMON_DESCRIPTORS);
        let slots = if carried < running {
            let each = (carried / u32::from(workers.max(1))).max(1);
            message(format!(
                "going on with {} of {running} slots, as the limits of open files and processes carry no more: raise `ulimit -n` or `ulimit -u`",
                each.saturating_mul(workers.into())
            ));
            u16::try_from(each).unwrap_or(slots)
        } else {
            slots
        };
        let daemon = Daemon::start(settings).map_err(|error| {
            let exit = if error.exit() == qtf_daemon::Exit::Usage {
                Exit::Usage
            } else {
                Exit::Unreachable
            };
            Failure::new(exit, format!("cannot start a daemon: {error}"))
        })?;
        let info = daemon.info();
        if let Some(why) = &info.segment_shortage {
            message(format!(
                "going on with {} KiB: {why}",
                info.segment_bytes >> 10
            ));
        }
        let mut crew = Crew {
            daemon,
            workers: Vec::new(),
            slots,
            pace,
        };
        for number in 1..=workers {
            let worker =
                WorkerThread::start(crew.address(), number, (slots, pace), policy.clone())?;
            crew.workers.push(worker);
        }
        Ok(crew)
    }

    /// The way in from this process.
    pub(crate) fn address(&self) -> Address {
        Address::InProcess(self.daemon.in_process())
    }

    /// The daemon.
    pub(crate) fn daemon(&self) -> &RunningDaemon {
        &self.daemon
    }

    /// Slots of each worker.
    pub(crate) const fn slots_of_each(&self) -> u16 {
        self.slots
    }

    /// Tasks that its workers take ahead.
    pub(crate) fn ahead(&self) -> usize {
        let each = usize::try_from(self.pace.ahead).unwrap_or(usize::MAX);
        self.workers.len().saturating_mul(each)
    }

    /// Slots of all workers.
    pub(crate) fn slots(&self) -> usize {
        self.workers.len().saturating_mul(self.slots.into())
    }

    /// Waits until a part ends by itself, which none should. A worker that was drained may: the
    /// others and the daemon go on.
    pub(crate) async fn ended_by_itself(&mut self) -> Failure {
        let failed = |what: String| Failure::new(Exit::Unreachable, what);
        loop {
            let workers = self.workers.iter_mut().map(|worker| &mut worker.ended);
            let any_worker = async {
                match workers.collect::<Vec<_>>() {
                    workers if workers.is_empty() => std::future::pending().await,
                    workers => futures_util::future::select_all(workers).await,
                }
            };
            let (ended, at, _) = tokio::select! {
                () = self.daemon.ended() => return failed("the daemon ended by itself".to_owned()),
                ended = any_worker => ended,
            };
            let worker = self.workers.remove(at);
            match ended {
                Ok(Ok(())) => message(format!(
                    "worker {} was drained and has left; {} left in this process",
                    worker.name,
                    self.workers.len()
                )),
                Ok(Err(error)) => return failed(format!("worker {} ended: {error}", worker.name)),
                Err(_) => return failed(format!("worker {} ended by itself", worker.name)),
            }
        }
    }

    /// Lets the workers end, then the daemon. Tasks that still run are ended by their workers.
    pub(crate) async fn stop(self) -> Result<(), Failure> {
        let Crew {
            daemon, workers, ..
        } = self;
        let mut threads = Vec::new();
        for worker in workers {
            // A worker that has ended does not listen.
            let _told = worker.shutdown.send(());
            threads.push(worker.thread);
        }
        let join = move || {
            for thread in threads {
                // A panic would have ended the process.
                drop(thread.join());
            }
            daemon.stop()
        };
        let stopped = tokio::task::spawn_blocking(join).await;
        let failed = |error: &dyn std::fmt::Display| {
            Failure::new(Exit::Unreachable, format!("the own daemon: {error}"))
        };
        stopped
            .map_err(|error| failed(&error))?
            .map_err(|error| failed(&error))
    }
}

impl WorkerThread {
    fn start(
        address: Address,
        number: u16,
        (slots, pace): (u16, Pace),
        policy: ExecPolicy,
    ) -> Result<Self, Failure> {
        let (shutdown, told) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let failed = |error: &dyn std::fmt::Display| {
            Failure::new(Exit::Unreachable, format!("cannot start a worker: {error}"))
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| failed(&error))?;
        let name = format!("local-{number}");
        let worker = Worker::builder(address)
            .name(name.clone())
            .slots(slots.into())
            .prefetch(pace.ahead)
            .gather(pace.gather)
            .exec(policy)
            .build()
            .map_err(|error| failed(&error))?;
        let run = move || {
            // A sender that was dropped means the same as a word through it.
            let abort = async { drop(told.await) };
            let result = runtime.block_on(worker.run_with_abort(std::future::pending(), abort));
            let _nobody_asks = end.send(result);
        };
        let thread = std::thread::Builder::new().name(format!("qtf-worker-{number}"));
        let thread = thread.spawn(run).map_err(|error| failed(&error))?;
        Ok(WorkerThread {
            name,
            shutdown,
            ended,
            thread,
        })
    }
}
