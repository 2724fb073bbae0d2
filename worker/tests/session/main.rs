//! The worker's side of the protocol, against a daemon that does what each test tells it. What happens when that goes away is in
//! `reconnect.rs`, how handlers are called in `handlers.rs`, how programs follow each other in `programs.rs`.
#![expect(clippy::unwrap_used, reason = "what cannot be set up is a failed test")]

mod fake_daemon;
mod handlers;
mod programs;
mod reconnect;
mod together;

use core::time::Duration;

use bytes::Bytes;
use fake_daemon::{Dispatch, FakeDaemon, Session, TOKEN, assignment, attempt, soon, task_id};
use prost::Message as _;
use qtf_proto::v1::{
    DispatchResponse, ExecSpec, OutcomeKind, RefusalReason, ResultDisposition, ResultVerdict,
    StopReason, TaskOutput, TaskResult, WorkerNotice, WorkerWelcome,
};
use qtf_worker::{ExecPolicy, HandlerError, TaskContext, Worker, WorkerBuilder, WorkerError};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A worker under test with its three switches.
struct Running {
    handle: JoinHandle<Result<(), WorkerError>>,
    shutdown: Option<oneshot::Sender<()>>,
    abort: Option<oneshot::Sender<()>>,
}

impl Running {
    fn shut_down(&mut self) {
        drop(self.shutdown.take());
    }

    fn abort(&mut self) {
        drop(self.abort.take());
    }

    async fn end(self) -> Result<(), WorkerError> {
        soon(self.handle).await.unwrap()
    }
}

fn builder(daemon: &FakeDaemon) -> WorkerBuilder {
    Worker::builder(daemon.address.clone())
        .name("tester")
        .slots(2)
        .handler("wait", |context: TaskContext| async move {
            context.stopped().await;
            Ok(vec![])
        })
        .handler("stubborn", |_| async {
            core::future::pending::<()>().await;
            Ok(vec![])
        })
        .handler("fail", |_| async { Err(HandlerError::from("out of ink")) })
        .handler("hopeless", |_| async {
            Err(HandlerError::for_good("there is no such printer"))
        })
        .handler("later", |_| async {
            let pause = Duration::from_micros(6_500_001);
            Err(HandlerError::again(pause, "the printer warms up"))
        })
        .handler("panic", |_| async { panic!("a bug") })
}

/// Welcomes the worker as number 9 and gives it a task, which it runs until it is told to stop.
async fn running_a_task(daemon: &mut FakeDaemon) -> (Session, Dispatch) {
    let (mut session, dispatch) = daemon.accept(9).await;
    dispatch
        .assign(vec![assignment(attempt(1, 1), "wait", "")])
        .await;
    session.news().await;
    (session, dispatch)
}

fn run(builder: WorkerBuilder) -> Running {
    let worker = builder.build().unwrap();
    let (shutdown, on_shutdown) = oneshot::channel::<()>();
    let (abort, on_abort) = oneshot::channel::<()>();
    let handle = tokio::spawn(async move {
        let shutdown = async { drop(on_shutdown.await) };
        let abort = async { drop(on_abort.await) };
        worker.run_with_abort(shutdown, abort).await
    });
    Running {
        handle,
        shutdown: Some(shutdown),
        abort: Some(abort),
    }
}

fn shell(script: &str) -> Vec<u8> {
    let argv = ["sh", "-c", script].map(|arg| Bytes::copy_from_slice(arg.as_bytes()));
    ExecSpec {
        argv: argv.to_vec(),
        ..ExecSpec::default()
    }
    .encode_to_vec()
}

fn decoded(output: &Bytes) -> TaskOutput {
    TaskOutput::decode(output.clone()).unwrap()
}

