//! Cuts an operation after any of its shared writes, as SIGKILL would: for tests only.
//!
//! Each write through `sync` counts down; at zero the thread unwinds to `killed_after`. Nothing in
//! the lock-free structures has a destructor that writes, so what is left behind is what a killed
//! process would leave.

use core::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

#[cfg(loom)]
loom::thread_local! {
    static WRITES_LEFT: Cell<Option<u32>> = Cell::new(None);
}
#[cfg(not(loom))]
std::thread_local! {
    static WRITES_LEFT: Cell<Option<u32>> = const { Cell::new(None) };
}

/// The operation was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Killed;

/// Runs `operation` and cuts it right after its `writes`-th shared write.
///
/// # Errors
/// `Killed` when it was cut; `Ok` when it needed fewer writes.
pub fn killed_after<T>(writes: u32, operation: impl FnOnce() -> T) -> Result<T, Killed> {
    if writes == 0 {
        return Err(Killed);
    }
    WRITES_LEFT.with(|left| left.set(Some(writes)));
    let result = catch_unwind(AssertUnwindSafe(operation));
    WRITES_LEFT.with(|left| left.set(None));
    result.map_err(|cause| {
        if cause.downcast_ref::<Killed>().is_none() {
            resume_unwind(cause);
        }
        Killed
    })
}

/// Called after each shared write.
pub(super) fn wrote() {
    let cut = WRITES_LEFT.with(|left| match left.get() {
        None => false,
        Some(1) => true,
        Some(count) => {
            left.set(Some(count - 1));
            false
        }
    });
    if cut {
        WRITES_LEFT.with(|left| left.set(None));
        resume_unwind(Box::new(Killed));
    }
}
