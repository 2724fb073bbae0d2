//! What a worker does when its daemon goes away, comes back, or is another one: what runs goes on, and each result is told until
//! its verdict comes.

use prost::Message as _;
use qtf_proto::v1::{
    RefusalReason, ResultDisposition, ResultVerdict, StopReason, TaskOutput, WorkerNotice,
};

use crate::fake_daemon::{FakeDaemon, Session, TOKEN, assignment, attempt};
use crate::{builder, decoded, run, running_a_task, shell};

#[tokio::test]
async fn reconnect_keeps_what_runs_and_delivers_what_had_no_verdict() {
    let mut daemon = FakeDaemon::start();
    let _worker = run(builder(&daemon).slots(3));
    let (mut session, dispatch) = daemon.accept(9).await;
    let task = |id: u64, kind| assignment(attempt(id, 2), kind, "data");
    dispatch
        .assign(vec![task(1, "wait"), task(2, "echo")])
        .await;
    while session.news().await.results.is_empty() {}
    drop((session, dispatch));

    let mut session = daemon.session().await;
    let hello = session.hello.clone();
    assert_eq!(
        (hello.worker_id, hello.token, hello.segment_id),
        (9, TOKEN, 7)
    );
    let mut held: Vec<_> = hello
        .held
        .iter()
        .map(|one| (one.task.unwrap(), one.finished))
        .collect();
    held.sort_by_key(|(task, _)| task.task_id);
    assert_eq!(held, [(attempt(1, 2), false), (attempt(2, 2), true)]);
    session.welcome(9, 7, vec![]).await;
    let mut dispatch = daemon.dispatch().await;
    assert_eq!(dispatch.first.credits, 1, "capacity minus held");
    let report = session.news().await;
    assert_eq!(report.results[0].task, Some(attempt(2, 2)));
    assert_eq!(decoded(&report.results[0].output).stdout, "data");
    assert_eq!(report.started, [attempt(1, 2)]);
    assert_eq!(dispatch.request().await.credits, 1);
    session.record(&report.results[0]).await;
    dispatch.stop(attempt(1, 2), StopReason::Cancelled).await;
    assert_eq!(session.result().await.task, Some(attempt(1, 2)));
}

#[tokio::test]
async fn result_is_delivered_over_restarts_of_the_daemon_until_its_verdict_comes() {
    let mut daemon = FakeDaemon::start();
    let _worker = run(builder(&daemon).slots(3));
    let (mut session, mut dispatch) = daemon.accept(9).await;
    let task = |id: u64, kind| assignment(attempt(id, 1), kind, "data");
    dispatch
        .assign(vec![task(1, "wait"), task(2, "echo")])
        .await;
    while session.news().await.results.is_empty() {}
    // A verdict that waits for the journal comes beats later; nothing is said twice meanwhile.
    for _ in 0..3 {
        let beat = session.report().await.unwrap();
        assert!(beat.results.is_empty(), "{beat:?}");
    }
    for _ in 0..2 {
        daemon.kill();
        drop(session);
        daemon.start_again();
        session = daemon.session().await;
        let hello = &session.hello;
        assert_eq!((hello.worker_id, hello.token), (9, TOKEN));
        assert_eq!(hello.held.len(), 2);
        session.welcome(9, 7, vec![]).await;
        dispatch = daemon.dispatch().await;
        // The daemon does not know what its predecessor sent: neither is run again.
        dispatch
            .assign(vec![task(1, "wait"), task(2, "echo")])
            .await;
        let report = session.news().await;
        assert_eq!(report.results.len(), 1);
        assert_eq!(report.results[0].task, Some(attempt(2, 1)));
        assert_eq!(report.started, [attempt(1, 1)]);
    }
    let verdicts = vec![ResultVerdict {
        task: Some(attempt(2, 1)),
        disposition: ResultDisposition::Stale.into(),
        ..ResultVerdict::default()
    }];
    session
        .notify(WorkerNotice {
            verdicts,
            ..WorkerNotice::default()
        })
        .await;
    while session.report().await.unwrap().holding != Some(1) {}
    daemon.kill();
    drop((session, dispatch));
    daemon.start_again();
    let session = daemon.session().await;
    let held: Vec<_> = session.hello.held.iter().map(|one| one.task).collect();
    assert_eq!(held, [Some(attempt(1, 1))], "what is stale is dropped");
}

