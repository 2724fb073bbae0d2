//! The Quantum Taskflow daemon: one pinned thread that runs the engine over the shared segment and serves
//! clients and workers over gRPC.
//!
//! As a library it runs inside another program (`qtf dev`, `qtf map`): [`Daemon::start`] gives a
//! [`RunningDaemon`] with a way in that needs no listening socket.
//!
//! | module | what |
//! |---|---|
//! | [`config`] | file, flags, validated settings |
//! | [`clock`] | the clocks, which tests may step |
//! | [`descriptors`] | how many files and sockets the process may open, and for what |
//! | `boot` | the order of start, and what can go wrong |
//! | `running` | the daemon as its starter sees it |
//! | `core_cell` | the one door to the engine, entered synchronously |
//! | `duty_cycle`, `idle`, `spin`, `awake` | the loop of the pinned thread, and what it does when there is nothing to do |
//! | `edge` | gRPC handlers: decode, check, call the engine, encode |
//! | `serve` | the pinned thread from its first to its last moment |
//! | `net` | sockets and HTTP/2 on either backend |
//! | [`journal`] | what must outlive a reboot |
//! | `spill` | the files of large payloads and outputs, on a thread of their own |
//! | `vigil` | what others take away under the running daemon |
//! | `sys` | system calls; the only `unsafe` of this crate |

pub mod boot;
pub mod cli;
pub mod clock;
pub mod config;
pub mod descriptors;
pub mod exit;
pub mod journal;
pub mod running;

mod awake;
mod bell;
mod core_cell;
mod duty_cycle;
mod edge;
mod idle;
mod net;
mod serve;
mod spill;
mod spin;
mod sys;
mod vigil;

pub use boot::{BootError, Daemon};
pub use config::Settings;
pub use exit::Exit;
pub use running::{DaemonInfo, RunningDaemon, StartKind, StopError};
