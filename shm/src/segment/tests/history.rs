//! What is kept of attempts: bounded, the oldest goes first, and no kill, sweep or start takes it or leaves anything of it behind.

use super::{segment, segment_in, submit};
use crate::id::{TaskId, WorkerId};
use crate::segment::verify::Rule;
use crate::segment::{ATTEMPTS_KEPT_PER_TASK, AttemptNote, MESSAGE_BYTES_MAX, Segment};
use crate::segment::{KeptAttempt, TAIL_BYTES_MAX, Tombstone};
use crate::sync::Ordering;
use crate::sync::kill::killed_after;
use crate::task::slot::{Outcome, OutcomeKind};
use crate::task::state::Phase;
use crate::time::Now;
use crate::worker::{WorkerFields, WorkerWriter};

/// Entries in the arena of 1 MiB that these tests use.
const ENTRIES: u32 = 30;

fn task(slot: u32) -> TaskId {
    TaskId::from_raw((1 << 24) | u64::from(slot)).unwrap()
}

fn note(task: TaskId, attempt: u16) -> AttemptNote<'static> {
    AttemptNote {
        task,
        attempt,
        worker: None,
        ended: 1_000 + u64::from(attempt),
        outcome: Outcome {
            kind: OutcomeKind::Exited,
            code: attempt.to_le_bytes()[0],
            result_dropped: false,
            output_cut: false,
        },
        message: "",
        stderr: b"line\n",
    }
}

fn keep(segment: &Segment, note: &AttemptNote<'_>) -> bool {
    segment.keep_attempt(segment.plm_right().unwrap(), note)
}

fn attempts(segment: &Segment, task: TaskId) -> Vec<u16> {
    let kept = segment.attempts_kept(task);
    kept.iter().map(|kept| kept.attempt).collect()
}

