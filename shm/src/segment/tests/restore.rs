//! Tasks out of a journal: own slot and generation, bytes, keys, time; and what cannot be restored.

use super::{segment, segment_in, spec_in};
use crate::arena::Purpose;
use crate::id::{AttachIndex, SlotIndex, TASKS_COUNT_MAX, TaskId};
use crate::keys::KeyId;
use crate::segment::{
    ClaimError, Part, RestoreError, RestoredBytes, RestoredTask, Segment, SegmentSpec,
};
use crate::task::side::SideRecord;
use crate::task::slot::{Outcome, OutcomeKind, TaskOptions};
use crate::task::state::{Event, FLAG_CANCEL, Owner, Phase};
use crate::time::{Now, STAMP_MAX};
use crate::tree::Key;

fn id(generation: u64, slot: u32) -> TaskId {
    TaskId::new(
        generation,
        SlotIndex::new_checked(slot, TASKS_COUNT_MAX).unwrap(),
    )
}

fn loaded(segment: &Segment, task: TaskId, part: Part) -> Vec<u8> {
    let mut out = vec![0; 200_000];
    let count = segment.load(task, part, 0, &mut out).unwrap();
    out.truncate(count);
    out
}

fn clean(segment: &Segment) {
    let report = segment.verify();
    assert!(!report.broken() && !report.torn(), "{report:?}");
}

fn full(task: TaskId) -> RestoredTask<'static> {
    RestoredTask {
        cancel_requested: true,
        fence: 4,
        failures: 2,
        losses: 1,
        max_attempts: 9,
        options: TaskOptions::JOURNAL,
        priority: 77,
        stamp: 5_000,
        phase_time: 6_000,
        timeout_ms: 1_234,
        outcome: Outcome {
            kind: OutcomeKind::Exited,
            code: 3,
            result_dropped: false,
            output_cut: false,
        },
        payload: RestoredBytes::Bytes(b"what to do"),
        side: Some(SideRecord {
            submitted_unix_ms: 1_700_000_000_000,
            key: [1, 2],
            ..SideRecord::default()
        }),
        lsn: (1 << 48) - 2,
        ..RestoredTask::new(task)
    }
}

#[test]
fn restored_task_is_what_it_was_in_its_own_slot_and_generation() {
    let segment = segment(64);
    let task = id(500, 17);
    segment.restore_task(&full(task)).unwrap();
    segment.rebuild_caches(Now::from_stamp(7_000));
    let record = segment.read_task(task.slot()).unwrap().record;
    assert_eq!(
        (record.id, record.state.phase()),
        (Some(task), Phase::Ready)
    );
    assert_eq!(
        (record.state.fence(), record.state.owner()),
        (4, Owner::None)
    );
    assert!(record.state.has_flag(FLAG_CANCEL));
    assert_eq!(
        (record.failures, record.losses, record.max_attempts),
        (2, 1, 9)
    );
    assert_eq!(
        (record.priority, record.timeout_ms, record.lsn),
        (77, 1_234, (1 << 48) - 2)
    );
    assert_eq!(
        (record.phase_time, record.options),
        (6_000, TaskOptions::JOURNAL)
    );
    assert_eq!(
        (record.outcome.kind, record.outcome.code),
        (OutcomeKind::Exited, 3)
    );
    assert_eq!(segment.read_side(&record), full(task).side);
    assert_eq!(loaded(&segment, task, Part::Payload), b"what to do");
    assert_eq!(
        segment.ready().locate(),
        Some((17, Key::ready(77, 5_000, 500)))
    );
    assert_eq!(segment.high_water(), 18);
    assert_eq!(segment.gen_top(), 500);
    clean(&segment);
}

#[test]
fn every_phase_that_needs_no_process_can_be_restored_and_no_other() {
    let segment = segment(64);
    for (slot, phase) in (0..).zip(Phase::ALL) {
        let restored = segment.restore_task(&RestoredTask {
            phase,
            phase_time: 9_000,
            ..RestoredTask::new(id(3, slot))
        });
        let waits = matches!(
            phase,
            Phase::Blocked | Phase::Held | Phase::Delayed | Phase::Ready
        );
        if waits || phase.is_final() {
            restored.unwrap();
        } else {
            assert!(
                matches!(restored, Err(RestoreError::Phase { .. })),
                "{phase}"
            );
            assert_eq!(segment.state(id(3, slot).slot()).as_raw(), 0);
        }
    }
    let rebuilt = segment.rebuild_caches(Now::from_stamp(20));
    assert_eq!((rebuilt.tasks, rebuilt.impossible), (8, 0));
    assert_eq!(segment.counters().gauge(Phase::Delayed), 1);
    let delayed = Phase::Delayed as u32;
    assert_eq!(segment.timers().leaf(delayed), Some(Key::timed(9_000, 3)));
    clean(&segment);
}

