//! The lane of an attach record: two rings, for what its process asks of the core and for what the core tells it.
//!
//! ```text
//! offset  field           writer
//!      0  form            entries of commands 16 | entries of events 16 | 0 32; 0 = 32 and 64     own, before LIVE
//!      8  larger          reference to larger rings; 0 = those below                        own, before LIVE
//!    128  commands_in     how many commands were put in                                     own
//!    256  commands_out    how many were taken out                                           core
//!    384  events_in       how many events were put in                                       core
//!    392  reserved[0]     how often an event was missed, see `lane/missed.rs`               core
//!    512  events_out      how many were taken out                                           own
//!    520  reserved[0]     up to which of the missed the owner has looked                    own
//!    640  sleep           asleep 1 | 0 32 | rings 31: the futex on which its owner sleeps   own, core
//!    768  commands        32 entries                                                        own
//!   1792  events          64 entries                                                        core
//!   3840  reserved
//!
//! entry, 32 bytes: what 8 | flags 8 | count 16 | number 32; task id; two words by `what`, see `lane/entry.rs`
//! ```
//! Lane `n` belongs to attach record `n`; 128 bytes lie between what different sides write. It is open while the word `lane` of the live attach
//! record says so. Form and larger rings have no user yet and are 0.
//!
//! Invariant: of the words of one side the other writes none, at no time: who opens a lane finds whatever the one before has left, and makes it empty by
//! writing own words only ([`LaneLayout::begin`]). Tested in `segment/tests/lanes.rs`.

use crate::doorbell::Doorbell;
use crate::lane::{Missed, Ring};
use crate::layout::shared::shared_layout;
use crate::sync::AtomicU64;

/// Place of the core's and of the owner's count of what was missed, in the reserved words behind the counts of events: zero in segments from
/// before, which is right.
const MISSED: usize = 0;

shared_layout! {
    /// One lane as it lies in the segment; see the drawing in this file's head.
    pub struct LaneLayout: 4096 bytes, align 128 {
        0 => form: AtomicU64,
        8 => larger: AtomicU64,
        16 => reserved_form: [AtomicU64; 14],
        128 => commands_in: AtomicU64,
        136 => reserved_commands_in: [AtomicU64; 15],
        256 => commands_out: AtomicU64,
        264 => reserved_commands_out: [AtomicU64; 15],
        384 => events_in: AtomicU64,
        392 => reserved_events_in: [AtomicU64; 15],
        512 => events_out: AtomicU64,
        520 => reserved_events_out: [AtomicU64; 15],
        640 => sleep: AtomicU64,
        648 => reserved_sleep: [AtomicU64; 15],
        768 => commands: [AtomicU64; 128],
        1792 => events: [AtomicU64; 256],
        3840 => reserved: [AtomicU64; 32],
    }
}

impl LaneLayout {
    /// What its owner asks of the core.
    pub(crate) const fn command_ring(&self) -> Ring<'_> {
        Ring::new(&self.commands_in, &self.commands_out, &self.commands)
    }

    /// What the core tells its owner.
    pub(crate) const fn event_ring(&self) -> Ring<'_> {
        Ring::new(&self.events_in, &self.events_out, &self.events)
    }

    /// Whether the owner has missed events.
    pub(crate) const fn missed(&self) -> Missed<'_> {
        Missed::new(
            &self.reserved_events_in[MISSED],
            &self.reserved_events_out[MISSED],
        )
    }

    /// The bell at which its owner sleeps.
    pub(crate) const fn bell(&self) -> Doorbell<'_> {
        Doorbell::new(&self.sleep)
    }

    /// Makes the lane empty, by words of the owner alone, who says afterwards that it is open.
    pub(crate) fn begin(&self) {
        self.command_ring().producer().begin();
        self.event_ring().consumer().begin();
        let _stood = self.missed().take();
        self.bell().wakes_up();
    }
}
