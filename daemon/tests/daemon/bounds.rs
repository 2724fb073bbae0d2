//! What a peer may name at once is bounded, and what goes beyond is refused by name. Further bounds are tested where the things
//! are: watches, uploads and orders in `core/`, submissions in `submit.rs`, uploads in `transfer.rs`.

use qtf_daemon::config::RawConfig;
use qtf_proto::refusal::refusal_of;
use qtf_proto::v1::*;
use tokio_stream::wrappers::ReceiverStream;

use crate::support::{Peer, RawWorker, hello, noop, on_both, small};

fn is_refused_as_too_many(status: &tonic::Status, limit: &str) {
    let refusal = refusal_of(status).unwrap_or_default();
    assert_eq!(refusal.reason(), RefusalReason::InvalidArgument, "{status}");
    assert!(refusal.message.contains(limit), "{status}");
}

#[test]
fn keys_that_are_given_back_are_bounded_as_any_batch() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let request = |count: usize| SubmitTaskRequest {
            task: Some(noop(b"")),
            received_keys: vec![vec![1; 16].into(); count],
            ..SubmitTaskRequest::default()
        };
        peer.plm.submit_task(request(1_024)).await.unwrap();
        let refused = peer.plm.submit_task(request(1_025)).await.unwrap_err();
        is_refused_as_too_many(&refused, "at most 1024");
        let (send, requests) = tokio::sync::mpsc::channel(2);
        let batch = SubmitStreamRequest {
            batch: 1,
            received_keys: vec![vec![1; 16].into(); 1_025],
            ..SubmitStreamRequest::default()
        };
        send.send(batch).await.unwrap();
        let requests = ReceiverStream::new(requests);
        let mut answers = peer.plm.submit_stream(requests).await.unwrap().into_inner();
        is_refused_as_too_many(&answers.message().await.unwrap_err(), "at most 1024");
    });
}

#[test]
fn list_names_each_state_at_most_once() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let request = |count: usize| ListTasksRequest {
            states: vec![TaskState::Ready.into(); count],
            ..ListTasksRequest::default()
        };
        peer.plm.list_tasks(request(32)).await.unwrap();
        let refused = peer.plm.list_tasks(request(33)).await.unwrap_err();
        is_refused_as_too_many(&refused, "at most 32");
    });
}

/// A refusal that names the table and how large it is.
fn is_refused_as_full(status: &tonic::Status, reason: RefusalReason, texts: &[&str]) {
    let refusal = refusal_of(status).unwrap_or_default();
    assert_eq!(refusal.reason(), reason, "{status}");
    for text in texts {
        assert!(refusal.message.contains(text), "{status}");
    }
}

/// The first refusal of tasks that are submitted one after the other.
async fn until_refused(
    peer: &mut Peer,
    task: impl Fn(usize) -> TaskSpec,
) -> (usize, tonic::Status) {
    let mut accepted = 0;
    loop {
        match peer.submit(task(accepted)).await {
            Ok(_) => accepted += 1,
            Err(refused) => return (accepted, refused),
        }
    }
}

#[test]
fn each_table_that_is_full_is_named_in_its_refusal() {
    let raw = RawConfig {
        uploads_max: Some(3),
        ..small()
    };
    on_both(&raw, |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let info = peer.admin.get_info(GetInfoRequest {}).await.unwrap();
        let info = info.into_inner();
        // Names of kinds: what submissions may use of them.
        let kind = |number| TaskSpec {
            kind: format!("kind {number}"),
            ..noop(b"")
        };
        let (named, refused) = until_refused(&mut peer, kind).await;
        assert_eq!(named, 236, "and exec, noop and echo");
        let texts = ["table of task kinds"];
        is_refused_as_full(&refused, RefusalReason::KindsFull, &texts);
        // The arena.
        let large = |_| noop(&vec![7; 60_000]);
        let (_, refused) = until_refused(&mut peer, large).await;
        let texts = ["60000 bytes", "arena"];
        is_refused_as_full(&refused, RefusalReason::ArenaFull, &texts);
        // Task slots.
        let (_, refused) = until_refused(&mut peer, |_| noop(b"")).await;
        let slots = format!("all {} task slots", info.task_slots);
        is_refused_as_full(&refused, RefusalReason::TasksFull, &[&slots]);
        // Worker slots: each has two streams, and a connection has room for 256.
        let mut workers = Vec::new();
        for _ in 0..info.worker_slots {
            workers.push(RawWorker::join(&mut peer, hello(1), 0).await);
        }
        let report = WorkerReport {
            hello: Some(hello(1)),
            ..WorkerReport::default()
        };
        let session = tokio_stream::iter([report]);
        let mut session = match peer.register.worker_session(session).await {
            Ok(session) => session.into_inner(),
            Err(refused) => panic!("streams begin before they are refused: {refused}"),
        };
        let refused = session.message().await.unwrap_err();
        let slots = format!("all {} worker slots", info.worker_slots);
        is_refused_as_full(&refused, RefusalReason::WorkersFull, &[&slots]);
        // Uploads that nothing uses.
        let mut upload = async || {
            let chunk = UploadChunk {
                total_bytes: 70_000,
                data: vec![7; 70_000].into(),
                ..UploadChunk::default()
            };
            peer.plm.upload_payload(tokio_stream::iter([chunk])).await
        };
        for _ in 0..3 {
            upload().await.unwrap();
        }
        let refused = upload().await.unwrap_err();
        is_refused_as_full(&refused, RefusalReason::SpillFailed, &["3 uploads"]);
    });
}
