//! The messages that come and go with every task, where they lie in their frames.
//!
//! What comes is read in place: [`SubmitBatch`] and [`Report`] are frames that were gone through once from end to end, so that a malformed
//! one is refused as a whole; what they hold is handed out entry by entry, as parts of the frame. What goes is written straight into a
//! [`Frame`]. The bytes are those of the `.proto` files, and the same frames are taken and refused as by the generated code, whatever
//! the order of fields, and whatever else is among them. The servers of [`crate::served`] use these in place of the generated messages.
//!
//! | file | holds |
//! |---|---|
//! | `fields.rs` | what a message consists of |
//! | `submit.rs` | batches of submissions |
//! | `report.rs` | what workers say |
//! | `writer.rs` | how fields are written |
//! | `frame.rs` | what the daemon says |
//!
//! Tested in `proto/tests/wire.rs` against the generated code.

mod fields;
mod frame;
mod report;
mod submit;
mod writer;

pub use fields::Malformed;
pub use frame::{Assigned, End, Frame, TellsEnds};
pub use report::{Ended, Output, Report};
pub use submit::{Spec, Specs, SubmitBatch};
