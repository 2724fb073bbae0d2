//! What one principal may use of a table that all need, and how much each one uses.
//!
//! One rule for all tables ([`ShareRule`]): who holds `h` places may take more only while that leaves it with at most 31 times what is
//! free then. A principal that is alone so gets 31 of 32 places; the next one 31 of 32 of what is left, and so on: there is always
//! something for one that has nothing (dynamic thresholds, as for packets in the memory of a switch: Choudhury and Hahne, 1998). No
//! place lies idle for somebody who never comes but the last thirty-second, and nothing has to be known about who will come.
//!
//! [`Shares`] counts by *holder*: a principal that has a client record, a task or a key. There are as many places for holders as for client
//! records; principals that find none are counted together as [`Principal::Unknown`]. Nothing is allocated after the start.
//!
//! Invariant: a holder's counts are the numbers of records, tasks and keys that were counted for it and not taken back. After a start they
//! are those that the segment shows. Tested at the end of this file and in `engine/tests/rules/shares.rs`.

use core::fmt;

use crate::principal::Principal;

/// One principal's part of a table may grow to so many times of what is left free.
const PARTS_TO_ONE_LEFT: u64 = 31;

/// Who may take places of a table. See the head of this file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShareRule {
    /// Several principals use it: each leaves something to others.
    Shared,
    /// One principal uses it, as in a private segment: it may use it up.
    Whole,
}

/// How much of a table is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// By the one it is about.
    pub held: u64,
    /// By all together.
    pub used: u64,
    /// Places, or bytes, that there are.
    pub size: u64,
}

impl ShareRule {
    /// Somebody who holds so much may take `more`.
    #[must_use]
    pub const fn allows(self, usage: Usage, more: u64) -> bool {
        let Usage { held, used, size } = usage;
        let Some(left) = size.saturating_sub(used).checked_sub(more) else {
            return false;
        };
        match self {
            Self::Whole => true,
            // The last place is for one that has nothing, where a table is too small for more.
            Self::Shared => {
                held.saturating_add(more) <= left.saturating_mul(PARTS_TO_ONE_LEFT)
                    || held == 0 && more <= 1
            }
        }
    }
}

impl ShareRule {
    /// The most places that one principal can have, while it is alone.
    #[must_use]
    pub const fn most(self, size: u64) -> u64 {
        match self {
            Self::Whole => size,
            Self::Shared if size == 1 => 1,
            // All that `allows` takes, one after the other.
            Self::Shared => {
                let parts = PARTS_TO_ONE_LEFT;
                let whole = (size / (parts + 1)).saturating_mul(parts);
                whole.saturating_add((size % (parts + 1)).saturating_mul(parts) / (parts + 1))
            }
        }
    }
}

/// A principal has used up its share of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShareUsedUp {
    /// Whose share.
    pub principal: Principal,
    /// What it holds.
    pub held: u64,
    /// How many there are.
    pub size: u64,
    /// Of what.
    pub what: &'static str,
    /// When some are free again.
    pub until: &'static str,
}

impl fmt::Display for ShareUsedUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            principal,
            held,
            size,
            what,
            until,
        } = self;
        write!(
            f,
            "{principal} holds {held} of {size} {what}, which is all of its share, the rest is kept for others: {until}"
        )
    }
}

/// The place of a holder in the table of holders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct HolderIndex(u16);

impl HolderIndex {
    /// All principals that are not known, or found no place of their own.
    pub(crate) const UNKNOWN: Self = Self(0);

    pub(crate) const fn number(self) -> u16 {
        self.0
    }

    pub(crate) const fn of_number(number: u16) -> Self {
        Self(number)
    }

    const fn position(self) -> usize {
        self.0 as usize
    }
}

/// What a principal holds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Holder {
    pub(crate) principal: Principal,
    pub(crate) records: u64,
    pub(crate) tasks: u64,
    pub(crate) keys: u64,
    /// Bytes of its payloads in the arena.
    pub(crate) arena: u64,
}

impl Holder {
    const fn is_idle(&self) -> bool {
        self.records == 0 && self.tasks == 0 && self.keys == 0
    }
}

/// What all principals hold.
#[derive(Debug)]
pub(crate) struct Shares {
    pub(crate) rule: ShareRule,
    holders: Vec<Holder>,
    total: Holder,
}

impl Shares {
    /// Nobody holds anything yet; `count` principals are told apart.
    pub(crate) fn new(rule: ShareRule, count: usize) -> Self {
        Self {
            rule,
            holders: vec![Holder::default(); count.clamp(1, usize::from(u16::MAX))],
            total: Holder::default(),
        }
    }

    pub(crate) const fn total(&self) -> &Holder {
        &self.total
    }

    pub(crate) fn of(&self, holder: HolderIndex) -> Holder {
        let found = self.holders.get(holder.position());
        found.copied().unwrap_or_default()
    }

    /// The place of a principal, which gets one if there is one. To be counted for at once: an idle place is anybody's.
    pub(crate) fn holder(&mut self, principal: Principal) -> HolderIndex {
        if principal == Principal::Unknown {
            return HolderIndex::UNKNOWN;
        }
        let others = || (1_u16..).zip(self.holders.iter().skip(1));
        let known = others().find(|(_, holder)| holder.principal == principal);
        let Some((number, _)) = known.or_else(|| others().find(|(_, holder)| holder.is_idle()))
        else {
            return HolderIndex::UNKNOWN;
        };
        if let Some(holder) = self.holders.get_mut(usize::from(number)) {
            holder.principal = principal;
        }
        HolderIndex(number)
    }

