//! The shared-memory segment of Quantum Taskflow: layout, slots, lock-free heaps, arena.
//!
//! | module | what |
//! |---|---|
//! | [`id`] | names of tasks, workers, clients, slots |
//! | [`time`] | nanoseconds since the segment's origin, and stamps |
//! | [`task`] | the task's state word with its table, the task slot, the side record |

pub mod id;
pub mod task;
pub mod time;

pub use id::{
    AttachIndex, ClientIndex, KindIndex, ParseIdError, SlotIndex, TaskId, WorkerId, WorkerIndex,
};
pub use task::state::{
    Event, FLAG_CANCEL, FLAG_TIMED_OUT, IllegalTransition, Owner, Phase, StateWord,
};
pub use time::Now;
