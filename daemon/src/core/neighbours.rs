//! Local processes that are attached to the segment beside the daemon: looked after once a second, so that what a dead one has left
//! goes back. Who of them keeps free slots at a gate is named in the log.
//!
//! Who is dead the kernel says (`qtf_shm::Segment::convict`); what becomes of it is the engine's (`Engine::attach_gone`). Tested in
//! `daemon/tests/daemon/neighbours.rs`.

use std::path::Path;

use qtf_engine::Engine;
use qtf_shm::layout::attach::AttachState;
use qtf_shm::{AttachIndex, LockFile, Now, Segment};

/// How often they are looked at. A look costs a system call or two for each of them.
const PERIOD_NS: u64 = 1_000_000_000;
/// After so long it is named, and again.
const KEPT_TOO_LONG_NS: u64 = 30 * PERIOD_NS;

/// The look-out.
#[derive(Debug)]
pub(super) struct Neighbours {
    lock: Option<LockFile>,
    due: Now,
    /// Since when slots stand at a gate, as was seen at each look.
    kept_since: Option<Now>,
    /// Processes whose lanes were named, as nobody can read them.
    named: Vec<(AttachIndex, AttachState)>,
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
        Self {
            lock,
            due: now,
            kept_since: None,
            named: Vec::new(),
        }
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
        self.name_gate_keepers(engine, now);
        self.name_mad_lanes(engine.segment());
    }

    /// Commands of a lane whose counts make no sense are not read. Its process is named once.
    fn name_mad_lanes(&mut self, segment: &Segment) {
        let is_mad = |index: AttachIndex| {
            let lane = segment.lane_info(index);
            lane.is_some_and(|lane| lane.is_open && !lane.makes_sense())
        };
        self.named.retain(|&(index, _)| is_mad(index));
        let attaches = segment.geometry().attaches();
        let all = (0..u16::MAX).map_while(|number| AttachIndex::new_checked(number, attaches));
        for info in all
            .filter(|&index| is_mad(index))
            .filter_map(|index| segment.attach_info(index))
        {
            let who = (info.index, info.state);
            if self.named.contains(&who) {
                continue;
            }
            self.named.push(who);
            tracing::warn!(
                process = %info.name,
                pid = info.process.pid,
                "the counts of a local process's lane make no sense, so its commands are not read: end it, and look for a program that writes to memory that is not its own"
            );
        }
    }

    /// A process is within a piece of work for microseconds; one that is stopped there keeps slots that have come round from being used again.
    fn name_gate_keepers(&mut self, engine: &Engine, now: Now) {
        let gates = engine.gates();
        if gates.kept_by().next().is_none() {
            self.kept_since = None;
            return;
        }
        let since = *self.kept_since.get_or_insert(now);
        if now.since_ns(since) < KEPT_TOO_LONG_NS {
            return;
        }
        self.kept_since = Some(now);
        for info in gates
            .kept_by()
            .filter_map(|index| engine.segment().attach_info(index))
        {
            tracing::warn!(
                process = %info.name,
                pid = info.process.pid,
                slots = gates.waiting(),
                "a local process is stopped in the middle of a piece of work and keeps free slots from being used: let it go on, or end it"
            );
        }
    }
}
