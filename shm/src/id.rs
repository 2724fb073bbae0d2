//! Identities: what a task, a worker, a client or a slot is called, in words and on paper.
//!
//! Invariants:
//! - I1: a [`TaskId`] has a generation above zero, so the number 0 is never an id.
//! - I2: an index type made by `new_checked` lies below the count it was checked against. A slot taken out of a
//!   [`TaskId`] has only been checked against the 24 bits it came in; the segment checks it again at each use.
//!
//! Tested at the end of this file.

use core::fmt;
use core::str::FromStr;

/// Bits of the slot in a task id.
pub const SLOT_BITS: u32 = 24;
/// Bits of the tenancy: the lower part of a generation, which lies in the state word.
pub const TENANCY_BITS: u32 = 27;
/// Bits of the generation in an id of a daemon: the era, 8 bits in the slot's word `order`, and the tenancy.
pub const GENERATION_BITS: u32 = TENANCY_BITS + 8;
/// Highest generation of a slot.
pub const GENERATION_MAX: u64 = (1 << GENERATION_BITS) - 1;
/// A slot passes a gate at every so many generations: see `segment/gates.rs`.
pub const GATE_BITS: u32 = TENANCY_BITS - 1;
/// Most task slots a segment can have: the slot has 24 bits in an id.
pub const TASKS_COUNT_MAX: u32 = 1 << SLOT_BITS;
/// Most workers a segment can have: the owner has 16 bits in a state word and all ones means none.
pub const WORKERS_COUNT_MAX: u32 = 65_535;
/// Kinds of tasks a segment can name: one bit each in a worker's set.
pub const KINDS_COUNT: u32 = 256;

const SLOT_MASK: u64 = (1 << SLOT_BITS) - 1;
const INCARNATION_BITS: u32 = 24;
const INCARNATION_MASK: u32 = (1 << INCARNATION_BITS) - 1;
const WORKER_SLOT_BITS: u32 = 16;
const WORKER_SLOT_MASK: u64 = (1 << WORKER_SLOT_BITS) - 1;
const TASK_ID_TEXT_LENGTH: usize = 13;
const CROCKFORD: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

macro_rules! index_type {
    ($(#[$doc:meta])* $name:ident, $raw:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name($raw);

        impl $name {
            /// Takes `raw` if it lies below `count`.
            #[must_use]
            pub const fn new_checked(raw: $raw, count: u32) -> Option<Self> {
                let below = (raw as u64) < (count as u64);
                if below { Some(Self(raw)) } else { None }
            }

            /// The number itself.
            #[must_use]
            pub const fn get(self) -> $raw {
                self.0
            }

            /// The number as a position in a slice.
            #[must_use]
            pub const fn position(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

index_type!(
    /// Number of a task slot.
    SlotIndex,
    u32
);
index_type!(
    /// Number of a worker slot.
    WorkerIndex,
    u16
);
index_type!(
    /// Number of a client record; shown as `c5`.
    ClientIndex,
    u16
);
index_type!(
    /// Number of an entry in the table of task kinds.
    KindIndex,
    u16
);
index_type!(
    /// Number of an attach record: one for each process or thread that writes to the segment.
    AttachIndex,
    u16
);

impl AttachIndex {
    /// The daemon's own record.
    pub const DAEMON: Self = Self(0);
}

impl KindIndex {
    /// No kind.
    pub const NONE: Self = Self(0);
}

impl ClientIndex {
    /// The record of callers that never registered.
    pub const UNKNOWN: Self = Self(0);
}

/// Names one task for ever: the slot and how often that slot had been used.
///
/// ```text
///  63  60   59   58     51 50            24 23                      0
/// +------+------+---------+----------------+------------------------+
/// | 0000 | grid | era (8) |  tenancy (27)  |       slot (24)        |
/// +------+------+---------+----------------+------------------------+
/// ```
/// Era and tenancy together are the generation. `grid` is 0: a daemon gives no other id. With a 1 there the number is that of a job of a grid,
/// and no daemon takes it for a task of its own. Printed as 13 characters of Crockford's base32, lower case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(u64);

impl TaskId {
    /// Joins a generation and a slot. The generation is cut to its 35 bits; 0 becomes 1, because an id is
    /// never 0.
    #[must_use]
    pub const fn new(generation: u64, slot: SlotIndex) -> Self {
        let generation = generation & GENERATION_MAX;
        let generation = if generation == 0 { 1 } else { generation };
        let slot = slot.0 as u64 & SLOT_MASK;
        Self((generation << SLOT_BITS) | slot)
    }

    /// Takes a number from the wire or the segment; refuses what cannot be an id.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Option<Self> {
        if raw >> (SLOT_BITS + GENERATION_BITS) != 0 || raw >> SLOT_BITS == 0 {
            None
        } else {
            Some(Self(raw))
        }
    }

    /// The number for the wire.
    #[must_use]
    pub const fn as_raw(self) -> u64 {
        self.0
    }

    /// How often the slot had been claimed when this task got it.
    #[must_use]
    pub const fn generation(self) -> u64 {
        self.0 >> SLOT_BITS
    }

    /// The slot the task lies in. Not yet checked against a segment's capacity: [`crate::Segment::task`]
    /// does that.
    #[must_use]
    pub const fn slot(self) -> SlotIndex {
        SlotIndex((self.0 & SLOT_MASK) as u32)
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [b'0'; TASK_ID_TEXT_LENGTH];
        let mut rest = self.0;
        for place in text.iter_mut().rev() {
            // INVARIANT: five bits are below the 32 letters.
            *place = CROCKFORD[(rest & 31) as usize];
            rest >>= 5;
        }
        f.pad(core::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TaskId({self})")
    }
}

/// A text is not the name of a task or worker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseIdError {
    /// Not 13 letters of Crockford's base32.
    #[error("`{0}` is not a task id: 13 letters and digits as `qtf submit` prints them")]
    Task(String),
    /// 13 such letters, and a number that is that of a job of a grid.
    #[error(
        "`{0}` is a job of a grid, and this is a daemon of one machine: ask the grid that gave it"
    )]
    OfGrid(String),
    /// 13 such letters, and a number that no task is ever given.
    #[error("`{0}` has the form of a task id, but no task is ever given it")]
    NoTask(String),
    /// Neither a slot nor a slot with its incarnation.
    #[error(
        "`{0}` is not a worker id: a slot as in `3` or `w3`, or a slot and its incarnation as in `w3.1`"
    )]
    Worker(String),
}

