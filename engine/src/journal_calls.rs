//! The calls that tie the engine to a journal, and those about idempotency keys.
//!
//! The engine appends records, the caller writes them: after each batch of calls and each cycle it takes the group
//! ([`Engine::take_journal_group`]), writes and syncs it, gives the buffer back ([`Engine::give_back_journal_buffer`]) and says
//! how far the journal is durable ([`Engine::journal_durable`]). At most one group is away at a time; records gather
//! meanwhile. Tested in `engine/tests/rules/journal.rs`, `room.rs`, `keys.rs`.

use std::sync::Arc;

use qtf_journal::{Appender, Group, Lsn};
use qtf_shm::histogram::Stage;
use qtf_shm::segment::Took;
use qtf_shm::{KeyId, Now, Phase, Segment, TaskId};

use crate::config::{ConfigError, EngineConfig};
use crate::cycle::Engine;
use crate::plm::Accepted;
use crate::plm::{Recorder, Reservation};
use crate::rejection::Rejection;
use crate::wall::WallTime;
use crate::work_count::WorkCount;

impl Engine {
    /// Adopts a segment with a journal, whose end the appender stands at. What the segment says of journal tasks
    /// and the journal does not is appended first; if that does not fit into one group, [`Engine::is_adopting`] says so,
    /// cycles go on with it as groups are written, and until then nothing is taken in or handed out.
    ///
    /// The first ids are given when the reservation in the first group is durable, unless the segment has ids left.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub fn with_journal(
        segment: Arc<Segment>,
        config: EngineConfig,
        appender: Appender,
        wall: WallTime,
    ) -> Result<Self, ConfigError> {
        let reservation = Reservation::new(&segment);
        let recorder = Recorder::new(appender, reservation, wall);
        Self::over(segment, config, wall.now, Some(Box::new(recorder)))
    }

    /// Tells the time of day, for records and tombstones: a cold start converts delays and times to live by it. To be called now and
    /// then, at least after steps of the wall clock.
    pub fn set_wall(&mut self, now: Now, unix_ms: u64) {
        self.plm.set_wall(WallTime { now, unix_ms });
        if let Some(recorder) = &mut self.plm.recorder {
            recorder.set_wall(now, unix_ms);
        }
    }

    /// Counts that a step of the daemon beside the engine took so long, so often.
    pub fn count_stage(&self, now: Now, stage: Stage, took: Took) {
        self.segment
            .count_stage(self.right, stage, took, now.stamp());
    }

    /// The records, for figures about them; `None` in memory operation.
    #[must_use]
    pub fn journal(&self) -> Option<&Appender> {
        Some(&self.plm.recorder.as_ref()?.appender)
    }

    /// Takes what has been appended, to be written; `None` if there is nothing, or the last group's buffer has not come
    /// back yet.
    pub fn take_journal_group(&mut self) -> Option<Group> {
        self.plm.recorder.as_mut()?.take_group()
    }

    /// Gives the buffer of a written group back.
    pub fn give_back_journal_buffer(&mut self, buffer: Vec<u8>) {
        if let Some(recorder) = &mut self.plm.recorder {
            recorder.appender.give_back(buffer);
        }
    }

    /// Everything up to this record is on stable storage. Does a part of what waited for it; cycles do the rest.
    pub fn journal_durable(&mut self, now: Now, lsn: Lsn) -> WorkCount {
        let mut parts = self.parts(now);
        parts.plm.note_durable(&parts.turn, lsn);
        parts.plm.serve_durable(&mut parts.turn, parts.workers)
    }

    /// Everything up to this record is on stable storage: answers that wait for it may be passed on.
    #[must_use]
    pub fn durable_lsn(&self) -> Lsn {
        self.plm.durable_lsn()
    }

    /// The last record that a task waits for: its state changes, or its end is told, when that is durable. Records
    /// behind it (attempts, purges) are to be written soon, but nobody is held up by them.
    #[must_use]
    pub fn awaited_lsn(&self) -> Option<Lsn> {
        let recorder = self.plm.recorder.as_ref()?;
        Some(recorder.pending.awaited()).filter(|lsn| *lsn > recorder.durable)
    }

    /// The journal cannot be written any more: from now on nothing is promised. What waits is never answered.
    pub fn journal_failed(&mut self) {
        if let Some(recorder) = &mut self.plm.recorder {
            recorder.fail();
        }
    }

    /// Tells how many bytes groups may still take on the disk, and how many of them submissions must leave alone. Before
    /// the first call there is no limit.
    pub fn set_journal_room(&mut self, room_bytes: u64, reserve_bytes: u64) {
        if let Some(recorder) = &mut self.plm.recorder {
            recorder.room.set(room_bytes, reserve_bytes);
        }
    }

    /// Says whether journal tasks of the segment are still to be journalled again.
    #[must_use]
    pub fn is_adopting(&self) -> bool {
        self.plm.is_adopting()
    }

    /// The record behind which replay must start for a snapshot that is begun now. To be asked on the engine's thread
    /// before the first of [`crate::snapshot::WholeTasks`] is read. A snapshot may be published only when everything it
    /// shows is durable: see there.
    #[must_use]
    pub fn snapshot_start(&self) -> Lsn {
        match &self.plm.recorder {
            Some(recorder) => recorder.last(),
            None => Lsn::NONE,
        }
    }

    /// The limit of ids that is reserved, or about to be; snapshots carry it.
    #[must_use]
    pub fn reserved_generations(&self) -> u64 {
        match &self.plm.recorder {
            Some(recorder) => recorder.reservation.highest(),
            None => 0,
        }
    }

    /// The phase in which a task has ended, once that may be told: a journal task's end is durable then. `None` while it
    /// has not ended, or that is not durable yet; [`crate::Effect::Finished`] comes when it is.
    ///
    /// # Errors
    /// The task is not known, or its slot belongs to a later one.
    pub fn settled_end(&self, task: TaskId) -> Result<Option<Phase>, Rejection> {
        self.plm.settled_end(&self.segment, task)
    }

    /// The task has ended well, and its result has expired, as far as that is known.
    #[must_use]
    pub fn has_expired_done(&self, task: TaskId) -> bool {
        self.plm.has_expired_done(&self.segment, task)
    }

    /// The answer to a submission with this key, if it is known: for a caller that must know before it has the payload.
    ///
    /// # Errors
    /// The journal is not open.
    pub fn submitted_before(&self, now: Now, key: KeyId) -> Result<Option<Accepted>, Rejection> {
        self.plm.submitted_before(&self.segment, now, key)
    }

    /// A client has the answers to submissions with these keys and will not repeat them: they need not be known any
    /// more. Unknown ones are passed over.
    pub fn release_keys(&mut self, now: Now, keys: &[KeyId]) {
        let mut parts = self.parts(now);
        parts.plm.release_keys(&mut parts.turn, keys);
    }
}
