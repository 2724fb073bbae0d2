//! From submission to result: assignments, credits, stops, stale results, lost workers.

use prost::Message as _;
use qtf_daemon::config::RawConfig;
use qtf_proto::v1::*;

use crate::support::{Peer, RawWorker, hello, noop, on_both, small, stdout, until};

#[test]
fn task_goes_from_submission_over_dispatch_and_result_to_its_watcher_and_is_forgotten() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let mut worker = RawWorker::join(&mut peer, hello(2), 2).await;
        let task_id = peer.submit(noop(b"work")).await.unwrap();
        let (watch, mut ends) = peer.watch().await;
        let request = WatchRequest {
            watch: vec![task_id],
            with_output: true,
            ..Default::default()
        };
        watch.send(request).await.unwrap();
        let assignment = worker.assignments().await.remove(0);
        assert_eq!(
            (assignment.kind.as_str(), &assignment.payload[..]),
            ("noop", &b"work"[..])
        );
        let task = assignment.task.unwrap();
        assert_eq!((task.task_id, task.attempt), (task_id, 1));
        assert_eq!(
            worker.finish(task, b"done").await,
            ResultDisposition::Recorded
        );
        let end = ends.message().await.unwrap().unwrap().ends.remove(0);
        assert_eq!((end.task_id, end.state()), (task_id, TaskState::Done));
        assert_eq!(
            (&end.output[..], end.worker_name.as_str()),
            (&stdout(b"done")[..], "raw")
        );
        assert_eq!(
            worker.finish(task, b"done").await,
            ResultDisposition::AlreadyRecorded
        );
        let request = WatchRequest {
            acknowledge: vec![task_id],
            ..WatchRequest::default()
        };
        watch.send(request).await.unwrap();
        until(|| async { peer.clone().state(task_id).await == TaskState::Unspecified }).await;
    });
}

#[test]
fn worker_never_gets_more_than_it_granted() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let mut worker = RawWorker::join(&mut peer, hello(4), 1).await;
        for _ in 0..4 {
            peer.submit(noop(b"")).await.unwrap();
        }
        let first = worker.assignments().await;
        assert_eq!(first.len(), 1);
        let info = peer
            .admin
            .list_workers(ListWorkersRequest {})
            .await
            .unwrap()
            .into_inner();
        assert_eq!((info.workers[0].running, info.workers[0].credits), (1, 0));
        let grant = DispatchRequest {
            credits: 2,
            ..DispatchRequest::default()
        };
        worker.grants.send(grant).await.unwrap();
        let mut more = worker.assignments().await;
        while more.len() < 2 {
            more.extend(worker.assignments().await);
        }
        assert_eq!(more.len(), 2);
    });
}

#[test]
fn task_that_its_worker_puts_off_says_why_and_until_when_and_is_handed_out_again() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let mut worker = RawWorker::join(&mut peer, hello(4), 4).await;
        let task_id = peer.submit(noop(b"")).await.unwrap();
        let task = worker.assignments().await.remove(0).task.unwrap();
        let put_off = |task, again_after_ms| TaskResult {
            task: Some(task),
            outcome: Some(Outcome {
                kind: OutcomeKind::Again.into(),
                again_after_ms,
                ..Outcome::default()
            }),
            output: TaskOutput {
                message: "the printer warms up".into(),
                ..TaskOutput::default()
            }
            .encode_to_vec()
            .into(),
            ..TaskResult::default()
        };
        let verdict = worker.verdict(put_off(task, 2_592_000_001)).await;
        assert_eq!(verdict.disposition(), ResultDisposition::Refused);
        assert!(verdict.reason.contains("30 days"), "{}", verdict.reason);
        let told = worker.report(put_off(task, 3_600_000)).await;
        assert_eq!(told, ResultDisposition::Recorded);
        let info = peer.plm.get_task(GetTaskRequest { task_id }).await;
        let info = info.unwrap().into_inner();
        assert_eq!(info.state(), TaskState::Delayed);
        assert_eq!(info.again_reason, "the printer warms up");
        assert!(
            (3_500_001..=3_600_000).contains(&info.due_in_ms),
            "{info:?}"
        );
        assert_eq!((info.failures, info.losses), (0, 0));

        let other = peer.submit(noop(b"")).await.unwrap();
        let task = worker.assignments().await.remove(0).task.unwrap();
        assert_eq!((task.task_id, task.attempt), (other, 1));
        worker.report(put_off(task, 1)).await;
        let task = worker.assignments().await.remove(0).task.unwrap();
        assert_eq!((task.task_id, task.attempt), (other, 2));
    });
}

