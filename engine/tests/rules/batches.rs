//! Batches answer each entry as its own call does.

use qtf_engine::{
    Answer, Caller, Disposition, Effect, Output, Payload, RejectReason, Rejection, ResultAnswer,
    ResultReport, Said, Submission, TaskRef,
};
use qtf_shm::{Counter, Outcome, OutcomeKind, Phase, TaskId, WorkerId};

use qtf_world::{Dispatched, World};

fn submit(world: &mut World, submissions: &[Submission<'_>]) -> Vec<Result<TaskId, RejectReason>> {
    let caller = Caller {
        now: world.now,
        who: world.client,
    };
    let mut answers = Vec::new();
    world
        .engine
        .submit_batch(caller, submissions.iter().copied(), |answer| {
            answers.push(
                answer
                    .map(|accepted| accepted.task)
                    .map_err(|refused| refused.reason),
            );
        });
    answers
}

fn task_ref(&(_, task, attempt): &Dispatched) -> TaskRef {
    TaskRef {
        task,
        attempt: attempt.into(),
    }
}

fn report(code: u8) -> ResultReport<'static> {
    ResultReport {
        said: Said::default(),
        outcome: Outcome {
            kind: OutcomeKind::Exited,
            code,
            ..Outcome::default()
        },
        output: Output::Bytes(b"output"),
        asked_pause_ns: None,
    }
}

fn results(
    world: &mut World,
    worker: WorkerId,
    results: &[(TaskRef, ResultReport<'_>)],
) -> Vec<Disposition> {
    let caller = Caller {
        now: world.now,
        who: worker,
    };
    let mut answers: Vec<ResultAnswer> = Vec::new();
    world
        .engine
        .results_batch(caller, results, |answer| answers.push(answer));
    answers
        .into_iter()
        .map(|answer| answer.disposition)
        .collect()
}

fn forget(world: &mut World, tasks: &[TaskId]) -> Vec<(TaskId, Result<Answer, Rejection>)> {
    let now = world.now;
    let mut answers = Vec::new();
    let tasks = tasks.iter().copied();
    world
        .engine
        .forget_batch(now, tasks, |task, answer| answers.push((task, answer)));
    answers
}

#[test]
fn bad_submission_in_a_batch_is_refused_and_the_others_are_taken_in_their_order() {
    let mut world = World::new();
    let client = world.client;
    let good = Submission::new(client, "exec", Payload::Bytes(b"payload"));
    let bad = Submission {
        priority: Some(256),
        ..good
    };
    let answers = submit(&mut world, &[good, bad, good, good]);
    assert_eq!(answers[1], Err(RejectReason::InvalidArgument));
    let taken: Vec<TaskId> = answers.iter().filter_map(|answer| answer.ok()).collect();
    assert_eq!(taken.len(), 3);
    assert_eq!(world.counts(), (3, 0));
    world.worker(4, &["exec"]);
    let order: Vec<TaskId> = world.dispatches().iter().map(|got| got.1).collect();
    assert_eq!(order, taken);
    world.verify();
}

#[test]
fn batch_of_results_answers_each_as_its_own_call_would() {
    let mut world = World::new();
    let worker = world.worker(64, &["exec"]);
    let other = world.worker(1, &["other"]);
    for _ in 0..40 {
        world.submit("exec");
    }
    let got: Vec<TaskRef> = world.dispatches().iter().map(task_ref).collect();
    assert_eq!(got.len(), 40);
    let foreign = results(&mut world, other, &[(got[0], report(0))]);
    assert_eq!(foreign, [Disposition::Stale]);
    let mut batch: Vec<_> = got.iter().map(|&one| (one, report(0))).collect();
    // One that is said twice, and one of an attempt that there is not.
    batch.push((got[3], report(0)));
    let attempt = TaskRef {
        attempt: 9,
        ..got[4]
    };
    batch.insert(0, (attempt, report(0)));
    let answers = results(&mut world, worker, &batch);
    assert_eq!(answers[0], Disposition::Stale);
    assert!(
        answers[1..41]
            .iter()
            .all(|&one| one == Disposition::Recorded)
    );
    assert_eq!(answers[41], Disposition::AlreadyRecorded);
    assert_eq!(world.counter(Counter::ResultRecorded), 40);
    assert!(got.iter().all(|one| world.phase(one.task) == Phase::Done));
    let mut tasks: Vec<TaskId> = got.iter().map(|one| one.task).collect();
    tasks.push(tasks[0]);
    let answers = forget(&mut world, &tasks);
    assert!(answers[..40].iter().all(|(_, answer)| answer.is_ok()));
    assert_eq!(answers[40].1.unwrap_err().reason, RejectReason::UnknownTask);
    assert_eq!(world.counts(), (0, 0));
    world.effects();
    world.verify();
}

#[test]
fn batch_of_starts_tells_the_worker_to_stop_what_is_not_its_own() {
    let mut world = World::new();
    let worker = world.worker(4, &["exec"]);
    for _ in 0..3 {
        world.submit("exec");
    }
    let mut started: Vec<TaskRef> = world.dispatches().iter().map(task_ref).collect();
    let stale = TaskRef {
        attempt: 2,
        ..started[1]
    };
    started.push(stale);
    let caller = Caller {
        now: world.now,
        who: worker,
    };
    world.engine.started_batch(caller, started.iter().copied());
    assert!(
        started
            .iter()
            .all(|one| world.phase(one.task) == Phase::Running)
    );
    let effects = world.effects();
    let [Effect::Stop { task, attempt, .. }] = effects[..] else {
        panic!("{effects:?}");
    };
    assert_eq!((task, u32::from(attempt)), (stale.task, stale.attempt));
    world.verify();
}

#[test]
fn results_of_a_worker_that_is_not_known_are_stale_each_for_itself() {
    let mut world = World::new();
    let worker = world.worker(4, &["exec"]);
    let tasks = [world.submit("exec"), world.submit("exec")];
    let got: Vec<_> = world
        .dispatches()
        .iter()
        .map(|one| (task_ref(one), report(0)))
        .collect();
    let now = world.now;
    world.engine.worker_gone(now, worker);
    assert_eq!(results(&mut world, worker, &got), [Disposition::Stale; 2]);
    assert_eq!(world.counter(Counter::ResultStale), 2);
    world.settle();
    assert!(tasks.iter().all(|&task| world.phase(task) == Phase::Ready));
}
