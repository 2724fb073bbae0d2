//! Register: who is there, and how long they are believed to be.
//!
//! | file | does |
//! |---|---|
//! | `workers.rs` | the table of workers, their leaves in the worker heap, what kinds are on offer |
//! | `in_time.rs` | results that were there before they could be taken |
//! | `joining.rs` | hello and welcome, of new workers and of those that come back |
//! | `free_slots.rs` | which slot the next worker gets |
//! | `liveness.rs` | heartbeats, leases, probes; how a worker is lost, leaves, drains |
//! | `comparison.rs` | what a worker says that it holds, against what the segment says |
//! | `calling.rs`, `attempt_leases.rs` | workers that call instead of holding streams; a lease for each of their attempts |
//! | `pace.rs` | how much may be ordered ahead of a worker |
//!
//! Invariants:
//! - I1: the worker heap holds exactly the workers that may be given a task now.
//! - I2: LIVE, DRAINING and SUSPECT workers have a lease leaf; LOST and FREE ones have none.
//! - I3: a LOST worker's slot becomes FREE only after a whole pass of the sweep that found none of
//!   its tasks, so that no task is ever taken for one of the slot's next tenant.

mod attempt_leases;
mod calling;
mod comparison;
mod free_slots;
mod in_time;
mod joining;
mod leaves;
mod liveness;
mod pace;
mod workers;

pub use calling::{Loan, Reserve, Reserved};
pub(crate) use calling::{check_reserve, count_lease_over};
pub use joining::{Held, Reconnect, WorkerHello, WorkerWelcome};
pub(crate) use joining::{Offer, check_held, check_hello};
pub use liveness::{Beat, Holding};
pub(crate) use workers::{AttemptOver, Ending, Possession, Workers};
