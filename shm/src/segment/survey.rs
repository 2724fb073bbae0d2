//! One pass over the task slots at start-up: what the states say goes into bitmap, trees and counts on the way.
//!
//! The slots are read once, in order, because they are the bulk of a segment (128 bytes each) and reading them is what a start
//! costs. Large segments are read by two threads, each a range of its own.
//!
//! Nothing here writes to a slot except what ends a state that cannot go on, by compare-and-swap. So a pass that is killed has
//! changed caches only, and the next one starts from the same truth.
//!
//! Tested through `segment/rebuild.rs`.

use core::ops::Range;

use crate::arena::ChunkState;
use crate::blob::BlobRef;
use crate::id::{SlotIndex, TaskId};
use crate::segment::Segment;
use crate::segment::client_counts::ClientCounts;
use crate::segment::free::chunk_owner;
use crate::segment::sanity::is_impossible;
use crate::task::slot::{TaskOptions, TaskSlot};
use crate::task::state::{Event, Owner, Phase, StateWord};
use crate::time::Now;
use crate::tree::{Key, MinTree};

/// Slots that are worth a second thread.
const TASKS_FOR_TWO: u32 = 1 << 17;

/// What a pass found.
#[derive(Debug)]
pub(super) struct Survey {
    /// How many slots stand in each phase.
    pub(super) phases: [u64; Phase::COUNT],
    /// Tasks of each worker.
    pub(super) running: Vec<u16>,
    /// Tasks of each client.
    pub(super) clients: ClientCounts,
    /// A bit for each unit of the arena at which a chunk begins that stays: its slot refers to it, it is a lane or a part of the history, or an end in a lane does.
    marks: Vec<u64>,
    /// Slots that a submitter had claimed and not published.
    pub(super) abandoned: u64,
    /// Words that name something which does not exist.
    pub(super) impossible: u64,
    /// References of slots to chunks that are not theirs.
    pub(super) lost_references: u64,
    /// Highest generation of any slot.
    pub(super) gen_top: u64,
    /// Highest number of a journal's record in any slot that is in use.
    pub(super) lsn_top: u64,
    /// Tasks for a journal that have no record's number yet.
    pub(super) unnumbered: u64,
}