#[tokio::test]
async fn hello_says_who_the_worker_is_and_credits_are_its_capacity() {
    let mut daemon = FakeDaemon::start();
    let _worker = run(builder(&daemon).prefetch(3));
    let session = daemon.session().await;
    let hello = &session.hello;
    assert_eq!((hello.name.as_str(), hello.capacity), ("tester", 5));
    assert_eq!(hello.worker_id, 0);
    assert!(hello.kinds.iter().any(|kind| kind == "exec"));
    assert!(hello.kinds.iter().any(|kind| kind == "noop"));
    session.welcome(9, 7, vec![]).await;
    let dispatch = daemon.dispatch().await;
    assert_eq!((dispatch.first.worker_id, dispatch.first.token), (9, TOKEN));
    assert_eq!(dispatch.first.credits, 5);
}

#[tokio::test]
async fn result_is_sent_at_once_and_its_credit_follows() {
    let mut daemon = FakeDaemon::start();
    let _worker = run(builder(&daemon));
    let (mut session, mut dispatch) = daemon.accept(9).await;
    dispatch
        .assign(vec![assignment(attempt(1, 1), "echo", "hello")])
        .await;
    let report = session.news().await;
    assert!(report.started.is_empty(), "the result says it all");
    assert_eq!(report.holding, Some(0));
    let result = &report.results[0];
    assert_eq!(result.task, Some(attempt(1, 1)));
    assert_eq!(result.outcome.unwrap().kind(), OutcomeKind::Exited);
    assert_eq!(decoded(&result.output).stdout, "hello");
    assert_eq!(dispatch.request().await.credits, 1);
}

#[tokio::test]
async fn results_that_wait_go_into_one_message() {
    let mut daemon = FakeDaemon::start();
    let _worker = run(builder(&daemon).slots(64));
    let (mut session, mut dispatch) = daemon.accept(9).await;
    let tasks = (1..=64).map(|id| assignment(attempt(id, 1), "noop", ""));
    dispatch.assign(tasks.collect()).await;
    assert_eq!(session.news().await.results.len(), 64);
    assert_eq!(dispatch.request().await.credits, 64);
}

/// Registers, and assigns five tasks to a worker with one slot that takes four ahead.
async fn five_tasks(daemon: &mut FakeDaemon, kinds: [&str; 5]) -> (Session, Dispatch) {
    let session = daemon.session().await;
    session.welcome_to_silence(9, 7).await;
    let dispatch = daemon.dispatch().await;
    let payload = |kind: &str| match kind {
        "exec" => shell("exit 0"),
        _ => vec![],
    };
    let tasks = (1..).zip(kinds);
    let tasks = tasks.map(|(id, kind)| assignment(attempt(id, 1), kind, payload(kind)));
    dispatch.assign(tasks.collect()).await;
    (session, dispatch)
}

#[tokio::test]
async fn ends_that_may_wait_are_told_together_as_soon_as_half_of_what_was_taken_ahead_has_started()
{
    let mut daemon = FakeDaemon::start();
    let hour = Duration::from_secs(3600);
    let builder = builder(&daemon).slots(1).prefetch(4).gather(hour);
    let _worker = run(builder);
    let (mut session, mut dispatch) = five_tasks(&mut daemon, ["exec"; 5]).await;
    let report = session.news().await;
    let told: Vec<_> = report.results.iter().map(|result| result.task).collect();
    assert_eq!(told, [Some(attempt(1, 1)), Some(attempt(2, 1))]);
    assert!(report.started.is_empty(), "their ends say it all");
    assert_eq!(dispatch.request().await.credits, 2);
}

#[tokio::test]
async fn end_waits_for_others_no_longer_than_it_may() {
    let mut daemon = FakeDaemon::start();
    // Long enough that nothing else happens by then that the worker would look up at.
    let moment = Duration::from_millis(300);
    let builder = builder(&daemon).slots(1).prefetch(4).gather(moment);
    let _worker = run(builder);
    let kinds = ["exec", "wait", "wait", "wait", "wait"];
    let (mut session, _dispatch) = five_tasks(&mut daemon, kinds).await;
    assert_eq!(session.result().await.task, Some(attempt(1, 1)));
}

