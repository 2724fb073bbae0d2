//! A task in the segment: its state word, its slot, its side record.

pub mod orphan;
#[cfg(not(loom))]
pub mod side;
#[cfg(not(loom))]
pub mod slot;
pub mod state;
mod transitions;
#[cfg(not(loom))]
pub mod writer;
