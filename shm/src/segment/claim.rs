//! Claiming a slot, filling it in, and making it a task.
//!
//! Order (each step may be the last of a killed process): take a free bit; CAS FREE -> CLAIMED with the next generation; write the
//! fields; CAS to READY, DELAYED or SUBMITTED: from here on the task exists; write the leaf. What a kill leaves
//! behind is a taken bit of a free slot, a CLAIMED slot, or a READY slot without a leaf; none of them blocks anyone.

use crate::arena::Purpose;
use crate::blob::BlobRef;
use crate::id::{AttachIndex, ClientIndex, GENERATION_MAX, KindIndex, SlotIndex, TaskId};
use crate::keys::KeyPlace;
use crate::segment::blobs::StoreError;
use crate::segment::free::chunk_owner;
use crate::segment::{ApplyError, Segment};
use crate::sync::Ordering;
use crate::task::side::SideRecord;
use crate::task::slot::{FilledWords, INLINE_BYTES_MAX, TaskOptions};
use crate::task::state::{Event, IllegalTransition, Phase, StateWord};
use crate::task::writer::SlotWriter;
use crate::time::{STAMP_DAYS, STAMP_MAX};
use crate::tree::Key;

/// LIMIT: free bits of slots that turn out to be in use, met by one claim; each of them stays taken afterwards.
const STALE_BITS_MAX: u32 = 64;

/// No slot could be claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// No slot is free.
    #[error("no free task slot: finish or forget tasks, or make the segment larger")]
    Full,
    /// The ids reserved for this segment are used up until the journal reserves more.
    #[error("the ids of this segment are used up until the journal has reserved more")]
    IdsExhausted,
    /// The segment's time is over: nothing that comes in could be put in order.
    #[error(
        "the segment is {} days old and has no stamps left: restart qtfd while no local process is attached, nothing is lost",
        STAMP_DAYS
    )]
    OutOfStamps,
}

/// What a submitter says about a task, besides its payload.
#[derive(Debug, Clone, Default)]
pub struct TaskFields {
    /// The kind of work.
    pub kind: Option<KindIndex>,
    /// 0 to 255, higher first.
    pub priority: u8,
    /// The principal; 0 = not known.
    pub principal: u16,
    /// Longest run time of one attempt; 0 = no limit.
    pub timeout_ms: u32,
    /// Attempts in all that failures may use; at least 1.
    pub max_attempts: u8,
    /// Who submits it.
    pub client: Option<ClientIndex>,
    /// What is asked for.
    pub options: TaskOptions,
    /// Stamp at which a delayed task is due; 0 = at once.
    pub due: u64,
    /// What few tasks need.
    pub side: Option<SideRecord>,
}

/// A slot that this process fills in. Dropped before it is published it is given back.
#[derive(Debug)]
#[must_use = "a claimed slot is given back when it is dropped"]
pub struct ClaimedTask<'s> {
    segment: &'s Segment,
    slot: SlotIndex,
    state: StateWord,
    id: TaskId,
    due: u64,
    attach: AttachIndex,
    published: bool,
}

