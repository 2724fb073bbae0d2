//! Starts real daemons, workers and command lines for tests, and sees that nothing is left of them.
//!
//! | module | what |
//! |---|---|
//! | [`place`] | a runtime folder of its own for each test, and how programs run in it |
//! | [`process`] | a child process: its lines as events, its end, a kill on drop |
//! | [`fifo`] | pipes through which tasks say where they are, and that hold them up |
//! | [`system`] | daemon, workers and clients that are killed or stopped, and the TCP links between them |
//! | [`link`] | a TCP link that can be cut and turned into a black hole |
//! | [`torment`] | what is done to a system and when |
//! | [`workload`] | what its tasks do, and how each of them may end |
//! | [`ledger`] | the files that its clients and tasks write |
//! | [`books`] | what must hold of these files |
//! | [`rest`] | what must hold of processes and lists when everything is over |
//! | [`leaks`] | what is left of a place: processes and shared memory |
//! | [`programs`] | where the binaries are, built first |
//!
//! Every wait is for an event (a line, an end of a process, an answer) and has a watchdog, so that a
//! test that would hang fails and says what it waited for.

pub mod books;
pub mod fifo;
pub mod leaks;
pub mod ledger;
pub mod link;
pub mod place;
pub mod process;
pub mod programs;
pub mod rest;
pub mod system;
pub mod torment;
pub mod workload;

pub use fifo::{Fifo, Gate};
pub use link::Link;
pub use place::{Finished, Place};
pub use process::Process;
