//! [`Worker`] and how it is described.

use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::Arc;

use qtf_proto::address::Address;
use tokio::sync::mpsc;

use crate::agent::{Agent, Control};
use crate::contain::{ContainError, Presence};
use crate::exec::ExecPolicy;
use crate::handler::{HandlerError, Runner, TaskContext};
use crate::vitals::Vitals;

// LIMIT: fields of `WorkerHello`, the worker record and the table of kinds.
const NAME_BYTES_MAX: usize = 63;
const KIND_BYTES_MAX: usize = 48;
const CAPACITY_MAX: u32 = 65_535;

const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// A worker that is ready to run.
#[derive(Debug)]
pub struct Worker {
    pub(crate) settings: Settings,
}

#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) address: Address,
    pub(crate) name: String,
    pub(crate) host: String,
    pub(crate) slots: u32,
    pub(crate) prefetch: u32,
    pub(crate) gather: Duration,
    pub(crate) exec: Arc<ExecPolicy>,
    pub(crate) kinds: BTreeMap<String, Runner>,
    pub(crate) drain_timeout: Duration,
    pub(crate) vitals: Vitals,
}

impl Settings {
    pub(crate) const fn capacity(&self) -> u32 {
        self.slots + self.prefetch
    }
}

/// Describes a worker; made by [`Worker::builder`].
#[derive(Debug)]
pub struct WorkerBuilder {
    settings: Settings,
}

/// Why a worker cannot be as described.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// No slot, or more than can be counted.
    #[error(
        "{slots} slots and {prefetch} tasks ahead: the sum must be 1 to {CAPACITY_MAX}, with at least 1 slot"
    )]
    Capacity {
        /// Slots asked for.
        slots: u32,
        /// Tasks to be taken ahead.
        prefetch: u32,
    },
    /// The name is empty or too long.
    #[error("worker name {name:?} has {} bytes, it must have 1 to {NAME_BYTES_MAX}", name.len())]
    Name {
        /// The name.
        name: String,
    },
    /// The name of a kind is empty or too long.
    #[error("kind {kind:?} has {} bytes, it must have 1 to {KIND_BYTES_MAX}", kind.len())]
    Kind {
        /// The kind.
        kind: String,
    },
    /// Nothing can be run.
    #[error("the worker has no kinds of tasks: register a handler")]
    NoKinds,
}

/// Why a worker stopped before it was told to. A daemon that is away is no reason: it is waited for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// The daemon will never take this worker as it is.
    #[error("the daemon at {address} refused this worker: {message}")]
    Refused {
        /// The address, as written.
        address: String,
        /// Its reason.
        message: String,
    },
    /// The socket of the user's own daemon may be another's, whose commands would run as this user.
    #[error("{cause}")]
    Untrusted {
        /// Which address, what is wrong, and what to do.
        cause: String,
    },
    /// Programs cannot be contained as wanted.
    #[error(transparent)]
    Contain(#[from] ContainError),
}

impl WorkerBuilder {
    /// Name in lists; the host's name when not set. Need not be unique.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.settings.name = name.into();
        self
    }

    /// Tasks that run at the same time; the number of cores when not set.
    #[must_use]
    pub const fn slots(mut self, slots: u32) -> Self {
        self.settings.slots = slots;
        self
    }

    /// Tasks taken ahead, to hide the way to the daemon; 0 when not set.
    #[must_use]
    pub const fn prefetch(mut self, prefetch: u32) -> Self {
        self.settings.prefetch = prefetch;
        self
    }

    /// How long the end of a task may wait to be told together with those of others, while more than half of the tasks that are taken
    /// ahead wait for a slot. Fewer and larger messages leave more of the machine to programs that end soon. 0 when not set: each is
    /// told at once.
    #[must_use]
    pub const fn gather(mut self, gather: Duration) -> Self {
        self.settings.gather = gather;
        self
    }

    /// How programs are run.
    #[must_use]
    pub fn exec(mut self, policy: ExecPolicy) -> Self {
        self.settings.exec = Arc::new(policy);
        self
    }

    /// Runs no programs: only handlers.
    #[must_use]
    pub fn without_exec(mut self) -> Self {
        self.settings.kinds.remove("exec");
        self
    }

    /// Offers nothing by itself, neither programs nor `noop` and `echo`: only the handlers that are named after this. For a worker
    /// beside others, to which no task of theirs is to come.
    #[must_use]
    pub fn without_own_kinds(mut self) -> Self {
        self.settings.kinds.clear();
        self
    }

    /// Offers an async function as a kind of task. It runs on the runtime that [`Worker::run`] runs on, where that has one thread up to
    /// its first wait in the place of the worker itself: long computations belong into `spawn_blocking`. Up to that wait it may be outside
    /// of a tokio task, where `tokio::task::id()` panics (`try_id` answers `None`).
    #[must_use]
    pub fn handler<H, F>(mut self, kind: impl Into<String>, handler: H) -> Self
    where
        H: Fn(TaskContext) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Vec<u8>, HandlerError>> + Send + 'static,
    {
        let call = Runner::Call(Arc::new(move |context| Box::pin(handler(context))));
        self.settings.kinds.insert(kind.into(), call);
        self
    }

    /// How long a drain waits for what runs before it is stopped and handed back; 30 s when not set.
    #[must_use]
    pub const fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.settings.drain_timeout = timeout;
        self
    }

    /// Checks the description.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn build(self) -> Result<Worker, BuildError> {
        let settings = self.settings;
        let (slots, prefetch) = (settings.slots, settings.prefetch);
        let fits = slots
            .checked_add(prefetch)
            .is_some_and(|sum| sum <= CAPACITY_MAX);
        if slots == 0 || !fits {
            return Err(BuildError::Capacity { slots, prefetch });
        }
        if settings.name.is_empty() || settings.name.len() > NAME_BYTES_MAX {
            let name = settings.name;
            return Err(BuildError::Name { name });
        }
        let is_bad = |kind: &&String| kind.is_empty() || kind.len() > KIND_BYTES_MAX;
        if let Some(kind) = settings.kinds.keys().find(is_bad) {
            return Err(BuildError::Kind { kind: kind.clone() });
        }
        if settings.kinds.is_empty() {
            return Err(BuildError::NoKinds);
        }
        Ok(Worker { settings })
    }
}

