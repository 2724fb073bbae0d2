//! The heaps: order within each, and agreement of each leaf with its slot.

use crate::segment::verify::{Pass, Rule};
use crate::segment::{Heap, HeapView, SegmentView};
use crate::task::state::Phase;
use crate::tree::Key;
use crate::worker::WorkerPhase;

const HEAPS: [(Heap, &str); 4] = [
    (Heap::Task, "task heap"),
    (Heap::Timer, "timer heap"),
    (Heap::Worker, "worker heap"),
    (Heap::Lease, "lease heap"),
];

pub(super) fn check(view: &SegmentView, pass: &mut Pass) {
    for (heap, name) in HEAPS {
        for violation in view.heap(heap).check() {
            pass.found(Rule::HeapOrder, name, violation);
        }
    }
    task_leaves(view, pass);
    worker_leaves(view, pass);
}

/// Slots above the high-water mark are only looked at if they have a leaf: untouched memory stays untouched.
fn task_leaves(view: &SegmentView, pass: &mut Pass) {
    let high_water = view.high_water();
    let (ready, timers) = (view.heap(Heap::Task), view.heap(Heap::Timer));
    for number in 0..view.geometry().tasks() {
        let (ready, timer) = (ready.leaf(number), timers.leaf(number));
        if number >= high_water && ready.is_none() && timer.is_none() {
            continue;
        }
        let Some(slot) = view.slot(number) else {
            continue;
        };
        let task = &view.parts.tasks[slot.position()];
        let (state, key) = (task.state(), task.key());
        let phase = state.phase();
        match ready {
            None if phase == Phase::Ready => {
                pass.found(
                    Rule::ReadyLeaf,
                    subject(number),
                    "ready, but not in the task heap",
                );
            }
            Some(leaf) if phase != Phase::Ready => {
                pass.found(
                    Rule::ReadyLeaf,
                    subject(number),
                    format!("{phase}, but in the task heap with {leaf:?}"),
                );
            }
            Some(leaf) if leaf != key => {
                let text = format!("key {key:?}, but in the task heap with {leaf:?}");
                pass.found(Rule::ReadyLeaf, subject(number), text);
            }
            Some(_) | None => {}
        }
        match timer {
            None if phase == Phase::Delayed => {
                pass.found(
                    Rule::TimerLeaf,
                    subject(number),
                    "delayed, but not in the timer heap",
                );
            }
            Some(leaf) if matches!(phase, Phase::Free | Phase::Claimed) => {
                pass.found(
                    Rule::TimerLeaf,
                    subject(number),
                    format!("{phase}, but in the timer heap with {leaf:?}"),
                );
            }
            Some(leaf) if leaf != Key::timed(leaf.timed_stamp(), state.generation()) => {
                let text = format!(
                    "generation {}, but in the timer heap with {leaf:?}",
                    state.generation()
                );
                pass.found(Rule::TimerLeaf, subject(number), text);
            }
            Some(_) | None => {}
        }
    }
}

fn worker_leaves(view: &SegmentView, pass: &mut Pass) {
    let (heap, leases) = (view.heap(Heap::Worker), view.heap(Heap::Lease));
    for (number, slot) in (0_u32..).zip(view.parts.workers.iter()) {
        let state = slot.state();
        let in_heap = |heap: HeapView<'_>| heap.leaf(number).is_some();
        if in_heap(heap) && !state.has_room() {
            let text = format!("{state:?}, but in the worker heap");
            pass.found(Rule::WorkerLeaf, format!("worker {number}"), text);
        }
        if !in_heap(heap) && state.has_room() && slot.credits() > 0 {
            pass.workers_set_aside += 1;
        }
        let serves = matches!(
            state.phase(),
            WorkerPhase::Live | WorkerPhase::Draining | WorkerPhase::Suspect
        );
        if in_heap(leases) && !serves {
            let text = format!("{state:?}, but has a lease");
            pass.found(Rule::LeaseLeaf, format!("worker {number}"), text);
        }
    }
}

pub(super) fn subject(slot: u32) -> String {
    format!("slot {slot}")
}