#[test]
fn bytes_go_where_a_submission_would_put_them_and_may_use_all_of_the_arena() {
    let dir = tempfile::tempdir().unwrap();
    let segment = segment_in(dir.path(), 64, 4 << 16);
    let large = vec![7; 60_000];
    // Three blocks are what submissions may use; a restored task was accepted before.
    for slot in 0..5 {
        let task = RestoredTask {
            payload: RestoredBytes::Bytes(&large),
            ..RestoredTask::new(id(1, slot))
        };
        segment.restore_task(&task).unwrap();
    }
    let both = RestoredTask {
        phase: Phase::Done,
        payload: RestoredBytes::Bytes(&[1; 64]),
        result: RestoredBytes::Bytes(&[2; 64]),
        ..RestoredTask::new(id(1, 5))
    };
    segment.restore_task(&both).unwrap();
    segment.rebuild_caches(Now::default());
    for slot in 0..5 {
        assert_eq!(loaded(&segment, id(1, slot), Part::Payload), large);
    }
    assert_eq!(loaded(&segment, id(1, 5), Part::Payload), [1; 64]);
    assert_eq!(loaded(&segment, id(1, 5), Part::Result), [2; 64]);
    clean(&segment);
}

#[test]
fn spill_files_are_found_again_by_a_segment_of_the_same_lineage() {
    let dir = tempfile::tempdir().unwrap();
    let spec = SegmentSpec {
        spill_id: Some(0xFEED),
        ..spec_in(dir.path(), 64, 1 << 20)
    };
    let bytes = vec![9; 100_000];
    let first = Segment::create_private(&spec).unwrap();
    let blob = first.store(id(1, 1), &bytes, Purpose::Result).unwrap();
    let crate::blob::BlobRef::Spill { number, len } = blob else {
        panic!("{blob:?} is no file");
    };
    first.spill().sync(number).unwrap();
    first.spill().sync_dir().unwrap();
    assert_eq!(first.spill().crc32c(blob).unwrap(), crc32c::crc32c(&bytes));
    let stray = first.store(id(1, 2), &bytes, Purpose::Result).unwrap();
    let own = first.segment_id();
    first.detach();

    let second = Segment::create_private(&spec).unwrap();
    assert_ne!(second.segment_id(), own);
    let len = u64::from(len);
    let task = RestoredTask {
        result: RestoredBytes::Spill { number, len },
        phase: Phase::Done,
        ..RestoredTask::new(id(1, 1))
    };
    second.restore_task(&task).unwrap();
    second.rebuild_caches(Now::default());
    assert_eq!(second.remove_lost_spills(), 1);
    assert!(second.spill().crc32c(stray).is_err());
    assert_eq!(second.spill().files().unwrap(), vec![(number, len)]);
    assert_eq!(second.spill().used_bytes(), len);
    assert_eq!(loaded(&second, id(1, 1), Part::Result), bytes);
}

#[test]
fn what_cannot_be_restored_is_named_with_the_setting_to_raise_and_leaves_the_slot_free() {
    let dir = tempfile::tempdir().unwrap();
    let segment = segment_in(dir.path().join("gone/\0"), 64, 1 << 16);
    let beyond = segment.restore_task(&RestoredTask::new(id(1, 64)));
    let text = beyond.unwrap_err().to_string();
    assert!(
        text.contains("segment_tasks") && text.contains("64"),
        "{text}"
    );

    segment.restore_task(&RestoredTask::new(id(1, 3))).unwrap();
    let twice = segment.restore_task(&RestoredTask::new(id(2, 3)));
    assert!(matches!(twice, Err(RestoreError::Taken { slot: 3, .. })));

    segment.set_gen_limit(100);
    let unreserved = segment.restore_task(&RestoredTask::new(id(101, 4)));
    assert!(matches!(unreserved, Err(RestoreError::Generation { .. })));

    let large = vec![0; 70_000];
    let no_room = segment.restore_task(&RestoredTask {
        payload: RestoredBytes::Bytes(&[1; 50]),
        result: RestoredBytes::Bytes(&large),
        ..RestoredTask::new(id(1, 5))
    });
    let text = no_room.unwrap_err().to_string();
    assert!(
        text.contains("segment_bytes") && text.contains("70000"),
        "{text}"
    );

    let longer = segment.restore_task(&RestoredTask {
        payload: RestoredBytes::Spill {
            number: 1,
            len: 1 << 40,
        },
        ..RestoredTask::new(id(1, 6))
    });
    assert!(matches!(longer, Err(RestoreError::Spill { .. })));
    segment.rebuild_caches(Now::default());
    assert_eq!(segment.allocated_slots(0..64).count(), 1);
    clean(&segment);
}

