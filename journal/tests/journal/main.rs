//! The journal against a naive model: what was acknowledged is there after everything that can happen to a disk.
//!
//! | file | asks |
//! |---|---|
//! | `committed.rs` | the folders that each version has written are read and gone on with |
//! | `records.rs` | what is written comes back; no bytes make a reader panic |
//! | `writer.rs` | groups, files, short and failed writes, room |
//! | `files.rs` | starts, recycling, instances, settings |
//! | `damage.rs` | cuts and flipped bits at every byte; pages doubled, swapped, zeroed |
//! | `snapshots.rs` | snapshots read while others write; damaged ones |
//! | `inspect.rs` | what people are shown |
//! | `faults.rs` | every operation fails once |
//! | `crashes.rs` | power cuts and killed daemons at random moments, over many seeds |

#[cfg(test)]
mod committed;
#[cfg(test)]
mod crashes;
#[cfg(test)]
mod daemon;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod files;
#[cfg(test)]
mod inspect;
#[cfg(test)]
mod model;
#[cfg(test)]
mod records;
#[cfg(test)]
mod room;
#[cfg(test)]
mod snapshots;
#[cfg(test)]
mod writer;