#[tokio::test]
async fn silence_is_filled_with_heartbeats_that_tell_what_is_held() {
    let mut daemon = FakeDaemon::start();
    let _worker = run(builder(&daemon));
    let (mut session, dispatch) = daemon.accept(9).await;
    dispatch
        .assign(vec![assignment(attempt(1, 1), "wait", "")])
        .await;
    assert_eq!(session.news().await.started, [attempt(1, 1)]);
    for _ in 0..3 {
        let report = session.report().await.unwrap();
        assert!(report.started.is_empty() && report.results.is_empty());
        assert_eq!(report.holding, Some(1));
        let named = report.held.expect("a heartbeat names them").tasks;
        let named: Vec<_> = named.iter().map(|one| (one.task, one.finished)).collect();
        assert_eq!(named, [(Some(attempt(1, 1)), false)]);
    }
}

#[tokio::test]
async fn probe_is_answered_with_its_number() {
    let mut daemon = FakeDaemon::start();
    let _worker = run(builder(&daemon));
    let (_session, mut dispatch) = daemon.accept(9).await;
    dispatch
        .send(DispatchResponse {
            probe: 31,
            ..DispatchResponse::default()
        })
        .await;
    let request = dispatch.request().await;
    assert_eq!((request.probe_answer, request.credits), (31, 0));
}

#[tokio::test]
async fn handler_error_panic_and_unknown_kind_are_told_apart() {
    let mut daemon = FakeDaemon::start();
    let _worker = run(builder(&daemon));
    let (mut session, dispatch) = daemon.accept(9).await;
    for (id, kind, wanted, message) in [
        (1, "fail", OutcomeKind::HandlerFailed, "out of ink"),
        (2, "panic", OutcomeKind::HandlerFailed, "panicked"),
        (3, "nothing", OutcomeKind::Refused, "no handler \"nothing\""),
        (5, "hopeless", OutcomeKind::FailedForGood, "no such printer"),
        (6, "later", OutcomeKind::Again, "warms up"),
    ] {
        dispatch
            .assign(vec![assignment(attempt(id, 1), kind, "")])
            .await;
        let result = session.result().await;
        let outcome = result.outcome.unwrap();
        assert_eq!(outcome.kind(), wanted);
        let pause_ms = if kind == "later" { 6_501 } else { 0 };
        assert_eq!(outcome.again_after_ms, pause_ms);
        let output = decoded(&result.output);
        assert!(output.message.contains(message), "{}", output.message);
    }
    dispatch
        .assign(vec![assignment(attempt(4, 1), "exec", "\u{1}\u{2}")])
        .await;
    let result = session.result().await;
    assert_eq!(result.outcome.unwrap().kind(), OutcomeKind::Refused);
}

#[tokio::test]
async fn cancel_order_stops_a_handler_and_a_stubborn_one_is_dropped_after_the_grace() {
    let mut daemon = FakeDaemon::start();
    let policy = ExecPolicy::default().stop_grace(Duration::from_millis(50));
    let _worker = run(builder(&daemon).exec(policy));
    let (mut session, dispatch) = daemon.accept(9).await;
    for (id, kind) in [(1, "wait"), (2, "stubborn")] {
        dispatch
            .assign(vec![assignment(attempt(id, 1), kind, "")])
            .await;
        assert_eq!(session.news().await.started.len(), 1);
        dispatch.stop(attempt(id, 1), StopReason::Cancelled).await;
        let result = session.result().await;
        assert_eq!(result.outcome.unwrap().kind(), OutcomeKind::Cancelled);
    }
}

#[tokio::test]
async fn timeout_is_kept_by_the_worker_and_by_order_of_the_daemon() {
    let mut daemon = FakeDaemon::start();
    let _worker = run(builder(&daemon));
    let (mut session, dispatch) = daemon.accept(9).await;
    let mut timed = assignment(attempt(1, 1), "exec", shell("sleep 1000"));
    timed.timeout_ms = 80;
    dispatch.assign(vec![timed]).await;
    let result = session.result().await;
    assert_eq!(result.outcome.unwrap().kind(), OutcomeKind::TimedOut);

    dispatch
        .assign(vec![assignment(attempt(2, 1), "exec", shell("sleep 1000"))])
        .await;
    assert_eq!(session.news().await.started.len(), 1);
    dispatch.stop(attempt(2, 1), StopReason::TimedOut).await;
    let result = session.result().await;
    assert_eq!(result.outcome.unwrap().kind(), OutcomeKind::TimedOut);
}

