//! What becomes of reports about attempts: fencing, judgement, retries, outputs.

use qtf_engine::{Disposition, EngineConfig, Output, Payload, RejectReason, ResultReport};
use qtf_shm::{BlobRef, Counter, OutcomeKind, Part, Phase, TaskId, WorkerCounter, WorkerId};

use qtf_world::{MS, SECOND, World, finished, task_ref};

fn output(world: &World, task: TaskId) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 20];
    let count = world
        .segment()
        .load(task, Part::Result, 0, &mut bytes)
        .unwrap();
    bytes.truncate(count);
    bytes
}

/// A task that has run to its end with this output, and what became of the report.
fn run(world: &mut World, output: Output<'_>) -> (TaskId, Disposition) {
    let task = world.submit("exec");
    let (worker, _, attempt) = world.dispatch();
    let report = ResultReport {
        outcome: qtf_shm::Outcome {
            kind: OutcomeKind::Exited,
            ..qtf_shm::Outcome::default()
        },
        output,
        said: qtf_engine::Said::default(),
        asked_pause_ns: None,
    };
    let now = world.now;
    let told = world
        .engine
        .task_result(now, worker, task_ref(task, attempt), &report);
    (task, told.disposition)
}

#[test]
fn exit_code_zero_makes_the_task_done_and_keeps_its_output() {
    let mut world = World::new();
    let task = world.submit("exec");
    let worker = world.worker(1, &["exec"]);
    let got = world.dispatch();
    world.start(got);
    assert_eq!(world.phase(task), Phase::Running);
    assert_eq!(world.end(got, 0), Disposition::Recorded);
    assert_eq!(world.phase(task), Phase::Done);
    assert_eq!(output(&world, task), b"output");
    assert_eq!(finished(&world.effects()), [(task, Phase::Done)]);
    assert_eq!(world.counts(), (0, 1));
    let slot = world.segment().worker(worker.slot());
    assert_eq!(slot.state().running(), 0);
    assert_eq!(slot.counter(WorkerCounter::Done), 1);
    assert_eq!(world.counter(Counter::ResultRecorded), 1);
    world.verify();
}

#[test]
fn result_without_a_start_before_is_recorded_too() {
    let mut world = World::new();
    let task = world.submit("exec");
    world.worker(1, &["exec"]);
    let got = world.dispatch();
    assert_eq!(world.end(got, 0), Disposition::Recorded);
    assert_eq!(world.phase(task), Phase::Done);
}

#[test]
fn discarded_result_frees_the_slot_as_soon_as_the_task_has_succeeded() {
    let mut world = World::new();
    let task = world
        .submit_with("exec", |submission| submission.discard_result = true)
        .unwrap();
    world.worker(1, &["exec"]);
    let got = world.dispatch();
    assert_eq!(world.end(got, 0), Disposition::Recorded);
    assert!(world.engine.check(task).is_err());
    assert_eq!(finished(&world.effects()), [(task, Phase::Done)]);
    assert_eq!(world.counts(), (0, 0));
    world.verify();
}

#[test]
fn task_that_kept_no_result_is_known_to_have_succeeded_also_when_its_slot_is_another_tasks() {
    let mut world = World::new();
    let worker_takes = |world: &mut World| {
        let got = world.dispatch();
        assert_eq!(world.end(got, 0), Disposition::Recorded);
    };
    let unkept = world
        .submit_with("exec", |submission| submission.discard_result = true)
        .unwrap();
    world.worker(1, &["exec"]);
    worker_takes(&mut world);
    assert_eq!(world.engine.settled_end(unkept), Ok(Some(Phase::Done)));
    loop {
        let next = world.submit("exec");
        let is_in_its_slot = next.slot() == unkept.slot();
        assert_eq!(world.engine.settled_end(unkept), Ok(Some(Phase::Done)));
        worker_takes(&mut world);
        let now = world.now;
        world.engine.forget(now, next).unwrap();
        assert!(world.engine.settled_end(next).is_err(), "it was forgotten");
        if is_in_its_slot {
            return;
        }
    }
}

