//! A worker in the segment: its state word and its slot.

pub mod slot;
pub mod state;

pub use slot::{WorkerApplyError, WorkerCounter, WorkerFields, WorkerSlot, WorkerWriter};
pub use state::{IllegalWorkerTransition, WorkerEvent, WorkerPhase, WorkerState};
