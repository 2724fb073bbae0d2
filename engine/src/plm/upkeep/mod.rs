//! What is done on the engine's own account: because of time, after a death, at a start.
//!
//! | file | does |
//! |---|---|
//! | `timers.rs` | due tasks, timeouts, time to live |
//! | `repair.rs` | one idempotent repair of one slot |
//! | `adoption.rs` | adopts the tasks of a segment at the start |
//!
//! Door: from outside of the PLM `serve_timers`, `repair`, `adopt`, `adopt_more`, `is_adopting`, `look_at_ids`. Nobody stands above.
//! State: none.

mod adoption;
pub(super) mod repair;
mod timers;
