//! What is done on the engine's own account: because of time, after a death, at a start.
//!
//! | file | does |
//! |---|---|
//! | `timers.rs` | due tasks, timeouts, time to live |
//! | `repair.rs` | one idempotent repair of one slot |
//! | `adoption.rs` | adopts the tasks of a segment at the start |

mod adoption;
mod parked;
pub(super) mod repair;
pub(super) mod timers;
