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
//! | floor | folder | is | decides |
//! |---:|---|---|---|
//! | 5 | `cycle.rs`, `calls.rs` and the files beside them | the engine as a whole | nothing: they check who asks, and hand on |
//! | 5 | `commands/` | the core's side of the lanes | whose command is next |
//! | 4 | `scheduler/` | main scheduler | which ready task goes to which worker |
//! | 3 | `plm/` | Process Lifecycle Manager | admission, results, retries, cancellation, retention |
//! | 2 | `register/` | Register | which worker is there, which is silent, which is lost |
//! | 1 | `turn.rs`, `lookup.rs` | what the roles share during one call | nothing |
//! | 0 | `lanes.rs` | which lanes are open | what is told by them, and to whom |
//! | 0 | `clients/` | the Register's table of clients | who has which record, and what each principal may use up |
//!
//! A floor uses what stands below it and never what stands above; `cargo xtask tidy` finds whoever does.
//!
//! Results of calls: what the daemon is to do comes out of [`Engine::pop_effect`].
//!
//! Tested by unit tests in each file, by `engine/tests/` (a file for each rule set) and by the
//! seeded simulation in `engine/tests/simulation/`.

#![forbid(unsafe_code)]

mod attaches;
mod batches;
mod caller_calls;
mod calls;
mod clients;
mod commands;
mod config;
mod cycle;
mod effects;
mod journal_calls;
mod lanes;
mod lookup;
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
mod work_count;

pub use batches::Caller;
pub use clients::{ClientHello, ClientSession};
pub use config::{ConfigError, EngineConfig};
pub use cycle::Engine;
pub use effects::{Effect, StopReason};
pub use lookup::{AttemptSpec, TaskRef};
pub use places::TimeAfter;
pub use plm::{
    ATTEMPTS_USED_UP, Accepted, Answer, ArrayMember, Disposition, Durability, Output, Payload,
    ResultAnswer, ResultReport, Said, Submission,
};
pub use principal::Principal;
pub use qtf_journal::Lsn;
pub use register::{
    Beat, Held, Holding, Loan, Reconnect, Reserve, Reserved, WorkerHello, WorkerWelcome,
};
pub use rejection::{RejectReason, Rejection};
pub use restore::{RestoreError, Restored, restore};
pub use shares::{ShareRule, ShareUsedUp, Usage};
pub use wall::WallTime;
pub use work_count::WorkCount;
