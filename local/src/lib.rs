//! The edge that a local process has in itself: `shm:NAME` for the client and the worker library.
//!
//! A program on the daemon's machine may write to the segment itself: it submits, takes tasks and reads results with no connection,
//! and with no system call while the other side is awake. The libraries speak one language, the services of `qtf.v1`; over a socket
//! the daemon's edge answers them, and here this crate does, with the same messages, refusals and guarantees. What it answers it reads from
//! the segment or does there; what only the PLM may decide it asks the daemon for.
//!
//! | module | what |
//! |---|---|
//! | [`instance`] | finds and opens the segment of an instance, or says why not |
//! | [`direct`] | the segment without messages, for threads that count nanoseconds |
//! | `client` | what a client says: services `Plm`, `Admin`, and its session |
//! | `worker` | what a worker says: services `Scheduler`, `Register` |
//! | `records` | what lies in the segment, as messages |
//! | `refusals`, `service`, `chunks`, `uploads` | refusals, services as a transport, what is too large for a message |
//!
//! Invariants:
//! - L1: nothing that lies in the segment is believed: others write there. What is read is checked, and a task that moves on while it is
//!   read counts as gone.
//! - L2: a killed process leaves nothing that harms others; that is the segment's work (`qtf_shm::Attachment`).
//! - L3: whoever waits sleeps. Threads that look at the segment are one for each client or worker, and end with it.

mod chunks;
mod client;
pub mod direct;
pub mod instance;
mod records;
mod refusals;
mod service;
mod unheard;
mod uploads;
mod worker;

pub use client::{connect as connect_client, connect_later as connect_client_later};
pub use instance::OpenFailure;
pub use worker::connect as connect_worker;
