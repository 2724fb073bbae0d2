//! What a worker holds, step by step.

use qtf_proto::limits::INLINE_BYTES_MAX;
use qtf_proto::v1::TaskResult;

use super::*;
use crate::stop::stop_pair;

pub(super) fn assignment(task_id: u64) -> Assignment {
    Assignment {
        task: Some(TaskRef {
            task_id,
            attempt: 1,
        }),
        kind: "echo".into(),
        ..Assignment::default()
    }
}

fn attempt(task_id: u64) -> Attempt {
    Attempt {
        task_id,
        attempt: 1,
    }
}

fn results_of(tasks: &mut Tasks) -> Vec<TaskResult> {
    tasks.take_results().1
}

pub(super) fn next_to_start(tasks: &mut Tasks) -> Option<(RunNumber, Assignment)> {
    tasks.has_next(|_| false).then(|| tasks.next())?
}

/// Starts what may start.
fn start(tasks: &mut Tasks) -> Vec<RunNumber> {
    let mut runs = Vec::new();
    while let Some((run, _)) = next_to_start(tasks) {
        tasks.on_starting(run, stop_pair(0).0);
        tasks.on_begun(run);
        runs.push(run);
    }
    runs
}

#[test]
fn credits_and_occupied_room_never_exceed_capacity() {
    let mut tasks = Tasks::new(2, 3);
    tasks.relink();
    assert_eq!(tasks.grant(), 3);
    assert_eq!(tasks.grant(), 0);
    for id in 1..=3 {
        assert!(tasks.accept(assignment(id)));
    }
    assert_eq!(tasks.grant(), 0);
    let runs = start(&mut tasks);
    assert_eq!(runs.len(), 2, "two slots");
    tasks.on_ended(runs[0], Outcome::default(), Bytes::new());
    assert_eq!(tasks.grant(), 0, "not before its result is sent");
    assert_eq!(results_of(&mut tasks).len(), 1);
    assert_eq!(tasks.grant(), 1);
    tasks.on_verdict(attempt(1));
    assert_eq!(tasks.grant(), 0, "one credit a slot");
}

#[test]
fn start_is_not_told_when_the_result_is_there() {
    let mut tasks = Tasks::new(2, 2);
    tasks.accept(assignment(1));
    tasks.accept(assignment(2));
    let runs = start(&mut tasks);
    tasks.on_ended(runs[0], Outcome::default(), Bytes::new());
    let started = tasks.take_started();
    assert_eq!(started.len(), 1);
    assert_eq!(started[0].task_id, 2);
}

#[test]
fn no_report_tells_of_more_starts_than_a_daemon_takes_and_all_are_told() {
    let mut tasks = Tasks::new(3_000, 3_000);
    for id in 1..=3_000 {
        tasks.accept(assignment(id));
    }
    assert_eq!(start(&mut tasks).len(), 3_000);
    let mut told = Vec::new();
    while tasks.has_news() {
        let report = tasks.take_started();
        assert!(report.len() <= BATCH_ENTRIES_MAX, "{}", report.len());
        told.extend(report.iter().map(|task| task.task_id));
    }
    assert!(told.into_iter().eq(1..=3_000));
}

#[test]
fn results_without_verdict_are_sent_again_over_a_new_link() {
    let mut tasks = Tasks::new(1, 1);
    tasks.accept(assignment(1));
    let runs = start(&mut tasks);
    tasks.on_ended(runs[0], Outcome::default(), Bytes::from_static(b"out"));
    assert_eq!(results_of(&mut tasks).len(), 1);
    assert!(tasks.held()[0].finished);
    tasks.relink();
    assert_eq!(tasks.grant(), 0, "capacity minus held");
    assert_eq!(results_of(&mut tasks)[0].output, "out");
    assert_eq!(tasks.grant(), 1);
    tasks.on_verdict(attempt(1));
    assert!(tasks.is_quiet());
    assert!(tasks.held().is_empty());
}

