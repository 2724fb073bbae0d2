//! Whether a daemon lives, asked at each end of a local worker's task: told by its sign of life as long as that is fresh, else by the kernel.
//!
//! The daemon writes the stamp of each turn into the control region. While it is at work that stamp is microseconds old, and a look at it is all it
//! takes. Once it is old the daemon sleeps, is stopped, or is dead, which only the kernel knows.
//!
//! Invariants:
//! - I1: "dead" is said by the kernel alone, and remembered with the state word of the daemon's attach record: a successor has another one.
//! - I2: of a daemon that has just died the contrary is said for [`FRESH_NS`] at most, and so often at most as [`TRUSTED_MAX`] says: what is
//!   handed over to it in this time waits for its successor, as does what it was killed behind.
//!
//! Tested in `segment/tests/attachment.rs`.

use crate::id::AttachIndex;
use crate::layout::attach::AttachPhase;
use crate::segment::attachment::Attachment;
use crate::segment::process::Liveness;
use crate::sync::{AtomicU64, Ordering};
use crate::time::Now;

/// LIMIT: a sign of life is as good as the kernel's word for so long.
const FRESH_NS: u64 = 1_000_000;
/// LIMIT: looks at one and the same sign before the kernel is asked all the same: a quarter of what a local worker can hand over.
const TRUSTED_MAX: u64 = 16;

/// What a process remembers of its looks.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    beat: AtomicU64,
    trusted: AtomicU64,
    /// State of the daemon's attach record when the kernel said that it is dead.
    dead: AtomicU64,
}

impl Pulse {
    /// The sign of life can be taken for the kernel's word.
    fn is_fresh(&self, beat: u64, now: Now) -> bool {
        // ORDERING: of this process; a count that two threads change at once is off by one.
        let read = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let times = if read(&self.beat) == beat {
            read(&self.trusted).saturating_add(1)
        } else {
            // ORDERING: as above.
            self.beat.store(beat, Ordering::Relaxed);
            1
        };
        let at = Now::from_stamp(beat);
        // It may have been written after the clock was asked here.
        let ns = now.since_ns(at).max(at.since_ns(now));
        let is_fresh = beat != 0 && ns < FRESH_NS && times <= TRUSTED_MAX;
        // ORDERING: as above.
        self.trusted
            .store(if is_fresh { times } else { 0 }, Ordering::Relaxed);
        is_fresh
    }
}

impl Attachment {
    /// A daemon is there, or one cannot tell.
    #[must_use]
    pub fn daemon_lives(&self) -> bool {
        self.daemon_lives_at(self.now())
    }

    /// The same, for who has asked the clock already.
    pub(super) fn daemon_lives_at(&self, now: Now) -> bool {
        let Some(record) = self
            .view()
            .parts
            .attaches
            .get(AttachIndex::DAEMON.position())
        else {
            return false;
        };
        let (state, pulse) = (record.state(), self.pulse());
        // ORDERING: of this process.
        let dead = pulse.dead.load(Ordering::Relaxed);
        if state.phase() == AttachPhase::Free || state.as_raw() == dead {
            return false;
        }
        let control = self.view().parts.control();
        // ORDERING: a hint of how things are; the kernel has the last word.
        let beat = control.daemon_beat.load(Ordering::Relaxed);
        pulse.is_fresh(beat, now) || self.kernel_knows_a_daemon()
    }

    fn kernel_knows_a_daemon(&self) -> bool {
        let Some(info) = self.attach_info(AttachIndex::DAEMON) else {
            return false;
        };
        let lives = self.judge(&info, self.lock()) != Liveness::Dead;
        if !lives {
            // ORDERING: of this process.
            self.pulse()
                .dead
                .store(info.state.as_raw(), Ordering::Relaxed);
        }
        lives
    }
}
