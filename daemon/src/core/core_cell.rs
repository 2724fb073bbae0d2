//! The core, and the one way in: entered synchronously, never held over an await.
//!
//! It is in the pinned thread. Handlers hold no reference to it but enter here; on an edge thread ([`enter_by`]) that has the pinned thread run what
//! they want to do, and waits for it (`sys/desk.rs`). So what runs inside must be `Send`, and finds itself on the pinned thread.
//! Invariants:
//! - I1: nobody enters while the cell is entered: what runs inside never polls, awaits or does I/O on
//!   sockets. [`poke`] does nothing while the cell is entered.
//! - I2: whoever changes something wakes the duty cycle, so no effect waits for a timer.
//!
//! The door itself is in `door.rs`, where it is tested.

use std::cell::{Cell, OnceCell};

use qtf_shm::Now;

use super::Core;
use super::door::Door;
use crate::sys::desk::{Messenger, Ticket};

thread_local! {
    static CORE: Door<Core> = const { Door::new() };
    /// Something changed since the last turn.
    static IS_DIRTY: Cell<bool> = const { Cell::new(false) };
    /// The way to the core from an edge thread.
    static MESSENGER: OnceCell<Messenger> = const { OnceCell::new() };
}

/// The calling thread is an edge thread from now on, and enters with this.
pub(crate) fn enter_by(ticket: Ticket) {
    MESSENGER.with(|way| {
        // A second ticket is no use to a thread that has one.
        way.get_or_init(|| Messenger::on_this_thread(ticket));
    });
}

/// Runs `action` where the core is. `None` when the daemon is gone, as `action` itself says on the core's thread.
fn where_it_is<R: Send>(action: impl FnOnce() -> Option<R> + Send) -> Option<R> {
    MESSENGER.with(|way| match way.get() {
        None => action(),
        Some(messenger) => messenger.run(action).flatten(),
    })
}

/// Puts the core into the calling thread.
pub(crate) fn install(core: Core) {
    CORE.with(|door| door.put(Some(core)));
}

/// Takes the core out of the calling thread.
pub(crate) fn remove() -> Option<Core> {
    CORE.with(|door| door.put(None))
}

/// Enters the core to change something. `None` when the daemon is gone.
pub(crate) fn enter<R: Send>(action: impl FnOnce(&mut Core) -> R + Send) -> Option<R> {
    where_it_is(|| {
        attend_here(|core| {
            let result = action(core);
            core.relieve();
            core.kick_journal();
            if !IS_DIRTY.replace(true) {
                core.wake.notify_one();
            }
            result
        })
    })
}

/// Enters the core to look at something.
pub(crate) fn look<R: Send>(action: impl FnOnce(&Core) -> R + Send) -> Option<R> {
    where_it_is(|| {
        CORE.with(|door| {
            door.look(|core| {
                core.moment.pass();
                action(core)
            })
        })
    })
}

/// Enters the core to note that a stream waits; changes nothing that the engine must see.
pub(crate) fn attend<R: Send>(action: impl FnOnce(&mut Core) -> R + Send) -> Option<R> {
    where_it_is(|| attend_here(action))
}

fn attend_here<R>(action: impl FnOnce(&mut Core) -> R) -> Option<R> {
    CORE.with(|door| {
        door.enter(|core| {
            core.moment.pass();
            action(core)
        })
    })
}

/// One turn of the engine. Returns how much was done and when something is due next.
pub(crate) fn turn() -> Option<(u64, Option<Now>)> {
    attend_here(|core| {
        IS_DIRTY.set(false);
        let work = core.turn();
        (work, core.next_deadline())
    })
}

/// The poll point in the path of gRPC: one turn if something changed, so that a busy edge does not hold
/// up what the engine would do. On an edge thread there is nothing to do: the core turns by itself.
pub(crate) fn poke() {
    if IS_DIRTY.get() && !CORE.with(Door::is_entered) {
        // What is left after this turn is seen by the duty cycle, which was woken already.
        let _ = turn();
    }
}
