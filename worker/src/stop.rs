//! How a running attempt learns that it has to end.

use core::time::Duration;

use qtf_proto::v1::OutcomeKind;
use tokio::sync::watch;
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

/// The agent's end.
#[derive(Debug)]
pub(crate) struct StopSwitch(watch::Sender<Option<StopOrder>>);

impl StopSwitch {
    /// Gives an order; the cause of the first one counts.
    pub(crate) fn stop(&self, order: StopOrder) {
        self.0.send_modify(|current| {
            let cause = current.map_or(order.cause, |first| first.cause);
            let at_once = order.at_once || current.is_some_and(|first| first.at_once);
            *current = Some(StopOrder { cause, at_once });
        });
    }
}

/// The attempt's end: orders, and the attempt's own time limit.
#[derive(Clone, Debug)]
pub(crate) struct StopSignal {
    orders: watch::Receiver<Option<StopOrder>>,
    deadline: Option<Instant>,
}

/// Makes both ends for an attempt that starts now.
pub(crate) fn stop_pair(timeout_ms: u32) -> (StopSwitch, StopSignal) {
    let (sender, orders) = watch::channel(None);
    let timeout = Duration::from_millis(timeout_ms.into());
    let deadline = (timeout_ms > 0).then(|| Instant::now() + timeout);
    (StopSwitch(sender), StopSignal { orders, deadline })
}

impl StopSignal {
    /// Waits until the attempt has to end.
    pub(crate) async fn stopped(&self) -> StopCause {
        let deadline = self.deadline;
        let time_is_over = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => core::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            cause = ordered(self.orders.clone()) => cause,
            () = time_is_over => StopCause::TimedOut,
        }
    }

    /// Waits until the attempt has to end without grace.
    pub(crate) async fn stopped_at_once(&self) {
        let at_once = |order: &Option<StopOrder>| order.is_some_and(|order| order.at_once);
        if self.orders.clone().wait_for(at_once).await.is_err() {
            core::future::pending::<()>().await;
        }
    }

    /// True when the attempt has to end.
    pub(crate) fn is_stopped(&self) -> bool {
        let is_late = self
            .deadline
            .is_some_and(|deadline| Instant::now() >= deadline);
        is_late || self.orders.borrow().is_some()
    }
}

async fn ordered(mut orders: watch::Receiver<Option<StopOrder>>) -> StopCause {
    let order = orders
        .wait_for(Option::is_some)
        .await
        .ok()
        .and_then(|order| *order);
    match order {
        Some(order) => order.cause,
        // The agent is gone without an order: its tasks are dropped, there is nobody to tell.
        None => core::future::pending().await,
    }
}