impl Worker {
    /// Starts to describe a worker for the daemon at this address.
    #[must_use]
    pub fn builder(address: Address) -> WorkerBuilder {
        let host = host_name();
        let cores = std::thread::available_parallelism().map_or(1, core::num::NonZero::get);
        let kinds = [
            ("exec".to_owned(), Runner::Exec),
            ("noop".to_owned(), Runner::Noop),
            ("echo".to_owned(), Runner::Echo),
        ];
        WorkerBuilder {
            settings: Settings {
                address,
                name: host.clone(),
                host,
                slots: u32::try_from(cores).unwrap_or(1),
                prefetch: 0,
                gather: Duration::ZERO,
                exec: Arc::new(ExecPolicy::default()),
                kinds: BTreeMap::from(kinds),
                drain_timeout: DRAIN_TIMEOUT,
                vitals: Vitals::default(),
            },
        }
    }

    /// Tasks that run at the same time.
    #[must_use]
    pub const fn slots(&self) -> u32 {
        self.settings.slots
    }

    /// The same worker with fewer slots, 1 at least.
    #[must_use]
    pub fn with_slots(mut self, slots: u32) -> Self {
        self.settings.slots = self.settings.slots.min(slots).max(1);
        self
    }

    /// How it is, for those who watch it while it runs.
    #[must_use]
    pub fn vitals(&self) -> Vitals {
        self.settings.vitals.clone()
    }

    /// Registers and works until `shutdown` is over, then drains: takes nothing new, finishes what runs
    /// within the drain timeout, delivers its results and leaves. A daemon that goes away is waited for;
    /// meanwhile tasks go on and results are kept.
    ///
    /// Dropping the future kills what runs.
    ///
    /// # Errors
    /// See [`WorkerError`].
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), WorkerError> {
        self.run_with_abort(shutdown, core::future::pending()).await
    }

    /// Like [`Worker::run`]; when `abort` is over, kills what runs, hands it back and leaves.
    ///
    /// # Errors
    /// See [`WorkerError`].
    pub async fn run_with_abort(
        self,
        shutdown: impl Future<Output = ()>,
        abort: impl Future<Output = ()>,
    ) -> Result<(), WorkerError> {
        let runs_programs = self.settings.kinds.contains_key("exec");
        let wanted = self.settings.exec.containment;
        let _presence = runs_programs.then(|| Presence::begin(wanted)).transpose()?;
        let (orders, control) = mpsc::channel(2);
        let agent = Agent::new(self.settings, control).run();
        let drain = async {
            shutdown.await;
            let _ = orders.send(Control::Drain).await;
            core::future::pending::<()>().await;
        };
        let leave = async {
            abort.await;
            let _ = orders.send(Control::Abort).await;
            core::future::pending::<()>().await;
        };
        tokio::select! {
            result = agent => result,
            () = drain => Ok(()),
            () = leave => Ok(()),
        }
    }
}

fn host_name() -> String {
    let name = nix::unistd::gethostname().unwrap_or_default();
    let mut name = name.to_string_lossy().into_owned();
    let end = name.floor_char_boundary(NAME_BYTES_MAX);
    name.truncate(end);
    if name.is_empty() {
        "unknown".to_owned()
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn builder() -> WorkerBuilder {
        Worker::builder("127.0.0.1:1".parse().unwrap())
    }

    #[test]
    fn impossible_workers_are_refused_with_the_values() {
        let error = builder().slots(0).build().unwrap_err();
        assert!(error.to_string().contains("0 slots"), "{error}");
        let error = builder().slots(u32::MAX).prefetch(1).build().unwrap_err();
        assert!(matches!(error, BuildError::Capacity { .. }));
        let error = builder().name("n".repeat(64)).build().unwrap_err();
        assert!(error.to_string().contains("64 bytes"), "{error}");
        let error = builder()
            .handler("", |_| async { Ok(vec![]) })
            .build()
            .unwrap_err();
        assert!(matches!(error, BuildError::Kind { .. }));
    }

    #[test]
    fn a_worker_without_own_kinds_offers_its_handlers_alone() {
        let error = builder().without_own_kinds().build().unwrap_err();
        assert_eq!(error, BuildError::NoKinds);
        let bare = builder().without_own_kinds();
        let worker = bare.handler("mine", |_| async { Ok(vec![]) }).build();
        let kinds: Vec<_> = worker.unwrap().settings.kinds.into_keys().collect();
        assert_eq!(kinds, ["mine"]);
    }
}
