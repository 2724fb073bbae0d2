//! A small PLM: what a daemon does to the segment, without decisions worth the name.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test names what it is about; everything else is left alone"
)]

use core::cell::RefCell;
use std::path::Path;

use super::ground::Log;
use crate::id::{SlotIndex, TaskId};
use crate::region::Mapping;
use crate::region::sysv::SysvMemory;
use crate::segment::repair::{RepairCounts, RepairScope};
use crate::segment::{GateWatch, LockFile, Part, Repairer, Segment, SegmentView};
use crate::spill::SpillStore;
use crate::task::slot::OutcomeKind;
use crate::task::state::{Event, Owner, Phase, StateWord};
use crate::task::writer::SlotWriter;
use crate::worker::WorkerEvent;

impl Drop for Plm {
    fn drop(&mut self) {
        // A child of this process that is just being started would keep the lock until its `exec`.
        self.lock.unlock(0).unwrap();
    }
}

/// A daemon that holds the lock.
pub(super) struct Plm {
    pub(super) segment: Segment,
    /// Holds byte 0.
    lock: LockFile,
    /// By which it judges others.
    judge: LockFile,
    /// A submitter that was killed before it had written the era of a slot's first tenant leaves it at a gate.
    gates: RefCell<GateWatch>,
}

impl Plm {
    /// Adopts the segment; `None` while another one lives.
    pub(super) fn start(shm_id: i32, folder: &Path) -> Option<Self> {
        let path = folder.join("a.lock");
        let lock = LockFile::open(&path).unwrap();
        if !lock.lock(0).unwrap() {
            return None;
        }
        let memory = SysvMemory::attach(shm_id, false).unwrap();
        let view = SegmentView::of(Mapping::Sysv(memory), Some(shm_id)).unwrap();
        let spill = SpillStore::open(folder, view.header.payload_limit);
        let mut segment = Segment::of(view, spill);
        let judge = LockFile::open(&path).unwrap();
        segment.raise_epoch();
        segment.bring_in_order(Some(&judge), crate::time::monotonic_ns());
        Some(Self {
            segment,
            lock,
            judge,
            gates: RefCell::default(),
        })
    }

    /// A pass over everything; returns how many tasks are left.
    pub(super) fn turn(&self, log: &Log) -> usize {
        self.again();
        self.serve_timers();
        let right = self.segment.plm_right().expect("this is the daemon");
        let mut gates = self.gates.borrow_mut();
        self.segment.watch_gates(right, &mut gates, 0..u32::MAX);
        let slots: Vec<SlotIndex> = self.segment.allocated_slots(0..u32::MAX).collect();
        for &slot in &slots {
            self.look_at(slot, log);
        }
        slots.len()
    }

    /// Repairs, as the engine does in its sweep.
    pub(super) fn again(&self) -> RepairCounts {
        let scope = RepairScope {
            convicted: self.segment.convict(Some(&self.judge)),
            takes_back: true,
        };
        Repairer::with_scope(&self.segment, scope).run(&self.segment)
    }

    pub(super) fn serve_timers(&self) {
        let segment = &self.segment;
        for _ in 0..64 {
            let now = segment.now().stamp();
            let Some((leaf, key)) = segment.timers().locate() else {
                return;
            };
            if key.timed_stamp() > now {
                return;
            }
            let slot = segment.slot(leaf).expect("leaves are slots");
            let state = segment.task(slot).state();
            let due = segment.task(slot).phase_time() <= now;
            match state.phase() {
                Phase::Delayed if due => self.release(slot, state),
                Phase::Submitted => self.accept(slot, state),
                Phase::Ended => self.conclude(slot, state),
                _ => {}
            }
            let after = segment.task(slot).state();
            if after.phase() != Phase::Delayed || after.generation() != state.generation() {
                segment.timers().remove(leaf, key);
            }
        }
    }