impl FromStr for TaskId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || ParseIdError::Task(text.chars().take(40).collect());
        if text.len() != TASK_ID_TEXT_LENGTH {
            return Err(refused());
        }
        let mut raw: u64 = 0;
        for letter in text.bytes() {
            let value = crockford_value(letter).ok_or_else(refused)?;
            // Bits beyond those of any id stay where they are seen.
            raw = (raw << 5) | value | (raw & (31 << 59));
        }
        let is_of_grid = raw >> (SLOT_BITS + GENERATION_BITS) == 1;
        Self::from_raw(raw).ok_or_else(|| {
            let refused = if is_of_grid {
                ParseIdError::OfGrid
            } else {
                ParseIdError::NoTask
            };
            refused(text.to_owned())
        })
    }
}

/// Crockford's reading: case does not matter, `i` and `l` are 1, `o` is 0.
fn crockford_value(letter: u8) -> Option<u64> {
    let letter = match letter.to_ascii_lowercase() {
        b'i' | b'l' => b'1',
        b'o' => b'0',
        other => other,
    };
    let position = CROCKFORD.iter().position(|&known| known == letter)?;
    u64::try_from(position).ok()
}

/// Names one registration of a worker: the slot and how often that slot had been registered.
///
/// ```text
///  63       40 39                     16 15            0
/// +-----------+-------------------------+---------------+
/// |     0     |     incarnation (24)    |   slot (16)   |
/// +-----------+-------------------------+---------------+
/// ```
/// Shown as `w3.1`. A bare slot (`3`, `w3`) parses to incarnation 0, which means the current one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId {
    slot: u16,
    incarnation: u32,
}

impl WorkerId {
    /// Joins a slot and its incarnation; the incarnation is cut to its 24 bits.
    #[must_use]
    pub const fn new(slot: WorkerIndex, incarnation: u32) -> Self {
        Self {
            slot: slot.0,
            incarnation: incarnation & INCARNATION_MASK,
        }
    }

    /// Takes a number from the wire; refuses what cannot be a worker.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Option<Self> {
        if raw >> (WORKER_SLOT_BITS + INCARNATION_BITS) != 0 {
            return None;
        }
        let slot = (raw & WORKER_SLOT_MASK) as u16;
        if slot as u32 >= WORKERS_COUNT_MAX {
            return None;
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "40 bits were checked above"
        )]
        Some(Self {
            slot,
            incarnation: (raw >> WORKER_SLOT_BITS) as u32,
        })
    }

    /// The number for the wire.
    #[must_use]
    pub const fn as_raw(self) -> u64 {
        ((self.incarnation as u64) << WORKER_SLOT_BITS) | self.slot as u64
    }

    /// The slot the worker is registered in.
    #[must_use]
    pub const fn slot(self) -> WorkerIndex {
        WorkerIndex(self.slot)
    }

    /// Which registration of that slot; 0 = the current one, whichever it is.
    #[must_use]
    pub const fn incarnation(self) -> u32 {
        self.incarnation
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("w{}.{}", self.slot, self.incarnation))
    }
}

impl fmt::Debug for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WorkerId({self})")
    }
}

