//! How far the loops of the roles have come: the daemon counts the turns of each, and whoever wants to know whether it hangs looks twice.
//!
//! One word each, in `loops` of the control region: only the daemon writes them, by a load and a store. A segment of an earlier
//! daemon goes on counting from where that one has stopped. Tested at the end.

use super::{PlmRight, Segment};
use crate::sync::{AtomicU64, Ordering};

/// Words of one loop in the control region.
const LOOP_WORDS: usize = 8;
/// Which of them counts its turns.
const TURNS_AT: usize = 2;

/// A role, whose loop the daemon turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum RoleLoop {
    /// Tasks and their lives.
    Plm,
    /// Which task goes to which worker.
    Scheduler,
    /// Workers and their leases.
    Register,
}

impl RoleLoop {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Plm, Self::Scheduler, Self::Register];

    /// The name of the role.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plm => "PLM",
            Self::Scheduler => "Scheduler",
            Self::Register => "Register",
        }
    }
}

impl Segment {
    /// Counts a turn of the loop of a role.
    #[inline]
    pub fn count_turn(&self, _right: PlmRight, of: RoleLoop) {
        if let Some(turns) = self.turns_of(of) {
            // ORDERING: a count that people and the watchdog compare with an earlier one; the daemon alone writes it.
            let before = turns.load(Ordering::Relaxed);
            // ORDERING: as above.
            turns.store(before.wrapping_add(1), Ordering::Relaxed);
        }
    }

    /// How often the loop of a role has turned, in all daemons of this segment.
    #[must_use]
    pub fn turns(&self, of: RoleLoop) -> u64 {
        // ORDERING: as above.
        self.turns_of(of)
            .map_or(0, |turns| turns.load(Ordering::Relaxed))
    }

    fn turns_of(&self, of: RoleLoop) -> Option<&AtomicU64> {
        let loops = &self.view.parts.control().loops;
        loops.get(of as usize * LOOP_WORDS + TURNS_AT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Geometry, SegmentSpec};

    #[test]
    fn turns_of_each_role_are_counted_for_themselves_and_begin_anew_at_the_highest_number() {
        let folder = tempfile::tempdir().unwrap();
        let mut spec = SegmentSpec::new("loops", folder.path());
        spec.geometry = Geometry::for_counts(64, 16).unwrap();
        let segment = Segment::create_private(&spec).unwrap();
        let right = segment.plm_right().unwrap();
        for (of, count) in RoleLoop::ALL.into_iter().zip(1..) {
            (0..count).for_each(|_| segment.count_turn(right, of));
        }
        assert_eq!(RoleLoop::ALL.map(|of| segment.turns(of)), [1, 2, 3]);
        let word = segment.turns_of(RoleLoop::Plm).unwrap();
        word.store(u64::MAX, Ordering::Relaxed);
        segment.count_turn(right, RoleLoop::Plm);
        assert_eq!(segment.turns(RoleLoop::Plm), 0);
    }
}
