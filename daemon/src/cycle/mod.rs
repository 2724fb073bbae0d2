//! The floor above the core: the loop of the pinned thread, what it does when there is nothing to do, and the tasks beside it
//! that bring the core what others have done.
//!
//! | file | what |
//! |---|---|
//! | `duty_cycle.rs` | the only loop: turn, rest, until the stop |
//! | `idle.rs`, `spin.rs`, `awake.rs` | how it rests: when it looks again at once, and when it sleeps |
//! | `bell.rs` | the ear at the doorbell of local processes |
//! | `journal_tasks.rs` | moves the journal: one task executes its writes, one listens to the chores thread |
//! | `spill_task.rs` | brings the answers of the spill thread to the core |
//! | `vigil.rs` | what others take away under the running daemon |

mod awake;
pub(crate) mod bell;
pub(crate) mod duty_cycle;
pub(crate) mod idle;
pub(crate) mod journal_tasks;
pub(crate) mod spill_task;
mod spin;
pub(crate) mod vigil;
