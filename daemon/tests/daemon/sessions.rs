//! Sessions of workers and clients: hello, reconnect, goodbye, drain, and the daemon's stop.

use qtf_proto::refusal::refusal_of;
use qtf_proto::v1::*;
use tokio_stream::wrappers::ReceiverStream;

use crate::support::{Peer, RawWorker, hello, noop, on_both, small, stdout, until};

async fn client_session(
    peer: &mut Peer,
    name: &str,
) -> (
    tokio::sync::mpsc::Sender<ClientHeartbeat>,
    tonic::Streaming<ClientNotice>,
    ClientWelcome,
) {
    let (beats, requests) = tokio::sync::mpsc::channel(4);
    let hello = ClientHello {
        name: name.into(),
        host: "here".into(),
        pid: 1,
        ..ClientHello::default()
    };
    beats
        .send(ClientHeartbeat { hello: Some(hello) })
        .await
        .unwrap();
    let call = peer.register.client_session(ReceiverStream::new(requests));
    let mut notices = call.await.unwrap().into_inner();
    let welcome = notices.message().await.unwrap().unwrap().welcome.unwrap();
    (beats, notices, welcome)
}

#[test]
fn client_is_listed_while_its_session_is_open_and_its_tasks_outlive_it() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let session = client_session(&mut peer, "tester").await;
        let request = SubmitTaskRequest {
            session: session.2.session,
            task: Some(noop(b"")),
            ..SubmitTaskRequest::default()
        };
        let task_id = peer
            .plm
            .submit_task(request)
            .await
            .unwrap()
            .into_inner()
            .task_id;
        let clients = |mut peer: Peer| async move {
            peer.admin
                .list_clients(ListClientsRequest {})
                .await
                .unwrap()
                .into_inner()
                .clients
        };
        let listed = clients(peer.clone()).await;
        assert_eq!(
            (listed[0].name.as_str(), listed[0].connections),
            ("tester", 1)
        );
        assert_eq!(
            (listed[0].tasks_unfinished, listed[0].address.as_str()),
            (1, "in-process")
        );
        drop(session);
        until(|| async { clients(peer.clone()).await[0].connections == 0 }).await;
        assert_eq!(
            peer.state(task_id).await,
            TaskState::Blocked.max(peer.state(task_id).await)
        );
    });
}

#[test]
fn both_welcomes_say_the_version_of_the_protocol_and_the_limits_of_the_daemon() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let limits = Limits {
            batch_entries_max: 1024,
            chunk_bytes_max: 256 << 10,
            inline_bytes_max: 65_536,
            message_bytes_max: 4 << 20,
        };
        let (_beats, _notices, client) = client_session(&mut peer, "tester").await;
        assert_eq!((client.protocol_version, client.limits), (1, Some(limits)));
        let worker = RawWorker::join(&mut peer, hello(1), 0).await.welcome;
        assert_eq!((worker.protocol_version, worker.limits), (1, Some(limits)));
    });
}

#[test]
fn peer_that_needs_a_newer_protocol_is_refused_with_both_versions() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let newer = WorkerHello {
            protocol_version: 2,
            ..hello(1)
        };
        let reports = tokio_stream::iter([WorkerReport {
            hello: Some(newer),
            ..WorkerReport::default()
        }]);
        let call = peer.register.worker_session(reports).await;
        let worker = call.unwrap().into_inner().message().await.unwrap_err();
        let newer = ClientHello {
            name: "newer".into(),
            protocol_version: 7,
            ..ClientHello::default()
        };
        let beats = tokio_stream::iter([ClientHeartbeat { hello: Some(newer) }]);
        let call = peer.register.client_session(beats).await;
        let client = call.unwrap().into_inner().message().await.unwrap_err();
        for (status, needed) in [(worker, "version 2"), (client, "version 7")] {
            let refusal = refusal_of(&status).expect("it has a reason");
            assert_eq!(refusal.reason(), RefusalReason::Unsupported);
            assert!(refusal.message.contains(needed), "{}", refusal.message);
            assert!(
                refusal.message.contains("speaks version 1"),
                "{}",
                refusal.message
            );
        }
        let joined = RawWorker::join(
            &mut peer,
            WorkerHello {
                protocol_version: 1,
                ..hello(1)
            },
            0,
        );
        assert_ne!(joined.await.welcome.worker_id, 0);
    });
}

