//! Reservation of ids: generations are given only below a limit that the journal holds.
//!
//! So no id is ever given twice, also not by a later segment, which starts at the limit of the one before. The limit
//! rises in steps of 2^20 when half a step is left, which at the rates of this machine is hours ahead; it counts only
//! when its record is durable. Without a journal there is no limit. Tested in `engine/tests/rules/journal.rs`.

use qtf_journal::Lsn;
use qtf_shm::Segment;

/// LIMIT: a slot is claimed some hundred times a second at most, so a step lasts for hours; 2^36 generations are
/// 65,536 steps.
pub(crate) const GENERATIONS_PER_STEP: u64 = 1 << 20;

/// How far ids are reserved.
#[derive(Debug)]
pub(crate) struct Reservation {
    /// What the journal holds, durable; 0 = nothing yet.
    limit: u64,
    /// The record that is on its way, and its limit.
    asked: Option<(Lsn, u64)>,
}

impl Reservation {
    pub(crate) fn new(segment: &Segment) -> Self {
        Self {
            limit: segment.gen_limit(),
            asked: None,
        }
    }

    /// Ids may be given.
    pub(crate) const fn is_open(&self) -> bool {
        self.limit != 0
    }

    /// The limit that a record must be appended for, if it is time for one.
    pub(crate) const fn wanted(&self, highest: u64) -> Option<u64> {
        let near = highest.saturating_add(GENERATIONS_PER_STEP / 2);
        if self.asked.is_some() || near < self.limit {
            return None;
        }
        let from = if highest > self.limit {
            highest
        } else {
            self.limit
        };
        Some(from.saturating_add(GENERATIONS_PER_STEP))
    }

    pub(crate) const fn asked(&mut self, lsn: Lsn, limit: u64) {
        self.asked = Some((lsn, limit));
    }

    /// Raises the segment's limit when its record is durable. Returns whether it did.
    pub(crate) fn durable(&mut self, segment: &Segment, durable: Lsn) -> bool {
        match self.asked {
            Some((lsn, limit)) if lsn <= durable => {
                self.asked = None;
                self.limit = limit;
                segment.set_gen_limit(limit);
                true
            }
            Some(_) | None => false,
        }
    }

    /// The highest limit that is, or will be, in the journal.
    pub(crate) fn highest(&self) -> u64 {
        self.asked.map_or(self.limit, |(_, limit)| limit)
    }
}
