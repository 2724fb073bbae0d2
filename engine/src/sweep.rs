//! The walk over all task slots that mends what was left behind: where it stands, and when it has
//! seen enough.
//!
//! One walk serves three askers, because all of them use the same idempotent repair of one slot
//! (`plm/upkeep/repair.rs`): tasks of lost workers, tasks that a reconnected worker no longer holds,
//! parked tasks whose kind is offered again. An asker gets the number of a pass; what it asked for
//! is certain once [`Sweep::has_completed`] that pass. While somebody asks, a stripe is walked in
//! each cycle; when nobody does, one stripe in each background period.
//!
//! With each background stripe go some blocks of the arena, whose chunks of tasks that are gone are freed.
//!
//! Invariant: a pass that is completed has looked at every slot that was in use when it began.
//! Tested at the end of this file.

use core::ops::Range;

use qtf_shm::Now;

/// LIMIT: blocks of the arena that are looked at together with a stripe: at most 8,192 chunks, some tens of
/// microseconds.
const BLOCKS_PER_STRIPE: u32 = 8;

/// Number of a walk over all slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pass(u64);

/// The walk.
#[derive(Debug)]
pub(crate) struct Sweep {
    cursor: u32,
    /// The pass under way.
    current: Pass,
    /// The last pass that somebody waits for, if any is not yet completed.
    wanted: Option<Pass>,
    background_due: Now,
    stripe: u32,
    background_ns: u64,
    /// Where the walk over the arena's blocks stands.
    block: u32,
}

impl Sweep {
    pub(crate) fn new(stripe: u32, background_ns: u64, now: Now) -> Self {
        Self {
            cursor: 0,
            current: Pass(1),
            wanted: None,
            background_due: now.plus_ns(background_ns),
            stripe,
            background_ns,
            block: 0,
        }
    }

    /// Asks for a whole pass from now on; returns its number.
    pub(crate) fn request(&mut self) -> Pass {
        let pass = if self.wanted.is_none() {
            // Nobody waits for the pass under way: it starts over and is the one.
            self.cursor = 0;
            self.current
        } else {
            self.following()
        };
        self.want(pass);
        pass
    }

    /// Asks for one more whole pass, because the one under way found something; returns its number.
    pub(crate) fn request_another(&mut self) -> Pass {
        let pass = self.following();
        self.want(pass);
        pass
    }

    /// Says whether a pass has been completed.
    pub(crate) fn has_completed(&self, pass: Pass) -> bool {
        self.current > pass
    }

    /// Says whether somebody waits for a pass.
    pub(crate) fn is_urgent(&self) -> bool {
        self.wanted.is_some()
    }

    /// When the next stripe is due.
    pub(crate) fn due(&self, now: Now) -> Now {
        if self.is_urgent() {
            now
        } else {
            self.background_due
        }
    }

    /// The slots to look at now, below `high_water` and at most `limit` of them.
    pub(crate) fn next_stripe(&mut self, now: Now, high_water: u32, limit: u32) -> Range<u32> {
        self.background_due = now.plus_ns(self.background_ns);
        let start = self.cursor.min(high_water);
        let end = start.saturating_add(self.stripe.min(limit)).min(high_water);
        self.cursor = end;
        start..end
    }

    /// The blocks of the arena to look at together with a stripe; they go round on their own, as nobody waits
    /// for them.
    pub(crate) fn next_blocks(&mut self, count: u32) -> Range<u32> {
        let start = if self.block < count { self.block } else { 0 };
        self.block = start.saturating_add(BLOCKS_PER_STRIPE).min(count);
        start..self.block
    }

    /// To be called when a stripe was looked at: completes the pass if it was the last one. Returns
    /// whether it did.
    pub(crate) fn stripe_done(&mut self, high_water: u32) -> bool {
        if self.cursor < high_water {
            return false;
        }
        self.cursor = 0;
        let completed = self.current;
        self.current = self.following();
        if self.wanted.is_some_and(|pass| pass <= completed) {
            self.wanted = None;
        }
        true
    }

    fn want(&mut self, pass: Pass) {
        self.wanted = Some(self.wanted.map_or(pass, |wanted| wanted.max(pass)));
    }

    fn following(&self) -> Pass {
        Pass(self.current.0.saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now { ns: 1_000 };

    fn walk(sweep: &mut Sweep, high_water: u32) -> Vec<u32> {
        let mut seen = Vec::new();
        while sweep.due(NOW) <= NOW {
            seen.extend(sweep.next_stripe(NOW, high_water, u32::MAX));
            sweep.stripe_done(high_water);
        }
        seen
    }

    #[test]
    fn a_request_to_an_idle_sweep_is_met_by_one_pass_over_all_slots() {
        let mut sweep = Sweep::new(4, 100, NOW);
        assert_eq!(walk(&mut sweep, 10), []);
        let pass = sweep.request();
        assert!(!sweep.has_completed(pass));
        assert_eq!(walk(&mut sweep, 10), (0..10).collect::<Vec<_>>());
        assert!(sweep.has_completed(pass));
        assert!(!sweep.is_urgent());
    }

    #[test]
    fn blocks_go_round() {
        let mut sweep = Sweep::new(4, 100, NOW);
        assert_eq!(sweep.next_blocks(10), 0..8);
        assert_eq!(sweep.next_blocks(10), 8..10);
        assert_eq!(sweep.next_blocks(10), 0..8);
        assert_eq!(sweep.next_blocks(0), 0..0);
    }

    #[test]
    fn a_request_in_the_middle_of_a_wanted_pass_gets_the_whole_next_one() {
        let mut sweep = Sweep::new(4, 100, NOW);
        let first = sweep.request();
        assert_eq!(sweep.next_stripe(NOW, 10, 4), 0..4);
        assert!(!sweep.stripe_done(10));
        let second = sweep.request();
        assert!(second > first);
        let seen = walk(&mut sweep, 10);
        assert_eq!(seen, (4..10).chain(0..10).collect::<Vec<_>>());
        assert!(sweep.has_completed(second));
    }

    #[test]
    fn a_pass_that_found_something_is_followed_by_another() {
        let mut sweep = Sweep::new(16, 100, NOW);
        let first = sweep.request();
        assert_eq!(sweep.next_stripe(NOW, 10, 16), 0..10);
        let second = sweep.request_another();
        assert!(sweep.stripe_done(10));
        assert!(sweep.has_completed(first));
        assert!(!sweep.has_completed(second));
        assert_eq!(walk(&mut sweep, 10).len(), 10);
        assert!(sweep.has_completed(second));
    }

    #[test]
    fn an_empty_segment_completes_a_pass_at_once() {
        let mut sweep = Sweep::new(4, 100, NOW);
        let pass = sweep.request();
        assert_eq!(sweep.next_stripe(NOW, 0, 4), 0..0);
        assert!(sweep.stripe_done(0));
        assert!(sweep.has_completed(pass));
    }

    #[test]
    fn when_nobody_asks_one_stripe_is_walked_in_each_background_period() {
        let mut sweep = Sweep::new(4, 100, NOW);
        assert_eq!(sweep.due(NOW), NOW.plus_ns(100));
        let later = NOW.plus_ns(100);
        assert_eq!(sweep.next_stripe(later, 10, 9), 0..4);
        assert_eq!(sweep.due(later), later.plus_ns(100));
        assert_eq!(sweep.next_stripe(later.plus_ns(100), 10, 2), 4..6);
    }
}
