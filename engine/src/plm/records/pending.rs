//! What waits for a sync: tasks whose record is appended and not yet durable, in the order of their records.
//!
//! Bounded: each entry has a record in one of the appender's two groups, so the queue made for as many as fit there
//! never grows in steady state; only a restart that journals a whole segment again may make it larger. Tested at the
//! end of this file and in `engine/tests/rules/journal.rs`.

use std::collections::VecDeque;

use qtf_journal::Lsn;
use qtf_shm::{ClientIndex, Phase, TaskId};

/// LIMIT: two groups of 4 MiB in records of at least 64 bytes (a purge) are 131,072; memory is touched only as far as it
/// is used.
const CAPACITY: usize = 131_072;

/// What is to be done when the record is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// SUBMITTED -> READY or DELAYED.
    Accept,
    /// ENDED -> its final phase, with the notice.
    Settle,
    /// The task has its final phase already: only the notice is left, by the lane of this client too.
    Tell(Phase, Option<ClientIndex>),
    /// ASSIGNED, a task that runs at most once: the order for this attempt goes out.
    Dispatch(u16),
    /// The task is forgotten: its slot and its files go. Whoever forgot it waits for the record, nobody for this.
    Free,
}

/// One task that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wait {
    pub(crate) lsn: Lsn,
    pub(crate) task: TaskId,
    pub(crate) then: Then,
}

/// All of them, first record first.
#[derive(Debug)]
pub(crate) struct Pending {
    waits: VecDeque<Wait>,
    /// The last record that somebody is held up by.
    awaited: Lsn,
}

impl Pending {
    pub(crate) fn new() -> Self {
        Self {
            waits: VecDeque::with_capacity(CAPACITY),
            awaited: Lsn::NONE,
        }
    }

    /// To be called in the order of the records.
    pub(crate) fn push(&mut self, wait: Wait) {
        if wait.then != Then::Free {
            self.awaited = wait.lsn;
        }
        self.waits.push_back(wait);
    }

    /// Takes the first one if its record is durable.
    pub(crate) fn pop(&mut self, durable: Lsn) -> Option<Wait> {
        self.waits.pop_front_if(|wait| wait.lsn <= durable)
    }

    /// The last record that somebody is held up by; it may be durable by now.
    pub(crate) const fn awaited(&self) -> Lsn {
        self.awaited
    }

    /// Says whether the first one's record is durable.
    pub(crate) fn is_due(&self, durable: Lsn) -> bool {
        self.waits.front().is_some_and(|wait| wait.lsn <= durable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_come_out_in_order_and_only_when_durable() {
        let task = TaskId::from_raw(1 << 24).unwrap();
        let mut pending = Pending::new();
        for number in 1..=3 {
            pending.push(Wait {
                lsn: Lsn::new(number),
                task,
                then: Then::Accept,
            });
        }
        assert!(!pending.is_due(Lsn::NONE) && pending.pop(Lsn::NONE).is_none());
        let free = Wait {
            lsn: Lsn::new(4),
            task,
            then: Then::Free,
        };
        pending.push(free);
        assert_eq!(pending.awaited(), Lsn::new(3));
        let durable = Lsn::new(2);
        assert_eq!(pending.pop(durable).unwrap().lsn, Lsn::new(1));
        assert!(pending.is_due(durable));
        assert_eq!(pending.pop(durable).unwrap().lsn, Lsn::new(2));
        assert!(!pending.is_due(durable) && pending.pop(durable).is_none());
        assert_eq!(pending.pop(Lsn::new(4)).unwrap().lsn, Lsn::new(3));
        assert_eq!(pending.pop(Lsn::new(4)), Some(free));
    }
}
