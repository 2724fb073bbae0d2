//! What the core did last, and what went wrong: a ring of events, a table of errors.
//!
//! ```text
//! event, 32 bytes                                        error, 128 bytes
//!  0  number  its number + 1; 0 while it is written       0  hash    of place and text
//!  8  when    ns since the origin 56 | what 8             8  count
//! 16  task    id                                         16  first   ns since the origin
//! 24  about   worker id 40 | reason 8 | value 16         24  last    ns since the origin
//!                                                        32  text    96 bytes
//! ```
//! How many events were written stands in the control region. Writer: the core.
//!
//! Invariant: no program uses them yet, so they are zero; `verify` reports what is not. Tested in `segment/tests/unused.rs`.

use crate::layout::shared::shared_layout;
use crate::sync::AtomicU64;

shared_layout! {
    /// One event of the ring; see the drawing in this file's head.
    pub struct EventEntry: 32 bytes, align 32 {
        0 => number: AtomicU64,
        8 => when: AtomicU64,
        16 => task: AtomicU64,
        24 => about: AtomicU64,
    }
}

shared_layout! {
    /// One error, however often it was met; see the drawing in this file's head.
    pub struct ErrorEntry: 128 bytes, align 128 {
        0 => hash: AtomicU64,
        8 => count: AtomicU64,
        16 => first: AtomicU64,
        24 => last: AtomicU64,
        32 => text: [AtomicU64; 12],
    }
}
