//! The floor below the core that executes what the journal decides: writes, and what a chores thread does beside them.
//! Formats and rules are in the crate `qtf-journal`, decisions in the engine.
//!
//! | file | what |
//! |---|---|
//! | `backend.rs` | writes on the ring or on a thread |
//! | `chores.rs`, `snapshot.rs` | what blocks, on other threads |
//!
//! Which write is next is the core's (`core/journal.rs`); the tasks that bring the two together are in `cycle/`, and how a
//! journal is opened at the start in `boot/`.

pub(crate) mod backend;
pub(crate) mod chores;
pub(crate) mod snapshot;
