//! What local processes and the daemon let each other know without a call: the doorbell, and that local workers have changed.
//!
//! Invariants:
//! - I1: a local process rings when what it did is done, leaf and timer included: the bell is its last write.
//! - I2: the count of changes rises after the worker's word has changed. So whoever finds the count as it was and looks at the words later
//!   still has the change before it. A process that is killed in between is noticed by its death.
//!
//! Tested in `segment/tests/attachment.rs` and `engine/tests/rules/local_offers.rs`.

use crate::doorbell::Doorbell;
use crate::id::AttachIndex;
use crate::local_changes::LocalChanges;
use crate::segment::Segment;

/// Place of the count in the control region's reserved words, directly behind the sleeping daemon's: zero in segments from
/// before, which is right.
const LOCAL_CHANGES: usize = 0;

impl Segment {
    /// The daemon's doorbell.
    #[must_use]
    pub fn doorbell(&self) -> Doorbell<'_> {
        Doorbell::new(&self.view.parts.control().sleeping)
    }

    /// How often local workers have come, gone, or changed what they take.
    #[must_use]
    pub fn local_changes(&self) -> u64 {
        self.changes().count()
    }

    /// A worker of this process has come, gone, or takes no more.
    pub(super) fn note_local_change(&self) {
        self.changes().note();
        self.ring();
    }

    /// Something that the daemon may have to act on is done. The daemon itself does not ring.
    #[inline]
    pub(super) fn ring(&self) {
        if self.attach != AttachIndex::DAEMON {
            self.doorbell().ring();
        }
    }

    fn changes(&self) -> LocalChanges<'_> {
        LocalChanges::new(&self.view.parts.control().reserved[LOCAL_CHANGES])
    }
}
