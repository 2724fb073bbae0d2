//! What is in the journal of a task, and what waits for it to be durable there.
//!
//! | file | does |
//! |---|---|
//! | `recorder.rs` | what is appended, and what of it is durable |
//! | `pending.rs` | who waits for a sync |
//! | `room.rs` | whether there is room for what comes |
//! | `waiting.rs` | tasks that wait until there is |
//! | `reservation.rs` | ids, reserved ahead of need |
//! | `whole_task.rs` | a task as one record |

mod marks;
pub(super) mod pending;
pub(super) mod recorder;
pub(super) mod reservation;
mod room;
pub(super) mod waiting;
pub(super) mod whole_task;
