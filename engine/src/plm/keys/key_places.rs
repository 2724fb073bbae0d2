//! Who is counted for the key in each place of the table, which keys may go when places run short, and when the next one ends.
//!
//! A *spent* key is that of a task that was acknowledged. The spent keys of each principal stand in a line, oldest first; when a place
//! is needed the first one goes of whoever has the longest line, but those of nobody known before all. So a principal pushes its own
//! keys out before those of others, and the keys of tasks that are not acknowledged stand in no line and cannot be met.
//!
//! In memory only, beside the segment: after a start a key is counted for whom its task is, or, when that is gone, for nobody known;
//! spent ones stand in the order in which they end. Nothing is allocated after the start.
//!
//! Invariants:
//! - **I1** A place stands in a line if and only if its entry is marked as spent and counted.
//! - **I2** [`KeyPlaces::first_end`] is never later than the true end of the principal's key that ends first, and is that end once the
//!   sweep has been round since the last change of that key.
//!
//! Tested at the end of this file, in `engine/tests/rules/spent_keys.rs` and `shares.rs`.

use qtf_shm::Segment;

use crate::clients::Clients;
use crate::lookup::find;
use crate::shares::{HolderIndex, Shares};

/// No place.
const NONE: u32 = u32::MAX;
/// In the links of a place that stands in no line.
const APART: u32 = u32::MAX - 1;
/// Later than every stamp.
const NEVER: u64 = u64::MAX;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct KeyPlaces {
    places: Vec<Place>,
    lines: Vec<Line>,
    /// Given to the next spent key: who is older has the smaller number.
    next_turn: u32,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    holder: u16,
    /// When it was spent, against others; numbers go round.
    turn: u32,
    before: u32,
    behind: u32,
}

impl Place {
    /// In a place that is free.
    const NOBODY: u16 = u16::MAX;

    const FREE: Self = Self {
        holder: Self::NOBODY,
        turn: 0,
        before: APART,
        behind: APART,
    };
}

/// The keys of one holder.
#[derive(Debug, Clone, Copy)]
struct Line {
    first: u32,
    last: u32,
    count: u32,
    /// No key of this holder ends earlier.
    first_end: u64,
    /// The same of what the sweep has met on its way round, and of what came meanwhile.
    first_end_met: u64,
}

impl Line {
    const EMPTY: Self = Self {
        first: NONE,
        last: NONE,
        count: 0,
        first_end: NEVER,
        first_end_met: NEVER,
    };
}

impl KeyPlaces {
    pub(super) fn new(segment: &Segment, clients: &mut Clients) -> Self {
        let table = segment.keys();
        let capacity = usize::try_from(table.capacity()).unwrap_or(0);
        let mut places = Self::of(capacity, clients.shares.iter().count());
        if !table.is_used() {
            return places;
        }
        let mut spent = Vec::new();
        for (place, entry) in table.places() {
            let task = find(segment, entry.task).map(|(slot, _)| segment.task(slot));
            let holder = task.map_or(HolderIndex::UNKNOWN, |task| {
                clients.holder_of(task.client())
            });
            places.taken(&mut clients.shares, place, holder, entry.expiry);
            if entry.spent {
                spent.push((entry.expiry, place));
            }
        }
        spent.sort_unstable();
        for (_, place) in spent {
            places.is_spent(place);
        }
        places
    }

    fn of(capacity: usize, holders: usize) -> Self {
        Self {
            places: vec![Place::FREE; capacity],
            lines: vec![Line::EMPTY; holders.max(1)],
            next_turn: 0,
        }
    }

    /// A key of this holder with this end lies there now.
    pub(super) fn taken(&mut self, shares: &mut Shares, place: u32, holder: HolderIndex, end: u64) {
        self.gone(shares, place);
        let Some(at) = self.at(place) else {
            return;
        };
        at.holder = holder.number();
        shares.add_key(holder);
        if let Some(line) = self.lines.get_mut(usize::from(holder.number())) {
            line.first_end = line.first_end.min(end);
            line.first_end_met = line.first_end_met.min(end);
        }
    }

    /// The place is free.
    pub(super) fn gone(&mut self, shares: &mut Shares, place: u32) {
        self.leave(place);
        if let Some(at) = self.at(place)
            && at.holder != Place::NOBODY
        {
            let holder = HolderIndex::of_number(at.holder);
            at.holder = Place::NOBODY;
            shares.remove_key(holder);
        }
    }

    /// The key there is spent: to the end of its holder's line.
    pub(super) fn is_spent(&mut self, place: u32) {
        let turn = self.next_turn;
        let Some(&mut at) = self.at(place) else {
            return;
        };
        let Some(line) = self.lines.get_mut(usize::from(at.holder)) else {
            return;
        };
        if at.before != APART {
            return;
        }
        let before = core::mem::replace(&mut line.last, place);
        if before == NONE {
            line.first = place;
        }
        line.count = line.count.saturating_add(1);
        self.next_turn = turn.wrapping_add(1);
        if let Some(last) = self.at(before) {
            last.behind = place;
        }
        if let Some(at) = self.at(place) {
            (at.turn, at.before, at.behind) = (turn, before, NONE);
        }
    }

    /// The oldest spent key of whoever has most of them.
    pub(super) fn oldest_of_the_longest_line(&self) -> Option<u32> {
        let (_, line) = self.lines.iter().enumerate().max_by_key(weight)?;
        (line.first != NONE).then_some(line.first)
    }

