//! The Quantum Taskflow daemon: one pinned thread that runs the engine over the shared segment and serves
//! clients and workers over gRPC.
//!
//! As a library it runs inside another program (`qtf dev`, `qtf map`): [`Daemon::start`] gives a
//! [`RunningDaemon`] with a way in that needs no listening socket.
//!
//! The modules are floors, and look only down; `cargo xtask tidy` finds whoever looks up.
//!
//! | floor | module | what |
//! |---:|---|---|
//! | 6 | [`boot`] | the start and what can go wrong, the pinned thread from its first to its last moment, the daemon as its starter sees it |
//! | 5 | `cycle` | the loop of the pinned thread, what it does when there is nothing to do, the tasks beside it |
//! | 5 | `edge` | gRPC: connections and handlers, which decode, check, enter the core, encode |
//! | 4 | `core` | the engine and what surrounds it, behind one door that is entered synchronously |
//! | 3 | `journal` | executes what must outlive a reboot |
//! | 3 | `spill` | the files of large payloads and outputs, on a thread of their own |
//! | 3 | `net` | sockets on either backend |
//! | 2 | `sys` | system calls; the only `unsafe` of this crate |
//! | 3 | [`reload`] | what a changed configuration changes in a running daemon |
//! | 2 | [`cli`], [`descriptors`] | flags; how many files and sockets the process may open, and for what |
//! | 1 | [`config`] | file, validated settings |
//! | 0 | [`clock`], [`exit`] | the clocks, which tests may step; the exit codes |

pub mod boot;
pub mod cli;
pub mod clock;
pub mod config;
pub mod descriptors;
pub mod exit;
pub mod reload;

mod core;
mod cycle;
mod edge;
mod journal;
mod net;
mod spill;
mod sys;

pub use boot::running::{RunningDaemon, StopError};
pub use boot::{BootError, Daemon, LoopsOfRoles};
pub use config::Settings;
pub use core::info::{DaemonInfo, StartKind};
pub use exit::Exit;
pub use reload::Reload;
pub use sys::activation::Inherited;
