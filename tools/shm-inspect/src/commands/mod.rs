//! The commands, one file each: what is looked at, and how it is printed.

pub(crate) mod assignments;
pub(crate) mod heap;
pub(crate) mod hist;
pub(crate) mod info;
pub(crate) mod lanes;
pub(crate) mod layout;
pub(crate) mod list;
pub(crate) mod snapshot;
pub(crate) mod task;
pub(crate) mod verify;
pub(crate) mod worker;
