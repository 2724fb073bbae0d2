//! The shared-memory segment of Quantum Taskflow: layout, slots, lock-free heaps, arena.
//!
//! | module | what |
//! |---|---|
//! | [`id`] | names of tasks, workers, clients, slots |
//! | [`time`] | nanoseconds since the segment's origin, and stamps |
//! | [`task`] | the task's state word with its table, the task slot, the side record |
//! | [`tree`] | the lock-free min-tree: task, worker and timer heaps |
//! | [`bitmap`] | the three-level free bitmap |
//! | [`arena`] | the payload arena: chunks of 64 bytes to 64 KiB |
//! | [`sync`] | the only door to atomics |

pub mod arena;
pub mod bitmap;
pub mod id;
pub mod sync;
pub mod task;
pub mod time;
pub mod tree;

pub use id::{
    AttachIndex, ClientIndex, KindIndex, ParseIdError, SlotIndex, TaskId, WorkerId, WorkerIndex,
};
pub use task::state::{
    Event, FLAG_CANCEL, FLAG_TIMED_OUT, IllegalTransition, Owner, Phase, StateWord,
};
pub use time::Now;