#[test]
fn failed_task_is_kept_even_if_its_result_was_to_be_discarded() {
    let mut world = World::new();
    let task = world
        .submit_with("exec", |submission| submission.discard_result = true)
        .unwrap();
    world.worker(1, &["exec"]);
    let got = world.dispatch();
    world.end(got, 3);
    assert_eq!(world.phase(task), Phase::Failed);
    assert_eq!(world.outcome(task).code, 3);
    assert_eq!(output(&world, task), b"output");
    assert_eq!(world.counts(), (0, 1));
}

#[test]
fn repeated_result_is_acknowledged_again_and_changes_nothing() {
    let mut world = World::new();
    let task = world.submit("exec");
    world.worker(1, &["exec"]);
    let got = world.dispatch();
    assert_eq!(world.end(got, 0), Disposition::Recorded);
    assert_eq!(world.end(got, 9), Disposition::AlreadyRecorded);
    assert_eq!(world.phase(task), Phase::Done);
    assert_eq!(world.outcome(task).code, 0);
    assert_eq!(world.counts(), (0, 1));
    assert_eq!(world.counter(Counter::ResultRepeated), 1);
}

#[test]
fn repeated_result_of_a_failure_that_waits_for_its_retry_is_acknowledged_again() {
    let mut world = World::new();
    let task = world
        .submit_with("exec", |submission| submission.retries = 1)
        .unwrap();
    world.worker(1, &["exec"]);
    let got = world.dispatch();
    assert_eq!(world.end(got, 1), Disposition::Recorded);
    assert_eq!(world.phase(task), Phase::Delayed);
    assert_eq!(world.end(got, 1), Disposition::AlreadyRecorded);
    assert_eq!(world.segment().task(task.slot()).failures(), 1);
}

#[test]
fn result_of_another_attempt_another_worker_or_another_incarnation_is_stale_and_counted() {
    let mut world = World::new();
    let task = world.submit("exec");
    let worker = world.worker(1, &["exec"]);
    let other = world.worker(1, &["noop"]);
    let got = world.dispatch();
    let reborn = WorkerId::new(worker.slot(), worker.incarnation() + 1);
    let nobody = WorkerId::new(worker.slot(), 0);
    for late in [
        (worker, task, 2),
        (worker, task, 0),
        (other, task, 1),
        (reborn, task, 1),
        (nobody, task, 1),
    ] {
        let told = world.report(late, OutcomeKind::Exited, 0);
        assert_eq!(told, Disposition::Stale, "{late:?}");
    }
    assert_eq!(world.counter(Counter::ResultStale), 5);
    assert_eq!(world.phase(task), Phase::Assigned);
    assert_eq!(world.end(got, 0), Disposition::Recorded);
}

#[test]
fn result_of_an_earlier_task_in_the_same_slot_is_stale() {
    let mut world = World::of_one(64);
    let first = world.submit("exec");
    world.worker(4, &["exec"]);
    let got = world.dispatch();
    world.end(got, 0);
    let now = world.now;
    world.engine.forget(now, first).unwrap();
    let mut second = world.submit("exec");
    while second.slot() != first.slot() {
        second = world.submit("exec");
    }
    world.settle();
    let told = world.report((got.0, first, 1), OutcomeKind::Exited, 0);
    assert_eq!(told, Disposition::Stale);
    assert!(!world.phase(second).is_final());
}

