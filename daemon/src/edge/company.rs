//! How long something that may be told waits for something else to be told with it.
//!
//! Nothing waits for longer than [`WAIT_MAX`], by the clock of the runtime, which counts in whole milliseconds. There is one timer for a
//! stream, and it is set at most once in that time, however many things wait one after the other.
//! Tested at the end of this file.

use std::future::Future as _;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// LIMIT: what waits goes alone after that.
pub(super) const WAIT_MAX: Duration = Duration::from_millis(1);

/// Whether to wait on.
#[derive(Debug, Default)]
pub(super) struct Company {
    timer: Option<Pin<Box<Sleep>>>,
    /// Until when what waits now is to wait.
    until: Option<Instant>,
}

impl Company {
    /// Something waits. True when it has waited for long enough; if not, whoever polls is woken then.
    pub(super) fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        let until = match self.until {
            Some(until) => until,
            None => *self.until.insert(Instant::now() + WAIT_MAX),
        };
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        while timer.as_mut().poll(cx).is_ready() {
            if timer.deadline() >= until {
                self.until = None;
                return true;
            }
            // It was set for something that has gone since.
            timer.as_mut().reset(until);
        }
        false
    }

    /// What waited has gone.
    pub(super) fn has_come(&mut self) {
        self.until = None;
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Poll, Waker};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_waits_goes_after_a_while_and_each_time_anew() {
        let mut company = Company::default();
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..3 {
            assert!(!company.is_late(&mut cx));
            tokio::time::advance(WAIT_MAX * 3).await;
            assert!(company.is_late(&mut cx));
        }
        assert!(!company.is_late(&mut cx));
        company.has_come();
        tokio::time::advance(WAIT_MAX * 3).await;
        assert!(
            !company.is_late(&mut cx),
            "a timer of before counts for nothing"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_is_woken_in_time_also_by_a_timer_that_was_set_for_another() {
        let mut company = Company::default();
        std::future::poll_fn(|cx| {
            assert!(!company.is_late(cx));
            company.has_come();
            Poll::Ready(())
        })
        .await;
        tokio::time::advance(WAIT_MAX / 2).await;
        let began = Instant::now();
        std::future::poll_fn(|cx| {
            if company.is_late(cx) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        let waited = began.elapsed();
        assert!((WAIT_MAX..=WAIT_MAX * 2).contains(&waited), "{waited:?}");
    }
}