impl Survey {
    /// Reads the slots below `end` and builds bitmap and trees from them.
    pub(super) fn take(segment: &Segment, end: u32, now: Now) -> Self {
        let two = end >= TASKS_FOR_TWO
            && std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1);
        // Both builders' ranges end where a stretch of the trees and a word of the bitmap do.
        let granule = <MinTree<'_>>::BUILD_GRANULE.max(64);
        let middle = if two {
            (end / 2).next_multiple_of(granule)
        } else {
            end
        };
        let of = |range: Range<u32>| {
            let mut survey = Self::new(segment);
            survey.read(segment, range, now);
            survey
        };
        let mut survey = std::thread::scope(|scope| {
            let second = two.then(|| scope.spawn(|| of(middle..end)));
            let mut survey = of(0..middle);
            match second.map(std::thread::ScopedJoinHandle::join) {
                None => {}
                Some(Ok(other)) => survey.add(&other),
                Some(Err(cause)) => std::panic::resume_unwind(cause),
            }
            survey
        });
        survey.phases[Phase::Free as usize] = 0;
        survey.mark_lanes(segment);
        for (unit, owner) in segment.history_chunks() {
            survey.mark_if(segment, unit, ChunkState::Used(owner));
        }
        segment.ready().finish_build(end, crate::region::empty);
        segment.timers().finish_build(end, crate::region::empty);
        segment.view.parts.bitmap().finish_build(end);
        survey
    }

    /// Slots in use.
    pub(super) fn tasks(&self) -> u64 {
        self.phases.iter().sum()
    }

    /// The chunk that begins at this unit stays.
    pub(super) fn refers_to(&self, unit: u32) -> bool {
        let word = self.marks.get(unit as usize / 64);
        word.is_some_and(|word| word & (1 << (unit % 64)) != 0)
    }

    /// A chunk in some units stays.
    pub(super) fn refers_into(&self, units: Range<u32>) -> bool {
        let words = self
            .marks
            .get(units.start as usize / 64..units.end as usize / 64);
        words.is_some_and(|words| words.iter().any(|&word| word != 0))
    }

    fn new(segment: &Segment) -> Self {
        let units = segment.geometry().arena_bytes() / 64;
        Self {
            phases: [0; Phase::COUNT],
            running: vec![0; segment.geometry().workers() as usize],
            clients: ClientCounts::new(segment),
            marks: vec![0; usize::try_from(units.div_ceil(64)).unwrap_or(0)],
            abandoned: 0,
            impossible: 0,
            lost_references: 0,
            gen_top: 0,
            lsn_top: 0,
            unnumbered: 0,
        }
    }

    fn add(&mut self, other: &Self) {
        for (own, other) in self.phases.iter_mut().zip(&other.phases) {
            *own += other;
        }
        for (own, other) in self.running.iter_mut().zip(&other.running) {
            *own = own.saturating_add(*other);
        }
        self.clients.add(&other.clients);
        for (own, other) in self.marks.iter_mut().zip(&other.marks) {
            *own |= other;
        }
        self.abandoned += other.abandoned;
        self.impossible += other.impossible;
        self.lost_references += other.lost_references;
        self.gen_top = self.gen_top.max(other.gen_top);
        self.lsn_top = self.lsn_top.max(other.lsn_top);
        self.unnumbered += other.unnumbered;
    }

    /// Reads some slots; the range starts at a multiple of the trees' granule.
    fn read(&mut self, segment: &Segment, range: Range<u32>, now: Now) {
        let mut ready = segment.ready().build_from(range.start);
        let mut timers = segment.timers().build_from(range.start);
        let bitmap = segment.view.parts.bitmap();
        segment.view.parts.map_slots_ahead(range.clone());
        for first in range.clone().step_by(64) {
            let mut taken = 0;
            for number in first..range.end.min(first.saturating_add(64)) {
                let state = segment.slot(number).map_or(StateWord::default(), |slot| {
                    self.settle(segment, slot, segment.task(slot).state())
                });
                let phase = state.phase();
                self.phases[phase as usize] += 1;
                self.gen_top = self.gen_top.max(state.generation());
                if phase == Phase::Free {
                    taken |= u64::from(!segment.is_claimable(state)) << (number % 64);
                    ready.push(Key::EMPTY);
                    timers.push(Key::EMPTY);
                    continue;
                }
                taken |= 1 << (number % 64);
                // In use, so there is such a slot.
                let Some(slot) = segment.slot(number) else {
                    continue;
                };
                let task = segment.task(slot);
                self.note_lsn(task);
                ready.push(ready_key_of(task, state));
                timers.push(timer_key_of(task, state, timers.next_leaf(), now));
                self.clients.note(segment, slot, state);
                self.note_owner(state);
                self.mark_chunks(segment, task, state.id(slot));
            }
            bitmap.build_word(first / 64, taken);
        }
        ready.finish();
        timers.finish();
    }

    /// Ends what cannot go on: claims of dead submitters, words that make no sense. Returns the state from then on.
    fn settle(&mut self, segment: &Segment, slot: SlotIndex, state: StateWord) -> StateWord {
        let phase = state.phase();
        if phase == Phase::Free {
            return state;
        }
        if phase == Phase::Claimed {
            // Its chunks go because nothing refers to them. A file it may refer to is left to `remove_lost_spills`: the
            // reference may still be that of the tenant before, and its number a living task's by now.
            return match segment.apply(slot, state, Event::Abandon) {
                Ok(free) => {
                    self.abandoned += 1;
                    free
                }
                Err(_) => segment.task(slot).state(),
            };
        }
        if !is_impossible(segment, state) {
            return state;
        }
        match segment.apply(slot, state, Event::Quarantine) {
            Ok(quarantined) => {
                self.impossible += 1;
                quarantined
            }
            Err(_) => segment.task(slot).state(),
        }
    }

    fn note_lsn(&mut self, task: &TaskSlot) {
        let lsn = task.lsn();
        self.lsn_top = self.lsn_top.max(lsn);
        if lsn == 0 && task.options().has(TaskOptions::JOURNAL) {
            self.unnumbered += 1;
        }
    }

    fn note_owner(&mut self, state: StateWord) {
        if let Owner::Worker(worker) = state.owner()
            && let Some(count) = self.running.get_mut(worker.position())
        {
            *count = count.saturating_add(1);
        }
    }

    fn mark_chunks(&mut self, segment: &Segment, task: &TaskSlot, id: Option<TaskId>) {
        let Some(owner) = id.map(chunk_owner) else {
            return;
        };
        let unit_of = |blob| match blob {
            BlobRef::Arena { unit, .. } => Some(unit),
            BlobRef::None | BlobRef::Inline { .. } | BlobRef::Spill { .. } => None,
        };
        let units = [
            unit_of(task.payload()),
            unit_of(task.result()),
            task.side_unit(),
        ];
        for unit in units.into_iter().flatten() {
            self.mark_if(segment, unit, ChunkState::Used(owner));
        }
    }

    /// What local workers have handed over and no daemon has moved yet, however long they are gone: their lanes, and the results that only
    /// these name.
    fn mark_lanes(&mut self, segment: &Segment) {
        for (unit, claimant) in segment.lane_chunks() {
            self.mark_if(segment, unit, ChunkState::Claimed(claimant));
        }
        for (completion, end) in segment.waiting_ends() {
            if let BlobRef::Arena { unit, .. } = end.result {
                let owner = chunk_owner(completion.task);
                self.mark_if(segment, unit, ChunkState::Used(owner));
            }
        }
    }

    /// The chunk at `unit` stays if it is whose it should be.
    fn mark_if(&mut self, segment: &Segment, unit: u32, wanted: ChunkState) {
        if segment.chunk_state(unit) != Some(wanted) {
            self.lost_references += 1;
        } else if let Some(word) = self.marks.get_mut(unit as usize / 64) {
            *word |= 1 << (unit % 64);
        }
    }
}

