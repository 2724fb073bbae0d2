//! A task in the segment: its state word, its slot, its side record.

pub mod blocked;
pub mod orphan;
pub mod phase;
#[cfg(not(loom))]
pub mod side;
pub mod slot;
pub mod state;
mod transitions;
pub mod writer;