#[tokio::test]
async fn stale_order_ends_the_attempt_silently_and_frees_its_slot() {
    let mut daemon = FakeDaemon::start();
    let _worker = run(builder(&daemon));
    let (mut session, mut dispatch) = daemon.accept(9).await;
    dispatch
        .assign(vec![assignment(attempt(1, 1), "wait", "")])
        .await;
    assert_eq!(session.news().await.started.len(), 1);
    dispatch.stop(attempt(1, 1), StopReason::Stale).await;
    assert_eq!(dispatch.request().await.credits, 1);
    dispatch
        .assign(vec![assignment(attempt(2, 1), "noop", "")])
        .await;
    let result = session.result().await;
    assert_eq!(
        result.task,
        Some(attempt(2, 1)),
        "no result of the stale one"
    );
}

#[tokio::test]
async fn task_beyond_the_slots_waits_and_can_be_cancelled_there() {
    let mut daemon = FakeDaemon::start();
    let _worker = run(builder(&daemon).slots(1).prefetch(1));
    let (mut session, dispatch) = daemon.accept(9).await;
    let tasks = [1, 2].map(|id| assignment(attempt(id, 1), "wait", ""));
    dispatch.assign(tasks.to_vec()).await;
    assert_eq!(session.news().await.started, [attempt(1, 1)]);
    dispatch.stop(attempt(2, 1), StopReason::Cancelled).await;
    let result = session.result().await;
    assert_eq!(result.task, Some(attempt(2, 1)));
    assert_eq!(result.outcome.unwrap().kind(), OutcomeKind::Cancelled);
}

#[tokio::test]
async fn drain_finishes_what_runs_and_says_goodbye_after_the_verdict() {
    let mut daemon = FakeDaemon::start();
    let mut worker = run(builder(&daemon).slots(1).prefetch(1));
    let (mut session, dispatch) = daemon.accept(9).await;
    let gate = tempfile::tempdir().unwrap();
    let open = gate.path().join("open");
    let script = format!(
        "while [ ! -e '{}' ]; do sleep 0.01; done; echo last",
        open.display()
    );
    let tasks = [1, 2].map(|id| assignment(attempt(id, 1), "exec", shell(&script)));
    dispatch.assign(tasks.to_vec()).await;
    session.news().await;
    worker.shut_down();
    while !session.report().await.unwrap().draining {}
    std::fs::write(&open, "").unwrap();
    let result = session.result().await;
    assert_eq!(decoded(&result.output).stdout, "last\n");
    session.record(&result).await;
    let goodbye = session.news().await;
    assert!(goodbye.goodbye);
    assert_eq!(
        goodbye.holding,
        Some(1),
        "the one that waited is handed back"
    );
    drop((session, dispatch));
    assert_eq!(worker.end().await, Ok(()));
}

#[tokio::test]
async fn daemon_may_ask_for_the_drain() {
    let mut daemon = FakeDaemon::start();
    let worker = run(builder(&daemon));
    let (mut session, _dispatch) = daemon.accept(9).await;
    session
        .notify(WorkerNotice {
            drain: true,
            ..WorkerNotice::default()
        })
        .await;
    assert!(session.news().await.goodbye);
    drop(session);
    assert_eq!(worker.end().await, Ok(()));
}

#[tokio::test]
async fn drain_timeout_stops_what_runs_and_hands_it_back() {
    let mut daemon = FakeDaemon::start();
    let mut worker = run(builder(&daemon).drain_timeout(Duration::from_millis(100)));
    let (mut session, dispatch) = daemon.accept(9).await;
    dispatch
        .assign(vec![assignment(attempt(1, 1), "exec", shell("sleep 1000"))])
        .await;
    session.news().await;
    worker.shut_down();
    let goodbye = session.news().await;
    assert!(goodbye.goodbye && goodbye.results.is_empty());
    drop((session, dispatch));
    assert_eq!(worker.end().await, Ok(()));
}