#[test]
fn ids_of_a_new_segment_begin_where_the_reserved_ones_of_earlier_segments_end() {
    let spec = SegmentSpec {
        gen_base: Some(1_000),
        ..spec_in("/dev/null/spill", 8, 1 << 20)
    };
    let segment = Segment::in_process(&spec);
    segment.set_gen_limit(1_001);
    assert_eq!((segment.gen_limit(), segment.gen_top()), (1_001, 1_000));
    segment
        .restore_task(&RestoredTask::new(id(999, 0)))
        .unwrap();
    segment.rebuild_caches(Now::default());
    let mut seen = Vec::new();
    while let Ok(claimed) = segment.claim_task(AttachIndex::DAEMON) {
        seen.push(claimed.publish(Event::Admit, 1).unwrap());
    }
    assert_eq!(seen.len(), 7);
    assert!(seen.iter().all(|task| task.generation() == 1_001));
    assert_eq!(segment.gen_top(), 1_001);
    // The slot of the restored task goes on beyond the base as well.
    let done = id(999, 0);
    let state = segment.state(done.slot());
    segment.apply(done.slot(), state, Event::Cancel).unwrap();
    segment
        .free_task(done.slot(), segment.state(done.slot()))
        .unwrap();
    let again = segment.claim_task(AttachIndex::DAEMON).unwrap();
    assert_eq!(again.id(), id(1_001, 0));
    drop(again);
    let refused = segment
        .claim_task(AttachIndex::DAEMON)
        .map(|task| task.id());
    assert_eq!(refused.unwrap_err(), ClaimError::IdsExhausted);
    segment.set_gen_limit(1_002);
    assert_eq!(
        segment.claim_task(AttachIndex::DAEMON).unwrap().id(),
        id(1_002, 0)
    );
}

#[test]
fn time_of_a_new_segment_begins_after_the_highest_restored_stamp() {
    let first_stamp = STAMP_MAX / 2;
    let spec = SegmentSpec {
        first_stamp,
        ..spec_in("/dev/null/spill", 8, 1 << 20)
    };
    let segment = Segment::create_private(&spec).unwrap();
    let now = segment.now();
    assert!(now.stamp() > first_stamp);
    assert!(now.since_ns(Now::from_stamp(first_stamp)) < 60_000_000_000);
    let created = Now::from_ns(segment.header().created_ns);
    assert!(created.stamp() > first_stamp && created <= now);
    assert!(segment.now() >= now);
}

#[test]
fn keys_of_restored_tasks_outlive_a_rebuild_and_unconfirmed_ones_are_settled() {
    let segment = segment(64);
    let key = |number| KeyId::from_words([number, 0]).unwrap();
    let now = Now::from_stamp(10);
    segment.restore_task(&RestoredTask::new(id(1, 1))).unwrap();
    for number in 1..4_u64 {
        let task = id(1, u32::try_from(number).unwrap());
        segment.keys().reserve(key(number), task, 100, now).unwrap();
    }
    let gone = segment.keys().reserve(key(9), id(1, 9), 100, now).unwrap();
    assert!(segment.keys().confirm(gone));
    let broken = segment.verify();
    assert!(
        broken.broken(),
        "unconfirmed keys of a dead daemon are told"
    );
    let rebuilt = segment.rebuild_caches(now);
    assert_eq!((rebuilt.keys.confirmed, rebuilt.keys.removed), (1, 2));
    let found = segment.keys().find(key(1), now).unwrap();
    assert_eq!((found.task, found.confirmed), (id(1, 1), true));
    // A key outlives its task.
    assert_eq!(segment.keys().find(key(9), now).unwrap().task, id(1, 9));
    assert_eq!(segment.keys().find(key(9), Now::from_stamp(100)), None);
    assert_eq!(segment.verify().keys, 2);
    clean(&segment);
}
