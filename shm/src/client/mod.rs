//! A client in the segment: one record for each identity that submits.

pub mod slot;

pub use slot::{ClientFields, ClientSlot};