    /// The oldest spent key, of whoever has most of them, among some places.
    pub(super) fn oldest_among(&self, places: impl Iterator<Item = u32>) -> Option<u32> {
        let age = |place: u32| {
            let at = self.places.get(usize::try_from(place).ok()?)?;
            let holder = usize::from(at.holder);
            let line = weight(&(holder, self.lines.get(holder)?));
            (at.before != APART).then(|| (line, self.next_turn.wrapping_sub(at.turn), place))
        };
        places.filter_map(age).max().map(|(_, _, place)| place)
    }

    /// A stamp that the end of the holder's first key to end is not before, in the sense of the head of this file.
    pub(super) fn first_end(&self, holder: HolderIndex) -> u64 {
        let line = self.lines.get(usize::from(holder.number()));
        line.map_or(NEVER, |line| line.first_end)
    }

    /// The sweep has met a key that ends then.
    pub(super) fn met(&mut self, place: u32, end: u64) {
        let Some(&mut Place { holder, .. }) = self.at(place) else {
            return;
        };
        if let Some(line) = self.lines.get_mut(usize::from(holder)) {
            line.first_end_met = line.first_end_met.min(end);
        }
    }

    /// The sweep has been round.
    pub(super) fn has_been_round(&mut self) {
        for line in &mut self.lines {
            line.first_end = core::mem::replace(&mut line.first_end_met, NEVER);
        }
    }

    /// Takes a place out of its line.
    fn leave(&mut self, place: u32) {
        let Some(at) = self.at(place) else {
            return;
        };
        if at.before == APART {
            return;
        }
        let Place {
            holder,
            before,
            behind,
            ..
        } = *at;
        (at.before, at.behind) = (APART, APART);
        if let Some(other) = self.at(before) {
            other.behind = behind;
        }
        if let Some(other) = self.at(behind) {
            other.before = before;
        }
        if let Some(line) = self.lines.get_mut(usize::from(holder)) {
            if line.first == place {
                line.first = behind;
            }
            if line.last == place {
                line.last = before;
            }
            line.count = line.count.saturating_sub(1);
        }
    }

    fn at(&mut self, place: u32) -> Option<&mut Place> {
        self.places.get_mut(usize::try_from(place).ok()?)
    }
}

/// Who loses a key first: nobody known, then who has most of them.
fn weight(&(holder, line): &(usize, &Line)) -> (bool, u32) {
    let is_nobodys = holder == usize::from(HolderIndex::UNKNOWN.number()) && line.count > 0;
    (is_nobodys, line.count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::principal::Principal;
    use crate::shares::ShareRule;

    fn holders(shares: &mut Shares) -> [HolderIndex; 2] {
        [1000, 1001].map(|uid| {
            let holder = shares.holder(Principal::Uid(uid));
            // One that is idle would be given to the next one.
            shares.add_record(holder);
            holder
        })
    }

    #[test]
    fn spent_keys_go_oldest_first_of_whoever_has_most_of_them() {
        let mut shares = Shares::new(ShareRule::Shared, 8);
        let [one, other] = holders(&mut shares);
        let mut keys = KeyPlaces::of(16, 8);
        for place in 0..8 {
            keys.taken(&mut shares, place, one, 100);
            keys.taken(&mut shares, place + 8, other, 100);
        }
        assert_eq!(keys.oldest_of_the_longest_line(), None);
        for place in [5, 3, 9, 4, 8] {
            keys.is_spent(place);
        }
        // Said twice, or of nobody's: nothing.
        keys.is_spent(3);
        assert_eq!(keys.oldest_among(0..5), Some(3));
        assert_eq!(keys.oldest_among(6..8), None);
        // From the middle, as when its time is over.
        keys.gone(&mut shares, 3);
        keys.is_spent(3);
        keys.is_spent(10);
        let mut went = Vec::new();
        while let Some(place) = keys.oldest_of_the_longest_line() {
            keys.gone(&mut shares, place);
            went.push(place);
        }
        assert_eq!(went.len(), 5);
        let order_of = |range: core::ops::Range<u32>| {
            let of_one = went.iter().filter(|place| range.contains(place));
            of_one.copied().collect::<Vec<_>>()
        };
        assert_eq!(order_of(0..8), [5, 4]);
        assert_eq!(order_of(8..16), [9, 8, 10]);
        assert_eq!(order_of(8..16)[0], went[0], "it has most");
        assert_eq!((shares.of(one).keys, shares.of(other).keys), (5, 5));
    }

    #[test]
    fn first_end_is_never_late_and_is_true_when_the_sweep_has_been_round() {
        let mut shares = Shares::new(ShareRule::Shared, 8);
        let [one, other] = holders(&mut shares);
        let mut keys = KeyPlaces::of(4, 8);
        keys.taken(&mut shares, 0, one, 50);
        keys.taken(&mut shares, 1, one, 70);
        assert_eq!((keys.first_end(one), keys.first_end(other)), (50, NEVER));
        keys.gone(&mut shares, 0);
        assert_eq!(keys.first_end(one), 50, "early, not late");
        for _ in 0..2 {
            keys.met(1, 70);
            keys.has_been_round();
        }
        assert_eq!(keys.first_end(one), 70);
        keys.taken(&mut shares, 2, one, 60);
        assert_eq!(keys.first_end(one), 60);
        keys.met(1, 70);
        keys.has_been_round();
        assert_eq!(keys.first_end(one), 60, "it came behind the sweep");
    }
}
