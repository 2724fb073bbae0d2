//! Putting a task that a journal remembers into a new segment: into its own slot and generation.
//!
//! Only before anybody else attaches, at a cold start. The state word is written last; bitmap, trees, counters and high-water
//! marks of the caches come from [`Segment::rebuild_caches`] afterwards, once for all tasks. A daemon that dies meanwhile
//! leaves a named segment that holds a part of the tasks: the caller makes it known only when all are in (the next cold start
//! must not take it for the truth), see [`Segment::create_or_adopt_named`].
//!
//! Tested in `segment/tests/restore.rs`.

use crate::arena::Purpose;
use crate::blob::BlobRef;
use crate::id::{ClientIndex, KindIndex, TaskId};
use crate::segment::Segment;
use crate::segment::blobs::StoreError;
use crate::segment::free::chunk_owner;
use crate::sync::Ordering;
use crate::task::side::SideRecord;
use crate::task::slot::{FilledWords, INLINE_BYTES_MAX, Outcome, TaskOptions, TaskSlot};
use crate::task::state::{FLAG_CANCEL, Phase, StateWord};
use crate::task::writer::SlotWriter;
use crate::time::STAMP_MAX;
use crate::tree::Key;

/// Bytes of a restored task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RestoredBytes<'a> {
    /// None.
    #[default]
    None,
    /// These.
    Bytes(&'a [u8]),
    /// Those of a spill file that is there (the store checks its length at each read).
    Spill {
        /// Number of the file.
        number: u32,
        /// Its length.
        len: u64,
    },
}

/// A task as a journal remembers it. Stamps are of the new segment's time.
#[derive(Debug, Clone)]
pub struct RestoredTask<'a> {
    /// Slot and generation.
    pub id: TaskId,
    /// BLOCKED, HELD, DELAYED, READY, or a final phase.
    pub phase: Phase,
    /// A cancellation was asked for.
    pub cancel_requested: bool,
    /// Hand-outs so far.
    pub fence: u16,
    /// Attempts that ended badly.
    pub failures: u8,
    /// Attempts whose worker was lost.
    pub losses: u8,
    /// Attempts in all that failures may use.
    pub max_attempts: u8,
    /// What was asked for.
    pub options: TaskOptions,
    /// 0 to 255, higher first.
    pub priority: u8,
    /// The stamp of its ready key: its place among its priority.
    pub stamp: u64,
    /// Moment of the last change of phase; in DELAYED the moment it is due, in HELD too if that is later.
    pub phase_time: u64,
    /// Stamp at which its last attempt began; 0 = none has, or it is not known.
    pub started: u64,
    /// Longest run time of one attempt; 0 = no limit.
    pub timeout_ms: u32,
    /// The kind of work.
    pub kind: Option<KindIndex>,
    /// Who submitted it.
    pub client: Option<ClientIndex>,
    /// How it, or its last attempt, ended.
    pub outcome: Outcome,
    /// Its payload.
    pub payload: RestoredBytes<'a>,
    /// Its result.
    pub result: RestoredBytes<'a>,
    /// What few tasks need.
    pub side: Option<SideRecord>,
    /// Log sequence number of its last record.
    pub lsn: u64,
}

impl RestoredTask<'_> {
    /// A READY task with nothing in it.
    #[must_use]
    pub fn new(id: TaskId) -> Self {
        Self {
            id,
            phase: Phase::Ready,
            cancel_requested: false,
            fence: 0,
            failures: 0,
            losses: 0,
            max_attempts: 1,
            options: TaskOptions::NONE,
            priority: 0,
            stamp: 0,
            phase_time: 0,
            started: 0,
            timeout_ms: 0,
            kind: None,
            client: None,
            outcome: Outcome::default(),
            payload: RestoredBytes::None,
            result: RestoredBytes::None,
            side: None,
            lsn: 0,
        }
    }
}

/// A task could not be restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The segment has too few slots.
    #[error(
        "task {task} lies in slot {slot}, and this segment has {tasks} slots: raise `segment_tasks` above {slot}, or \
         `segment_bytes` to what `qtf size` says for so many tasks"
    )]
    Slot {
        /// The task.
        task: TaskId,
        /// Its slot.
        slot: u32,
        /// Slots there are.
        tasks: u32,
    },
    /// The slot has a task already.
    #[error(
        "task {task} cannot be restored: slot {slot} already holds {holds:?}; the journal names one slot twice"
    )]
    Taken {
        /// The task.
        task: TaskId,
        /// Its slot.
        slot: u32,
        /// What is there.
        holds: StateWord,
    },
    /// The phase needs a process behind it, or is none.
    #[error("task {task} cannot be restored as {phase}: only a waiting or a finished one can")]
    Phase {
        /// The task.
        task: TaskId,
        /// The phase.
        phase: Phase,
    },
    /// The generation was not reserved.
    #[error(
        "task {task} has generation {generation}, and only those up to {limit} were reserved: the journal contradicts itself"
    )]
    Generation {
        /// The task.
        task: TaskId,
        /// Its generation.
        generation: u64,
        /// The limit.
        limit: u64,
    },
    /// Its bytes found no room.
    #[error(
        "task {task} needs {bytes} bytes that this segment has no room for: raise `segment_bytes` ({source})"
    )]
    Store {
        /// The task.
        task: TaskId,
        /// How many bytes.
        bytes: u64,
        /// What failed.
        source: StoreError,
    },
    /// A reference to a file longer than a blob can be.
    #[error(
        "task {task} refers to spill file {number:08x} of {len} bytes, which is longer than a blob can be"
    )]
    Spill {
        /// The task.
        task: TaskId,
        /// Number of the file.
        number: u32,
        /// Its length.
        len: u64,
    },
}