impl FromStr for WorkerId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || ParseIdError::Worker(text.chars().take(40).collect());
        let bare = text.strip_prefix('w').unwrap_or(text);
        let (slot, incarnation) = bare
            .split_once('.')
            .map_or((bare, None), |(slot, rest)| (slot, Some(rest)));
        let slot = parse_digits(slot)
            .and_then(|slot| u16::try_from(slot).ok())
            .and_then(|slot| WorkerIndex::new_checked(slot, WORKERS_COUNT_MAX))
            .ok_or_else(refused)?;
        let incarnation = match incarnation {
            None => 0,
            Some(digits) => parse_digits(digits)
                .filter(|&number| number <= INCARNATION_MASK)
                .ok_or_else(refused)?,
        };
        Ok(Self::new(slot, incarnation))
    }
}

/// Digits only: `+3` is a number to the standard library and not to us.
fn parse_digits(text: &str) -> Option<u32> {
    if text.bytes().all(|letter| letter.is_ascii_digit()) {
        text.parse().ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(raw: u32) -> SlotIndex {
        SlotIndex::new_checked(raw, TASKS_COUNT_MAX).unwrap()
    }

    #[test]
    fn task_id_survives_printing_and_parsing() {
        for (generation, index) in [
            (1, 0),
            (5, 17),
            (GENERATION_MAX, TASKS_COUNT_MAX - 1),
            (1 << 34, 4096),
        ] {
            let id = TaskId::new(generation, slot(index));
            assert_eq!((id.generation(), id.slot()), (generation, slot(index)));
            let text = id.to_string();
            assert_eq!(text.len(), 13);
            assert_eq!(text.parse::<TaskId>().unwrap(), id);
            assert_eq!(text.to_uppercase().parse::<TaskId>().unwrap(), id);
            assert_eq!(TaskId::from_raw(id.as_raw()), Some(id));
        }
    }

    #[test]
    fn numbers_that_are_no_task_id_are_refused() {
        for raw in [
            0,
            1,
            (1 << 24) - 1,
            1 << 59,
            (1 << 59) | (1 << 24),
            1 << 60,
            u64::MAX,
        ] {
            assert_eq!(TaskId::from_raw(raw), None);
        }
        for text in [
            "",
            "0",
            "0000000000000",
            "zzzzzzzzzzzzz",
            "00000000000u0",
            "00000000000é",
            "last",
            "00000000000000",
        ] {
            assert!(text.parse::<TaskId>().is_err(), "{text}");
        }
    }

    #[test]
    fn id_of_a_job_of_a_grid_is_refused_for_what_it_is() {
        let task = TaskId::new(5, slot(17));
        let job = format!("{}{}", 'g', &task.to_string()[1..]);
        assert_eq!(
            job.parse::<TaskId>(),
            Err(ParseIdError::OfGrid(job.clone()))
        );
        let none = format!("{}{}", 'z', &task.to_string()[1..]);
        assert!(matches!(
            none.parse::<TaskId>(),
            Err(ParseIdError::NoTask(_))
        ));
    }

    #[test]
    fn letters_that_look_like_digits_are_read_as_digits() {
        let id = TaskId::new(1, slot(1));
        let text = id.to_string();
        assert_eq!(
            text.replace('1', "l")
                .replace('0', "O")
                .parse::<TaskId>()
                .unwrap(),
            id
        );
    }

    #[test]
    fn worker_id_survives_printing_and_parsing() {
        let index = WorkerIndex::new_checked(3, 10).unwrap();
        let id = WorkerId::new(index, 1);
        assert_eq!(id.to_string(), "w3.1");
        assert_eq!("w3.1".parse::<WorkerId>().unwrap(), id);
        assert_eq!("3".parse::<WorkerId>().unwrap(), WorkerId::new(index, 0));
        assert_eq!("w3".parse::<WorkerId>().unwrap().incarnation(), 0);
        assert_eq!(WorkerId::from_raw(id.as_raw()), Some(id));
        assert_eq!(id.as_raw(), (1 << 16) | 3);
    }

    #[test]
    fn numbers_that_are_no_worker_id_are_refused() {
        assert_eq!(WorkerId::from_raw(0xFFFF), None);
        assert_eq!(WorkerId::from_raw(1 << 40), None);
        for text in [
            "",
            "w",
            "w.",
            "w3.",
            "+3",
            "w65535",
            "w1.16777216",
            "3.-1",
            "ww3",
        ] {
            assert!(text.parse::<WorkerId>().is_err(), "{text}");
        }
    }

    #[test]
    fn index_at_its_count_is_refused() {
        assert!(SlotIndex::new_checked(9, 10).is_some());
        assert!(SlotIndex::new_checked(10, 10).is_none());
        assert!(WorkerIndex::new_checked(0, 0).is_none());
    }
}