#[tokio::test]
async fn worker_waits_for_a_daemon_that_is_away_and_is_new_to_one_with_another_segment() {
    let mut daemon = FakeDaemon::start();
    let _worker = run(builder(&daemon));
    let (mut session, dispatch) = daemon.accept(9).await;
    dispatch
        .assign(vec![
            assignment(attempt(1, 1), "wait", ""),
            assignment(attempt(2, 1), "echo", "x"),
        ])
        .await;
    while session.news().await.results.is_empty() {}
    daemon.kill();
    drop((session, dispatch));
    daemon.called_in_vain().await;
    daemon.start_again();
    let mut session = daemon.session().await;
    assert_eq!((session.hello.segment_id, session.hello.held.len()), (7, 2));
    session.welcome(1, 8, vec![]).await;
    let mut dispatch = daemon.dispatch().await;
    // What runs keeps its slot until it has ended, and nothing of it is told.
    let mut credits = dispatch.first.credits;
    while credits < 2 {
        credits += dispatch.request().await.credits;
    }
    dispatch
        .assign(vec![assignment(attempt(1, 2), "echo", "anew")])
        .await;
    let result = session.result().await;
    assert_eq!(result.task, Some(attempt(1, 2)));
    assert_eq!(decoded(&result.output).stdout, "anew");
}

#[tokio::test]
async fn abandon_list_ends_those_attempts_without_a_result() {
    let mut daemon = FakeDaemon::start();
    let _worker = run(builder(&daemon));
    let (session, dispatch) = running_a_task(&mut daemon).await;
    drop((session, dispatch));
    let mut session = daemon.session().await;
    session.welcome(9, 7, vec![attempt(1, 1)]).await;
    let mut dispatch = daemon.dispatch().await;
    let credits = dispatch.first.credits;
    if credits == 1 {
        assert_eq!(dispatch.request().await.credits, 1);
    }
    dispatch
        .assign(vec![assignment(attempt(1, 2), "noop", "")])
        .await;
    assert_eq!(session.result().await.task, Some(attempt(1, 2)));
}

async fn assert_starts_anew(session: &Session) {
    assert_eq!(session.hello.worker_id, 0);
    assert!(session.hello.held.is_empty());
}

#[tokio::test]
async fn eviction_drops_everything_and_registers_anew() {
    let mut daemon = FakeDaemon::start();
    let _worker = run(builder(&daemon));
    let (session, _dispatch) = running_a_task(&mut daemon).await;
    session
        .notify(WorkerNotice {
            evicted: true,
            ..WorkerNotice::default()
        })
        .await;
    let mut session = daemon.session().await;
    assert_starts_anew(&session).await;
    session.welcome(10, 7, vec![]).await;
    let dispatch = daemon.dispatch().await;
    assert_eq!(dispatch.first.worker_id, 10);
    dispatch
        .assign(vec![assignment(attempt(2, 1), "noop", "")])
        .await;
    assert_eq!(
        session.result().await.task,
        Some(attempt(2, 1)),
        "no late result"
    );
}

#[tokio::test]
async fn eviction_is_heard_when_the_other_stream_ends_before_it() {
    let mut daemon = FakeDaemon::start();
    let _worker = run(builder(&daemon));
    let (session, dispatch) = running_a_task(&mut daemon).await;
    drop(dispatch);
    // Longer on its way than the end of the other stream.
    tokio::time::sleep(core::time::Duration::from_millis(100)).await;
    session
        .notify(WorkerNotice {
            evicted: true,
            ..WorkerNotice::default()
        })
        .await;
    assert_starts_anew(&daemon.session().await).await;
}

#[tokio::test]
async fn unknown_worker_starts_anew_and_a_new_segment_ends_the_old_tasks() {
    let mut daemon = FakeDaemon::start();
    let _worker = run(builder(&daemon));
    let (session, dispatch) = running_a_task(&mut daemon).await;
    drop((session, dispatch));
    let session = daemon.session().await;
    assert_eq!(session.hello.held.len(), 1);
    session
        .refuse(RefusalReason::UnknownWorker, "no worker w9.0")
        .await;
    let mut session = daemon.session().await;
    assert_starts_anew(&session).await;
    session.welcome(3, 8, vec![]).await;
    let dispatch = daemon.dispatch().await;
    dispatch
        .assign(vec![assignment(attempt(1, 1), "noop", "")])
        .await;
    assert_eq!(session.result().await.task, Some(attempt(1, 1)));
}