#[test]
fn end_of_an_attempt_comes_back_as_it_was_told_and_long_texts_are_cut() {
    let segment = segment(64);
    let worker = segment.worker_index(3).unwrap();
    WorkerWriter::of(segment.worker(worker)).fill(&WorkerFields {
        name: "builder",
        ..WorkerFields::default()
    });
    let told = AttemptNote {
        worker: Some(WorkerId::new(worker, 7)),
        message: "why",
        ..note(task(5), 2)
    };
    assert!(keep(&segment, &told));
    let kept = KeptAttempt {
        attempt: 2,
        worker: Some(WorkerId::new(worker, 7)),
        worker_name: "builder".to_owned(),
        ended: 1_002,
        outcome: told.outcome,
        message: "why".to_owned(),
        stderr_tail: b"line\n".to_vec(),
    };
    assert_eq!(segment.attempts_kept(task(5)), [kept]);
    assert!(segment.has_attempt(task(5), 2) && !segment.has_attempt(task(5), 1));

    let long: Vec<u8> = (0..5_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let message = "ä".repeat(MESSAGE_BYTES_MAX);
    for message in ["", &message] {
        let long = AttemptNote {
            message,
            stderr: &long,
            ..note(task(6), 1)
        };
        assert!(keep(&segment, &long));
        let [kept] = segment.attempts_kept(task(6)).try_into().unwrap();
        assert!(message.starts_with(&kept.message));
        assert_eq!(kept.message.is_empty(), message.is_empty());
        assert!(kept.message.len() <= MESSAGE_BYTES_MAX);
        assert!(long.stderr.ends_with(&kept.stderr_tail));
        assert_eq!(kept.stderr_tail.len() + kept.message.len(), TAIL_BYTES_MAX);
    }
    assert!(!segment.verify().broken());
}

#[test]
fn task_that_fails_again_and_again_keeps_its_last_ends_and_pushes_out_no_other() {
    let segment = segment(64);
    keep(&segment, &note(task(1), 1));
    for attempt in 1..=200 {
        assert!(keep(&segment, &note(task(2), attempt)));
    }
    let last = 200 - u16::try_from(ATTEMPTS_KEPT_PER_TASK).unwrap();
    assert_eq!(
        attempts(&segment, task(2)),
        (last + 1..=200).collect::<Vec<_>>()
    );
    assert_eq!(attempts(&segment, task(1)), [1]);
}

#[test]
fn attempt_that_is_told_of_again_is_kept_once_with_what_was_said_last() {
    let segment = segment(64);
    keep(&segment, &note(task(1), 1));
    let again = AttemptNote {
        message: "lost",
        ..note(task(1), 1)
    };
    keep(&segment, &again);
    let [kept] = segment.attempts_kept(task(1)).try_into().unwrap();
    assert_eq!(kept.message, "lost");
}

#[test]
fn oldest_of_all_make_room_when_there_is_no_more() {
    let segment = segment(64);
    for slot in 0..ENTRIES + 5 {
        assert!(keep(&segment, &note(task(slot), 1)));
    }
    for slot in 0..ENTRIES + 5 {
        let is_kept = segment.has_attempt(task(slot), 1);
        assert_eq!(is_kept, slot >= 5, "{slot}");
    }
    assert!(!segment.verify().broken());
}

#[test]
fn small_arena_is_left_to_payloads_and_results() {
    let segment = segment_in("/dev/null/spill", 64, 7 << 16);
    assert!(!keep(&segment, &note(task(1), 1)));
    assert_eq!(attempts(&segment, task(1)), [0_u16; 0]);
    assert_eq!(segment.verify().chunks, 0);
}

#[test]
fn history_outlives_sweeps_starts_and_its_tasks() {
    let segment = segment(64);
    let id = submit(&segment, 5, 1, &[7; 300]);
    keep(&segment, &note(id, 1));
    keep(&segment, &note(task(40), 3));
    segment.sweep_chunks(0..u32::MAX, |_| true);
    segment.rebuild_caches(Now::from_stamp(9));
    assert_eq!(attempts(&segment, id), [1]);
    assert_eq!(attempts(&segment, task(40)), [3]);
    let report = segment.verify();
    assert!(!report.broken(), "{:?}", report.findings);
    assert_eq!(segment.last_rebuild().unwrap().lost_references, 0);
}

#[test]
fn kill_at_any_write_costs_one_end_at_most_and_leaves_nothing_behind() {
    let mut writes = 0;
    loop {
        let segment = segment(64);
        for slot in 0..15 {
            keep(&segment, &note(task(slot), 1));
        }
        // The next one needs another chunk; the one after it is told of twice.
        let outcome = killed_after(writes, || {
            keep(&segment, &note(task(20), 1));
            let again = AttemptNote {
                stderr: b"another",
                ..note(task(20), 1)
            };
            keep(&segment, &again);
        });
        for slot in 0..15 {
            assert_eq!(attempts(&segment, task(slot)), [1], "{writes}");
        }
        for kept in segment.attempts_kept(task(20)) {
            let tail = kept.stderr_tail;
            assert!(
                tail == b"line\n" || tail == b"another",
                "{writes}: {tail:?}"
            );
        }
        // What a start does with what the dead has left.
        segment.rebuild_caches(Now::from_stamp(9));
        let report = segment.verify();
        assert!(!report.broken(), "{writes}: {:?}", report.findings);
        for slot in 20..35 {
            assert!(keep(&segment, &note(task(slot), 1)), "{writes}");
            assert_eq!(attempts(&segment, task(slot)), [1], "{writes}");
        }
        let report = segment.verify();
        assert!(!report.broken(), "{writes}: {:?}", report.findings);
        assert_eq!(report.chunks, 2, "{writes}");
        if outcome.is_ok() {
            break;
        }
        writes += 1;
    }
    assert!(writes > 20);
}

#[test]
fn damaged_history_is_found_and_hides_nothing_else() {
    let segment = segment(64);
    keep(&segment, &note(task(1), 1));
    keep(&segment, &note(task(2), 1));
    let (unit, _) = segment.history_chunks().next().unwrap();
    let first = segment.view.parts.unit_words(unit).unwrap();
    for word in [5, (1 << 60) | 1, task(9_999_999).as_raw()] {
        // ORDERING: nobody else writes.
        first[0].store(word, Ordering::Relaxed);
        let rules: Vec<_> = segment
            .verify()
            .findings
            .into_iter()
            .map(|found| found.rule)
            .collect();
        assert_eq!(rules, [Rule::History], "{word:#x}");
        assert_eq!(attempts(&segment, task(2)), [1]);
    }
    // A place that names what is not the history's counts as empty.
    // ORDERING: nobody else writes.
    segment.view.parts.control().reserved[62].store(u64::MAX, Ordering::Relaxed);
    assert_eq!(attempts(&segment, task(2)), [0_u16; 0]);
    assert!(keep(&segment, &note(task(3), 1)));
    assert_eq!(attempts(&segment, task(3)), [1]);
}

#[test]
fn expired_results_are_remembered_and_the_oldest_are_forgotten_first() {
    let segment = segment(64);
    let right = segment.plm_right().unwrap();
    let id = |number: u64| TaskId::from_raw(((number + 1) << 24) | 5).unwrap();
    let stone = |number: u64| Tombstone {
        phase: Phase::Failed,
        unix_ms: 1_800_000_000_000 + number,
    };
    assert_eq!(segment.expired(id(0)), None);
    for number in 0..1_030 {
        segment.note_expired(right, id(number), stone(number));
        assert_eq!(segment.expired(id(number)), Some(stone(number)));
    }
    for number in 0..1_030 {
        let known = segment.expired(id(number));
        assert_eq!(known, (number >= 6).then(|| stone(number)), "{number}");
    }
    segment.sweep_chunks(0..u32::MAX, |_| true);
    segment.rebuild_caches(Now::from_stamp(9));
    assert!(!segment.verify().broken());
    segment.note_expired(right, id(2_000), stone(7));
    assert_eq!(segment.expired(id(6)), None, "it was the oldest");
    assert_eq!(segment.expired(id(7)), Some(stone(7)));
}

#[test]
fn kill_at_any_write_of_a_tombstone_costs_that_one_at_most() {
    let id = |number: u64| TaskId::from_raw(((number + 1) << 24) | 5).unwrap();
    let stone = Tombstone {
        phase: Phase::Done,
        unix_ms: 77,
    };
    let mut writes = 0;
    loop {
        let segment = segment(64);
        let right = segment.plm_right().unwrap();
        let outcome = killed_after(writes, || segment.note_expired(right, id(1), stone));
        assert!(segment.expired(id(1)).is_none_or(|found| found == stone));
        segment.rebuild_caches(Now::from_stamp(9));
        segment.note_expired(right, id(2), stone);
        assert_eq!(segment.expired(id(2)), Some(stone), "{writes}");
        let report = segment.verify();
        assert!(!report.broken(), "{writes}: {:?}", report.findings);
        assert_eq!(report.chunks, 1, "{writes}");
        if outcome.is_ok() {
            break;
        }
        // The zeros of the chunk are all alike.
        writes += if (20..2_000).contains(&writes) { 97 } else { 1 };
    }
}
