//! Repair of single slots and blocks beside the living; kills of real processes are in `torture`.

use super::{segment, submit};
use crate::arena::Purpose;
use crate::id::{AttachIndex, SlotIndex, TaskId};
use crate::segment::repair::{RepairCounts, RepairScope};
use crate::segment::{Repairer, Segment, TaskFields};
use crate::sync::Ordering;
use crate::sync::kill::killed_after;
use crate::task::slot::CountedLoss;
use crate::task::state::{Event, Phase, StateWord};
use crate::tree::Key;

fn repaired(segment: &Segment) -> RepairCounts {
    Repairer::with_scope(segment, RepairScope::default()).run(segment)
}

fn slot_of(segment: &Segment, task: TaskId) -> SlotIndex {
    segment.slot_of(task).unwrap()
}

#[test]
fn segment_that_is_in_order_is_left_alone() {
    let segment = segment(64);
    for stamp in 1..20 {
        submit(&segment, 5, stamp, &[7; 300]);
    }
    assert_eq!(repaired(&segment), RepairCounts::default());
}

#[test]
fn bits_that_a_kill_left_wrong_either_way_are_made_right() {
    let segment = segment(64);
    let task = submit(&segment, 5, 1, b"x");
    let bitmap = segment.view.parts.bitmap();
    let lost = bitmap.take(30).unwrap();
    // Lies below the mark, as the killed claimer has raised it before.
    segment
        .view
        .parts
        .control()
        .high_water
        .store(64, Ordering::Relaxed);
    assert!(bitmap.give_back(task.slot().get()));
    let counts = repaired(&segment);
    assert_eq!((counts.bits_settled, counts.total()), (2, 2));
    assert!(bitmap.is_free(lost));
    assert!(!bitmap.is_free(task.slot().get()));
    assert_eq!(segment.verify().findings, []);
}

#[test]
fn leaves_are_put_back_for_who_wants_them_and_removed_from_who_has_moved_on() {
    let segment = segment(64);
    let tasks: Vec<TaskId> = (1..4)
        .map(|stamp| submit(&segment, 5, stamp, b"x"))
        .collect();
    let mut claimed = segment.claim_task(AttachIndex::DAEMON).unwrap();
    let fields = TaskFields {
        due: 900,
        ..TaskFields::default()
    };
    claimed.write(&fields).unwrap();
    let delayed = claimed.publish(Event::AdmitDelayed, 9).unwrap();
    let lose = |tree: crate::tree::MinTree<'_>, task: TaskId| {
        let leaf = task.slot().get();
        assert!(tree.remove(leaf, tree.leaf(leaf).unwrap()));
    };
    lose(segment.ready(), tasks[0]);
    lose(segment.timers(), delayed);
    // Cancelled by somebody who was killed before it removed the leaf.
    let slot = slot_of(&segment, tasks[1]);
    segment
        .apply(slot, segment.state(slot), Event::Cancel)
        .unwrap();
    segment.timers().insert(60, Key::timed(5, 0)).unwrap();
    segment
        .view
        .parts
        .control()
        .high_water
        .store(64, Ordering::Relaxed);
    let counts = repaired(&segment);
    assert_eq!((counts.leaves_restored, counts.leaves_removed), (2, 2));
    assert_eq!(segment.verify().findings, []);
    assert_eq!(repaired(&segment).total(), 0);
}

#[test]
fn claims_are_freed_of_the_convicted_only_and_only_while_their_record_says_the_same() {
    let segment = segment(64);
    let attach = AttachIndex::new_checked(3, 16).unwrap();
    let record = &segment.view.parts.attaches[3];
    let dead = record.state().joined_by(7, 7).live();
    assert!(record.change(record.state(), dead));
    let claim = || {
        // All that `claim_task` does but the last write of the high-water mark and what follows.
        assert!(killed_after(4, || segment.claim_task(attach).map(|_| ())).is_err());
    };
    claim();
    assert_eq!(repaired(&segment).claims_freed, 0, "nobody is convicted");
    let scope = RepairScope {
        convicted: super::super::Convicted::none().and(attach, dead),
        takes_back: false,
    };
    let counts = Repairer::with_scope(&segment, scope.clone()).run(&segment);
    assert_eq!((counts.claims_freed, counts.attaches_freed), (1, 1));
    // The record's next tenant, and the same conviction.
    let next = record.state().joined_by(8, 7).live();
    assert!(record.change(record.state(), next));
    claim();
    let counts = Repairer::with_scope(&segment, scope).run(&segment);
    assert_eq!((counts.claims_freed, counts.attaches_freed), (0, 0));
}