#[test]
fn session_that_does_not_begin_with_a_hello_is_refused() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let beats = tokio_stream::iter([ClientHeartbeat::default()]);
        let mut notices = peer
            .register
            .client_session(beats)
            .await
            .unwrap()
            .into_inner();
        assert_eq!(
            notices.message().await.unwrap_err().code(),
            tonic::Code::InvalidArgument
        );
        let reports = tokio_stream::iter([WorkerReport::default()]);
        let mut notices = peer
            .register
            .worker_session(reports)
            .await
            .unwrap()
            .into_inner();
        assert_eq!(
            notices.message().await.unwrap_err().code(),
            tonic::Code::InvalidArgument
        );
        let bad = WorkerReport {
            hello: Some(hello(0)),
            ..WorkerReport::default()
        };
        let mut notices = peer
            .register
            .worker_session(tokio_stream::iter([bad]))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(
            notices.message().await.unwrap_err().code(),
            tonic::Code::InvalidArgument
        );
    });
}

#[test]
fn worker_that_says_goodbye_hands_its_task_back_uncounted() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let mut worker = RawWorker::join(&mut peer, hello(1), 1).await;
        let task_id = peer.submit(noop(b"")).await.unwrap();
        worker.assignments().await;
        let goodbye = WorkerReport {
            goodbye: true,
            ..WorkerReport::default()
        };
        worker.reports.send(goodbye).await.unwrap();
        while worker.notices.message().await.unwrap().is_some() {}
        until(|| async {
            matches!(
                peer.clone().state(task_id).await,
                TaskState::Ready | TaskState::Blocked
            )
        })
        .await;
        let info = peer
            .plm
            .get_task(GetTaskRequest { task_id })
            .await
            .unwrap()
            .into_inner();
        assert_eq!(info.losses, 0);
    });
}

#[test]
fn worker_that_comes_back_keeps_its_id_and_abandons_what_is_no_longer_its_own() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let mut worker = RawWorker::join(&mut peer, hello(2), 1).await;
        peer.submit(noop(b"")).await.unwrap();
        let task = worker.assignments().await.remove(0).task.unwrap();
        let stranger = TaskRef {
            task_id: task.task_id ^ 1,
            attempt: 1,
        };
        let again = WorkerHello {
            worker_id: worker.welcome.worker_id,
            token: worker.welcome.token,
            segment_id: worker.welcome.segment_id,
            held: vec![
                HeldTask {
                    task: Some(task),
                    finished: false,
                },
                HeldTask {
                    task: Some(stranger),
                    finished: false,
                },
            ],
            ..hello(2)
        };
        // The second session replaces the first, which ends.
        let mut back = RawWorker::join(&mut peer, again, 1).await;
        assert_eq!(back.welcome.worker_id, worker.welcome.worker_id);
        assert_eq!(back.welcome.abandon, [stranger]);
        assert!(worker.notices.message().await.unwrap().is_none());
        assert_eq!(back.finish(task, b"").await, ResultDisposition::Recorded);
    });
}

#[test]
fn drained_worker_is_told_and_gets_nothing_more() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let mut worker = RawWorker::join(&mut peer, hello(1), 1).await;
        let worker_id = worker.welcome.worker_id;
        let request = DrainWorkerRequest {
            worker_id,
            reason: "test".into(),
        };
        let response = peer.admin.drain_worker(request).await.unwrap().into_inner();
        assert_eq!(response.refusal, None);
        assert!(worker.notices.message().await.unwrap().unwrap().drain);
        let workers = peer
            .admin
            .list_workers(ListWorkersRequest {})
            .await
            .unwrap()
            .into_inner();
        assert_eq!(workers.workers[0].state(), WorkerState::Draining);
        let request = DrainWorkerRequest {
            worker_id: 49 | (9 << 16),
            reason: String::new(),
        };
        let response = peer.admin.drain_worker(request).await.unwrap().into_inner();
        assert_eq!(
            response.refusal.unwrap().reason(),
            RefusalReason::UnknownWorker
        );
    });
}

