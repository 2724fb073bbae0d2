//! Copying a record out of the segment while others change it: state, fields, state again.
//!
//! Invariants:
//! - I1: a copy whose state was the same before and after is whole: its writer gives a record to the next tenant by a change of the state
//!   before it writes the first field, with a release fence in between (labels `task.reuse`, `worker.reuse`, `client.reuse`).
//! - I2: a record that changes all the time costs a bounded number of copies; the last one says that it is torn.
//!
//! Modelled in `shm/tests/loom_records.rs`.

use crate::sync::{Ordering, fence};

/// LIMIT: copies of one record that is being changed; each costs the time of the change.
const COPIES_MAX: u32 = 8;

/// A copy, and whether it is of one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading<T> {
    /// The copy.
    pub record: T,
    /// The record changed during each of several copies: its parts may be of different moments.
    pub torn: bool,
}

/// Copies until the state before and after is the same, or often enough. `state` acquires the state word.
pub fn read_between<S: Copy + PartialEq, T>(
    state: impl Fn() -> S,
    copy: impl Fn(S) -> T,
) -> Reading<T> {
    let mut before = state();
    let mut copies = 1;
    loop {
        let record = copy(before);
        let after = second_look(&state);
        if after == before || copies == COPIES_MAX {
            let torn = after != before;
            return Reading { record, torn };
        }
        before = after;
        copies += 1;
    }
}

/// The state after everything that was copied before.
pub(crate) fn second_look<S>(state: impl Fn() -> S) -> S {
    if !cfg!(qtf_mutant = "record_second_look_too_early") {
        // ORDERING: [task.reuse], [worker.reuse], [client.reuse] Acquire: orders the copies before the second look; pairs with the
        // fences of whoever gives the record to the next tenant.
        fence(Ordering::Acquire);
    }
    state()
}
