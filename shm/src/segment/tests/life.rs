//! The life of a slot: claim, publish, apply, free.

use super::{segment, submit};
use crate::id::{AttachIndex, ClientIndex, WorkerIndex};
use crate::segment::{ApplyError, ClaimError, TaskFields};
use crate::task::side::SideRecord;
use crate::task::slot::{Outcome, OutcomeKind, TaskOptions};
use crate::task::state::{Event, Phase};
use crate::task::writer::SlotWriter;
use crate::tree::Key;

#[test]
fn task_goes_through_its_whole_life() {
    let segment = segment(16);
    let id = submit(&segment, 200, 77, b"payload");
    let slot = id.slot();
    let ready = segment.task(slot).state();
    assert_eq!(ready.phase(), Phase::Ready);
    assert_eq!(
        segment.ready().locate(),
        Some((slot.get(), Key::ready(200, 77, id.generation())))
    );
    assert_eq!(segment.counters().gauge(Phase::Ready), 1);

    let worker = WorkerIndex::new_checked(2, 8).unwrap();
    let assigned = segment
        .apply(slot, ready, Event::Assign { worker })
        .unwrap();
    segment.unindex_ready(slot);
    let running = segment.apply(slot, assigned, Event::Start).unwrap();
    let ended = segment.apply(slot, running, Event::End).unwrap();
    SlotWriter::of(segment.task(slot)).set_outcome(Outcome {
        kind: OutcomeKind::Exited,
        code: 0,
        result_dropped: false,
        output_cut: false,
    });
    let done = segment.apply(slot, ended, Event::Complete).unwrap();
    assert_eq!((done.fence(), done.last_worker()), (1, Some(worker)));
    segment.free_task(slot, done).unwrap();
    assert_eq!(segment.task(slot).state().phase(), Phase::Free);
    assert_eq!(segment.allocated_slots(0..16).count(), 0);
    assert!(segment.counters().gauges().all(|(_, count)| count == 0));
}

#[test]
fn full_segment_refuses_and_takes_again_when_room_is_back() {
    let segment = segment(4);
    let ids: Vec<_> = (0..4)
        .map(|stamp| submit(&segment, 1, stamp, b""))
        .collect();
    assert_eq!(
        segment.claim_task(AttachIndex::DAEMON).unwrap_err(),
        ClaimError::Full
    );
    let slot = ids[2].slot();
    let cancelled = segment
        .apply(slot, segment.task(slot).state(), Event::Cancel)
        .unwrap();
    segment.free_task(slot, cancelled).unwrap();
    let again = submit(&segment, 1, 9, b"");
    assert_eq!(again.slot(), slot);
    assert_eq!(again.generation(), ids[2].generation() + 1);
}

#[test]
fn claim_that_is_dropped_leaves_nothing() {
    let segment = segment(4);
    for _ in 0..20 {
        let mut claimed = segment.claim_task(AttachIndex::DAEMON).unwrap();
        claimed.set_payload(&[1; 1000]).unwrap();
        claimed.set_payload(&[2; 3000]).unwrap();
        let side = Some(SideRecord {
            array_index: 3,
            ..SideRecord::default()
        });
        claimed
            .write(&TaskFields {
                side,
                ..TaskFields::default()
            })
            .unwrap();
    }
    assert_eq!(segment.allocated_slots(0..4).count(), 0);
    let usage = segment.arena_usage();
    assert!(
        usage.classes.iter().all(|class| class.chunks_used == 0),
        "{usage:?}"
    );
}

#[test]
fn publishing_with_another_event_is_refused_and_gives_the_slot_back() {
    let segment = segment(4);
    for event in [Event::Abandon, Event::Release, Event::Quarantine] {
        let claimed = segment.claim_task(AttachIndex::DAEMON).unwrap();
        assert!(
            matches!(claimed.publish(event, 1), Err(ApplyError::Illegal(_))),
            "{event:?}"
        );
        assert_eq!(segment.allocated_slots(0..4).count(), 0);
    }
}

#[test]
fn delayed_task_waits_in_the_timer_heap_with_its_due_time() {
    let segment = segment(4);
    let mut claimed = segment.claim_task(AttachIndex::DAEMON).unwrap();
    claimed
        .write(&TaskFields {
            due: 5000,
            priority: 9,
            ..TaskFields::default()
        })
        .unwrap();
    let id = claimed.publish(Event::AdmitDelayed, 10).unwrap();
    assert_eq!(
        segment.timers().locate(),
        Some((id.slot().get(), Key::timed(5000, id.generation())))
    );
    assert_eq!(segment.ready().locate(), None);
    let task = segment.task(id.slot());
    assert_eq!(
        (task.phase_time(), task.key()),
        (5000, Key::ready(9, 10, id.generation()))
    );
    let ready = segment
        .apply(id.slot(), task.state(), Event::Release)
        .unwrap();
    segment.unindex_timer(id.slot());
    assert!(segment.index_ready(id.slot(), ready));
    assert!(segment.index_ready(id.slot(), ready), "safe to repeat");
    assert_eq!(
        segment.ready().locate().map(|(leaf, _)| leaf),
        Some(id.slot().get())
    );
}