/// The daemon dies between the welcome and the second stream, which reaches its successor.
#[tokio::test]
async fn a_daemon_that_knows_the_worker_and_not_its_session_gets_another_hello_and_the_tasks_go_on()
{
    let mut daemon = FakeDaemon::start();
    let _worker = run(builder(&daemon));
    let (session, dispatch) = running_a_task(&mut daemon).await;
    drop((session, dispatch));
    let session = daemon.session().await;
    daemon.stored.lock().unwrap().refuse_dispatch = Some(RefusalReason::UnknownSession);
    session.welcome(9, 7, vec![]).await;
    let session = daemon.session().await;
    assert_eq!(session.hello.worker_id, 9);
    assert_eq!(session.hello.held.len(), 1, "what runs goes on");
}

#[tokio::test]
async fn daemon_that_stops_is_waited_for_while_tasks_go_on() {
    let mut daemon = FakeDaemon::start();
    let _worker = run(builder(&daemon));
    let (mut session, dispatch) = daemon.accept(9).await;
    let gate = tempfile::tempdir().unwrap();
    let open = gate.path().join("open");
    let script = format!(
        "while [ ! -e '{}' ]; do sleep 0.01; done; echo through",
        open.display()
    );
    dispatch
        .assign(vec![assignment(attempt(1, 1), "exec", shell(&script))])
        .await;
    session.news().await;
    session
        .notify(WorkerNotice {
            daemon_stopping: true,
            ..WorkerNotice::default()
        })
        .await;
    let mut session = daemon.session().await;
    assert!(!session.hello.held[0].finished);
    std::fs::write(&open, "").unwrap();
    session.welcome(9, 7, vec![]).await;
    let _dispatch = daemon.dispatch().await;
    assert_eq!(decoded(&session.result().await.output).stdout, "through\n");
}

#[tokio::test]
async fn upload_to_a_daemon_that_does_not_know_the_worker_yet_is_made_again() {
    let mut daemon = FakeDaemon::start();
    let _worker = run(builder(&daemon));
    let (mut session, dispatch) = daemon.accept(9).await;
    // A successor says so to an upload that reaches it before the worker's hello.
    daemon.stored.lock().unwrap().refuse_next = vec![RefusalReason::UnknownWorker; 2];
    let large = assignment(attempt(1, 1), "exec", shell("head -c 100000 /dev/zero"));
    dispatch.assign(vec![large]).await;
    let result = session.result().await;
    assert!(!result.outcome.unwrap().result_dropped);
    let stored = daemon.stored.lock().unwrap().uploads[&result.output_upload].clone();
    assert_eq!(
        TaskOutput::decode(&stored[..]).unwrap().stdout.len(),
        100_000
    );
}

#[tokio::test]
async fn large_output_is_uploaded_to_the_next_daemon_when_its_own_died_meanwhile() {
    let mut daemon = FakeDaemon::start();
    let _worker = run(builder(&daemon));
    let (mut session, dispatch) = daemon.accept(9).await;
    let large = assignment(attempt(1, 1), "exec", shell("head -c 100000 /dev/zero"));
    dispatch.assign(vec![large]).await;
    let first = session.result().await;
    daemon.kill();
    drop((session, dispatch));
    // Whatever is still under way to it is refused for good, and that counts for nothing.
    daemon.stored.lock().unwrap().uploads.clear();
    daemon.start_again();
    let (mut session, _dispatch) = daemon.accept(9).await;
    let again = session.result().await;
    assert_eq!(again.task, first.task);
    assert!(!again.outcome.unwrap().result_dropped);
    let stored = daemon.stored.lock().unwrap().uploads[&again.output_upload].clone();
    assert_eq!(
        TaskOutput::decode(&stored[..]).unwrap().stdout.len(),
        100_000
    );
}
