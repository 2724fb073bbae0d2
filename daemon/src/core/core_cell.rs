//! The core of this thread, and the one way in: entered synchronously, never held over an await.
//!
//! gRPC handlers must be `Send` although they run on one thread; they hold no reference to the core but enter here.
//! Invariants:
//! - I1: nobody enters while the cell is entered: what runs inside never polls, awaits or does I/O on
//!   sockets. [`poke`] does nothing while the cell is entered.
//! - I2: whoever changes something wakes the duty cycle, so no effect waits for a timer.
//!
//! The door itself is in `door.rs`, where it is tested.

use std::cell::Cell;

use qtf_shm::Now;

use super::Core;
use super::door::Door;

thread_local! {
    static CORE: Door<Core> = const { Door::new() };
    /// Something changed since the last turn.
    static IS_DIRTY: Cell<bool> = const { Cell::new(false) };
}

/// Puts the core into the calling thread.
pub(crate) fn install(core: Core) {
    CORE.with(|door| door.put(Some(core)));
}

/// Takes the core out of the calling thread.
pub(crate) fn remove() -> Option<Core> {
    CORE.with(|door| door.put(None))
}

/// Enters the core to change something. `None` when the daemon is gone from this thread.
pub(crate) fn enter<R>(action: impl FnOnce(&mut Core) -> R) -> Option<R> {
    attend(|core| {
        let result = action(core);
        core.relieve();
        core.kick_journal();
        if !IS_DIRTY.replace(true) {
            core.wake.notify_one();
        }
        result
    })
}

/// Enters the core to look at something.
pub(crate) fn look<R>(action: impl FnOnce(&Core) -> R) -> Option<R> {
    CORE.with(|door| {
        door.look(|core| {
            core.moment.pass();
            action(core)
        })
    })
}

/// Enters the core to note that a stream waits; changes nothing that the engine must see.
pub(crate) fn attend<R>(action: impl FnOnce(&mut Core) -> R) -> Option<R> {
    CORE.with(|door| {
        door.enter(|core| {
            core.moment.pass();
            action(core)
        })
    })
}

/// One turn of the engine. Returns how much was done and when something is due next.
pub(crate) fn turn() -> Option<(u64, Option<Now>)> {
    attend(|core| {
        IS_DIRTY.set(false);
        let work = core.turn();
        (work, core.next_deadline())
    })
}

/// The poll point in the path of gRPC: one turn if something changed, so that a busy edge does not hold
/// up what the engine would do.
pub(crate) fn poke() {
    if IS_DIRTY.get() && !CORE.with(Door::is_entered) {
        // What is left after this turn is seen by the duty cycle, which was woken already.
        let _ = turn();
    }
}