impl Segment {
    /// Claims a free slot for the submitter behind `attach`.
    ///
    /// # Errors
    /// No slot is free, or the ids are used up.
    pub fn claim_task(&self, attach: AttachIndex) -> Result<ClaimedTask<'_>, ClaimError> {
        self.remembering(|| self.claim_free_slot(attach))
    }

    fn claim_free_slot(&self, attach: AttachIndex) -> Result<ClaimedTask<'_>, ClaimError> {
        let bitmap = self.view.parts.bitmap();
        for _ in 0..STALE_BITS_MAX {
            // ORDERING: a hint of this process; any value does.
            let hint = u32::try_from(self.hint.load(Ordering::Relaxed)).unwrap_or(0);
            let slot = bitmap
                .take(hint)
                .and_then(|number| self.slot(number))
                .ok_or(ClaimError::Full)?;
            // ORDERING: as above.
            self.hint
                .store(u64::from(slot.get()) + 1, Ordering::Relaxed);
            let from = self.task(slot).state_in_order();
            if from.phase() != Phase::Free {
                // The bit was wrong and is right now: the slot is in use.
                continue;
            }
            // A slot that stands at a gate, or is worn out, stays taken.
            let Some(raised) = from.raised_to(self.view.header.gen_base) else {
                continue;
            };
            if self.is_beyond_limit(raised) {
                bitmap.give_back(slot.get());
                return Err(ClaimError::IdsExhausted);
            }
            let Ok(to) = raised.after(Event::Claim { attach }) else {
                continue;
            };
            let task = self.task(slot);
            // Before the slot is in use, so that a sweep that knows how far slots are used also knows this one.
            self.raise_high_water(slot);
            if self.exchange(task, from, to).is_err() {
                // Somebody else had the bit as well (a repairer had given it back under one of us), and has the slot.
                continue;
            }
            self.settle_bit(slot);
            SlotWriter::of(task).clear(to.era());
            self.raise_gen_top(to.generation());
            return Ok(ClaimedTask {
                segment: self,
                slot,
                state: to,
                id: TaskId::new(to.generation(), slot),
                due: 0,
                attach,
                published: false,
            });
        }
        Err(ClaimError::Full)
    }

    /// A slot with this state can be claimed: it is free, and stands at no gate.
    pub(super) const fn is_claimable(&self, state: StateWord) -> bool {
        matches!(state.phase(), Phase::Free) && state.raised_to(self.view.header.gen_base).is_some()
    }

    /// Makes the slot's free bit say what its state says.
    pub(super) fn settle_bit(&self, slot: SlotIndex) -> bool {
        let task = self.task(slot);
        self.view
            .parts
            .bitmap()
            .settle(slot.get(), || !self.is_claimable(task.state_in_order()))
    }

    fn is_beyond_limit(&self, raised: StateWord) -> bool {
        // ORDERING: pairs with the Release of `set_gen_limit`.
        let limit = self.view.parts.control().gen_limit.load(Ordering::Acquire);
        limit != 0 && raised.generation() >= limit.min(GENERATION_MAX)
    }

    /// A generation is new to the segment once in thousands of claims.
    pub(super) fn raise_gen_top(&self, generation: u64) {
        let top = &self.view.parts.control().gen_top;
        // ORDERING: a hint for the journal's reservation; the limit itself is checked at each claim.
        if top.load(Ordering::Relaxed) < generation {
            // ORDERING: as above.
            top.fetch_max(generation, Ordering::Relaxed);
        }
    }

    pub(super) fn raise_high_water(&self, slot: SlotIndex) {
        let high_water = &self.view.parts.control().high_water;
        let end = u64::from(slot.get()) + 1;
        // ORDERING: a hint for sweeps; the bitmap tells too.
        if high_water.load(Ordering::Relaxed) < end {
            // ORDERING: as above.
            high_water.fetch_max(end, Ordering::Relaxed);
        }
    }
}

