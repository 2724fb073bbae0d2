//! Ordinal of a record in the journal.

/// Ordinal of a record in the journal: 48 bits, the first is 1, each next one is 1 more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(u64);

impl Lsn {
    /// No record.
    pub const NONE: Self = Self(0);

    /// The record of this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}