#[test]
fn room_that_a_kill_took_from_the_arena_comes_back_while_nobody_is_at_work_there() {
    let segment = segment(64);
    let task = submit(&segment, 5, 1, &[7; 300]);
    let arena = segment.view.parts.arena();
    for writes in 1..4 {
        let left = killed_after(writes, || {
            arena
                .allocate(segment.claimant(), 300, Purpose::Result)
                .is_ok()
        });
        assert!(left.is_err());
    }
    // Of an incarnation that has gone.
    segment.raise_epoch();
    let within = segment.section(|| repaired(&segment).counts_corrected);
    assert_eq!(within, 0, "somebody alive is at work");
    repaired(&segment);
    assert_eq!(arena.check().count(), 0);
    assert_eq!(segment.verify().findings, []);
    assert_eq!(
        segment.view.parts.arena().chunks(0..u32::MAX).count(),
        1,
        "{task}"
    );
}

#[test]
fn word_that_nobody_writes_is_kept_for_inspection() {
    let segment = segment(64);
    let task = submit(&segment, 5, 1, b"x");
    let slot = slot_of(&segment, task);
    let nonsense = StateWord::from_raw(segment.state(slot).as_raw() | (0x1F << 59));
    segment
        .task(slot)
        .state
        .store(nonsense.as_raw(), Ordering::Relaxed);
    assert_eq!(repaired(&segment).quarantined, 1);
    assert_eq!(segment.state(slot).phase(), Phase::Quarantine);
}

/// A task with a worker, as it is taken; the state word then.
fn assigned(segment: &Segment, stamp: u64) -> (SlotIndex, StateWord) {
    let task = submit(segment, 5, stamp, b"x");
    let slot = slot_of(segment, task);
    let worker = segment.worker_index(1).unwrap();
    let state = segment.task(slot).state();
    let state = segment
        .apply(slot, state, Event::Assign { worker })
        .unwrap();
    (slot, state)
}

#[test]
fn loss_that_a_repairer_saw_long_ago_is_not_counted_for_the_next_tenant() {
    let segment = segment(64);
    let (slot, seen) = assigned(&segment, 1);
    let end = segment.apply(slot, seen, Event::Start).unwrap();
    let end = segment.apply(slot, end, Event::End).unwrap();
    let end = segment.apply(slot, end, Event::Complete).unwrap();
    segment.free_task(slot, end).unwrap();
    // The same limits: a task like the one before.
    let mut tenants = (2..200).map(|stamp| assigned(&segment, stamp));
    let (_, state) = tenants.find(|(next, _)| *next == slot).unwrap();
    let task = segment.task(slot);
    assert!(task.count_loss(seen).is_none());
    assert_eq!(task.losses(), 0);
    // One that looked just before the slot changed hands has counted for the next tenant: it takes that back.
    let counted = task.count_loss(state).unwrap();
    assert_eq!(task.losses(), 1);
    task.uncount_loss(CountedLoss {
        of: seen,
        ..counted
    });
    assert_eq!(task.losses(), 0);
}

#[test]
fn repairers_that_saw_the_same_loss_count_it_once() {
    // Whoever of the two makes the change.
    for first in [true, false] {
        let segment = segment(64);
        let (slot, state) = assigned(&segment, 1);
        let task = segment.task(slot);
        let counts = [
            task.count_loss(state).unwrap(),
            task.count_loss(state).unwrap(),
        ];
        segment.apply(slot, state, Event::Requeue).unwrap();
        task.uncount_loss(counts[usize::from(first)]);
        assert_eq!(task.losses(), 1);
    }
}
