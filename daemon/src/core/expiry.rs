//! Says once in a while how many results have expired that nobody had acknowledged.
//!
//! Tested at the end of this file.

use core::time::Duration;

use qtf_shm::{Counter, Counters, Now};

/// One line for all that expired in so long.
const PERIOD: Duration = Duration::from_secs(60);

/// What has been said.
#[derive(Debug, Default)]
pub(crate) struct Expiry {
    next: Option<Now>,
    seen: Seen,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Seen {
    all: u64,
    failed: u64,
}

impl Expiry {
    /// Looks at the time.
    pub(crate) fn look(&mut self, now: Now, counters: Counters<'_>) {
        let Some(Seen { all, failed }) = self.due(now, seen(counters)) else {
            return;
        };
        let done = all.saturating_sub(failed);
        tracing::warn!(
            results = all,
            failed,
            done,
            "results expired before anybody had acknowledged them, in the last {} s: forget them in time (qtf forget), or have them kept longer (failed_result_ttl_ms, result_ttl_ms, --keep)",
            PERIOD.as_secs()
        );
    }

    /// What expired since the last line, if it is time for another and there is something to say. What expired before the
    /// daemon started is another's.
    fn due(&mut self, now: Now, seen: Seen) -> Option<Seen> {
        let is_first = self.next.is_none();
        if self.next.is_some_and(|next| now < next) {
            return None;
        }
        let period_ns = u64::try_from(PERIOD.as_nanos()).unwrap_or(u64::MAX);
        self.next = Some(now.plus_ns(period_ns));
        let before = core::mem::replace(&mut self.seen, seen);
        let since = Seen {
            all: seen.all.saturating_sub(before.all),
            failed: seen.failed.saturating_sub(before.failed),
        };
        (!is_first && since.all > 0).then_some(since)
    }
}

fn seen(counters: Counters<'_>) -> Seen {
    Seen {
        all: counters.get(Counter::ResultExpired),
        failed: counters.get(Counter::FailedExpired),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_period_counts_what_expired_in_it_and_nothing_is_said_of_none() {
        let mut expiry = Expiry::default();
        let at = |seconds: u64| Now::from_ns(seconds * 1_000_000_000);
        let seen = |all, failed| Seen { all, failed };
        assert_eq!(expiry.due(at(5), seen(9, 3)), None, "of the one before");
        assert_eq!(expiry.due(at(6), seen(20, 4)), None);
        assert_eq!(expiry.due(at(64), seen(30, 4)), None);
        assert_eq!(expiry.due(at(65), seen(40, 4)), Some(seen(31, 1)));
        assert_eq!(expiry.due(at(66), seen(50, 5)), None);
        assert_eq!(expiry.due(at(130), seen(50, 5)), Some(seen(10, 1)));
        assert_eq!(expiry.due(at(200), seen(50, 5)), None);
    }
}