/// What the slot's leaf in the task heap must be.
fn ready_key_of(task: &TaskSlot, state: StateWord) -> Key {
    if state.phase() == Phase::Ready {
        task.key_of(state)
    } else {
        Key::EMPTY
    }
}

/// What the slot's leaf in the timer heap must be: what is there, if it is of the present task; else what its phase asks for.
fn timer_key_of(task: &TaskSlot, state: StateWord, found: Option<Key>, now: Now) -> Key {
    let kept = found.filter(|key| *key == Key::timed(key.timed_stamp(), state.generation()));
    if let Some(kept) = kept {
        return kept;
    }
    let stamp = match state.phase() {
        Phase::Delayed => task.phase_time(),
        Phase::Running if task.timeout_ms() > 0 => {
            let timeout_ns = u64::from(task.timeout_ms()) * 1_000_000;
            Now::from_stamp(task.phase_time())
                .plus_ns(timeout_ns)
                .stamp()
        }
        Phase::Done | Phase::Failed | Phase::Cancelled => now.stamp(),
        Phase::Free
        | Phase::Claimed
        | Phase::Submitted
        | Phase::Blocked
        | Phase::Held
        | Phase::Ready
        | Phase::Assigned
        | Phase::Running
        | Phase::Ended
        | Phase::DeadLetter
        | Phase::Quarantine
        | Phase::Reserved => return Key::EMPTY,
    };
    Key::timed(stamp, state.generation())
}
