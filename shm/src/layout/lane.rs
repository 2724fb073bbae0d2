//! The lane of an attach record: two rings, for what its process asks of the core and for what the core tells it.
//!
//! ```text
//! offset  field           writer
//!      0  form            entries of commands 16 | entries of events 16 | 0 32; 0 = 32 and 64     own, before LIVE
//!      8  larger          reference to larger rings; 0 = those below                        own, before LIVE
//!    128  commands_in     how many commands were put in                                     own
//!    256  commands_out    how many were taken out                                           core
//!    384  events_in       how many events were put in                                       core
//!    512  events_out      how many were taken out                                           own
//!    640  sleep           asleep 1 | 0 32 | rings 31: the futex on which its owner sleeps   own, core
//!    768  commands        32 entries                                                        own
//!   1792  events          64 entries                                                        core
//!   3840  reserved
//!
//! entry, 32 bytes: what 8 | flags 8 | count 16 | argument 32; task id; two words by `what`
//! ```
//! Lane `n` belongs to attach record `n`; 128 bytes lie between what different sides write.
//!
//! Invariant: no program uses them yet, so they are zero; `verify` reports what is not. Tested in `segment/tests/unused.rs`.

use crate::layout::shared::shared_layout;
use crate::sync::AtomicU64;

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
