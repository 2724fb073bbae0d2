//! How long a daemon that is away is waited for, and how often it is tried.
//!
//! Invariant: the time runs from the first failure since the daemon was last heard, whatever else is tried
//! in between, so every caller gets its answer or its error within the limit and one call's time.

use core::time::Duration;

use tokio::time::Instant;

use crate::error::CallError;
use crate::key::random;

const BACKOFF_FIRST: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Patience {
    limit: Duration,
    /// First failure since the daemon was last heard.
    since: Option<Instant>,
    backoff: Duration,
}

impl Patience {
    pub(crate) const fn new(limit: Duration) -> Self {
        Self {
            limit,
            since: None,
            backoff: BACKOFF_FIRST,
        }
    }

    /// The daemon gave a sign of life.
    pub(crate) const fn heard(&mut self) {
        self.since = None;
        self.backoff = BACKOFF_FIRST;
    }

    /// Time that is left.
    pub(crate) fn left(&self) -> Duration {
        match self.since {
            Some(since) => self.limit.saturating_sub(since.elapsed()),
            None => self.limit,
        }
    }

    /// The time runs from then on, if it does not yet.
    pub(crate) fn runs_from(&mut self, then: Instant) {
        self.since.get_or_insert(then);
    }

    /// Takes a failure: waits before the next try, or gives the error back when there is to be none.
    pub(crate) async fn after(&mut self, error: CallError) -> Result<(), CallError> {
        self.runs_from(Instant::now());
        let pause = spread(self.backoff);
        if !error.is_passing() || self.left() < pause {
            return Err(error);
        }
        self.backoff = self.backoff.saturating_mul(2).min(BACKOFF_MAX);
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// Between half and all of it, so that a thousand clients do not come back as one.
pub(crate) fn spread(pause: Duration) -> Duration {
    let half = pause / 2;
    let part = u32::try_from(random() % 1024).unwrap_or(0);
    half + half * part / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    fn away() -> CallError {
        CallError::Unreachable {
            cause: "reset".to_owned(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends_with_the_last_error_when_its_time_is_over_and_starts_anew_when_heard() {
        let limit = Duration::from_secs(30);
        let mut patience = Patience::new(limit);
        for _ in 0..2 {
            let begin = Instant::now();
            while patience.after(away()).await.is_ok() {}
            let taken = begin.elapsed();
            assert!(taken <= limit && taken > limit / 2, "{taken:?}");
            patience.heard();
            assert_eq!(patience.left(), limit);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn error_that_does_not_pass_is_given_back_at_once() {
        let mut patience = Patience::new(Duration::from_secs(30));
        let begin = Instant::now();
        let error = CallError::protocol("nonsense");
        assert_eq!(patience.after(error.clone()).await, Err(error));
        assert_eq!(begin.elapsed(), Duration::ZERO);
    }
}
