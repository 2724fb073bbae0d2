//! Client library of Quantum Taskflow: submit tasks, await and stream results, cancel, look.
//!
//! One [`Client`] is one gRPC connection and one registered session, kept alive and renewed in the
//! background; it is cheap to clone. All calls need a tokio runtime with I/O and time enabled.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use futures_util::StreamExt as _;
//! use qtf_client::{Address, Client, Task};
//!
//! let client = Client::connect(&"127.0.0.1:7878".parse::<Address>()?).await?;
//!
//! // One task, from its submission to its output.
//! let id = client.submit(Task::exec(["uname", "-r"])).await?.id;
//! let end = client.wait(id).await?;
//! let stdout = end.output.map(|output| output.stdout).unwrap_or_default();
//! println!("{}", String::from_utf8_lossy(&stdout));
//! client.forget(&[id]).await?;
//!
//! // Many: ids come in the order of the tasks, results in the order of their ends.
//! let tasks = (0..10_000).map(|n| Task::handler("square", format!("{n}")));
//! let mut answers = client.submit_many(tasks);
//! let (feed, mut results) = client.result_feed();
//! while let Some(answer) = answers.next().await {
//!     feed.watch([answer?]);
//! }
//! drop(feed); // nothing more to watch: the results end when all are in
//! while let Some(end) = results.next().await {
//!     let end = end?;
//!     println!("{} {:?}", end.id, end.state);
//!     results.acknowledge([end.id]); // received: the slot may be freed
//! }
//! results.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! When the daemon goes away, calls wait for it or its successor ([`ClientBuilder::reconnect_for`]): what
//! was not answered is repeated with the same key, so nothing is submitted twice; watched tasks are named
//! again; each end is told once. [`Accepted`] says how durable a task is.
//!
//! `shm:NAME` is an address too, for programs on the daemon's machine: the client then writes to the segment of the instance NAME itself, with
//! the same calls, and memory tasks go on while the daemon is away.
//!
//! What is where: [`Task`] says what is to be done, [`Client`] has the calls, [`Submissions`] and
//! [`ResultStream`] are the two streams, [`Refusal`] is a "no" of the daemon with its reason.
//! Tested in `client/tests/` against a daemon that misbehaves on purpose, and in `examples/tests/`
//! against the real one.

mod calls;
mod client;
mod error;
mod key;
mod notice;
mod patience;
mod results;
mod session;
mod submit;
mod task;
mod transfer;

pub use calls::{ListFilter, TaskVerdict};
pub use client::{Client, ClientBuilder};
pub use error::{CallError, ConnectError, Refusal, SubmitError, WatchError};
pub use key::TaskKey;
pub use notice::Notice;
pub use qtf_local::OpenFailure;
pub use qtf_proto::address::{Address, AddressError, InProcess, SegmentAddress};
pub use qtf_proto::v1::{
    ClientInfo, DaemonInfo, Durability, EnvironmentVariable, ExecSpec, JournalInfo, JournalState,
    NamedValue, Outcome, OutcomeKind, RefusalReason, StartKind, TaskInfo, TaskOutput, TaskState,
    WorkerInfo, WorkerState,
};
pub use qtf_shm::{TaskId, WorkerId};
pub use results::{Outputs, ResultFeed, ResultStream, TaskEnd};
pub use submit::{Accepted, Submissions};
pub use task::Task;
