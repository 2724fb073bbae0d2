//! How a program talks with the service manager that has started it (systemd), and what it must do to be believed alive.
//!
//! | file | what |
//! |---|---|
//! | `notify.rs` | what is told: ready, reloading, stopping, a line of status |
//! | `starting.rs` | a start that takes long and makes progress asks for more time |
//! | `watchdog.rs` | the watchdog is fed from the turns of the program's loops, by a thread that is none of them |
//!
//! Without a service manager (`NOTIFY_SOCKET` is not set) nothing is told, and the watchdog's thread only looks for hanging loops.
//! Nothing here runs on a thread that does the program's work: a manager that does not read holds up nobody.
//! Tested at the ends of the files and, under a real systemd, in `tests/tests/service/`.

mod notify;
mod starting;
mod watchdog;

pub use notify::{ready, reloading, status, stopping};
pub use starting::Starting;
pub use watchdog::{Keeper, Loops, keep};
