//! What others take away under a running daemon is told when it happens, not at the next start.
//!
//! Once a second: is the segment still the system's, is the lock file still the one that is held, do the socket files still
//! lead here? None of these ends the daemon, which serves on with what it has open; each is told once, with what to do.
//! Files of the journal are looked at by the chores thread, because a disk may keep whoever asks.
//! Tested in `tests/daemon/taken_away.rs`.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use qtf_shm::Segment;
use tokio::sync::watch;

/// LIMIT: a removal is told within this time.
const PERIOD: Duration = Duration::from_secs(1);

/// A file that others find by its name.
#[derive(Debug)]
struct Watched {
    path: PathBuf,
    identity: (u64, u64),
    /// What follows from its loss, and what to do.
    advice: &'static str,
    is_told: bool,
}

/// Looks after what the daemon is found by.
#[derive(Debug)]
pub(crate) struct Vigil {
    segment: Arc<Segment>,
    is_segment_told: bool,
    files: Vec<Watched>,
}

impl Vigil {
    /// Of a segment with a name, the lock file, and the files of Unix sockets; they are there now.
    pub(crate) fn new<'a>(
        segment: &Arc<Segment>,
        lock_file: &'a Path,
        sockets: impl Iterator<Item = &'a Path>,
    ) -> Self {
        let lock = (
            lock_file,
            "local processes and a second daemon know this one by its segment only: start a successor with --take-over",
        );
        let sockets = sockets.map(|path| {
            let advice = "nobody can connect there any more: start a successor with --take-over";
            (path, advice)
        });
        let files = std::iter::once(lock)
            .chain(sockets)
            .filter_map(|(path, advice)| {
                Some(Watched {
                    identity: identity_of(path)?,
                    path: path.to_owned(),
                    advice,
                    is_told: false,
                })
            });
        Self {
            segment: Arc::clone(segment),
            is_segment_told: false,
            files: files.collect(),
        }
    }

    /// Looks until nobody wants it any more.
    pub(crate) async fn keep(mut self, mut stop: watch::Receiver<bool>) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !*stop.borrow() {
            tokio::select! {
                _ = ticks.tick() => self.look(),
                // What goes from now on this daemon removes itself.
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    fn look(&mut self) {
        if !self.is_segment_told && self.segment.is_removed() {
            self.is_segment_told = true;
            tracing::error!(
                shm_id = self.segment.shm_id(),
                "the segment was removed from the system (ipcrm): memory tasks and results not yet fetched end with this daemon, let them finish before it stops; journal tasks are in the journal"
            );
        }
        for file in &mut self.files {
            if !file.is_told && identity_of(&file.path) != Some(file.identity) {
                file.is_told = true;
                tracing::error!(
                    file = %file.path.display(),
                    "removed or replaced under the running daemon: {}", file.advice
                );
            }
        }
    }
}

fn identity_of(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}