#[test]
fn abandoned_attempt_keeps_its_slot_until_it_has_ended_and_is_not_reported() {
    let mut tasks = Tasks::new(1, 1);
    assert_eq!(tasks.grant(), 1);
    tasks.accept(assignment(1));
    let runs = start(&mut tasks);
    tasks.abandon_all();
    tasks.relink();
    assert_eq!(tasks.grant(), 0);
    assert!(tasks.held().is_empty());
    tasks.on_ended(runs[0], Outcome::default(), Bytes::new());
    assert!(results_of(&mut tasks).is_empty());
    assert_eq!(tasks.grant(), 1);
}

#[test]
fn repeated_assignment_is_run_once() {
    let mut tasks = Tasks::new(4, 4);
    assert!(tasks.accept(assignment(1)));
    assert!(!tasks.accept(assignment(1)));
    let runs = start(&mut tasks);
    assert_eq!(runs.len(), 1);
    tasks.on_ended(runs[0], Outcome::default(), Bytes::new());
    results_of(&mut tasks);
    tasks.on_verdict(attempt(1));
    assert!(!tasks.accept(assignment(1)), "also after its verdict");
    tasks.abandon_all();
    assert!(tasks.accept(assignment(1)), "of another segment");
}

#[test]
fn results_without_verdict_are_bounded_and_nothing_is_asked_for_beyond() {
    let mut tasks = Tasks::new(1, 1);
    tasks.relink();
    let mut id = 0;
    while tasks.has_credits_due() {
        assert_eq!(tasks.grant(), 1);
        id += 1;
        assert!(id <= 2 * UNJUDGED_MIN as u64, "no bound in number");
        tasks.accept(assignment(id));
        let runs = start(&mut tasks);
        tasks.on_ended(runs[0], Outcome::default(), Bytes::new());
        results_of(&mut tasks);
    }
    assert_eq!(tasks.grant(), 0);
    tasks.on_verdict(attempt(1));
    assert!(tasks.has_credits_due());
    for judged in 2..=id {
        tasks.on_verdict(attempt(judged));
    }

    let large = Bytes::from(vec![0; 1 << 20]);
    let before = id;
    while tasks.has_credits_due() {
        tasks.grant();
        id += 1;
        assert!(id - before <= 512, "no bound in bytes");
        tasks.accept(assignment(id));
        let runs = start(&mut tasks);
        tasks.on_ended(runs[0], Outcome::default(), large.clone());
        tasks.on_uploaded(runs[0], Some(1));
        results_of(&mut tasks);
    }
    tasks.on_verdict(attempt(before + 1));
    assert!(tasks.has_credits_due());
}

#[test]
fn large_output_waits_for_its_receipt_and_is_uploaded_again_over_a_new_link() {
    let mut tasks = Tasks::new(1, 1);
    tasks.accept(assignment(1));
    let runs = start(&mut tasks);
    let output = Bytes::from(vec![1; INLINE_BYTES_MAX + 1]);
    tasks.on_ended(runs[0], Outcome::default(), output);
    assert!(results_of(&mut tasks).is_empty());
    assert_eq!(tasks.take_uploads().len(), 1);
    tasks.relink();
    assert_eq!(tasks.take_uploads().len(), 1);
    tasks.on_uploaded(runs[0], Some(77));
    let results = results_of(&mut tasks);
    assert_eq!(results[0].output_upload, 77);
    assert!(results[0].output.is_empty());
}

