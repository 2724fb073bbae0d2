//! The only loop of the pinned thread: turn, rest, until the stop.
//!
//! gRPC connections are tasks beside it on the same thread; they run while it rests. Tested through the
//! whole daemon.

use tokio::sync::{Notify, watch};

use crate::core_cell::{self, Core};
use crate::idle::Rest;

/// Turns until `stop` becomes true, or its sender is gone, or another daemon has taken over.
pub(crate) async fn run(rest: &mut Rest, wake: &Notify, mut stop: watch::Receiver<bool>) {
    tokio::select! {
        biased;
        _ = stop.wait_for(|stop| *stop) => {}
        () = turn_for_ever(rest, wake) => {}
    }
}

/// Turns until the core is gone from this thread, or another daemon has taken over.
pub(crate) async fn turn_for_ever(rest: &mut Rest, wake: &Notify) {
    while let Some((work, due)) = core_cell::turn() {
        if core_cell::look(Core::is_taken_over).unwrap_or(true) {
            tracing::error!("another daemon has taken over the segment, stopping");
            return;
        }
        let Some(now) = core_cell::look(Core::now) else {
            return;
        };
        rest.rest(work, now, due, wake).await;
    }
}
