//! The end of a stream before its time: what was taken from the source is answered, what is on its way with the daemon's word.
//!
//! Tested in `client/tests/calls.rs`.

use core::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::wire::lost;
use super::{Numbered, Pump};
use crate::error::{CallError, SubmitError};

impl Pump {
    /// Answers what is not on its way.
    pub(super) fn begin_to_stop(&mut self, within: Duration) {
        self.stopping = Some((Instant::now() + within, within));
        self.source_is_over = true;
        let unsent = core::mem::take(&mut self.unsent).into_iter();
        for numbered in unsent.chain(core::mem::take(&mut self.retry)) {
            self.answer_unsent(&numbered);
        }
    }

    /// The answer to what is not sent (again) because of a stop.
    pub(super) fn answer_unsent(&mut self, numbered: &Numbered) {
        let answer = match numbered.entry.sent_at {
            // It went out before, and that answer was lost.
            Some(_) => numbered.entry.given_up(lost()),
            None => SubmitError::Stopped,
        };
        self.answer(numbered, Err(answer));
    }

    /// Answers what is on its way without the daemon's word.
    pub(super) fn end_in_flight(&mut self, error: &CallError) {
        for numbered in core::mem::take(&mut self.in_flight).into_values().flatten() {
            let answer = numbered.entry.given_up(error.clone());
            self.answer(&numbered, Err(answer));
        }
    }
}

/// Waits until a stop is asked for; how long answers are then waited for.
pub(super) async fn stop_asked(stop: &mut watch::Receiver<Option<Duration>>) -> Duration {
    let asked = stop.wait_for(Option::is_some).await.map(|within| *within);
    match asked {
        Ok(Some(within)) => within,
        // Nobody can ask any more: the answers are not read either.
        Ok(None) | Err(_) => core::future::pending().await,
    }
}

/// Waits until answers have been waited for long enough.
pub(super) async fn time_over(stopping: Option<(Instant, Duration)>) -> Duration {
    match stopping {
        Some((until, within)) => {
            tokio::time::sleep_until(until).await;
            within
        }
        None => core::future::pending().await,
    }
}
