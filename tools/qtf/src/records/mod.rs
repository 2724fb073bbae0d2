//! What the daemon says, in the form in which it is shown: names instead of numbers, the same in
//! tables and in JSON.
//!
//! Tested at the end of each file of this folder.

mod client;
mod ends;
mod outcome;
mod task;
mod worker;

pub(crate) use client::ClientRecord;
pub(crate) use ends::Ends;
pub(crate) use outcome::{OutcomeRecord, describe, end_line, explain};
pub(crate) use task::{TaskRecord, durability_name, id_text, proto_state, state_name};
pub(crate) use worker::{WorkerRecord, worker_text};
