//! Tests of the segment as a whole, over memory of this process.

mod attachment;
mod blobs;
mod cold;
mod committed;
mod completion;
mod damaged;
mod gates;
mod histograms;
mod history;
mod lanes;
mod life;
mod model;
mod named;
mod noise;
mod rebase;
mod rebuild;
mod repair;
mod restore;
mod sleepers;
mod torture;
mod unused;
mod upgrade;
mod verify;

use std::path::PathBuf;

use super::{Segment, SegmentSpec, TaskFields};
use crate::id::{AttachIndex, TaskId};
use crate::layout::Geometry;
use crate::task::state::Event;

/// What a small segment shall be like whose spill files go to `dir`.
pub(super) fn spec_in(dir: impl Into<PathBuf>, tasks: u64, arena_bytes: u64) -> SegmentSpec {
    let geometry = Geometry::for_counts(tasks, 8).unwrap();
    let geometry = geometry.with_arena_bytes(arena_bytes).unwrap();
    SegmentSpec {
        geometry,
        ..SegmentSpec::new("test", dir)
    }
}

/// A small segment whose spill files go to `dir`.
pub(super) fn segment_in(dir: impl Into<PathBuf>, tasks: u64, arena_bytes: u64) -> Segment {
    Segment::in_process(&spec_in(dir, tasks, arena_bytes))
}

/// A small segment that spills nothing: below a file there is no folder, not for root either.
pub(super) fn segment(tasks: u64) -> Segment {
    segment_in("/dev/null/spill", tasks, 1 << 20)
}

/// A published task with a payload.
pub(super) fn submit(segment: &Segment, priority: u8, stamp: u64, payload: &[u8]) -> TaskId {
    let mut claimed = segment.claim_task(AttachIndex::DAEMON).unwrap();
    claimed.set_payload(payload).unwrap();
    let fields = TaskFields {
        kind: segment.kinds().find("noop"),
        priority,
        max_attempts: 3,
        ..TaskFields::default()
    };
    claimed.write(&fields).unwrap();
    claimed.publish(Event::Admit, stamp).unwrap()
}
