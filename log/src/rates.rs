//! How often a line may come: a bucket for each place in the code that logs.
//!
//! A peer can cause most warnings at will, so each place may log some lines at once and some more each second; the code of
//! others, whose lines say little to an operator, fewer than ours. What is left out is counted for each place. Debug lines
//! are there because somebody asked for all of them.
//!
//! Tested at the end.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::{Level, Metadata};

/// LIMIT: lines of one place at once, and the time after which there may be one more.
const OURS: Rate = Rate {
    at_once: 100,
    each: Duration::from_millis(100),
};
const OF_OTHERS: Rate = Rate {
    at_once: 10,
    each: Duration::from_secs(2),
};

#[derive(Clone, Copy, Debug)]
struct Rate {
    at_once: u32,
    each: Duration,
}

/// One place in the code.
#[derive(Debug)]
struct Place {
    of: &'static Metadata<'static>,
    /// Lines that may come now.
    left: u32,
    /// Up to when lines were added to `left`.
    filled: Instant,
    left_out: u64,
}

/// The buckets; as many as there are places that have logged.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    places: HashMap<Identifier, Place>,
    has_left_out: bool,
}

impl Rates {
    /// Whether a line of this place may be written.
    pub(crate) fn admits(&mut self, of: &'static Metadata<'static>, now: Instant) -> bool {
        // More is more verbose.
        if *of.level() > Level::INFO {
            return true;
        }
        let rate = rate_of(of.target());
        let place = self.places.entry(of.callsite()).or_insert(Place {
            of,
            left: rate.at_once,
            filled: now,
            left_out: 0,
        });
        place.fill(rate, now);
        match place.left.checked_sub(1) {
            Some(left) => {
                place.left = left;
                true
            }
            None => {
                place.left_out = place.left_out.saturating_add(1);
                self.has_left_out = true;
                false
            }
        }
    }

    /// Whether something was left out that was not told yet.
    pub(crate) const fn has_left_out(&self) -> bool {
        self.has_left_out
    }

    /// What was left out since this was asked last.
    pub(crate) fn take_left_out(&mut self) -> Vec<(&'static Metadata<'static>, u64)> {
        self.has_left_out = false;
        let places = self.places.values_mut();
        let taken = places.map(|place| (place.of, std::mem::take(&mut place.left_out)));
        taken.filter(|(_, count)| *count > 0).collect()
    }
}

impl Place {
    fn fill(&mut self, rate: Rate, now: Instant) {
        let passed = now.saturating_duration_since(self.filled).as_nanos();
        let each = rate.each.as_nanos().max(1);
        let more = u32::try_from(passed / each).unwrap_or(u32::MAX);
        if more >= rate.at_once {
            (self.left, self.filled) = (rate.at_once, now);
        } else if more > 0 {
            self.left = self.left.saturating_add(more).min(rate.at_once);
            self.filled += rate.each * more;
        }
    }
}

fn rate_of(target: &str) -> Rate {
    let is_ours = target.starts_with("qtf") || target.starts_with("shm_inspect");
    if is_ours { OURS } else { OF_OTHERS }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::callsite::{Callsite, DefaultCallsite};

    macro_rules! place {
        ($target:literal, $level:expr) => {{
            static CALLSITE: DefaultCallsite = DefaultCallsite::new(&METADATA);
            static METADATA: Metadata<'static> = tracing::metadata! {
                name: "test",
                target: $target,
                level: $level,
                fields: &[],
                callsite: &CALLSITE,
                kind: tracing::metadata::Kind::EVENT
            };
            CALLSITE.metadata()
        }};
    }

    fn admitted(rates: &mut Rates, of: &'static Metadata<'static>, now: Instant) -> usize {
        (0..1_000).filter(|_| rates.admits(of, now)).count()
    }

    #[test]
    fn lines_of_others_come_less_often_than_ours_and_all_are_counted() {
        let mut rates = Rates::default();
        let now = Instant::now();
        let ours = place!("qtf_daemon::net", Level::WARN);
        let theirs = place!("h2::proto", Level::WARN);
        assert_eq!(admitted(&mut rates, ours, now), 100);
        assert_eq!(admitted(&mut rates, theirs, now), 10);
        assert!(rates.has_left_out());
        let mut left_out: Vec<_> = rates.take_left_out();
        left_out.sort_by_key(|(of, _)| of.target());
        assert_eq!(
            left_out.iter().map(|(_, count)| *count).collect::<Vec<_>>(),
            [990, 900]
        );
        assert!(!rates.has_left_out());
        assert_eq!(rates.take_left_out(), []);
    }

    #[test]
    fn lines_come_again_with_time_but_no_more_at_once_than_at_first() {
        let mut rates = Rates::default();
        let now = Instant::now();
        let ours = place!("qtf_worker", Level::ERROR);
        assert_eq!(admitted(&mut rates, ours, now), 100);
        assert_eq!(
            admitted(&mut rates, ours, now + Duration::from_millis(99)),
            0
        );
        assert_eq!(
            admitted(&mut rates, ours, now + Duration::from_millis(250)),
            2
        );
        // What is left of the 250 ms is not lost.
        assert_eq!(
            admitted(&mut rates, ours, now + Duration::from_millis(300)),
            1
        );
        assert_eq!(
            admitted(&mut rates, ours, now + Duration::from_secs(3_600)),
            100
        );
    }

    #[test]
    fn debug_lines_are_not_left_out() {
        let mut rates = Rates::default();
        let debug = place!("h2::proto", Level::DEBUG);
        assert_eq!(admitted(&mut rates, debug, Instant::now()), 1_000);
    }
}