#[test]
fn fields_and_side_record_are_read_back() {
    let segment = segment(4);
    let mut claimed = segment.claim_task(AttachIndex::DAEMON).unwrap();
    let side = SideRecord {
        array_id: 5,
        array_index: 6,
        estimate_ms: 7,
        ..SideRecord::default()
    };
    claimed
        .write(&TaskFields {
            kind: segment.kinds().find("echo"),
            priority: 128,
            principal: 3,
            timeout_ms: 60_000,
            max_attempts: 0,
            client: ClientIndex::new_checked(9, 64),
            options: TaskOptions::DISCARD_RESULT,
            due: 0,
            side: Some(side.clone()),
        })
        .unwrap();
    let id = claimed.publish(Event::Submit, 1).unwrap();
    let reading = segment.read_task(id.slot()).unwrap();
    assert!(!reading.torn);
    let record = reading.record;
    assert_eq!(
        (record.id, record.state.phase()),
        (Some(id), Phase::Submitted)
    );
    assert_eq!(
        (
            record.kind,
            record.priority,
            record.principal,
            record.timeout_ms
        ),
        (3, 128, 3, 60_000)
    );
    assert_eq!((record.max_attempts, record.client), (1, 9));
    assert!(record.options.has(TaskOptions::DISCARD_RESULT));
    assert_eq!(segment.read_side(&record), Some(side));
    segment.free_task(id.slot(), record.state).unwrap();
    assert_eq!(segment.read_side(&record), None, "freed with its task");
}

#[test]
fn leaf_of_an_earlier_tenant_does_not_hide_the_next() {
    let segment = segment(4);
    let slot = segment.slot(0).unwrap();
    segment.ready().insert(0, Key::ready(255, 1, 99)).unwrap();
    let id = submit(&segment, 3, 5, b"");
    assert_eq!(id.slot(), slot);
    assert_eq!(
        segment.ready().leaf(0),
        Some(Key::ready(3, 5, id.generation()))
    );
}

#[test]
fn wrong_free_bit_costs_a_look_and_no_task() {
    let segment = segment(2);
    let id = submit(&segment, 1, 1, b"");
    segment.view.parts.bitmap().give_back(id.slot().get());
    let other = submit(&segment, 1, 2, b"");
    assert_ne!(other.slot(), id.slot());
    assert_eq!(
        segment.claim_task(AttachIndex::DAEMON).unwrap_err(),
        ClaimError::Full
    );
    assert_eq!(
        segment.allocated_slots(0..2).count(),
        2,
        "the wrong bit was put right"
    );
}

#[test]
fn ids_beyond_the_reserved_ones_are_refused_until_more_are_reserved() {
    let segment = segment(1);
    segment.set_gen_limit(2);
    for _ in 0..2 {
        let id = submit(&segment, 1, 1, b"");
        let cancelled = segment
            .apply(id.slot(), segment.task(id.slot()).state(), Event::Cancel)
            .unwrap();
        segment.free_task(id.slot(), cancelled).unwrap();
    }
    assert_eq!(
        segment.claim_task(AttachIndex::DAEMON).unwrap_err(),
        ClaimError::IdsExhausted
    );
    segment.set_gen_limit(3);
    assert_eq!(submit(&segment, 1, 1, b"").generation(), 3);
}

#[test]
fn index_that_names_no_slot_meets_nobodys_slot() {
    let segment = segment(4);
    let beyond = crate::id::SlotIndex::new_checked(1 << 20, 1 << 24).unwrap();
    assert_eq!(segment.task(beyond).state().phase(), Phase::Free);
    let attach = AttachIndex::DAEMON;
    assert!(
        segment
            .apply(
                beyond,
                segment.task(beyond).state(),
                Event::Claim { attach }
            )
            .is_err()
    );
    assert!(!segment.index_ready(beyond, segment.task(beyond).state()));
    segment.unindex_timer(beyond);
    assert!(segment.read_task(beyond).is_none());
    let worker = WorkerIndex::new_checked(4000, 4095).unwrap();
    assert_eq!(segment.worker(worker).state().incarnation(), 0);
    assert!(segment.read_worker(worker).is_none());
}

#[test]
fn change_of_a_word_that_moved_on_is_refused_with_the_new_word() {
    let segment = segment(4);
    let id = submit(&segment, 1, 1, b"");
    let old = segment.task(id.slot()).state();
    let now = segment.apply(id.slot(), old, Event::Cancel).unwrap();
    assert_eq!(
        segment.apply(id.slot(), old, Event::Cancel),
        Err(ApplyError::Moved(now))
    );
}

/// As a snapshot reads beside a daemon that changes a priority, which leaves the state word as it is.
#[test]
fn reader_never_meets_the_lsn_of_a_change_with_the_key_before_it() {
    use crate::sync::{AtomicU64, Ordering};
    const CHANGES: u64 = 400_000;
    let segment = segment(16);
    let id = submit(&segment, 0, 0, b"payload");
    let has_ended = AtomicU64::new(0);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let task = segment.task(id.slot());
            for change in 1..=CHANGES {
                SlotWriter::of(task).set_key(Key::ready(0, change, id.generation()));
                SlotWriter::of(task).set_lsn(change);
            }
            // ORDERING: a flag of this test.
            has_ended.store(1, Ordering::Release);
        });
        // ORDERING: as above.
        while has_ended.load(Ordering::Acquire) == 0 {
            let record = segment.read_task(id.slot()).unwrap().record;
            let shown = record.key.ready_stamp();
            assert!(
                shown >= record.lsn,
                "change {shown} with lsn {}",
                record.lsn
            );
        }
    });
}
