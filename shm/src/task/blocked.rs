//! Why a blocked task waits: 6 bits of reason and 10 of detail, in the owner's bits of its state word.
//!
//! What the kinds of detail are is drawn in `docs/MEMORY.md`. A reason that this version does not know is shown by its number. Tested in
//! `state_tests.rs`.

use core::fmt;

const DETAIL_BITS: u32 = 10;
const DETAIL_MAX: u16 = (1 << DETAIL_BITS) - 1;

/// Reason and detail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Blocked {
    reason: u8,
    detail: u16,
}

impl Blocked {
    /// No live worker offers the task's kind.
    pub const NO_WORKER_OFFERS: Self = Self::of(1);
    /// The journal has no room for what would follow.
    pub const NO_JOURNAL_ROOM: Self = Self::of(2);

    /// It is set aside for a moment: something about it is being changed.
    pub const BEING_CHANGED: Self = Self::of(11);

    const fn of(reason: u8) -> Self {
        Self { reason, detail: 0 }
    }

    /// The number of the reason.
    #[must_use]
    pub const fn reason(self) -> u8 {
        self.reason
    }

    /// A number or a count, by the reason; 0 = none.
    #[must_use]
    pub const fn detail(self) -> u16 {
        self.detail
    }

    /// The name in JSON and listings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.reason {
            1 => "no_worker_offers",
            2 => "no_journal_room",
            3 => "dependencies",
            4 => "queue_stopped",
            5 => "queue_limit",
            6 => "key_limit",
            7 => "rate",
            8 => "gang_incomplete",
            9 => "singleton",
            10 => "array_limit",
            11 => "being_changed",
            12 => "no_result_room",
            _ => "unknown",
        }
    }

    /// The owner's bits.
    pub(super) const fn to_bits(self) -> u16 {
        ((self.reason as u16) << DETAIL_BITS) | (self.detail & DETAIL_MAX)
    }

    /// What the owner's bits say; all ones are no reason, and so is the number 0.
    pub(super) const fn of_bits(bits: u16) -> Option<Self> {
        let [reason, _] = (bits >> DETAIL_BITS).to_le_bytes();
        if reason == 0 || bits == u16::MAX {
            return None;
        }
        Some(Self {
            reason,
            detail: bits & DETAIL_MAX,
        })
    }
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            "unknown" => write!(f, "reason {}", self.reason)?,
            known => f.write_str(known)?,
        }
        if self.detail == 0 {
            Ok(())
        } else {
            write!(f, " {}", self.detail)
        }
    }
}