    /// The holders with their places.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (HolderIndex, &Holder)> {
        (0_u16..).map(HolderIndex).zip(&self.holders)
    }

    #[inline]
    pub(crate) fn add_tasks(&mut self, holder: HolderIndex, count: u64) {
        if let Some(holder) = self.holders.get_mut(holder.position()) {
            holder.tasks = holder.tasks.saturating_add(count);
            self.total.tasks = self.total.tasks.saturating_add(count);
        }
    }

    #[inline]
    pub(crate) fn remove_tasks(&mut self, holder: HolderIndex, count: u64) {
        if let Some(holder) = self.holders.get_mut(holder.position()) {
            // Tasks that local processes have submitted are counted for nobody and end all the same.
            let count = count.min(holder.tasks);
            holder.tasks = holder.tasks.saturating_sub(count);
            self.total.tasks = self.total.tasks.saturating_sub(count);
        }
    }

    #[inline]
    pub(crate) fn add_key(&mut self, holder: HolderIndex) {
        if let Some(holder) = self.holders.get_mut(holder.position()) {
            holder.keys = holder.keys.saturating_add(1);
            self.total.keys = self.total.keys.saturating_add(1);
        }
    }

    #[inline]
    pub(crate) fn remove_key(&mut self, holder: HolderIndex) {
        if let Some(holder) = self.holders.get_mut(holder.position()) {
            holder.keys = holder.keys.saturating_sub(1);
            self.total.keys = self.total.keys.saturating_sub(1);
        }
    }

    pub(crate) fn add_arena(&mut self, holder: HolderIndex, bytes: u64) {
        if let Some(holder) = self.holders.get_mut(holder.position()) {
            holder.arena = holder.arena.saturating_add(bytes);
            self.total.arena = self.total.arena.saturating_add(bytes);
        }
    }

    pub(crate) fn remove_arena(&mut self, holder: HolderIndex, bytes: u64) {
        if let Some(holder) = self.holders.get_mut(holder.position()) {
            holder.arena = holder.arena.saturating_sub(bytes);
            self.total.arena = self.total.arena.saturating_sub(bytes);
        }
    }

    pub(crate) fn add_record(&mut self, holder: HolderIndex) {
        if let Some(holder) = self.holders.get_mut(holder.position()) {
            holder.records = holder.records.saturating_add(1);
            self.total.records = self.total.records.saturating_add(1);
        }
    }

    pub(crate) fn remove_record(&mut self, holder: HolderIndex) {
        if let Some(holder) = self.holders.get_mut(holder.position()) {
            holder.records = holder.records.saturating_sub(1);
            self.total.records = self.total.records.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(held: u64, used: u64, size: u64) -> Usage {
        Usage { held, used, size }
    }

    /// Takes one after another until the rule says no; returns how many.
    fn takes(rule: ShareRule, used: u64, size: u64) -> u64 {
        let mut held = 0;
        while rule.allows(usage(held, used + held, size), 1) {
            held += 1;
        }
        held
    }

    #[test]
    fn one_principal_gets_a_million_slots_of_the_default_segment_and_the_next_gets_of_the_rest() {
        let size = 1_048_576;
        let first = takes(ShareRule::Shared, 0, size);
        assert_eq!(first, size / 32 * 31);
        assert!(first >= 1_000_000);
        let second = takes(ShareRule::Shared, first, size);
        assert_eq!(second, (size - first) / 32 * 31);
        let third = takes(ShareRule::Shared, first + second, size);
        assert!(third > 900, "{third}");
    }

    #[test]
    fn last_place_of_a_small_table_is_for_one_that_has_nothing() {
        for size in [2, 8, 31, 64] {
            let first = takes(ShareRule::Shared, 0, size);
            assert!(first < size, "{first} of {size}");
            assert!(takes(ShareRule::Shared, first, size) >= 1);
        }
        assert_eq!(takes(ShareRule::Shared, 0, 1), 1);
        assert_eq!(takes(ShareRule::Shared, 1, 1), 0);
    }

    #[test]
    fn whole_table_is_for_one_that_shares_it_with_nobody() {
        assert_eq!(takes(ShareRule::Whole, 0, 64), 64);
        assert!(!ShareRule::Whole.allows(usage(0, 60, 64), 5));
    }

    #[test]
    fn bytes_are_taken_by_the_same_rule() {
        assert!(ShareRule::Shared.allows(usage(0, 0, 3_200), 3_100));
        assert!(!ShareRule::Shared.allows(usage(0, 0, 3_200), 3_101));
        assert!(ShareRule::Shared.allows(usage(0, 3_100, 3_200), 90));
    }

    #[test]
    fn principals_beyond_the_table_of_holders_are_counted_together() {
        let mut shares = Shares::new(ShareRule::Shared, 3);
        let taken = [1, 2, 3].map(|uid| {
            let holder = shares.holder(Principal::Uid(uid));
            shares.add_tasks(holder, 1);
            holder
        });
        assert_eq!(taken.map(HolderIndex::number), [1, 2, 0]);
        shares.remove_tasks(taken[0], 1);
        assert_eq!(shares.holder(Principal::Uid(4)).number(), 1, "idle");
        assert_eq!(shares.total().tasks, 2);
    }

    #[test]
    fn refusal_says_whose_share_is_used_up_and_how_much_it_is() {
        let used_up = ShareUsedUp {
            principal: Principal::Uid(1000),
            held: 31,
            size: 32,
            what: "task slots",
            until: "forget results",
        };
        assert_eq!(
            used_up.to_string(),
            "uid 1000 holds 31 of 32 task slots, which is all of its share, the rest is kept for others: forget results"
        );
    }
}
