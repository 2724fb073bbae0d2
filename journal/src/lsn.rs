//! The ordinal of a record.

use core::fmt;

/// Bits of an lsn: a task slot has room for as many.
const LSN_BITS: u32 = 48;
/// Highest lsn: at 4 million records a second it is reached after two years, at which point appending is refused.
pub const LSN_MAX: u64 = (1 << LSN_BITS) - 1;

/// Which record: the first is 1, each next one more. 48 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(u64);

impl Lsn {
    /// Before the first record; the lsn of what was never journalled.
    pub const NONE: Self = Self(0);

    /// Takes a number; bits above the 48 are ignored.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw & LSN_MAX)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The lsn of the record that follows; saturates at [`LSN_MAX`].
    #[must_use]
    pub const fn next(self) -> Self {
        if self.0 < LSN_MAX {
            Self(self.0 + 1)
        } else {
            self
        }
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsn_counts_up_and_stays_within_48_bits() {
        assert_eq!(Lsn::NONE.next(), Lsn::new(1));
        assert_eq!(Lsn::new(LSN_MAX).next(), Lsn::new(LSN_MAX));
        assert_eq!(Lsn::new(u64::MAX).get(), LSN_MAX);
    }
}
