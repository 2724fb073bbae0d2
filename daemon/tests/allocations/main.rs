//! What the daemon allocates for a task: nothing, where tasks come and go in batches.
//!
//! What a message costs is shared by its tasks: some twenty allocations of HTTP/2 and the frames, so less than one for ten tasks. One for
//! each, anywhere on the way, is found.
//!
//! A binary of its own, because the crate that counts takes the place of the allocator, for the whole process. So client and worker, which
//! are made of generated code only, are a process of their own: this binary once more. Two runs of different lengths are
//! compared: what a daemon, its threads and a connection allocate once is in both.

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[cfg(test)]
mod tasks;

#[global_allocator]
static COUNTING: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;
