//! The daemon's side of the journal: opening it at the start, executing its writes, and what a chores thread does
//! beside them. Formats and rules are in the crate `qtf-journal`, decisions in the engine.
//!
//! | file | what |
//! |---|---|
//! | `data_dir.rs` | the data folder: made, locked, and whose it is |
//! | `open.rs` | hot restart or cold start: which segment, which tasks |
//! | `backend.rs` | writes on the ring or on a thread |
//! | `threads.rs` | the threads that work for it, started before the daemon's is pinned |
//! | `driver.rs` | the tasks that move it on the daemon's thread |
//! | `chores.rs`, `snapshot.rs` | what blocks, on other threads |
//! | `faults.rs` | a seam for tests |

pub(crate) mod backend;
pub(crate) mod chores;
pub(crate) mod data_dir;
pub(crate) mod driver;
pub mod faults;
pub(crate) mod open;
pub(crate) mod snapshot;
pub(crate) mod threads;
