//! Counts that are corrected beside the living: whether a difference is that of the dead.
//!
//! Counts (chunks of an arena block, tasks of a local worker) are changed before or after the truth. If a process is killed in between,
//! the difference stays; to take it off one has to know that it is nobody's who is about to make up for it. So each
//! process says in its attach record when it is within such a piece of work (`sections.rs`). A repairer looks at all records, takes the counts, and looks again. If nobody alive was within a section and nobody has entered
//! one in between, the difference is that of the dead. Nobody waits: who is stopped within a section only keeps the
//! repair of counts from being made, as long as it is stopped.
//!
//! Sync point `arena.quiet`: section entered, then a word changed by a releasing read-modify-write; that word (acquire), then the
//! sections again. Tested in `segment/tests/repair.rs`, modelled in `shm/tests/loom_repair.rs`.

use crate::layout::attach::AttachPhase;
use crate::sections::{Sections, is_within};
use crate::segment::Segment;
use crate::segment::repair::Convicted;
use crate::sync::Ordering;

/// The sections of all living processes, when none was within one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Quiet(Vec<(u64, u64)>);

impl Segment {
    /// Does a piece of work within a section of this process. Nests, and may be done by several threads at once.
    pub(super) fn section<T>(&self, work: impl FnOnce() -> T) -> T {
        let record = self.view.parts.attaches.get(self.attach.position());
        if let Some(record) = record {
            Sections::new(&record.sections).enter();
        }
        let done = work();
        if let Some(record) = record {
            Sections::new(&record.sections).leave();
        }
        done
    }

    /// The sections of all processes but the convicted; `None` while one of them is within one.
    pub(super) fn quiet(&self, convicted: &Convicted) -> Option<Quiet> {
        let mut sections = Vec::with_capacity(self.view.parts.attaches.len());
        for (number, record) in self.view.parts.attaches.iter().enumerate() {
            // ORDERING: [arena.quiet] Acquire: what was done within is visible, and what is read next is read later.
            let state = record.state.load(Ordering::Acquire);
            let within = Sections::new(&record.sections).look();
            let state_word = crate::layout::attach::AttachState::from_raw(state);
            let counts =
                state_word.phase() == AttachPhase::Live && !convicted.is(number, state_word);
            if counts && is_within(within) {
                return None;
            }
            sections.push((state, within));
        }
        Some(Quiet(sections))
    }
}
