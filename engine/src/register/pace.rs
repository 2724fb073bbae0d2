//! How much may be ordered ahead of a worker, by the pace at which it starts what it is given.
//!
//! A capacity is a claim. What a worker holds without having started it is bounded by a window: small for a worker that
//! nobody knows, one larger with each start, halved when it let an attempt lie. The load that placement goes by is
//! what it holds in units of what it runs and may hold ahead, so a large claim draws no tasks by itself. A
//! worker that let an attempt lie and has started nothing since comes after all others.
//! Of local workers nothing is known here: they take for themselves. Tested in `engine/tests/rules/pace.rs`.

use qtf_shm::{KindIndex, Now, Segment, WorkerIndex, WorkerState};

use super::workers::Workers;
use crate::lookup::serves;
use crate::turn::Turn;

/// LIMIT: attempts ordered ahead of a worker that has started nothing yet. It doubles with each round of starts, so the
/// largest worker is filled in ten.
const WINDOW_FIRST: u16 = 64;

/// What is remembered of one worker.
#[derive(Debug)]
pub(super) struct Pace {
    /// Attempts that it runs.
    started: u16,
    /// Attempts that it may hold without having started them.
    window: u16,
    /// Since when it has held some of them at any time.
    unstarted_since: Now,
    /// It let an attempt lie, and has started nothing since.
    starts_nothing: bool,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            started: 0,
            window: WINDOW_FIRST,
            unstarted_since: Now::default(),
            starts_nothing: false,
        }
    }
}

impl Pace {
    /// What it holds and does not run.
    fn unstarted(&self, state: WorkerState) -> u16 {
        state.running().saturating_sub(self.started)
    }

    pub(super) fn allows_another(&self, state: WorkerState) -> bool {
        self.unstarted(state) < self.window
    }

    /// One more was ordered; it holds so many now.
    pub(super) fn ordered(&mut self, now: Now, held: u16) {
        if held.saturating_sub(self.started) <= 1 {
            self.unstarted_since = now;
        }
    }

    /// An attempt that it ran is over.
    pub(super) fn ended(&mut self) {
        self.started = self.started.saturating_sub(1);
    }

    /// What it holds as a 16-bit fraction of what it may hold.
    pub(super) fn load_ratio(&self, state: WorkerState) -> u16 {
        if self.starts_nothing {
            return u16::MAX;
        }
        let most = self.started.saturating_add(self.window);
        let most = u32::from(state.capacity().min(most)).max(1);
        let ratio = u32::from(state.running()) * u32::from(u16::MAX) / most;
        u16::try_from(ratio).unwrap_or(u16::MAX)
    }
}

impl Workers {
    /// A worker has started an attempt.
    #[inline]
    pub(crate) fn note_started(&mut self, segment: &Segment, worker: WorkerIndex) {
        let Some(note) = self.notes.get_mut(worker.position()) else {
            return;
        };
        let pace = &mut note.pace;
        pace.started = pace.started.saturating_add(1);
        let is_known = pace.window >= segment.worker(worker).state().capacity();
        if is_known && !pace.starts_nothing {
            return;
        }
        pace.starts_nothing = false;
        pace.window = pace.window.saturating_add(1);
        self.refresh(segment, worker);
    }

    /// A worker was running an attempt when the daemon before ended.
    pub(crate) fn adopt_started(&mut self, worker: WorkerIndex) {
        if let Some(note) = self.notes.get_mut(worker.position()) {
            note.pace.started = note.pace.started.saturating_add(1);
        }
    }

    /// A worker let an attempt lie until it was taken back.
    pub(crate) fn note_let_lie(&mut self, segment: &Segment, worker: WorkerIndex) {
        let Some(note) = self.notes.get_mut(worker.position()) else {
            return;
        };
        note.pace.window = (note.pace.window / 2).max(1);
        note.pace.starts_nothing = true;
        self.refresh(segment, worker);
    }

    /// Asks the sweep to look for attempts that this worker does not start, if there may be some that could go elsewhere.
    pub(super) fn look_for_unstarted(&mut self, turn: &mut Turn<'_>, worker: WorkerIndex) {
        let state = turn.segment.worker(worker).state();
        let note = &self.notes[worker.position()];
        if note.pace.unstarted(state) == 0 {
            return;
        }
        let (since, bound) = if state.drains() {
            (note.drains_since, turn.config.stop_grace_ns)
        } else {
            (note.pace.unstarted_since, turn.config.start_within_ns)
        };
        let is_due = turn.now.since_ns(since.max(self.looked_for_unstarted)) > bound;
        if is_due && (state.drains() || self.is_open_elsewhere(turn.segment, worker, None)) {
            self.looked_for_unstarted = turn.now;
            turn.sweep.request();
        }
    }

    /// Says whether an attempt that a worker holds since then, and has not started, is to go back.
    pub(crate) fn has_let_lie(
        &self,
        turn: &Turn<'_>,
        worker: WorkerIndex,
        since: Now,
        kind: Option<KindIndex>,
    ) -> bool {
        let slot = turn.segment.worker(worker);
        let Some(note) = self.notes.get(worker.position()) else {
            return false;
        };
        if slot.local().is_some() || !serves(slot.state()) {
            return false;
        }
        if slot.state().drains() {
            let since = since.max(note.drains_since);
            return turn.now.since_ns(since) > turn.config.stop_grace_ns;
        }
        turn.now.since_ns(since) > turn.config.start_within_ns
            && self.is_open_elsewhere(turn.segment, worker, kind)
    }

    /// Another worker may be given a task (of this kind) now.
    fn is_open_elsewhere(
        &self,
        segment: &Segment,
        holder: WorkerIndex,
        kind: Option<KindIndex>,
    ) -> bool {
        let offers = |worker: WorkerIndex| {
            kind.is_none_or(|kind| segment.worker(worker).kinds().contains(kind))
        };
        self.has_free(segment)
            && self
                .free(segment)
                .any(|(_, worker)| worker != holder && offers(worker))
    }
}
