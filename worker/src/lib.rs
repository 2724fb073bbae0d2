//! Worker library of Quantum Taskflow: takes tasks from a daemon, runs them, reports their results.
//!
//! A [`Worker`] registers, grants as many credits as it has room for, and runs what it is sent: `exec`
//! tasks (programs, without a shell, see [`ExecPolicy`]) and handlers, which are async functions.
//! `noop` and `echo` are there from the start.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use qtf_worker::{Address, HandlerError, TaskContext, Worker};
//!
//! async fn square(context: TaskContext) -> Result<Vec<u8>, HandlerError> {
//!     let number: i64 = core::str::from_utf8(&context.payload)?.parse()?;
//!     let square = number.checked_mul(number).ok_or("too large")?;
//!     Ok(square.to_string().into_bytes())
//! }
//!
//! let worker = Worker::builder("127.0.0.1:7878".parse::<Address>()?)
//!     .slots(8)
//!     .handler("square", square)
//!     .build()?;
//! // Drains when the future is over: finishes what runs, takes nothing new, leaves.
//! worker.run(core::future::pending()).await?;
//! # Ok(())
//! # }
//! ```
//!
//! What is where: `builder` says what a worker is, `agent` keeps the connection and decides what runs,
//! `attempt` runs one attempt of one task, `call` calls its handler, `exec` runs programs, `contain` holds their processes
//! together, `sys` has the system calls, `vitals` tells how it is.
//! Tested in `worker/tests/` against a daemon that misbehaves on purpose, and in `examples/tests/`
//! against the real one.

mod agent;
mod attempt;
mod builder;
mod call;
mod contain;
mod descriptors;
mod exec;
mod handler;
mod load;
mod stop;
mod sys;
mod transfer;
mod vitals;

pub use builder::{BuildError, Worker, WorkerBuilder, WorkerError};
pub use contain::{ContainError, Containment, prepare_containment};
pub use descriptors::raise_descriptor_limit;
pub use exec::{ExecPolicy, reap_strays, resume_programs, suspend_programs};
pub use handler::{HandlerError, TaskContext};
pub use qtf_proto::address::{Address, AddressError, InProcess};
pub use qtf_shm::{TaskId, WorkerId};
pub use vitals::Vitals;
