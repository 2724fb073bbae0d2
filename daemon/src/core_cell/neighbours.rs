//! Local processes that are attached to the segment beside the daemon: looked after once a second, so that what a dead one has left
//! goes back.
//!
//! Who is dead the kernel says (`qtf_shm::Segment::convict`); what becomes of it is the engine's (`Engine::attach_gone`). Tested in
//! `daemon/tests/daemon/neighbours.rs`.

use std::path::Path;

use qtf_engine::Engine;
use qtf_shm::{LockFile, Now};

/// How often they are looked at. A look costs a system call or two for each of them.
const PERIOD_NS: u64 = 1_000_000_000;

/// The look-out.
#[derive(Debug)]
pub(super) struct Neighbours {
    lock: Option<LockFile>,
    due: Now,
}

impl Neighbours {
    /// With the instance's lock file, where it has one. This open file holds no lock: it only looks at those of others.
    pub(super) fn new(lock_file: Option<&Path>, now: Now) -> Self {
        let lock = lock_file.and_then(|file| {
            LockFile::open(file)
                .inspect_err(|error| {
                    tracing::warn!(file = %file.display(), %error, "local processes are told by process id only");
                })
                .ok()
        });
        Self { lock, due: now }
    }

    /// Looks at them if it is time; tells the engine of the dead.
    pub(super) fn look(&mut self, engine: &mut Engine, now: Now) {
        if now < self.due {
            return;
        }
        self.due = now.plus_ns(PERIOD_NS);
        let dead = engine.segment().convict(self.lock.as_ref());
        for (attach, _) in dead.iter() {
            engine.attach_gone(now, attach);
        }
    }
}