#[test]
fn stopping_daemon_tells_workers_and_clients_and_ends_cleanly() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let mut worker = RawWorker::join(&mut peer, hello(1), 1).await;
        let (_beats, mut notices, _) = client_session(&mut peer, "tester").await;
        let (watch, mut ends) = peer.watch().await;
        let (_batches, none_yet) = tokio::sync::mpsc::channel(1);
        let none_yet = ReceiverStream::new(none_yet);
        let mut verdicts = peer.plm.submit_stream(none_yet).await.unwrap().into_inner();
        daemon.request_stop();
        assert!(
            worker
                .notices
                .message()
                .await
                .unwrap()
                .unwrap()
                .daemon_stopping
        );
        assert!(notices.message().await.unwrap().unwrap().daemon_stopping);
        assert!(worker.orders.message().await.unwrap().is_none());
        assert!(ends.message().await.unwrap().is_none());
        assert!(verdicts.message().await.unwrap().is_none());
        drop((watch, worker, notices, ends, verdicts, peer));
        daemon.ended().await;
        daemon.stop().unwrap();
    });
}

#[test]
fn evicted_worker_is_told_and_known_no_more() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let mut bad = RawWorker::join(&mut peer, hello(1), 1).await;
        let worker_id = bad.welcome.worker_id;
        let request = |worker_id| EvictWorkerRequest {
            worker_id,
            reason: "test".into(),
        };
        let response = peer.admin.evict_worker(request(worker_id)).await;
        assert_eq!(response.unwrap().into_inner().refusal, None);
        assert!(bad.notices.message().await.unwrap().unwrap().evicted);
        let again = peer.admin.evict_worker(request(worker_id)).await;
        assert_eq!(
            again.unwrap().into_inner().refusal.unwrap().reason(),
            RefusalReason::UnknownWorker
        );
    });
}

#[test]
fn result_that_is_none_is_refused_alone_and_the_session_goes_on() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let mut worker = RawWorker::join(&mut peer, hello(2), 2).await;
        let task = peer.submit(noop(b"")).await.unwrap();
        let held = worker.assignments().await.remove(0).task.unwrap();
        let right = TaskResult {
            task: Some(held),
            outcome: Some(Outcome {
                kind: OutcomeKind::Exited.into(),
                ..Outcome::default()
            }),
            output: stdout(b"printed"),
            output_upload: 0,
            ..TaskResult::default()
        };
        let with_outcome = |kind: i32, code: u32| TaskResult {
            outcome: Some(Outcome {
                kind,
                code,
                result_dropped: false,
                output_cut: false,
                ..Outcome::default()
            }),
            ..right.clone()
        };
        let with_output = |output: Vec<u8>| TaskResult {
            output: output.into(),
            ..right.clone()
        };
        let no_outcome = TaskResult {
            outcome: None,
            ..right.clone()
        };
        let wrong = [
            (no_outcome, "outcome is missing"),
            (with_outcome(0, 0), "outcome.kind is missing"),
            (with_outcome(8, 0), "WORKER_LOST"),
            (with_outcome(77, 0), "outcome.kind 77 is not known"),
            (with_outcome(1, 256), "outcome.code 256 is over 255"),
            (
                with_output(vec![0; 65_537]),
                "more than 65536 go through UploadOutput",
            ),
            (with_output(b"done".to_vec()), "output is no TaskOutput"),
        ];
        for (result, reason) in wrong {
            let verdict = worker.verdict(result).await;
            assert_eq!(verdict.disposition(), ResultDisposition::Refused);
            assert_eq!(verdict.task, Some(held));
            assert!(verdict.reason.contains(reason), "{}", verdict.reason);
            assert_eq!(peer.state(task).await, TaskState::Assigned);
        }
        assert_eq!(worker.report(right).await, ResultDisposition::Recorded);
        assert_eq!(peer.state(task).await, TaskState::Done);
    });
}