#[test]
fn failure_is_tried_again_after_a_pause_with_the_next_attempt_and_the_same_place() {
    let mut world = World::new();
    let task = world
        .submit_with("exec", |submission| submission.retries = 1)
        .unwrap();
    let worker = world.worker(1, &["exec"]);
    let key = world.segment().task(task.slot()).key();
    let got = world.dispatch();
    world.start(got);
    world.end(got, 1);
    assert_eq!(world.phase(task), Phase::Delayed);
    assert_eq!(world.segment().task(task.slot()).result(), BlobRef::None);
    assert_eq!(world.counts(), (1, 0));
    world.verify();
    world.pass(99 * MS);
    assert_eq!(world.dispatches(), []);
    world.pass(26 * MS);
    assert_eq!(world.dispatches(), [(worker, task, 2)]);
    assert_eq!(world.segment().task(task.slot()).key(), key);
    world.end((worker, task, 2), 1);
    assert_eq!(world.phase(task), Phase::Failed);
    assert_eq!(world.segment().task(task.slot()).failures(), 2);
    assert_eq!(world.counts(), (0, 1));
    world.verify();
}

#[test]
fn pauses_between_retries_grow_up_to_their_limit() {
    let mut world = World::new();
    let task = world
        .submit_with("exec", |submission| submission.retries = 12)
        .unwrap();
    world.worker(1, &["exec"]);
    let mut pauses = Vec::new();
    for attempt in 1..=12 {
        let got = world.dispatches();
        assert_eq!(got.len(), 1);
        assert_eq!(got[0].2, attempt);
        world.end(got[0], 1);
        let due = world.segment().task(task.slot()).phase_time();
        let pause = qtf_shm::Now::from_stamp(due).since_ns(world.now);
        pauses.push(pause);
        world.pass(pause + MS);
    }
    assert!(pauses[0] >= 99 * MS && pauses[0] <= 126 * MS);
    assert!(pauses[1] >= 199 * MS && pauses[1] <= 251 * MS);
    assert!(pauses[11] >= 29 * SECOND && pauses[11] <= 30 * SECOND);
}

#[test]
fn attempts_end_at_254_whatever_retries_are_asked_for() {
    let mut world = World::new();
    let task = world
        .submit_with("exec", |submission| submission.retries = 253)
        .unwrap();
    let worker = world.worker(1, &["exec"]);
    let mut last = 0;
    for _ in 0..300 {
        let got = world.dispatches();
        let Some(&one) = got.first() else { break };
        last = one.2;
        world.end(one, 1);
        world.pass(31 * SECOND);
        world.beat(worker, 0).unwrap();
    }
    assert_eq!(last, 254);
    assert_eq!(world.phase(task), Phase::Failed);
}

#[test]
fn every_bad_outcome_counts_as_a_failure() {
    for kind in [
        OutcomeKind::Signalled,
        OutcomeKind::TimedOut,
        OutcomeKind::Cancelled,
        OutcomeKind::SpawnFailed,
        OutcomeKind::HandlerFailed,
        OutcomeKind::Refused,
        OutcomeKind::TransferFailed,
        OutcomeKind::Unknown,
        OutcomeKind::None,
        OutcomeKind::WorkerLost,
    ] {
        let mut world = World::new();
        let task = world.submit("exec");
        world.worker(1, &["exec"]);
        let got = world.dispatch();
        world.report(got, kind, 0);
        assert_eq!(world.phase(task), Phase::Failed, "{kind:?}");
        let told = world.report(got, kind, 0);
        assert_eq!(told, Disposition::AlreadyRecorded, "{kind:?}");
    }
}

#[test]
fn large_output_is_kept_and_given_back_with_the_slot() {
    let mut world = World::new();
    let task = world.submit("exec");
    world.worker(1, &["exec"]);
    let (worker, _, attempt) = world.dispatch();
    let bytes: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let report = ResultReport {
        said: qtf_engine::Said::default(),
        outcome: qtf_shm::Outcome {
            kind: OutcomeKind::Exited,
            ..qtf_shm::Outcome::default()
        },
        output: Output::Bytes(&bytes),
        asked_pause_ns: None,
    };
    let now = world.now;
    let told = world
        .engine
        .task_result(now, worker, task_ref(task, attempt), &report);
    assert_eq!(told.disposition, Disposition::Recorded);
    assert_eq!(output(&world, task), bytes);
    world.engine.forget(now, task).unwrap();
    world.verify();
}

