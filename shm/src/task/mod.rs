//! A task in the segment: its state word, its slot, its side record.

pub mod state;
