//! Sets of indices as people write them: `1-1000`, `7`, `0-90:10`, `1,3,7-9`, `1-1_000_000`.
//!
//! Invariant: the ranges rise and do not overlap, so that members come once each and in order.
//! Tested at the end of this file.

use std::fmt;
use std::str::FromStr;

/// LIMIT: members of one array, each of which is a task and an id that is remembered.
const ARRAY_MEMBERS_MAX: u64 = qtf_shm::id::TASKS_COUNT_MAX as u64;

/// A set of array indices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IndexSet {
    ranges: Vec<IndexRange>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct IndexRange {
    first: u64,
    last: u64,
    step: u64,
}

/// Why a text is not a set of indices.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum IndexSetError {
    /// A number was expected.
    #[error("`{text}` is not an index; write ranges as 1-1000, 0-90:10 or 1,3,7-9")]
    NotANumber { text: String },
    /// A range ends before it starts.
    #[error("range {first}-{last} ends before it starts; write {last}-{first}")]
    Backwards { first: u64, last: u64 },
    /// A step of zero.
    #[error("step 0 in `{text}` never ends; use 1 or more")]
    ZeroStep { text: String },
    /// An index comes twice or out of order.
    #[error("index {index} comes after {before}; give the indices once each and rising")]
    NotRising { index: u64, before: u64 },
    /// More tasks than any daemon has room for.
    #[error(
        "an array of {members} members: at most {ARRAY_MEMBERS_MAX} are possible, which is what the largest segment holds; submit it in parts"
    )]
    TooMany { members: u64 },
}

impl IndexSet {
    /// A set that is to be expanded, as opposed to one that only chooses among what is there.
    pub(crate) fn parse_array(text: &str) -> Result<Self, IndexSetError> {
        let set: Self = text.parse()?;
        match set.count() {
            members if members > ARRAY_MEMBERS_MAX => Err(IndexSetError::TooMany { members }),
            _ => Ok(set),
        }
    }

    /// How many indices there are; saturates at `u64::MAX`.
    pub(crate) fn count(&self) -> u64 {
        self.ranges
            .iter()
            .fold(0, |sum, range| sum.saturating_add(range.count()))
    }

    /// The indices, rising.
    pub(crate) fn members(&self) -> impl Iterator<Item = u64> + '_ {
        self.ranges.iter().flat_map(|range| range.members())
    }

    /// The indices, rising, without the set.
    pub(crate) fn into_members(self) -> impl Iterator<Item = u64> {
        self.ranges.into_iter().flat_map(IndexRange::members)
    }

    /// Whether `index` is in the set.
    pub(crate) fn contains(&self, index: u64) -> bool {
        // The ranges rise and do not overlap.
        let at = self.ranges.partition_point(|range| range.last < index);
        self.ranges
            .get(at)
            .is_some_and(|range| range.contains(index))
    }

    /// The first range, as people write it, that none of `present` is in, which rise.
    pub(crate) fn range_without(&self, present: &[u64]) -> Option<String> {
        let is_empty = |range: &&IndexRange| {
            let from = present.partition_point(|index| *index < range.first);
            let within = present
                .iter()
                .skip(from)
                .take_while(|index| **index <= range.last);
            !within.into_iter().any(|index| range.contains(*index))
        };
        self.ranges.iter().find(is_empty).map(ToString::to_string)
    }
}

impl IndexRange {
    fn count(self) -> u64 {
        ((self.last - self.first) / self.step).saturating_add(1)
    }

    fn members(self) -> impl Iterator<Item = u64> {
        let next = move |index: &u64| {
            index
                .checked_add(self.step)
                .filter(|next| *next <= self.last)
        };
        std::iter::successors(Some(self.first), next)
    }

    fn contains(self, index: u64) -> bool {
        (self.first..=self.last).contains(&index) && (index - self.first).is_multiple_of(self.step)
    }

    fn parse(text: &str) -> Result<Self, IndexSetError> {
        let (range, step) = match text.split_once(':') {
            Some((range, step)) => (range, number(step)?),
            None => (text, 1),
        };
        if step == 0 {
            return Err(IndexSetError::ZeroStep {
                text: text.to_owned(),
            });
        }
        let (first, last) = match range.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(range)?, number(range)?),
        };
        if last < first {
            return Err(IndexSetError::Backwards { first, last });
        }
        Ok(IndexRange { first, last, step })
    }
}

impl fmt::Display for IndexRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let IndexRange { first, last, step } = self;
        match (first == last, step) {
            (true, _) => write!(f, "{first}"),
            (false, 1) => write!(f, "{first}-{last}"),
            (false, _) => write!(f, "{first}-{last}:{step}"),
        }
    }
}

impl FromStr for IndexSet {
    type Err = IndexSetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut ranges: Vec<IndexRange> = Vec::new();
        for part in text.split(',') {
            let range = IndexRange::parse(part.trim())?;
            if let Some(before) = ranges.last().filter(|before| before.last >= range.first) {
                return Err(IndexSetError::NotRising {
                    index: range.first,
                    before: before.last,
                });
            }
            ranges.push(range);
        }
        Ok(IndexSet { ranges })
    }
}