#[test]
fn output_that_finds_no_room_is_dropped_and_said_so() {
    let config = EngineConfig {
        payload_limit: 1_000,
        ..EngineConfig::default()
    };
    let mut world = World::with(64, config);
    let task = world.submit("exec");
    world.worker(1, &["exec"]);
    let (worker, _, attempt) = world.dispatch();
    let bytes = vec![1; 2_000];
    let report = ResultReport {
        said: qtf_engine::Said::default(),
        outcome: qtf_shm::Outcome {
            kind: OutcomeKind::Exited,
            ..qtf_shm::Outcome::default()
        },
        output: Output::Bytes(&bytes),
        asked_pause_ns: None,
    };
    let now = world.now;
    world
        .engine
        .task_result(now, worker, task_ref(task, attempt), &report);
    assert_eq!(world.phase(task), Phase::Done);
    assert!(world.outcome(task).result_dropped);
    assert_eq!(world.counter(Counter::ResultDropped), 1);
    world.verify();
}

#[test]
fn output_beyond_the_bound_on_spill_files_is_dropped_and_said_so_until_there_is_room_again() {
    let mut world = World::spilling_at_most(250_000);
    world.worker(8, &["exec"]);
    let bytes = vec![1; 100_000];
    let run = |world: &mut World| {
        let (task, disposition) = run(world, Output::Bytes(&bytes));
        assert_eq!(disposition, Disposition::Recorded);
        task
    };
    let first = run(&mut world);
    run(&mut world);
    let third = run(&mut world);
    assert!(world.outcome(third).result_dropped);
    assert_eq!(world.counter(Counter::ResultDropped), 1);
    let refused = world.submit_with("exec", |submission| {
        submission.payload = Payload::Bytes(&bytes);
    });
    let refused = refused.unwrap_err();
    assert_eq!(refused.reason, RejectReason::SpillFailed);
    assert!(refused.retry_after_ms > 0);
    assert!(
        refused.to_string().contains("spill_limit_bytes"),
        "{refused}"
    );
    let now = world.now;
    world.engine.forget(now, first).unwrap();
    let fourth = run(&mut world);
    assert!(!world.outcome(fourth).result_dropped);
    assert_eq!(output(&world, fourth), bytes);
    world.verify();
}

#[test]
fn output_that_may_lie_in_memory_only_and_finds_no_room_there_is_not_recorded_before_it_is_stored_or_lost()
 {
    let mut world = World::new();
    world.worker(8, &["exec"]);
    // More than the arena takes of one.
    let bytes = vec![1; 100_000];
    let outcome = qtf_shm::Outcome {
        kind: OutcomeKind::Exited,
        ..qtf_shm::Outcome::default()
    };
    let files = |world: &World| world.segment().spill().files().unwrap().len();
    let task = world.submit("exec");
    let (worker, _, attempt) = world.dispatch();
    let report = |world: &mut World, output| {
        let report = ResultReport {
            outcome,
            output,
            said: qtf_engine::Said::default(),
            asked_pause_ns: None,
        };
        let now = world.now;
        let told = world
            .engine
            .task_result(now, worker, task_ref(task, attempt), &report);
        told.disposition
    };
    let told = report(&mut world, Output::InMemory(&bytes));
    assert_eq!(told, Disposition::NeedsFile);
    assert_eq!((world.phase(task), files(&world)), (Phase::Running, 0));
    let told = report(&mut world, Output::InMemory(&bytes));
    assert_eq!(told, Disposition::NeedsFile, "as often as it is reported");
    let told = report(&mut world, Output::Lost);
    assert_eq!(told, Disposition::Recorded);
    assert_eq!(world.phase(task), Phase::Done);
    assert!(world.outcome(task).result_dropped);
    assert_eq!(world.counter(Counter::ResultDropped), 1);
    assert_eq!(world.counter(Counter::ResultRecorded), 1);
    world.verify();
}

