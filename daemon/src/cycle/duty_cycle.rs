//! The only loop of the pinned thread: serve the edge threads, turn, rest, until the stop.
//!
//! Without edge threads gRPC connections are tasks beside it on the same thread; they run while it rests. Tested through the
//! whole daemon.

use tokio::sync::{Notify, watch};

use super::idle::Rest;
use crate::core::{Core, core_cell};

/// Turns until `stop` becomes true, or its sender is gone, or another daemon has adopted the segment, or the journal has
/// failed.
pub(crate) async fn run(rest: &mut Rest, wake: &Notify, mut stop: watch::Receiver<bool>) {
    tokio::select! {
        biased;
        _ = stop.wait_for(|stop| *stop) => {}
        () = turn_until(rest, wake, Core::is_over) => {}
    }
}

/// The same at the end: until another daemon has adopted the segment. After a failure of the journal nothing is decided any
/// more, and refusals are still to be sent.
pub(crate) async fn turn_at_the_end(rest: &mut Rest, wake: &Notify) {
    turn_until(rest, wake, Core::is_superseded).await;
}

/// Turns until what the daemon found is in its journal, and the ids that it gives are reserved; or the journal has
/// failed.
pub(crate) async fn settle(rest: &mut Rest, wake: &Notify) {
    turn_until(rest, wake, |core| core.is_over() || core.is_settled()).await;
}

async fn turn_until(rest: &mut Rest, wake: &Notify, is_over: impl Fn(&Core) -> bool + Sync) {
    loop {
        let served = rest.serve();
        let Some((work, due)) = core_cell::turn() else {
            return;
        };
        let seen = core_cell::look(|core| (is_over(core), core.now(), core.is_writing()));
        let Some((false, now, is_writing)) = seen else {
            if core_cell::look(Core::is_superseded) == Some(true) {
                tracing::error!("another daemon has adopted the segment, stopping");
            }
            return;
        };
        rest.note_write(is_writing);
        rest.rest(work.saturating_add(served), now, due, wake).await;
    }
}