/// A number that may carry `_` between its digits.
fn number(text: &str) -> Result<u64, IndexSetError> {
    let not_a_number = || IndexSetError::NotANumber {
        text: text.to_owned(),
    };
    let digits: String = text.chars().filter(|digit| *digit != '_').collect();
    if !digits.starts_with(|first: char| first.is_ascii_digit()) {
        return Err(not_a_number());
    }
    digits.parse().map_err(|_| not_a_number())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(text: &str) -> Vec<u64> {
        text.parse::<IndexSet>().unwrap().members().collect()
    }

    #[test]
    fn ranges_steps_and_lists_are_understood() {
        assert_eq!(members("7"), [7]);
        assert_eq!(members("1-4"), [1, 2, 3, 4]);
        assert_eq!(members("0-10:5"), [0, 5, 10]);
        assert_eq!(members("0-9:5"), [0, 5]);
        assert_eq!(members("1, 3, 7-9"), [1, 3, 7, 8, 9]);
        assert_eq!(
            "1-1_000_000".parse::<IndexSet>().unwrap().count(),
            1_000_000
        );
    }

    #[test]
    fn count_and_contains_agree_with_the_members() {
        for text in ["7", "1-4", "0-10:5", "0-9:5", "1,3,7-9", "2-30:7,40-50"] {
            let set: IndexSet = text.parse().unwrap();
            let members: Vec<u64> = set.members().collect();
            assert_eq!(set.count(), u64::try_from(members.len()).unwrap(), "{text}");
            for index in 0..60 {
                assert_eq!(
                    set.contains(index),
                    members.contains(&index),
                    "{text} {index}"
                );
            }
        }
    }

    #[test]
    fn the_largest_range_does_not_overflow() {
        let set: IndexSet = format!("0-{}", u64::MAX).parse().unwrap();
        assert_eq!(set.count(), u64::MAX);
        let top: IndexSet = format!("{0}-{0}", u64::MAX).parse().unwrap();
        assert_eq!(top.members().collect::<Vec<_>>(), [u64::MAX]);
    }

    #[test]
    fn an_array_has_at_most_as_many_members_as_the_largest_segment_has_slots() {
        let fits = format!("1-{ARRAY_MEMBERS_MAX}");
        assert!(IndexSet::parse_array(&fits).is_ok());
        for text in [
            format!("0-{ARRAY_MEMBERS_MAX}"),
            format!("0,1-{ARRAY_MEMBERS_MAX}"),
            format!("0-{}", u64::MAX),
        ] {
            let error = IndexSet::parse_array(&text).unwrap_err();
            assert!(
                matches!(error, IndexSetError::TooMany { .. }),
                "{text}: {error}"
            );
        }
        let sparse = IndexSet::parse_array("0-99_999_999_999:10_000_000_000").unwrap();
        assert_eq!(sparse.count(), 10);
    }

    #[test]
    fn choosing_among_many_members_by_many_ranges_takes_no_product_of_both() {
        let text: Vec<String> = (0..200_000_u64).map(|n| (2 * n).to_string()).collect();
        let set: IndexSet = text.join(",").parse().unwrap();
        let present: Vec<u64> = (0..400_000).filter(|index| set.contains(*index)).collect();
        assert_eq!(present.len(), 200_000);
        assert_eq!(set.range_without(&present), None);
        assert_eq!(set.range_without(&present[..199_999]).unwrap(), "399998");
    }

    #[test]
    fn wrong_texts_are_told_apart() {
        use IndexSetError::{Backwards, NotANumber, NotRising, ZeroStep};
        let error = |text: &str| text.parse::<IndexSet>().unwrap_err();
        for text in [
            "",
            "a",
            "1-",
            "-3",
            "1,,2",
            "1-2-3",
            "_",
            "+5",
            "1:x",
            "99999999999999999999",
        ] {
            assert!(matches!(error(text), NotANumber { .. }), "{text}");
        }
        assert!(matches!(error("5-3"), Backwards { first: 5, last: 3 }));
        assert!(matches!(error("1-3:0"), ZeroStep { .. }));
        assert!(matches!(
            error("1-5,3"),
            NotRising {
                index: 3,
                before: 5
            }
        ));
    }

    #[test]
    fn a_range_that_meets_nothing_is_named() {
        let set: IndexSet = "1-3,7,10-20:5".parse().unwrap();
        let without = |present: &[u64]| set.range_without(present);
        assert_eq!(without(&[2, 7, 15]), None);
        assert_eq!(without(&[2, 15]).unwrap(), "7");
        assert_eq!(without(&[7]).unwrap(), "1-3");
        assert_eq!(without(&[1, 7, 11]).unwrap(), "10-20:5");
    }
}