#[tokio::test]
async fn abort_kills_and_leaves_at_once() {
    let mut daemon = FakeDaemon::start();
    let mut worker = run(builder(&daemon));
    let (mut session, dispatch) = daemon.accept(9).await;
    let script = "trap '' TERM; while :; do sleep 0.05; done";
    dispatch
        .assign(vec![assignment(attempt(1, 1), "exec", shell(script))])
        .await;
    session.news().await;
    worker.shut_down();
    worker.abort();
    assert!(session.news().await.goodbye);
    drop((session, dispatch));
    assert_eq!(worker.end().await, Ok(()));
}

#[tokio::test]
async fn worker_leaves_also_when_there_is_no_daemon() {
    let address = "unix:/nonexistent/qtf.sock".parse().unwrap();
    let mut worker = run(Worker::builder(address));
    worker.shut_down();
    assert_eq!(worker.end().await, Ok(()));
}

#[tokio::test]
async fn refusal_that_cannot_change_ends_the_worker_with_its_message() {
    let mut daemon = FakeDaemon::start();
    let worker = run(builder(&daemon));
    let session = daemon.session().await;
    session
        .refuse(RefusalReason::InvalidArgument, "kinds: 65 are too many")
        .await;
    let error = worker.end().await.unwrap_err();
    assert!(error.to_string().contains("65 are too many"), "{error}");
}

#[tokio::test]
async fn full_daemon_is_tried_again() {
    let mut daemon = FakeDaemon::start();
    let _worker = run(builder(&daemon));
    let session = daemon.session().await;
    session
        .refuse(
            RefusalReason::WorkersFull,
            "4095 of 4095 worker slots in use",
        )
        .await;
    let (_session, dispatch) = daemon.accept(9).await;
    assert_eq!(dispatch.first.credits, 2);
}

