//! What goes together in one message, with a daemon that takes it so.

use super::*;

/// Welcomes a worker to a daemon that takes credits with reports.
async fn accept(daemon: &mut FakeDaemon) -> (Session, Dispatch) {
    let session = daemon.session().await;
    let welcome = WorkerWelcome {
        worker_id: 9,
        token: TOKEN,
        segment_id: 7,
        // None while the test lasts.
        heartbeat_ms: u32::MAX,
        lease_ms: 1_000,
        credits_in_reports: true,
        ..WorkerWelcome::default()
    };
    session
        .notify(WorkerNotice {
            welcome: Some(welcome),
            ..WorkerNotice::default()
        })
        .await;
    (session, daemon.dispatch().await)
}

#[tokio::test]
async fn credits_ride_with_the_result_and_its_report_is_recorded_by_number_beside_the_next_task() {
    let mut daemon = FakeDaemon::start();
    let _worker = run(builder(&daemon));
    let (mut session, dispatch) = accept(&mut daemon).await;
    dispatch
        .assign(vec![assignment(attempt(1, 1), "noop", "")])
        .await;
    let report = session.news().await;
    assert_eq!((report.credits, report.results.len()), (1, 1));
    assert!(report.number > 0);
    // The first is its own still as long as nothing is said of it, and then it is not run again.
    dispatch
        .send(DispatchResponse {
            recorded: vec![report.number],
            assignments: vec![
                assignment(attempt(1, 1), "noop", ""),
                assignment(attempt(2, 1), "noop", ""),
            ],
            ..DispatchResponse::default()
        })
        .await;
    let next = session.news().await;
    assert_eq!(next.results.len(), 1);
    assert_eq!(next.results[0].task, Some(attempt(2, 1)));
    assert!(next.number > report.number && next.credits == 2);
    assert_eq!(next.holding, Some(0), "nothing is left of the first");
}

#[tokio::test]
async fn credits_are_not_said_in_a_report_before_the_daemon_has_read_the_first_request() {
    let mut daemon = FakeDaemon::start();
    let _worker = run(builder(&daemon).slots(1));
    let (mut session, dispatch) = accept(&mut daemon).await;
    dispatch
        .assign(vec![assignment(attempt(1, 1), "noop", "")])
        .await;
    assert_eq!(session.news().await.credits, 1);
    drop((session, dispatch));
    let (mut session, mut dispatch) = accept(&mut daemon).await;
    assert_eq!(dispatch.first.credits, 0, "capacity minus held");
    let report = session.news().await;
    assert_eq!((report.results.len(), report.credits), (1, 0));
    assert_eq!(dispatch.request().await.credits, 1);
}
