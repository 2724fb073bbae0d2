//! Spill files as the daemon makes, reads and removes them: on a thread of their own, because a disk may keep whoever touches it.
//!
//! | file | what |
//! |---|---|
//! | `thread.rs` | the thread: makes, writes, syncs, reads and removes files, one job after the other |
//! | `jobs.rs` | the core's end: hands jobs over, within bounds |
//!
//! Which uploads there are, and what they may hold, is the core's (`core/uploads/`).

pub(crate) mod jobs;
pub(crate) mod thread;
