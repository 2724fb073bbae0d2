//! The lane of an attach record: how its process and the core speak with each other without a call.
//!
//! | file | what |
//! |---|---|
//! | `ring` | a ring with one side that puts in and one that takes out |
//! | `entry` | commands and events |
//! | `missed` | that an event found no room |
//!
//! Two rings: commands in, events out. Neither is the truth: what a task is its state word says, a command is a request and an event a hint
//! where to look. Who finds the ring of commands full waits; an event that finds its ring full is dropped, and its owner looks at all words.
//! Where a lane lies says `layout/lane.rs`, who uses it `segment/lanes.rs` (the core) and `segment/own_lane.rs` (the owner).

pub mod entry;
pub mod missed;
pub mod ring;

pub use entry::{ACKNOWLEDGED_MAX, Command, Event};
pub use missed::Missed;
pub use ring::{Consumer, Nonsense, Producer, Ring};