    fn look_at(&self, slot: SlotIndex, log: &Log) {
        let state = self.segment.task(slot).state();
        match state.phase() {
            Phase::Submitted => self.accept(slot, state),
            Phase::Ended => self.conclude(slot, state),
            Phase::Held => {
                log.say(&format!("rel {}", raw_id(slot, state)));
                self.release(slot, state);
            }
            // Some are held once, beside workers that are about to take them.
            Phase::Ready if state.fence() == 0 && state.generation().is_multiple_of(3) => {
                self.hold(slot, state, log);
            }
            Phase::Done | Phase::Failed | Phase::Cancelled | Phase::DeadLetter => {
                self.deliver(slot, state, log);
            }
            _ => {}
        }
    }

    fn release(&self, slot: SlotIndex, state: StateWord) {
        if let Ok(ready) = self.segment.apply(slot, state, Event::Release) {
            self.segment.unindex_timer(slot);
            self.segment.index_ready(slot, ready);
        }
    }

    fn hold(&self, slot: SlotIndex, state: StateWord, log: &Log) {
        if self.segment.apply(slot, state, Event::Hold).is_ok() {
            let key = self.segment.task(slot).key();
            self.segment.unindex_ready_key(slot, key);
            log.say(&format!("hol {}", raw_id(slot, state)));
        }
    }

    pub(super) fn accept(&self, slot: SlotIndex, state: StateWord) {
        let segment = &self.segment;
        SlotWriter::of(segment.task(slot)).set_phase_time(segment.now().stamp());
        if let Ok(ready) = segment.apply(slot, state, Event::Accept) {
            segment.unindex_timer(slot);
            segment.index_ready(slot, ready);
        }
    }

    pub(super) fn conclude(&self, slot: SlotIndex, state: StateWord) {
        let segment = &self.segment;
        let right = segment.plm_right().expect("this is the daemon");
        if let Some(moved) = segment.accept_completion(right, slot, state)
            && let Some(id) = state.id(slot)
        {
            segment.release(id, moved.before);
        }
        let task = segment.task(slot);
        let outcome = task.outcome();
        let well = outcome.kind == OutcomeKind::Exited && outcome.code == 0;
        let event = if well {
            Event::Complete
        } else if state.fence() < u16::from(task.max_attempts()) {
            // By the attempt, which a judgement that is made twice does not change. The result stays until the next one.
            Event::Retry
        } else {
            Event::Fail
        };
        let Ok(after) = segment.apply(slot, state, event) else {
            return;
        };
        if let Owner::Worker(worker) = state.owner() {
            let slot = segment.worker(worker);
            for _ in 0..64 {
                let word = slot.state();
                if word.after(WorkerEvent::Give).is_err()
                    || slot.apply(word, WorkerEvent::Give).is_ok()
                {
                    break;
                }
            }
        }
        segment.unindex_timer(slot);
        if after.phase() == Phase::Ready {
            segment.index_ready(slot, after);
        }
    }

    /// The outcome goes to the client, who acknowledges; then the slot is free.
    pub(super) fn deliver(&self, slot: SlotIndex, state: StateWord, log: &Log) {
        let id = state.id(slot).expect("a finished task has an id");
        log.say(&format!(
            "out {} {} {} {}",
            id.as_raw(),
            state.phase(),
            state.fence(),
            self.nonce_of(id)
        ));
        if self.segment.free_task(slot, state).is_ok() {
            log.say(&format!("fre {}", id.as_raw()));
        }
    }

    /// What the worker has put at the beginning of its result.
    fn nonce_of(&self, id: TaskId) -> String {
        let mut bytes = [0; 64];
        let read = self
            .segment
            .load(id, Part::Result, 0, &mut bytes)
            .expect("the result is there");
        let text = String::from_utf8_lossy(&bytes[..read]).into_owned();
        text.split(' ').next().unwrap_or_default().to_owned()
    }
}

fn raw_id(slot: SlotIndex, state: StateWord) -> u64 {
    state.id(slot).expect("a task has an id").as_raw()
}
