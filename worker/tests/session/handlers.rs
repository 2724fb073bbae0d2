//! How handlers are called: those that end at once, those that wait, those that compute, and those that panic late.

use core::iter;
use core::time::Duration;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use qtf_proto::v1::{DispatchResponse, OutcomeKind};
use qtf_worker::{HandlerError, TaskContext};
use tokio::sync::watch;

use crate::fake_daemon::{FakeDaemon, assignment, attempt};
use crate::{builder, decoded, run};

#[tokio::test]
async fn end_of_a_handler_that_does_not_wait_goes_out_together_with_the_start_of_one_that_does() {
    let mut daemon = FakeDaemon::start();
    let answer = |context: TaskContext| async move { Ok(context.payload.to_vec()) };
    let _worker = run(builder(&daemon).handler("answer", answer));
    let (mut session, mut dispatch) = daemon.accept(9).await;
    let tasks = [
        assignment(attempt(1, 1), "wait", ""),
        assignment(attempt(2, 1), "answer", "42"),
    ];
    dispatch.assign(tasks.to_vec()).await;
    let report = session.news().await;
    assert_eq!(report.started, [attempt(1, 1)]);
    assert_eq!(report.results.len(), 1);
    assert_eq!(report.results[0].task, Some(attempt(2, 1)));
    assert_eq!(decoded(&report.results[0].output).stdout, "42");
    assert_eq!(report.holding, Some(1));
    assert_eq!(dispatch.request().await.credits, 1);
}

#[tokio::test]
async fn time_limit_of_a_handler_that_waits_is_kept() {
    let mut daemon = FakeDaemon::start();
    let _worker = run(builder(&daemon));
    let (mut session, dispatch) = daemon.accept(9).await;
    let mut timed = assignment(attempt(1, 1), "wait", "");
    timed.timeout_ms = 50;
    dispatch.assign(vec![timed]).await;
    let outcome = session.result().await.outcome.unwrap();
    assert_eq!(outcome.kind(), OutcomeKind::TimedOut);
}

#[tokio::test]
async fn handler_that_panics_after_it_has_waited_has_failed_and_its_slot_is_free() {
    let mut daemon = FakeDaemon::start();
    let late = |_| async {
        tokio::task::yield_now().await;
        panic!("a late bug")
    };
    let _worker = run(builder(&daemon).slots(1).handler("late-panic", late));
    let (mut session, dispatch) = daemon.accept(9).await;
    for id in 1..=2 {
        let task = assignment(attempt(id, 1), "late-panic", "");
        dispatch.assign(vec![task]).await;
        let result = session.result().await;
        assert_eq!(result.task, Some(attempt(id, 1)));
        assert_eq!(result.outcome.unwrap().kind(), OutcomeKind::HandlerFailed);
        assert!(decoded(&result.output).message.contains("panicked"));
    }
}

/// Has its thread for a millisecond.
async fn compute(_: TaskContext) -> Result<Vec<u8>, HandlerError> {
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(1) {}
    Ok(vec![])
}

#[tokio::test]
async fn while_handlers_compute_one_after_another_what_has_ended_is_told() {
    let mut daemon = FakeDaemon::start();
    let _worker = run(builder(&daemon).slots(64).handler("compute", compute));
    let (mut session, dispatch) = daemon.accept(9).await;
    let tasks = (1..=64).map(|id| assignment(attempt(id, 1), "compute", ""));
    dispatch.assign(tasks.collect()).await;
    let mut told = Vec::new();
    while told.iter().sum::<usize>() < 64 {
        told.push(session.news().await.results.len());
    }
    assert_eq!(told, [1; 64], "the clock is looked at after each");
}

#[tokio::test]
async fn slots_that_are_free_at_the_same_time_do_not_have_handlers_compute_for_longer() {
    let mut daemon = FakeDaemon::start();
    let (open, gate) = watch::channel(false);
    let pass = move |_| {
        let mut gate = gate.clone();
        async move {
            gate.wait_for(|is_open| *is_open).await?;
            Ok(vec![])
        }
    };
    let builder = builder(&daemon).slots(32).prefetch(64);
    let builder = builder.handler("compute", compute).handler("pass", pass);
    let _worker = run(builder);
    let (mut session, dispatch) = daemon.accept(9).await;
    let kinds = iter::repeat_n("pass", 32).chain(iter::repeat_n("compute", 64));
    let tasks = (1..)
        .zip(kinds)
        .map(|(id, kind)| assignment(attempt(id, 1), kind, ""));
    dispatch.assign(tasks.collect()).await;
    assert_eq!(session.news().await.started.len(), 32);
    open.send_replace(true);
    let told = session.news().await.results.len();
    assert!(told <= 32 + 16, "{told} of 96");
    let mut all = told;
    while all < 96 {
        all += session.news().await.results.len();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn handler_that_blocks_its_thread_holds_up_no_other_where_there_are_more() {
    let mut daemon = FakeDaemon::start();
    let (release, blocked) = mpsc::channel::<()>();
    let blocked = Arc::new(Mutex::new(blocked));
    let block = move |_| {
        let blocked = Arc::clone(&blocked);
        async move {
            let _end = blocked.lock().unwrap().recv();
            Ok(vec![])
        }
    };
    let answer = |_| async { Ok(vec![]) };
    let builder = builder(&daemon).handler("block", block);
    let _worker = run(builder.handler("answer", answer));
    let (mut session, mut dispatch) = daemon.accept(9).await;
    let tasks = [
        assignment(attempt(1, 1), "block", ""),
        assignment(attempt(2, 1), "answer", ""),
    ];
    dispatch.assign(tasks.to_vec()).await;
    let result = session.result().await;
    assert_eq!(result.task, Some(attempt(2, 1)));
    let probe = DispatchResponse {
        probe: 31,
        ..DispatchResponse::default()
    };
    dispatch.send(probe).await;
    while dispatch.request().await.probe_answer != 31 {}
    release.send(()).unwrap();
    assert_eq!(session.result().await.task, Some(attempt(1, 1)));
}
