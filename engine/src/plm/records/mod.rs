//! What is in the journal of a task, and what waits for it to be durable there.
//!
//! | file | does |
//! |---|---|
//! | `marks.rs` | the steps around each change: may it be, it is about to be, it has been; what an answer waits for |
//! | `recorder.rs` | what is appended, and what of it is durable |
//! | `pending.rs` | who waits for a sync |
//! | `room.rs` | whether there is room for what comes |
//! | `reservation.rs` | ids, reserved ahead of need |
//! | `whole_task.rs` | a task as one record |
//!
//! Door: from outside of the PLM `find`, `answer`, `durable_lsn`, [`recorder::Recorder`] itself, and a whole task for snapshots; from the parts above the
//! recorder where there is a journal, and the steps of `marks.rs`: `check_change`, `check_letting_go`, `mark`, `unmark`, `note`,
//! `recorder_of`, `is_journalled`, `is_gone_for_good`, `durable_lsn`, `awaited`, `awaited_just_now`, `answer`, `count_handed_back`.
//! State: the recorder, [`Plm::recorder`](super::Plm), with all that waits for it.

mod marks;
pub(super) mod pending;
pub(super) mod recorder;
pub(super) mod reservation;
mod room;
pub(super) mod whole_task;
