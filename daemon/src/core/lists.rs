//! Whose turn it is to walk on through the slots.
//!
//! A list of tasks looks at slots, a stripe at a time. One stripe is looked at in a turn of the loop, however many lists there are:
//! they take it in the order in which they asked, and whoever has had one asks again behind the others. So lists make each other
//! slower, and nobody else.
//!
//! A list whose peer does not read is not asked for its part: its turn passes after [`TURNS_MAX`].
//!
//! Invariants: one grant a turn; a list that is gone waits no more. Tested at the end of this file and in `edge/listing.rs`.

use std::collections::BTreeMap;
use std::task::Waker;

/// LIMIT: turns in which a list that was woken may come for its stripe.
const TURNS_MAX: u32 = 64;

/// The place of one list among those that wait; higher ones have asked later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

/// All lists that have not come to their end.
#[derive(Debug, Default)]
pub(crate) struct Lists {
    waiting: BTreeMap<Ticket, Waker>,
    /// May take the stripe of this turn, and was woken for it.
    granted: Option<Ticket>,
    /// Turns since then.
    turns: u32,
    last: u64,
    /// The stripe of this turn was taken.
    is_taken: bool,
}

impl Lists {
    /// Takes the stripe of this turn, if it is this list's; then its ticket is used up. Otherwise the list waits, and is woken
    /// when it is its turn.
    pub(crate) fn take(&mut self, ticket: &mut Option<Ticket>, waker: &Waker) -> bool {
        let is_free = self.granted.is_none() && self.waiting.is_empty() && !self.is_taken;
        if ticket.map_or(is_free, |ticket| self.granted == Some(ticket)) {
            *ticket = None;
            self.granted = None;
            self.is_taken = true;
            return true;
        }
        let ticket = *ticket.get_or_insert_with(|| {
            self.last = self.last.saturating_add(1);
            Ticket(self.last)
        });
        self.waiting.insert(ticket, waker.clone());
        false
    }

    /// The list is gone.
    pub(crate) fn leave(&mut self, ticket: Option<Ticket>) {
        if let Some(ticket) = ticket {
            self.waiting.remove(&ticket);
            if self.granted == Some(ticket) {
                self.granted = None;
            }
        }
    }

    /// A new turn: the list that has waited longest may go on. Returns whether there is one, so that the next turn comes at once.
    pub(crate) fn tend(&mut self) -> usize {
        self.is_taken = false;
        if self.granted.is_some() && self.turns < TURNS_MAX {
            self.turns = self.turns.saturating_add(1);
            return usize::from(!self.waiting.is_empty());
        }
        // One that did not come asks again when it does, with the ticket that it has.
        self.granted = None;
        self.turns = 0;
        let Some((ticket, waker)) = self.waiting.pop_first() else {
            return 0;
        };
        self.granted = Some(ticket);
        waker.wake();
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_list_a_turn_goes_on_in_the_order_of_asking() {
        let waker = Waker::noop();
        let mut lists = Lists::default();
        let mut tickets = [None; 5];
        let mut taken = [0; 5];
        for _ in 0..10 {
            for turn_of in [&[0, 1, 2, 3, 4], &[4, 3, 2, 1, 0]] {
                let mut this_turn = 0;
                for &who in turn_of {
                    if lists.take(&mut tickets[who], waker) {
                        taken[who] += 1;
                        this_turn += 1;
                    }
                }
                assert!(this_turn <= 1);
                lists.tend();
            }
        }
        assert_eq!(taken, [4; 5]);
    }

    #[test]
    fn list_that_does_not_come_lets_the_next_one_pass_and_keeps_its_place() {
        let waker = Waker::noop();
        let mut lists = Lists::default();
        let (mut slow, mut next) = (None, None);
        assert!(lists.take(&mut None, waker));
        assert!(!lists.take(&mut slow, waker));
        assert!(!lists.take(&mut next, waker));
        for _ in 0..=TURNS_MAX {
            lists.tend();
            assert!(!lists.take(&mut next, waker));
        }
        lists.tend();
        assert!(!lists.take(&mut slow, waker), "it comes too late");
        assert!(lists.take(&mut next, waker));
        assert!(!lists.take(&mut next, waker));
        lists.tend();
        assert!(lists.take(&mut slow, waker), "it has asked before");
    }

    #[test]
    fn list_that_is_gone_keeps_nobody_waiting() {
        let waker = Waker::noop();
        let mut lists = Lists::default();
        let (mut first, mut second, mut third) = (None, None, None);
        assert!(lists.take(&mut None, waker), "the stripe is free");
        assert!(!lists.take(&mut first, waker));
        assert!(!lists.take(&mut second, waker));
        assert!(!lists.take(&mut third, waker));
        lists.leave(third);
        assert_eq!(lists.tend(), 1);
        lists.leave(first);
        assert_eq!(lists.tend(), 1);
        assert!(lists.take(&mut second, waker));
        assert_eq!(lists.tend(), 0);
    }
}