#[test]
fn output_that_may_lie_in_memory_only_lies_there() {
    let mut world = World::new();
    world.worker(8, &["exec"]);
    for length in [0, 10, 5_000, 60_000] {
        let bytes = vec![1; length];
        let (task, disposition) = run(&mut world, Output::InMemory(&bytes));
        assert_eq!(disposition, Disposition::Recorded);
        assert_eq!(output(&world, task), bytes);
    }
    world.verify();
}

#[test]
fn stored_output_becomes_the_tasks_own_and_is_removed_with_it() {
    let mut world = World::new();
    world.worker(1, &["exec"]);
    let blob = world.segment().spill().store(b"spilled bytes").unwrap();
    let (task, disposition) = run(&mut world, Output::Stored(blob));
    assert_eq!(disposition, Disposition::Recorded);
    assert_eq!(output(&world, task), b"spilled bytes");
    let now = world.now;
    world.engine.forget(now, task).unwrap();
    assert_eq!(world.segment().spill().used_bytes(), 0);
    world.remove_lost_files();
    let mut out = [0; 4];
    assert!(world.segment().spill().read_at(blob, 0, &mut out).is_err());
}

#[test]
fn payload_is_told_to_the_holder_of_the_attempt_only() {
    let mut world = World::new();
    let task = world.submit("exec");
    let worker = world.worker(1, &["exec"]);
    let other = world.worker(1, &["noop"]);
    let got = world.dispatch();
    assert!(world.engine.payload_for(worker, task_ref(task, 1)).is_ok());
    assert!(world.engine.payload_for(worker, task_ref(task, 2)).is_err());
    assert!(world.engine.payload_for(other, task_ref(task, 1)).is_err());
    world.end(got, 0);
    assert!(world.engine.payload_for(worker, task_ref(task, 1)).is_err());
}

#[test]
fn assignment_that_could_not_be_sent_goes_back_without_counting() {
    let mut world = World::new();
    let task = world.submit("exec");
    let worker = world.worker(2, &["exec"]);
    world.dispatch();
    let now = world.now;
    assert!(
        world
            .engine
            .dispatch_undelivered(now, worker, task_ref(task, 1))
    );
    assert_eq!(world.phase(task), Phase::Ready);
    assert_eq!(world.segment().task(task.slot()).losses(), 0);
    assert_eq!(world.dispatch(), (worker, task, 2));
    world.start((worker, task, 2));
    assert!(
        !world
            .engine
            .dispatch_undelivered(now, worker, task_ref(task, 2)),
        "a started attempt was delivered"
    );
    world.verify();
}

#[test]
fn moment_at_which_the_last_attempt_began_stands_in_the_slot_and_stays_through_its_end() {
    let mut world = World::new();
    let task = world.submit_with("exec", |task| task.retries = 1).unwrap();
    world.worker(1, &["exec"]);
    let began = |world: &World| world.segment().task(task.slot()).started();
    let first = world.dispatch();
    assert_eq!(began(&world), 0, "it has only been handed out");
    world.pass(MS);
    world.start(first);
    let started = world.now.stamp();
    assert_eq!(began(&world), started);
    world.pass(MS);
    world.end(first, 1);
    assert_eq!(began(&world), started, "of the last that has begun");
    world.pass(60_000 * MS);
    world.worker(1, &["exec"]);
    let second = world.dispatch();
    let handed_out = world.now.stamp();
    world.pass(MS);
    // Its worker tells the end alone.
    world.end(second, 0);
    assert_eq!(world.phase(task), Phase::Done);
    assert_eq!(began(&world), handed_out);
    let slot = world.segment().task(task.slot());
    assert!(slot.phase_time() > slot.started());
}
