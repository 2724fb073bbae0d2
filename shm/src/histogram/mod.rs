//! How long the steps of a task's life took: one histogram for each stage, always on.
//!
//! ```text
//! stage, 42,240 bytes; writer: the core
//! offset  field     bits
//!      0  form      lowest value 1 | bits of the highest 47 | digits 2, a byte each, the first lowest; 0 = nothing was counted
//!      8  count     values counted
//!     16  sum       of them, ns; wraps
//!     24  least     ns
//!     32  most      ns
//!     40  beyond    of them those above the highest, counted as the highest
//!     48  since     stamp of the first
//!     56  reserved
//!    256  counts    5,248 words in the order of an `HdrHistogram` of 1 to 2^47 - 1 ns with 2 digits
//! ```
//! Invariants:
//! - I1: a value is counted where the crate `hdrhistogram` counts it, so the counts are those of that crate's histogram.
//! - I2: one writer; readers see each word as it is, not all of one moment. What is read is the counts; the head says what they cannot.
//!
//! Tested at the end of `place.rs` and in `segment/tests/histograms.rs`.

mod count;
mod place;

pub use count::StageReading;
pub use place::{COUNTS, HIGHEST_NS, SIGNIFICANT_DIGITS, least_at};

use crate::layout::shared::shared_layout;
use crate::sync::AtomicU64;

/// Words of one stage.
pub const STAGE_WORDS: usize = size_of::<StageLayout>() / 8;

shared_layout! {
    /// One stage's histogram as it lies in the segment; see the drawing in this file's head.
    pub struct StageLayout: 42240 bytes, align 128 {
        0 => form: AtomicU64,
        8 => count: AtomicU64,
        16 => sum: AtomicU64,
        24 => least: AtomicU64,
        32 => most: AtomicU64,
        40 => beyond: AtomicU64,
        48 => since: AtomicU64,
        56 => reserved: [AtomicU64; 25],
        256 => counts: [AtomicU64; 5248],
    }
}

/// A step of a task's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Stage {
    /// From the arrival of a batch of submissions to its verdicts, for each of them. What a record waits for is `Sync`.
    Admit = 0,
    /// From READY to the hand-out.
    Wait = 1,
    /// One turn of the core that had something to do.
    Decide = 2,
    /// From the hand-out to the word of the worker that it has begun, where it says so before the end.
    Dispatch = 3,
    /// From that word, or from the hand-out where none came, to the word of the end.
    Run = 4,
    /// From the arrival of a report with results to their being judged or recorded, for each of them.
    Result = 5,
    /// From the end of a task to the acknowledgement of its result.
    Deliver = 6,
    /// From the order to write a group of records to its being durable.
    Sync = 7,
}

impl Stage {
    /// Number of stages of this layout.
    pub const COUNT: usize = 8;

    /// All stages in the order in which they lie.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Admit,
        Self::Wait,
        Self::Decide,
        Self::Dispatch,
        Self::Run,
        Self::Result,
        Self::Deliver,
        Self::Sync,
    ];

    /// The stage of this name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.name() == name)
    }

    /// The name in listings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Wait => "wait",
            Self::Decide => "decide",
            Self::Dispatch => "dispatch",
            Self::Run => "run",
            Self::Result => "result",
            Self::Deliver => "deliver",
            Self::Sync => "sync",
        }
    }
}