#[test]
fn output_whose_upload_is_not_known_takes_room_again_until_it_is_sent_once_more() {
    let mut tasks = Tasks::new(1, 1);
    tasks.grant();
    tasks.accept(assignment(1));
    let runs = start(&mut tasks);
    let output = Bytes::from(vec![1; INLINE_BYTES_MAX + 1]);
    tasks.on_ended(runs[0], Outcome::default(), output);
    tasks.take_uploads();
    tasks.on_uploaded(runs[0], Some(7));
    results_of(&mut tasks);
    assert_eq!(tasks.unjudged, 1);
    tasks.upload_again(attempt(1));
    assert_eq!((tasks.unjudged, tasks.grant()), (0, 0));
    assert_eq!(tasks.take_uploads().len(), 1);
    tasks.upload_again(attempt(1));
    assert!(tasks.take_uploads().is_empty(), "it is under way");
    tasks.on_uploaded(runs[0], Some(8));
    assert_eq!(results_of(&mut tasks)[0].output_upload, 8);
    assert_eq!(tasks.grant(), 1);
    tasks.on_verdict(attempt(1));
    tasks.upload_again(attempt(1));
    assert!(tasks.is_quiet());
}

#[test]
fn output_that_cannot_be_kept_is_said_to_be_dropped() {
    let mut tasks = Tasks::new(1, 1);
    tasks.accept(assignment(1));
    let runs = start(&mut tasks);
    let output = Bytes::from(vec![1; INLINE_BYTES_MAX + 1]);
    tasks.on_ended(runs[0], Outcome::default(), output);
    tasks.take_uploads();
    tasks.on_uploaded(runs[0], None);
    assert!(results_of(&mut tasks)[0].outcome.unwrap().result_dropped);
}

#[test]
fn cancelled_while_waiting_is_over_at_once() {
    let mut tasks = Tasks::new(1, 2);
    tasks.accept(assignment(1));
    tasks.accept(assignment(2));
    start(&mut tasks);
    assert_eq!(tasks.stop(attempt(1), StopCause::Cancelled), None);
    let run = tasks.stop(attempt(2), StopCause::Cancelled).unwrap();
    tasks.on_ended(run, Outcome::default(), Bytes::new());
    assert_eq!(results_of(&mut tasks).len(), 1);
    assert!(next_to_start(&mut tasks).is_none());
}

/// Two attempts that have ended, reported together; the number of the report.
fn reported(tasks: &mut Tasks) -> u64 {
    tasks.accept(assignment(1));
    tasks.accept(assignment(2));
    for run in start(tasks) {
        tasks.on_ended(run, Outcome::default(), Bytes::new());
    }
    let (number, results) = tasks.take_results();
    assert_eq!(results.len(), 2);
    number
}

#[test]
fn report_that_is_recorded_is_the_verdict_on_all_its_results() {
    let mut tasks = Tasks::new(2, 2);
    let number = reported(&mut tasks);
    tasks.on_recorded(number + 1);
    assert_eq!(tasks.held().len(), 2, "that was another report");
    tasks.on_recorded(number);
    assert!(tasks.held().is_empty() && tasks.is_quiet());
    assert!(!tasks.accept(assignment(1)), "judged already");
}

#[test]
fn number_of_a_report_over_an_earlier_link_means_nothing() {
    let mut tasks = Tasks::new(2, 2);
    let before = reported(&mut tasks);
    tasks.relink();
    let (now, results) = tasks.take_results();
    assert!(now > before && results.len() == 2);
    tasks.on_recorded(before);
    assert_eq!(tasks.held().len(), 2);
    tasks.on_recorded(now);
    assert!(tasks.held().is_empty());
}

#[test]
fn report_is_forgotten_when_each_of_its_results_has_a_verdict_of_its_own_or_is_abandoned() {
    let mut tasks = Tasks::new(2, 2);
    let number = reported(&mut tasks);
    tasks.on_verdict(attempt(1));
    tasks.abandon(attempt(2));
    assert!(tasks.reports.take(number).is_empty());
    let again = reported_again(&mut tasks);
    tasks.upload_again(attempt(3));
    tasks.on_recorded(again);
    assert_eq!(tasks.held().len(), 1, "it is to be sent once more");
}

fn reported_again(tasks: &mut Tasks) -> u64 {
    tasks.accept(assignment(3));
    for run in start(tasks) {
        tasks.on_ended(run, Outcome::default(), Bytes::new());
    }
    tasks.take_results().0
}
