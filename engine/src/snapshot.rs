//! All journal tasks, each as a whole, for a snapshot, read beside the running engine.
//!
//! A thread of its own reads them, slot range by slot range, so the core is not held up. Each task is copied as an
//! inspector copies it, so what is read are tasks of different moments; replaying the journal from
//! [`crate::Engine::snapshot_start`] (asked before the first read) on top brings all of them to the same one.
//!
//! Rule: a snapshot may be **published only when the journal is durable up to [`WholeTasks::highest`]**, else it could show
//! more than the journal does, and a crash would leave lsns in it that are given again.
//!
//! Tested in `engine/tests/rules/snapshot.rs`.

use core::ops::Range;
use std::sync::Arc;

use qtf_journal::{JournalError, Lsn, SnapshotWriter, WholeTask};
use qtf_shm::{KeyId, Segment, SlotIndex, TaskId, TaskOptions};

use crate::plm::LSN_UNDER_WAY;
use crate::plm::{WholeTaskBuffer, whole_task_of};
use crate::wall::WallTime;

/// LIMIT: copies of a task that changes while it is read; each change takes the engine a microsecond.
const LOOKS_MAX: u32 = 10_000;

/// A task that cannot be read as it must be: there is no snapshot without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "task {task} cannot be read for the snapshot: its slot or its payload is damaged, see `shm-inspect verify`"
)]
pub struct Unreadable {
    /// Which.
    pub task: TaskId,
}

/// A reader of journal tasks.
#[derive(Debug)]
pub struct WholeTasks {
    segment: Arc<Segment>,
    wall: WallTime,
    buffer: WholeTaskBuffer,
    highest: Lsn,
    /// Whole tasks say that they reflect records up to this one at most.
    newest: Lsn,
}

/// A key that is alive, perhaps though its task is gone: its times are of the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveKey {
    /// The key.
    pub key: KeyId,
    /// The task it stands for.
    pub task: TaskId,
    /// When it may be forgotten.
    pub expires_unix_ms: u64,
    /// Its task was acknowledged.
    pub is_spent: bool,
}

impl LiveKey {
    /// Writes it into a snapshot.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_to(&self, snapshot: &mut SnapshotWriter) -> Result<(), JournalError> {
        let Self {
            key,
            task,
            expires_unix_ms,
            is_spent,
        } = *self;
        if is_spent {
            snapshot.push_spent_key(key, task, expires_unix_ms)
        } else {
            snapshot.push_key(key, task, expires_unix_ms)
        }
    }
}

impl WholeTasks {
    /// Times are converted by `wall`.
    #[must_use]
    pub fn new(segment: Arc<Segment>, wall: WallTime) -> Self {
        Self {
            segment,
            wall,
            buffer: WholeTaskBuffer::default(),
            highest: Lsn::NONE,
            newest: Lsn::new(LSN_UNDER_WAY),
        }
    }

    /// For a snapshot that is begun while the engine adopts the tasks of a daemon before: numbers above `last`, the last one given
    /// until now, may be of records which that one never wrote, and be given again. Whole tasks say less than they could then, which costs a
    /// replay of what they reflect already.
    #[must_use]
    pub const fn reflecting_at_most(mut self, last: Lsn) -> Self {
        self.newest = last;
        self
    }

    /// Slots to be read: all below this one.
    #[must_use]
    pub fn end(&self) -> u32 {
        self.segment.high_water()
    }

    /// Hands the journal tasks of some slots to `take`; returns how many.
    ///
    /// # Errors
    /// A task cannot be read, or `take` fails.
    pub fn read<E: From<Unreadable>>(
        &mut self,
        slots: Range<u32>,
        mut take: impl FnMut(&WholeTask<'_>) -> Result<(), E>,
    ) -> Result<u32, E> {
        let segment = Arc::clone(&self.segment);
        let mut count = 0_u32;
        for slot in segment.allocated_slots(slots) {
            count = count.saturating_add(u32::from(self.hand_over(&segment, slot, &mut take)?));
        }
        Ok(count)
    }

    /// All live keys but those of memory tasks that are still there: such a task does not survive what a snapshot is for,
    /// so its repeat must be a new one. Those of journal tasks are in the whole tasks too, which does no harm.
    pub fn keys(&self) -> impl Iterator<Item = LiveKey> + '_ {
        let now = self.wall.now;
        self.segment
            .keys()
            .places()
            .filter(move |(_, entry)| entry.confirmed && !now.has_reached(entry.expiry))
            .filter(|(_, entry)| !self.is_memory_task(entry.task))
            // An automatic key ends before its task goes: if the task went just now, the key has.
            .filter(|&(place, entry)| self.segment.keys().at_place(place, entry.task).is_some())
            .map(|(_, entry)| LiveKey {
                key: entry.key,
                task: entry.task,
                expires_unix_ms: self.wall.unix_ms_of_key_end(entry.expiry),
                is_spent: entry.spent,
            })
    }

    fn is_memory_task(&self, id: TaskId) -> bool {
        let Some(slot) = self.segment.slot_of(id) else {
            return false;
        };
        let task = self.segment.task(slot);
        let is_journalled = task.options().has(TaskOptions::JOURNAL);
        // Read behind the options, which are this task's only if the slot has not moved on.
        task.state().is_of(id) && !is_journalled
    }

    /// The highest lsn that was read so far.
    #[must_use]
    pub const fn highest(&self) -> Lsn {
        self.highest
    }

    /// Hands one slot's task over, if it is a journal task.
    fn hand_over<E: From<Unreadable>>(
        &mut self,
        segment: &Segment,
        slot: SlotIndex,
        take: &mut impl FnMut(&WholeTask<'_>) -> Result<(), E>,
    ) -> Result<bool, E> {
        for _ in 0..LOOKS_MAX {
            let Some(reading) = segment.read_task(slot) else {
                return Ok(false);
            };
            if reading.torn {
                core::hint::spin_loop();
                continue;
            }
            let record = reading.record;
            let phase = record.state.phase();
            let is_task = phase.is_unfinished() || phase.is_final();
            let Some(task) = record
                .id
                .filter(|_| is_task && record.options.has(TaskOptions::JOURNAL))
            else {
                return Ok(false);
            };
            let stays = cfg!(qtf_mutant = "sim_snapshot_keeps_what_is_forgotten");
            if record.state.is_forgotten() && !stays {
                // Its record may be one that is not replayed on top; until it is durable there is no snapshot without it.
                let lsn = Some(record.lsn).filter(|&lsn| lsn != LSN_UNDER_WAY);
                self.highest = self.highest.max(lsn.map_or(Lsn::NONE, Lsn::new));
                return Ok(false);
            }
            if let Some(mut whole) = whole_task_of(segment, &record, self.wall, &mut self.buffer) {
                self.highest = self.highest.max(whole.lsn);
                whole.lsn = whole.lsn.min(self.newest);
                take(&whole)?;
                return Ok(true);
            }
            if segment.state(slot) == record.state {
                return Err(Unreadable { task }.into());
            }
        }
        match segment.state(slot).id(slot) {
            Some(task) => Err(Unreadable { task }.into()),
            None => Ok(false),
        }
    }
}
