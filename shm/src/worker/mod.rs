//! A worker in the segment: its state word and its slot.

#[cfg(not(loom))]
pub mod slot;
pub mod state;

#[cfg(not(loom))]
pub use slot::{WorkerApplyError, WorkerCounter, WorkerFields, WorkerSlot, WorkerWriter};
pub use state::{IllegalWorkerTransition, WorkerEvent, WorkerPhase, WorkerState};
