//! What a world stands on: a small segment, and the folder of its spill files.

use std::path::Path;
use std::sync::Arc;

use qtf_shm::{Geometry, Segment, SegmentSpec};
use tempfile::TempDir;

/// A segment that is about to be made, in a folder of its own.
pub struct Ground {
    directory: TempDir,
    spec: SegmentSpec,
    is_shared: bool,
}

impl Ground {
    /// A segment of so many slots, in this process.
    #[must_use]
    pub fn of(tasks: u64, workers: u64) -> Self {
        Self::sized(Geometry::for_counts(tasks, workers).expect("a small segment fits"))
    }

    /// A segment of this size, in this process.
    #[must_use]
    pub fn sized(geometry: Geometry) -> Self {
        Self::again(new_folder(), geometry)
    }

    /// A new segment in a folder that an earlier one has left.
    #[must_use]
    pub fn again(directory: TempDir, geometry: Geometry) -> Self {
        Self {
            spec: spec_in(directory.path(), geometry),
            directory,
            is_shared: false,
        }
    }

    /// Says more of the segment.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut SegmentSpec)) -> Self {
        change(&mut self.spec);
        self
    }

    /// Local processes open the segment, too.
    #[must_use]
    pub fn shared(mut self) -> Self {
        self.is_shared = true;
        self
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.directory.path()
    }

    /// Makes the segment.
    #[must_use]
    pub fn made(self) -> (Arc<Segment>, TempDir) {
        let segment = if self.is_shared {
            Segment::create_private(&self.spec).expect("shared memory can be had")
        } else {
            Segment::in_process(&self.spec)
        };
        (Arc::new(segment), self.directory)
    }
}

/// What each segment of a world is, before more is said of it.
pub(crate) fn spec_in(folder: &Path, geometry: Geometry) -> SegmentSpec {
    let mut spec = SegmentSpec::new("simulation", folder);
    spec.geometry = geometry;
    spec
}

fn new_folder() -> TempDir {
    tempfile::tempdir().expect("a temporary directory can be made")
}
