//! How much was done, so that whoever turns the cycle knows whether to come again at once. Tested through `engine/tests/rules/`.

use std::ops::AddAssign;

/// How much a cycle has done; 0 means that the caller may rest until the next deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct WorkCount(u64);

impl WorkCount {
    /// Nothing.
    pub const NONE: Self = Self(0);
    pub(crate) const ONE: Self = Self(1);

    /// The number of things done.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Nothing was done.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl AddAssign for WorkCount {
    fn add_assign(&mut self, other: Self) {
        self.0 = self.0.saturating_add(other.0);
    }
}