#[test]
fn result_that_is_not_the_workers_is_stale_and_counted() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let mut worker = RawWorker::join(&mut peer, hello(1), 1).await;
        peer.submit(noop(b"")).await.unwrap();
        let task = worker.assignments().await.remove(0).task.unwrap();
        let wrong_attempt = TaskRef { attempt: 2, ..task };
        assert_eq!(
            worker.finish(wrong_attempt, b"").await,
            ResultDisposition::Stale
        );
        let nonsense = TaskRef {
            task_id: u64::MAX,
            attempt: 1,
        };
        assert_eq!(worker.finish(nonsense, b"").await, ResultDisposition::Stale);
        assert_eq!(worker.finish(task, b"").await, ResultDisposition::Recorded);
        assert_eq!(peer.counter("result_stale").await, 1);
    });
}

#[test]
fn running_task_is_told_to_stop_when_it_is_cancelled() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let mut worker = RawWorker::join(&mut peer, hello(1), 1).await;
        let task_id = peer.submit(noop(b"")).await.unwrap();
        let task = worker.assignments().await.remove(0).task.unwrap();
        let selection = TaskSelection {
            task_ids: vec![task_id, 1 << 63],
            ..TaskSelection::default()
        };
        let verdicts = peer
            .plm
            .cancel_tasks(selection)
            .await
            .unwrap()
            .into_inner()
            .verdicts;
        assert_eq!(verdicts[0].refusal, None);
        assert!(verdicts[1].refusal.is_some());
        let stop = worker
            .orders
            .message()
            .await
            .unwrap()
            .unwrap()
            .stops
            .remove(0);
        assert_eq!(
            (stop.task.unwrap(), stop.reason()),
            (task, StopReason::Cancelled)
        );
        let outcome = Outcome {
            kind: OutcomeKind::Cancelled.into(),
            ..Outcome::default()
        };
        let result = TaskResult {
            task: Some(task),
            outcome: Some(outcome),
            ..TaskResult::default()
        };
        assert_eq!(worker.report(result).await, ResultDisposition::Recorded);
        assert_eq!(peer.state(task_id).await, TaskState::Cancelled);
    });
}

#[test]
fn task_of_a_worker_that_ends_in_this_process_goes_to_another_with_the_next_attempt() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let mut doomed = Peer::new(&daemon).await;
        let mut worker = RawWorker::join(&mut doomed, hello(1), 1).await;
        peer.submit(noop(b"")).await.unwrap();
        let old = worker.assignments().await.remove(0).task.unwrap();
        drop((worker, doomed));
        let mut other = RawWorker::join(&mut peer, hello(1), 1).await;
        let new = other.assignments().await.remove(0).task.unwrap();
        assert_eq!((new.task_id, new.attempt), (old.task_id, 2));
        assert_eq!(other.finish(old, b"").await, ResultDisposition::Stale);
        assert_eq!(other.finish(new, b"").await, ResultDisposition::Recorded);
    });
}

