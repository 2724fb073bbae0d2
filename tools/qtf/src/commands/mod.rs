//! One file a command. Each takes its options and returns how it ended; none decides anything that
//! the daemon decides.

pub(crate) mod client;
pub(crate) mod completions;
pub(crate) mod dead;
pub(crate) mod dev;
mod environment;
pub(crate) mod info;
mod input;
pub(crate) mod ps;
pub(crate) mod result;
mod room;
pub(crate) mod select;
pub(crate) mod size;

pub(crate) mod submit;
pub(crate) mod task;
mod unstarted;
pub(crate) mod verdicts;
pub(crate) mod wait;
pub(crate) mod worker;

pub(crate) use environment::{Variable, parse_variables};
pub(crate) use result::notes;
pub(crate) use submit::{with_exit_codes, working_directory};
