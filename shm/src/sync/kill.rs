//! Cuts an operation after any of its shared writes, as SIGKILL would: for tests only.
//!
//! Between two shared writes a process changes nothing that others see, so the moments after each of them are all the
//! moments at which a kill, or what others do meanwhile, makes a difference. Three ways:
//!
//! - `killed_after`: each write through `sync` counts down; at zero the thread unwinds. Nothing in the lock-free
//!   structures has a destructor that writes, so what is left behind is what a killed process would leave.
//! - `paused_after` (not under loom): the same count; at zero it calls back, and the operation goes on when that returns: what
//!   a process meets that was stopped there.
//! - `process` (not under loom): the same count for the whole process, which at zero sends SIGKILL to itself.

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

/// What happens while an operation stands still.
#[cfg(not(loom))]
type Pause = Box<dyn FnOnce()>;

#[cfg(not(loom))]
std::thread_local! {
    static PAUSE: Cell<Option<(u32, Pause)>> = const { Cell::new(None) };
}

/// Runs `operation` and calls `pause` right after its `writes`-th shared write, or never if it needs fewer. A panic of `pause` goes
/// through `operation`; [`cut`] is one that stands for a kill.
#[cfg(not(loom))]
pub fn paused_after<T>(
    writes: u32,
    pause: impl FnOnce() + 'static,
    operation: impl FnOnce() -> T,
) -> T {
    PAUSE.set(Some((writes, Box::new(pause))));
    let answer = operation();
    PAUSE.set(None);
    answer
}

/// Unwinds as an operation that is cut does, without the message of a panic.
#[cfg(not(loom))]
pub fn cut() -> ! {
    resume_unwind(Box::new(Killed))
}

#[cfg(not(loom))]
fn pause_here() {
    match PAUSE.take() {
        None => {}
        Some((1, pause)) => pause(),
        Some((writes, pause)) => PAUSE.set(Some((writes.saturating_sub(1), pause))),
    }
}

/// Called after each shared write.
#[cfg_attr(not(loom), track_caller)]
pub(super) fn wrote() {
    #[cfg(not(loom))]
    process::wrote(core::panic::Location::caller());
    #[cfg(not(loom))]
    pause_here();
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

/// Killing the process itself, by a real SIGKILL.
#[cfg(not(loom))]
pub mod process {
    #![expect(
        clippy::disallowed_types,
        reason = "the counter must not count its own writes"
    )]

    use core::panic::Location;
    use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::collections::BTreeSet;
    use std::sync::{Mutex, PoisonError};

    use nix::sys::signal::{Signal, raise};

    static COUNTS: AtomicBool = AtomicBool::new(false);
    static DONE: AtomicU64 = AtomicU64::new(0);
    static LAST: AtomicU64 = AtomicU64::new(0);
    static WATCH: Mutex<Option<Watch>> = Mutex::new(None);

    /// Told of the last write before the kill.
    type Farewell = Box<dyn Fn(&'static Location<'static>) + Send>;

    struct Watch {
        places: BTreeSet<(&'static str, u32)>,
        farewell: Farewell,
    }

    /// From now on counts the shared writes of this process, and kills it right after the `last`-th; 0 = only counts.
    pub fn arm(last: u64, farewell: impl Fn(&'static Location<'static>) + Send + 'static) {
        let places = BTreeSet::new();
        let farewell = Box::new(farewell);
        *WATCH.lock().unwrap_or_else(PoisonError::into_inner) = Some(Watch { places, farewell });
        // ORDERING: the armed process has one thread.
        LAST.store(last, Ordering::Relaxed);
        // ORDERING: as above.
        DONE.store(0, Ordering::Relaxed);
        // ORDERING: as above.
        COUNTS.store(true, Ordering::Relaxed);
    }

    /// Stops counting; returns where in the sources shared writes were made.
    pub fn disarm() -> BTreeSet<(&'static str, u32)> {
        // ORDERING: the armed process has one thread.
        COUNTS.store(false, Ordering::Relaxed);
        let watch = WATCH.lock().unwrap_or_else(PoisonError::into_inner).take();
        watch.map(|watch| watch.places).unwrap_or_default()
    }

    pub(super) fn wrote(place: &'static Location<'static>) {
        // ORDERING: the armed process has one thread; in all others this stays false.
        if !COUNTS.load(Ordering::Relaxed) {
            return;
        }
        // ORDERING: as above.
        let done = DONE.fetch_add(1, Ordering::Relaxed) + 1;
        let mut watch = WATCH.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watch) = watch.as_mut() {
            watch.places.insert((place.file(), place.line()));
            // ORDERING: as above.
            if done == LAST.load(Ordering::Relaxed) {
                (watch.farewell)(place);
                // Does not return: the signal is taken on the way out of this call.
                let _ = raise(Signal::SIGKILL);
            }
        }
    }
}
