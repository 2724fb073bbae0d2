//! PLM, Scheduler and Register: the decisions of Quantum Taskflow, without I/O.
//!
//! [`Engine`] is a passive state machine over a [`qtf_shm::Segment`]. Four principles:
//! 1. **It reads no clock, opens nothing, starts no thread.** Time, randomness (a seed), heartbeats
//!    and process death come in as arguments, so the same code runs in the daemon, in tests and in
//!    a seeded simulator.
//! 2. **The segment is the truth.** What the engine remembers beside it (offers of workers, sweeps,
//!    sessions) can be lost and is learnt again; the trees and counters are caches.
//! 3. **Each call is bounded**, and [`Engine::cycle`] does a bounded part of what is to be done on
//!    its own account. Nothing is allocated in steady state.
//! 4. **Nothing that comes in is believed.** Ids, attempts, credits and tokens of peers are
//!    checked; a mad peer gets a [`Rejection`] or [`Disposition::Stale`], never a panic.
//!
//! | folder | is | decides |
//! |---|---|---|
//! | `plm/` | Process Lifecycle Manager | admission, results, retries, cancellation, retention |
//! | `scheduler/` | main scheduler | which ready task goes to which worker |
//! | `register/` | Register | who is there, who is silent, who is lost |
//!
//! Results of calls: what the daemon is to do comes out of [`Engine::pop_effect`].
//!
//! Tested by unit tests in each file, by `engine/tests/` (a file for each rule set) and by the
//! seeded simulation in `engine/tests/simulation/`.

#![forbid(unsafe_code)]

mod answers;
mod attaches;
mod batches;
mod caller_calls;
mod calls;
mod config;
mod cycle;
mod effects;
mod journal_calls;
mod places;
mod plm;
mod principal;
mod register;
mod rejection;
mod restore;
mod scheduler;
mod shares;
pub mod snapshot;
mod sweep;
mod turn;
mod wall;
mod whole_task;

pub use answers::{Accepted, Answer, ResultAnswer};
pub use batches::Caller;
pub use config::{ConfigError, EngineConfig};
pub use cycle::{Engine, WorkCount};
pub use effects::{Effect, StopReason};
pub use places::TimeAfter;
pub use plm::{
    ATTEMPTS_USED_UP, ArrayMember, AttemptSpec, Disposition, Durability, Output, Payload,
    ResultReport, Said, Submission, TaskRef,
};
pub use principal::Principal;
pub use qtf_journal::Lsn;
pub use register::{
    Beat, ClientHello, ClientSession, Held, Holding, Loan, Reconnect, Reserve, Reserved,
    WorkerHello, WorkerWelcome,
};
pub use rejection::{RejectReason, Rejection};
pub use restore::{RestoreError, Restored, restore};
pub use shares::{ShareRule, ShareUsedUp, Usage};
pub use wall::WallTime;