#[tokio::test]
async fn large_payload_is_fetched_and_large_output_uploaded() {
    let mut daemon = FakeDaemon::start();
    let _worker = run(builder(&daemon));
    let (mut session, dispatch) = daemon.accept(9).await;
    let payload: Bytes = (0..200_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    daemon
        .stored
        .lock()
        .unwrap()
        .payloads
        .insert(task_id(1), payload.clone());
    let mut task = assignment(attempt(1, 1), "echo", "");
    task.payload_bytes = 200_000;
    dispatch.assign(vec![task]).await;
    let result = session.result().await;
    assert!(result.output.is_empty(), "{:?}", decoded(&result.output));
    let stored = daemon.stored.lock().unwrap().uploads[&result.output_upload].clone();
    assert_eq!(TaskOutput::decode(&stored[..]).unwrap().stdout, payload);
}

#[tokio::test]
async fn payload_that_cannot_be_fetched_and_output_that_cannot_be_stored_are_told() {
    let mut daemon = FakeDaemon::start();
    let _worker = run(builder(&daemon));
    let (mut session, dispatch) = daemon.accept(9).await;
    let mut task = assignment(attempt(1, 1), "echo", "");
    task.payload_bytes = 200_000;
    dispatch.assign(vec![task]).await;
    let result = session.result().await;
    assert_eq!(result.outcome.unwrap().kind(), OutcomeKind::TransferFailed);
    assert!(
        decoded(&result.output)
            .message
            .contains("spill file is gone")
    );

    daemon.stored.lock().unwrap().refuse_uploads = true;
    let large = assignment(attempt(2, 1), "exec", shell("head -c 100000 /dev/zero"));
    dispatch.assign(vec![large]).await;
    let outcome = session.result().await.outcome.unwrap();
    assert_eq!(outcome.kind(), OutcomeKind::Exited);
    assert!(outcome.result_dropped);
}

#[tokio::test]
async fn output_whose_receipt_the_daemon_does_not_know_is_uploaded_again() {
    let mut daemon = FakeDaemon::start();
    let _worker = run(builder(&daemon));
    let (mut session, dispatch) = daemon.accept(9).await;
    let large = assignment(attempt(1, 1), "exec", shell("head -c 100000 /dev/zero"));
    dispatch.assign(vec![large]).await;
    let first = session.result().await;
    for _ in 0..2 {
        session.judge(&first, ResultDisposition::UploadAgain).await;
        let again = session.result().await;
        assert_eq!(again.task, first.task);
        assert_ne!(again.output_upload, first.output_upload);
        assert!(!again.outcome.unwrap().result_dropped);
    }
    assert_eq!(daemon.stored.lock().unwrap().uploads.len(), 3);
    session.record(&first).await;
    while session.report().await.unwrap().holding != Some(0) {}
    // It is judged once: its slot is free for one more, and no more than that.
    let next = assignment(attempt(2, 1), "echo", "data");
    dispatch.assign(vec![next]).await;
    assert_eq!(session.result().await.task, Some(attempt(2, 1)));
}

#[tokio::test]
async fn output_beyond_the_daemons_limit_is_cut_so_that_it_fits() {
    let mut daemon = FakeDaemon::start();
    let _worker = run(builder(&daemon));
    let (mut session, dispatch) = daemon.accept(9).await;
    let script = "head -c 5000000 /dev/zero; head -c 5000000 /dev/zero >&2";
    dispatch
        .assign(vec![assignment(attempt(1, 1), "exec", shell(script))])
        .await;
    let result = session.result().await;
    assert!(!result.outcome.unwrap().result_dropped);
    let stored = daemon.stored.lock().unwrap().uploads[&result.output_upload].clone();
    assert!(stored.len() <= 1 << 20);
    let output = TaskOutput::decode(&stored[..]).unwrap();
    let kept = u64::try_from(output.stdout.len()).unwrap();
    assert_eq!(kept + output.stdout_dropped_bytes, 5_000_000);
}

#[tokio::test]
async fn flood_beyond_the_credits_is_refused_not_hoarded() {
    let mut daemon = FakeDaemon::start();
    let _worker = run(builder(&daemon).slots(1));
    let (mut session, dispatch) = daemon.accept(9).await;
    let tasks = (1..=100).map(|id| assignment(attempt(id, 1), "wait", ""));
    dispatch.assign(tasks.collect()).await;
    let report = session.news().await;
    let refused = report.results.iter();
    let refused = refused.filter(|one| one.outcome.unwrap().kind() == OutcomeKind::Refused);
    assert!(refused.count() >= 90, "{}", report.results.len());
}

#[tokio::test]
async fn result_that_the_daemon_refuses_ends_as_a_failure_that_says_why_and_is_not_held_for_ever() {
    let mut daemon = FakeDaemon::start();
    let _worker = run(builder(&daemon));
    let (mut session, dispatch) = daemon.accept(9).await;
    dispatch
        .assign(vec![assignment(attempt(1, 1), "echo", "data")])
        .await;
    let result = session.result().await;
    let refused = |result: &TaskResult| WorkerNotice {
        verdicts: vec![ResultVerdict {
            task: result.task,
            disposition: ResultDisposition::Refused.into(),
            reason: "it is too blue".to_owned(),
        }],
        ..WorkerNotice::default()
    };
    session.notify(refused(&result)).await;
    let result = session.result().await;
    assert_eq!(result.task, Some(attempt(1, 1)));
    assert_eq!(result.outcome.unwrap().kind(), OutcomeKind::TransferFailed);
    let said = TaskOutput::decode(result.output.clone()).unwrap().message;
    assert!(said.contains("it is too blue"), "{said}");
    // Refused again, it goes, and its room is free.
    session.notify(refused(&result)).await;
    dispatch
        .assign(vec![assignment(attempt(2, 1), "echo", "data")])
        .await;
    assert_eq!(session.result().await.task, Some(attempt(2, 1)));
}

#[tokio::test]
async fn worker_without_programs_offers_its_handlers_only() {
    let mut daemon = FakeDaemon::start();
    let _worker = run(builder(&daemon).without_exec());
    let session = daemon.session().await;
    let kinds = &session.hello.kinds;
    assert!(kinds.iter().any(|kind| kind == "echo"), "{kinds:?}");
    assert!(kinds.iter().all(|kind| kind != "exec"), "{kinds:?}");
}
