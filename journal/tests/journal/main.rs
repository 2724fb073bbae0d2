//! The journal against a naive model: what was acknowledged is there after everything that can happen to a disk.
//!
//! | file | asks |
//! |---|---|
//! | `records.rs` | what is written comes back; no bytes make a reader panic |
//! | `writer.rs` | groups, files, short and failed writes, room |
//! | `files.rs` | starts, recycling, instances, settings |
//! | `damage.rs` | cuts and flipped bits at every byte; pages doubled, swapped, zeroed |
//! | `snapshots.rs` | snapshots read while others write; damaged ones |
//! | `faults.rs` | every operation fails once |
//! | `crashes.rs` | power cuts and killed daemons at random moments, over many seeds |

mod crashes;
mod daemon;
mod damage;
mod faults;
mod files;
mod model;
mod records;
mod snapshots;
mod writer;