impl Segment {
    /// Puts a task into its own slot and generation. Only before anybody else attaches; [`Segment::rebuild_caches`] must follow
    /// after the last one.
    ///
    /// # Errors
    /// See [`RestoreError`]; the slot stays free.
    pub fn restore_task(&self, restored: &RestoredTask<'_>) -> Result<(), RestoreError> {
        let (task, id) = (self.slot_for(restored)?, restored.id);
        let flags = if restored.cancel_requested {
            FLAG_CANCEL
        } else {
            0
        };
        let phase = restored.phase;
        let state = StateWord::restored(phase, flags, restored.fence, id.generation())
            .ok_or(RestoreError::Phase { task: id, phase })?;
        let task = SlotWriter::of(task);
        task.clear(state.era());
        let filled = self.restore_bytes(task, restored);
        if let Err(error) = filled {
            self.release_all(id, self.references(id.slot()));
            task.clear(0);
            return Err(error);
        }
        task.fill(&words_of(restored));
        task.set_client(restored.client.unwrap_or(ClientIndex::UNKNOWN));
        task.set_outcome(restored.outcome);
        task.set_started(restored.started);
        // ORDERING: [task.state] Release: publishes the fields; nobody else is here yet.
        task.state.store(state.as_raw(), Ordering::Release);
        self.raise_high_water(id.slot());
        self.raise_gen_top(id.generation());
        Ok(())
    }

    /// Lets each task without a side record say where its key lies. Only before anybody else attaches, after the last key was
    /// put back: until then entries move.
    pub fn restore_key_places(&self) {
        for (place, entry) in self.keys().places() {
            let Some(slot) = self.slot_of(entry.task) else {
                continue;
            };
            let task = SlotWriter::of(self.task(slot));
            if task.state().is_of(entry.task) && task.side_unit().is_none() {
                task.set_key_place(place);
            }
        }
    }

    /// The free slot of a task that may be restored.
    fn slot_for(&self, restored: &RestoredTask<'_>) -> Result<&TaskSlot, RestoreError> {
        let id = restored.id;
        let slot = id.slot();
        let task = self
            .view
            .parts
            .tasks
            .get(slot.position())
            .ok_or(RestoreError::Slot {
                task: id,
                slot: slot.get(),
                tasks: self.geometry().tasks(),
            })?;
        let holds = task.state();
        if holds != StateWord::default() {
            return Err(RestoreError::Taken {
                task: id,
                slot: slot.get(),
                holds,
            });
        }
        let limit = self.gen_limit();
        if limit != 0 && id.generation() > limit {
            return Err(RestoreError::Generation {
                task: id,
                generation: id.generation(),
                limit,
            });
        }
        Ok(task)
    }

    fn restore_bytes(
        &self,
        task: SlotWriter<'_>,
        restored: &RestoredTask<'_>,
    ) -> Result<(), RestoreError> {
        let id = restored.id;
        // A payload of 48 bytes at most lies in the slot; a result if there is room behind it.
        let payload = match restored.payload {
            RestoredBytes::Bytes(bytes) if (1..=INLINE_BYTES_MAX).contains(&bytes.len()) => {
                self.write_inline(id.slot(), 0, bytes)
            }
            RestoredBytes::None | RestoredBytes::Bytes(_) | RestoredBytes::Spill { .. } => {
                self.restore_blob(id, restored.payload)?
            }
        };
        task.set_payload(payload);
        task.set_result(self.restore_blob(id, restored.result)?);
        if let Some(side) = &restored.side {
            let (bytes, count) = side.encode();
            let bytes = &bytes[..count];
            let unit = self
                .view
                .parts
                .arena()
                .store(self.claimant(), chunk_owner(id), bytes, Purpose::Result)
                .map_err(|_| RestoreError::Store {
                    task: id,
                    bytes: bytes.len() as u64,
                    source: StoreError::ArenaFull {
                        bytes: bytes.len() as u64,
                    },
                })?;
            task.set_side_unit(Some(unit));
        }
        Ok(())
    }

    /// What was accepted once may use all of the arena, and files when that is full.
    fn restore_blob(&self, id: TaskId, bytes: RestoredBytes<'_>) -> Result<BlobRef, RestoreError> {
        match bytes {
            RestoredBytes::None => Ok(BlobRef::None),
            RestoredBytes::Bytes(bytes) => {
                self.store(id, bytes, Purpose::Result)
                    .map_err(|source| RestoreError::Store {
                        task: id,
                        bytes: bytes.len() as u64,
                        source,
                    })
            }
            RestoredBytes::Spill { number, len } => u32::try_from(len)
                .ok()
                .filter(|&len| u64::from(len) <= crate::blob::BLOB_BYTES_MAX)
                .map(|len| BlobRef::Spill { number, len })
                .ok_or(RestoreError::Spill {
                    task: id,
                    number,
                    len,
                }),
        }
    }
}

fn words_of(restored: &RestoredTask<'_>) -> FilledWords {
    let kind = restored.kind.unwrap_or(KindIndex::NONE);
    let generation = restored.id.generation();
    FilledWords {
        phase_time: restored.phase_time.min(STAMP_MAX) << 16,
        journal: ((restored.lsn & STAMP_MAX) << 16) | u64::from(kind.get()),
        limits: (u64::from(restored.timeout_ms) << 32)
            | (u64::from(restored.max_attempts.max(1)) << 24)
            | (u64::from(restored.failures) << 16)
            | (u64::from(restored.losses) << 8)
            | u64::from(restored.options.bits()),
        order: Key::ready(restored.priority, restored.stamp, generation).as_raw(),
    }
}