#[test]
fn silent_worker_is_probed_then_evicted_and_its_task_goes_on() {
    let raw = RawConfig {
        lease_ms: Some(150),
        heartbeat_ms: Some(50),
        probe_ms: Some(100),
        ..small()
    };
    on_both(&raw, |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let mut worker = RawWorker::join(&mut peer, hello(1), 1).await;
        let task_id = peer.submit(noop(b"")).await.unwrap();
        worker.assignments().await;
        // From here on it says nothing.
        let probe = worker.orders.message().await.unwrap().unwrap().probe;
        assert_ne!(probe, 0);
        let notice = worker.notices.message().await.unwrap().unwrap();
        assert!(notice.evicted);
        assert!(worker.notices.message().await.unwrap().is_none());
        until(|| async { peer.clone().state(task_id).await == TaskState::Ready }).await;
    });
}

#[test]
fn dispatch_without_a_valid_token_is_refused() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let worker = RawWorker::join(&mut peer, hello(1), 1).await;
        let forged = DispatchRequest {
            worker_id: worker.welcome.worker_id,
            token: worker.welcome.token ^ 1,
            credits: 5,
            probe_answer: 0,
        };
        let mut orders = peer
            .scheduler
            .dispatch(tokio_stream::iter([forged]))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(
            orders.message().await.unwrap_err().code(),
            tonic::Code::Unauthenticated
        );
    });
}

#[test]
fn credits_end_with_their_stream_and_a_task_meanwhile_waits_for_somebody_else() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let worker = RawWorker::join(&mut peer, hello(4), 4).await;
        let RawWorker {
            grants,
            orders,
            reports: _reports,
            notices: _notices,
            ..
        } = worker;
        drop((grants, orders));
        let credits = || async {
            let request = ListWorkersRequest {};
            let listed = peer.clone().admin.list_workers(request).await;
            listed.unwrap().into_inner().workers[0].credits
        };
        until(|| async { credits().await == 0 }).await;
        let task_id = peer.clone().submit(noop(b"")).await.unwrap();
        let mut other = RawWorker::join(&mut peer.clone(), hello(1), 1).await;
        let task = other.assignments().await.remove(0).task.unwrap();
        assert_eq!((task.task_id, task.attempt), (task_id, 1));
        assert_eq!(other.finish(task, b"").await, ResultDisposition::Recorded);
    });
}

#[test]
fn assignments_that_a_stream_has_not_sent_go_to_somebody_else_when_it_ends() {
    let raw = RawConfig {
        segment_bytes: Some(64 << 20),
        ..RawConfig::default()
    };
    // As many as a worker gets that has started nothing yet.
    const AHEAD: u32 = 64;
    on_both(&raw, |daemon| async move {
        let mut slow = Peer::new(&daemon).await;
        let mut peer = Peer::new(&daemon).await;
        let reader = RawWorker::join(&mut slow, hello(100), 100).await;
        // More than the windows of a stream hold, and the worker does not read.
        for _ in 0..AHEAD {
            peer.submit(noop(&vec![7; 60_000])).await.unwrap();
        }
        let running = || async {
            let request = ListWorkersRequest {};
            let listed = peer.clone().admin.list_workers(request).await;
            listed.unwrap().into_inner().workers[0].running
        };
        until(|| async { running().await == AHEAD }).await;
        let RawWorker {
            grants,
            orders,
            reports: _reports,
            notices: _notices,
            ..
        } = reader;
        drop((grants, orders));
        let mut other = RawWorker::join(&mut peer, hello(100), 100).await;
        // All but the few that were on their way, long before the lease of the first ends.
        let mut seen = 0;
        while seen < 40 {
            seen += other.assignments().await.len();
        }
    });
}

#[test]
fn large_backlog_of_payloads_arrives_in_several_messages_whole() {
    let raw = RawConfig {
        segment_bytes: Some(16 << 20),
        ..RawConfig::default()
    };
    on_both(&raw, |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        for number in 0..20 {
            peer.submit(noop(&vec![number; 60_000])).await.unwrap();
        }
        let mut worker = RawWorker::join(&mut peer, hello(20), 20).await;
        let mut seen = 0;
        while seen < 20 {
            for assignment in worker.assignments().await {
                assert_eq!(assignment.payload.len(), 60_000);
                assert!(assignment.payload.iter().all(|byte| *byte == seen));
                seen += 1;
            }
        }
    });
}