impl ClaimedTask<'_> {
    /// The slot is the claim's until it is published.
    fn writer(&self) -> SlotWriter<'_> {
        SlotWriter::of(self.segment.task(self.slot))
    }

    /// The id that the task will have.
    #[must_use]
    pub const fn id(&self) -> TaskId {
        self.id
    }

    /// The slot.
    #[must_use]
    pub const fn slot(&self) -> SlotIndex {
        self.slot
    }

    /// Stores the payload: in the slot when it fits, else in the arena, else in a file.
    ///
    /// # Errors
    /// No room, or too large. The slot stays claimed, without a payload.
    pub fn set_payload(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let blob = if bytes.is_empty() {
            BlobRef::None
        } else if bytes.len() <= INLINE_BYTES_MAX {
            self.segment.write_inline(self.slot, 0, bytes)
        } else {
            self.segment.store(self.id, bytes, Purpose::Submission)?
        };
        self.set_payload_blob(blob);
        Ok(())
    }

    /// Makes a blob the payload: one stored for this task's id, or a finished spill file.
    pub fn set_payload_blob(&mut self, blob: BlobRef) {
        let task = self.writer();
        let before = task.payload();
        if before != blob {
            self.segment.release(self.id, before);
        }
        task.set_payload(blob);
    }

    /// Writes everything but the payload.
    ///
    /// # Errors
    /// No room for the side record. The slot stays claimed.
    pub fn write(&mut self, fields: &TaskFields) -> Result<(), StoreError> {
        let task = self.writer();
        let kind = fields.kind.unwrap_or(KindIndex::NONE);
        task.fill(&FilledWords {
            phase_time: u64::from(fields.principal),
            journal: u64::from(kind.get()),
            limits: (u64::from(fields.timeout_ms) << 32)
                | (u64::from(fields.max_attempts.max(1)) << 24)
                | u64::from(fields.options.bits()),
            order: Key::ready(fields.priority, 0, self.state.generation()).as_raw(),
        });
        task.set_client(fields.client.unwrap_or(ClientIndex::UNKNOWN));
        self.due = fields.due.min(STAMP_MAX);
        if let Some(side) = &fields.side {
            self.write_side(side)?;
        }
        Ok(())
    }

    /// Notes where the task's key lies in the table, so that it is found from the task, too. One with a side record has its key
    /// there.
    pub fn set_key(&mut self, place: KeyPlace) {
        let task = self.writer();
        if task.side_unit().is_none() {
            task.set_key_place(place.index());
        }
    }

    fn write_side(&self, side: &SideRecord) -> Result<(), StoreError> {
        let task = self.writer();
        let arena = self.segment.view.parts.arena();
        let owner = chunk_owner(self.id);
        let (claimant, (bytes, count)) = (self.segment.claimant(), side.encode());
        let stored = self
            .segment
            .section(|| arena.store(claimant, owner, &bytes[..count], Purpose::Submission));
        let unit = stored.map_err(|_| StoreError::ArenaFull {
            bytes: count as u64,
        })?;
        if let Some(before) = task.side_unit() {
            self.segment.release_unit(self.id, before);
        }
        task.set_side_unit(Some(unit));
        Ok(())
    }

    /// Makes the slot a task: `Admit` (ready at once), `AdmitDelayed` (ready when due), `AdmitHeld` (when it is released) or
    /// `Submit` (to be judged by the PLM).
    /// State first, then the leaf. `stamp` orders it among its priority.
    ///
    /// # Errors
    /// The event is another one, or the slot was taken away because this process was believed dead.
    pub fn publish(mut self, event: Event, stamp: u64) -> Result<TaskId, ApplyError> {
        let segment = self.segment;
        let task = self.writer();
        let to = self.state.after(event)?;
        if !to.phase().is_unfinished() {
            let from = self.state;
            return Err(IllegalTransition { from, event }.into());
        }
        task.set_key(Key::ready(task.priority(), stamp, self.state.generation()));
        let delayed = to.phase() == Phase::Delayed;
        // A task with a later start keeps its due time: a SUBMITTED one for the PLM, a HELD one until it is released.
        let keeps_due = matches!(to.phase(), Phase::Submitted | Phase::Held);
        let is_later = delayed || keeps_due && self.due > stamp;
        task.set_phase_time(if is_later { self.due } else { stamp });
        segment.exchange(&task, self.state, to)?;
        // From here on the slot is a task's and not the claim's.
        self.published = true;
        if to.phase() == Phase::Ready {
            segment.index_ready(self.slot, to);
        } else if delayed {
            segment.index_timer(self.slot, to, self.due);
        } else if keeps_due && self.attach != AttachIndex::DAEMON {
            // Another process's PLM judges it, or journals it: it looks where something is due.
            segment.index_timer(self.slot, to, 0);
        }
        if to.phase() == Phase::Ready {
            segment.ring_for(self.slot);
        } else {
            segment.ring();
        }
        Ok(self.id)
    }
}

impl Drop for ClaimedTask<'_> {
    fn drop(&mut self) {
        // Unwinding stands for a kill in tests (programs abort): a killed process gives nothing back.
        if self.published || std::thread::panicking() {
            return;
        }
        // If the slot was taken away, it is no longer ours to give back.
        let _ = self.segment.free_task(self.slot, self.state);
    }
}
