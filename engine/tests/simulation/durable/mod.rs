//! The world with a journal: a disk that tears, daemons that are killed at any shared write, reboots.
//!
//! | file | what |
//! |---|---|
//! | `world.rs` | chance, the order of things, the end; the disk and the journal's driver are `qtf_world::Disk` |
//! | `facts.rs` | what clients were told, and what may therefore never be otherwise |
//! | `clients.rs`, `workers.rs` | what they do; clients repeat what was not answered |
//! | `operators.rs` | what they do: give dead letters new attempts, drain workers |
//! | `ages.rs` | years that go by, the moves of the origin, keys that are given back for good |
//! | `holds.rs` | holds and releases, and what must be so of them after a start |
//! | `deaths.rs` | kills, reboots, failed syncs, and how the next daemon begins |
//! | `checks.rs` | what must hold at any time, after each start, and at the end |
//!
//! The simulation knows nothing of how the engine keeps its promises. It compares what was told with what is there:
//! - **conservation**: a task whose acceptance was told is there until somebody forgets it; an end that was told is its end for
//!   ever and nothing of it runs again; no id is given twice; a key stands for one task; payload and result are what was sent;
//! - **dead letters** have a reason and came by too many losses; one that was revived goes on from where it stood, and its revival
//!   lasts like any other answer;
//! - **drain**: a worker of which it was said gets nothing new, whoever dies in between, and is told so when it comes back;
//! - **holds**: what is held is not handed out, whoever dies in between; a hold and a release last when they are told;
//! - **order**: nothing is handed out while something better could be; stamps rise, and survive;
//! - **durability**: nothing is told before its record is durable; what was told survives every crash;
//! - **liveness**: when the faults stop, everything ends, and can be forgotten;
//! - **counters**: the segment's `verify` is clean after each start.

mod ages;
mod checks;
mod clients;
mod deaths;
mod facts;
mod holds;
mod operators;
mod tests;
mod workers;
mod world;

pub(crate) use tests::live;
pub(crate) use world::{Kind, World};
