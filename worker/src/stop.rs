//! How a running attempt learns that it has to end.
//!
//! Invariants:
//! - S1: an order is never missed: it is there before who waits for it is woken, and looked for after it was said who waits.
//! - S2: both ends cost one allocation, and nobody is woken where nobody waits: most attempts end without an order.
//!
//! Tested at the end of the file.

use core::time::Duration;
use std::sync::{Arc, Mutex, PoisonError};

use qtf_proto::v1::OutcomeKind;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Why an attempt is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StopCause {
    /// Its client cancelled it.
    Cancelled,
    /// It ran longer than it may.
    TimedOut,
    /// It is not this worker's any more: nobody wants to hear of it.
    Stale,
}

impl StopCause {
    /// The outcome of an attempt that was stopped for this.
    pub(crate) const fn outcome_kind(self) -> OutcomeKind {
        match self {
            Self::TimedOut => OutcomeKind::TimedOut,
            Self::Cancelled | Self::Stale => OutcomeKind::Cancelled,
        }
    }
}

/// An order to stop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StopOrder {
    pub(crate) cause: StopCause,
    /// Without the grace.
    pub(crate) at_once: bool,
}

/// What both ends share.
#[derive(Debug, Default)]
struct Shared {
    order: Mutex<Option<StopOrder>>,
    changed: Notify,
}

impl Shared {
    fn order(&self) -> Option<StopOrder> {
        // Nothing that could panic is done under the lock.
        *self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for an order that is one of these; for ever if there is no agent any more that could give it.
    async fn ordered(&self, is_one: impl Fn(&StopOrder) -> bool) -> StopOrder {
        loop {
            // Before the look: what is told after it wakes this one, although it does not wait yet.
            let changed = self.changed.notified();
            if let Some(order) = self.order().filter(&is_one) {
                return order;
            }
            changed.await;
        }
    }
}

/// The agent's end.
#[derive(Debug, Default)]
pub(crate) struct StopSwitch(Arc<Shared>);

impl StopSwitch {
    /// The other end, for an attempt that starts now.
    pub(crate) fn signal(&self, timeout_ms: u32) -> StopSignal {
        StopSignal {
            shared: Arc::clone(&self.0),
            deadline: deadline(timeout_ms),
        }
    }

    /// The same for another attempt, if nobody has the other end any more and no order was given.
    pub(crate) fn unused(mut self) -> Option<Self> {
        let shared = Arc::get_mut(&mut self.0)?;
        let order = shared.order.get_mut();
        let is_unused = order.unwrap_or_else(PoisonError::into_inner).is_none();
        is_unused.then_some(self)
    }

    /// Gives an order; the cause of the first one counts.
    pub(crate) fn stop(&self, order: StopOrder) {
        {
            let current = &mut *self.0.order.lock().unwrap_or_else(PoisonError::into_inner);
            let cause = current.map_or(order.cause, |first| first.cause);
            let at_once = order.at_once || current.is_some_and(|first| first.at_once);
            *current = Some(StopOrder { cause, at_once });
        }
        self.0.changed.notify_waiters();
    }
}

/// The attempt's end: orders, and the attempt's own time limit.
#[derive(Clone, Debug)]
pub(crate) struct StopSignal {
    shared: Arc<Shared>,
    deadline: Option<Instant>,
}

/// Of an attempt that starts now; 0 for none.
fn deadline(timeout_ms: u32) -> Option<Instant> {
    let timeout = Duration::from_millis(timeout_ms.into());
    (timeout_ms > 0).then(|| Instant::now() + timeout)
}

/// Makes both ends for an attempt that starts now.
pub(crate) fn stop_pair(timeout_ms: u32) -> (StopSwitch, StopSignal) {
    let switch = StopSwitch::default();
    let signal = switch.signal(timeout_ms);
    (switch, signal)
}

impl StopSignal {
    /// The same for an attempt that starts now.
    pub(crate) fn within(mut self, timeout_ms: u32) -> Self {
        self.deadline = deadline(timeout_ms);
        self
    }

    /// Waits until the attempt has to end.
    pub(crate) async fn stopped(&self) -> StopCause {
        let ordered = self.shared.ordered(|_| true);
        let Some(deadline) = self.deadline else {
            return ordered.await.cause;
        };
        tokio::select! {
            biased;
            order = ordered => order.cause,
            () = tokio::time::sleep_until(deadline) => StopCause::TimedOut,
        }
    }

    /// Waits until the attempt has to end without grace.
    pub(crate) async fn stopped_at_once(&self) {
        self.shared.ordered(|order| order.at_once).await;
    }

    /// True when the attempt has to end.
    pub(crate) fn is_stopped(&self) -> bool {
        let is_late = self
            .deadline
            .is_some_and(|deadline| Instant::now() >= deadline);
        is_late || self.shared.order().is_some()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const CANCELLED: StopOrder = StopOrder {
        cause: StopCause::Cancelled,
        at_once: false,
    };

    #[tokio::test]
    async fn an_order_reaches_who_waits_and_who_comes_later_and_the_first_cause_counts() {
        let (switch, signal) = stop_pair(0);
        let waiting = tokio::spawn({
            let signal = signal.clone();
            async move { signal.stopped().await }
        });
        tokio::task::yield_now().await;
        assert!(!signal.is_stopped());
        switch.stop(CANCELLED);
        switch.stop(StopOrder {
            cause: StopCause::Stale,
            at_once: true,
        });
        assert_eq!(waiting.await.ok(), Some(StopCause::Cancelled));
        assert!(signal.is_stopped());
        assert_eq!(signal.stopped().await, StopCause::Cancelled);
        signal.stopped_at_once().await;
    }

    #[test]
    fn switch_is_used_again_only_where_nobody_could_hear_of_the_attempt_before() {
        let (switch, signal) = stop_pair(0);
        drop(signal);
        let switch = switch.unused().unwrap();
        let signal = switch.signal(0);
        assert!(!signal.is_stopped());
        switch.stop(CANCELLED);
        assert!(switch.unused().is_none(), "an order was given");
        let (switch, kept) = stop_pair(0);
        assert!(switch.unused().is_none(), "a handler has kept its end");
        assert!(!kept.is_stopped());
    }

    #[tokio::test]
    async fn who_waits_for_the_end_of_the_grace_is_not_woken_by_the_order_that_began_it() {
        let (switch, signal) = stop_pair(0);
        switch.stop(CANCELLED);
        assert!(signal.stopped_at_once().now_or_never().is_none());
        let over = async {
            switch.stop(StopOrder {
                at_once: true,
                ..CANCELLED
            });
        };
        tokio::join!(signal.stopped_at_once(), over);
    }

    #[tokio::test]
    async fn without_its_agent_an_attempt_is_stopped_by_its_time_limit_alone() {
        let (switch, signal) = stop_pair(0);
        drop(switch);
        assert!(signal.stopped().now_or_never().is_none());
        let (switch, signal) = stop_pair(1);
        drop(switch);
        assert_eq!(signal.stopped().await, StopCause::TimedOut);
        assert!(signal.is_stopped());
    }
}
