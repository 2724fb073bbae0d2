//! Payloads and outputs that are too large for a message.

use qtf_daemon::config::RawConfig;
use qtf_proto::refusal::refusal_of;
use qtf_proto::v1::*;

use crate::support::{Peer, RawWorker, hello, noop, on_both, small};

fn chunks(session: u64, announced: u64, bytes: &[u8]) -> Vec<UploadChunk> {
    bytes
        .chunks(64 << 10)
        .enumerate()
        .map(|(number, data)| UploadChunk {
            session,
            total_bytes: if number == 0 { announced } else { 0 },
            data: data.to_vec().into(),
        })
        .collect()
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|index| u8::try_from(index % 251).unwrap())
        .collect()
}

async fn collect(mut stream: tonic::Streaming<OutputChunk>) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(chunk) = stream.message().await.unwrap() {
        all.extend_from_slice(&chunk.data);
    }
    all
}

#[test]
fn repeat_of_a_submission_that_used_its_receipt_up_is_the_same_task() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let payload = pattern(100_000);
        let upload = tokio_stream::iter(chunks(0, payload.len() as u64, &payload));
        let receipt = peer.plm.upload_payload(upload).await.unwrap();
        let task = TaskSpec {
            payload_upload: receipt.into_inner().upload,
            idempotency_key: vec![7; 16].into(),
            ..noop(b"")
        };
        let first = peer.submit(task.clone()).await.unwrap();
        assert_eq!(peer.submit(task.clone()).await.unwrap(), first);
        let other = TaskSpec {
            idempotency_key: vec![8; 16].into(),
            ..task
        };
        let refused = peer.submit(other).await.unwrap_err();
        let reason = refusal_of(&refused).unwrap().reason();
        assert_eq!(reason, RefusalReason::UnknownUpload);
    });
}

#[test]
fn large_payload_and_large_output_travel_in_chunks_unchanged() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let payload = pattern(3_000_001);
        let upload = tokio_stream::iter(chunks(0, payload.len() as u64, &payload));
        let receipt = peer
            .plm
            .upload_payload(upload)
            .await
            .unwrap()
            .into_inner()
            .upload;
        let task = TaskSpec {
            payload_upload: receipt,
            ..noop(b"")
        };
        let task_id = peer.submit(task.clone()).await.unwrap();
        let again = peer.submit(task).await.unwrap_err();
        assert_eq!(
            refusal_of(&again).unwrap().reason(),
            RefusalReason::UnknownUpload
        );

        let mut worker = RawWorker::join(&mut peer, hello(1), 1).await;
        let assignment = worker.assignments().await.remove(0);
        assert!(assignment.payload.is_empty());
        assert_eq!(assignment.payload_bytes, payload.len() as u64);
        let request = FetchPayloadRequest {
            worker_id: worker.welcome.worker_id,
            token: worker.welcome.token,
            task: assignment.task,
        };
        let fetched = peer
            .scheduler
            .fetch_payload(request)
            .await
            .unwrap()
            .into_inner();
        assert!(collect(fetched).await == payload);

        let output = pattern(2_000_003);
        let upload = chunks(worker.welcome.token, output.len() as u64, &output);
        let receipt = peer
            .register
            .upload_output(tokio_stream::iter(upload))
            .await;
        let result = TaskResult {
            task: assignment.task,
            outcome: Some(Outcome {
                kind: OutcomeKind::Exited.into(),
                ..Outcome::default()
            }),
            output_upload: receipt.unwrap().into_inner().upload,
            ..TaskResult::default()
        };
        assert_eq!(worker.report(result).await, ResultDisposition::Recorded);
        let fetched = peer
            .plm
            .fetch_output(FetchOutputRequest { task_id })
            .await
            .unwrap();
        assert!(collect(fetched.into_inner()).await == output);
    });
}

#[test]
fn result_whose_receipt_is_not_known_is_not_recorded_and_its_output_asked_for_again() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let mut worker = RawWorker::join(&mut peer, hello(1), 1).await;
        let task_id = peer.submit(noop(b"")).await.unwrap();
        let assignment = worker.assignments().await.remove(0);
        let result = |receipt| TaskResult {
            task: assignment.task,
            outcome: Some(Outcome {
                kind: OutcomeKind::Exited.into(),
                ..Outcome::default()
            }),
            output_upload: receipt,
            ..TaskResult::default()
        };
        // A receipt of the daemon before this one.
        let told = worker.report(result(4_711)).await;
        assert_eq!(told, ResultDisposition::UploadAgain);
        assert_eq!(peer.counter("result_dropped").await, 0);
        assert!(matches!(
            peer.state(task_id).await,
            TaskState::Assigned | TaskState::Running
        ));
        let output = pattern(100_000);
        let upload = chunks(worker.welcome.token, output.len() as u64, &output);
        let receipt = peer
            .register
            .upload_output(tokio_stream::iter(upload))
            .await;
        let receipt = receipt.unwrap().into_inner().upload;
        let told = worker.report(result(receipt)).await;
        assert_eq!(told, ResultDisposition::Recorded);
        // Of an attempt that is over nothing more is wanted.
        let told = worker.report(result(4_711)).await;
        assert_eq!(told, ResultDisposition::AlreadyRecorded);
        let fetched = peer
            .plm
            .fetch_output(FetchOutputRequest { task_id })
            .await
            .unwrap();
        assert!(collect(fetched.into_inner()).await == output);
    });
}

#[test]
fn upload_that_lies_about_its_size_is_refused_and_leaves_nothing() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let bytes = pattern(100_000);
        for announced in [0, 50_000, 200_000, u64::MAX] {
            let upload = tokio_stream::iter(chunks(0, announced, &bytes));
            let status = peer.plm.upload_payload(upload).await.unwrap_err();
            assert_eq!(
                status.code(),
                tonic::Code::InvalidArgument,
                "{announced}: {status}"
            );
        }
        let status = peer
            .plm
            .upload_payload(tokio_stream::iter([]))
            .await
            .unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
    });
}

#[test]
fn number_of_uploads_is_bounded_with_a_hint() {
    let raw = RawConfig {
        uploads_max: Some(2),
        ..small()
    };
    on_both(&raw, |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let upload = || tokio_stream::iter(chunks(0, 3, b"abc"));
        peer.plm.upload_payload(upload()).await.unwrap();
        let receipt = peer
            .plm
            .upload_payload(upload())
            .await
            .unwrap()
            .into_inner()
            .upload;
        let status = peer.plm.upload_payload(upload()).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        assert!(refusal_of(&status).unwrap().retry_after_ms > 0);
        peer.submit(TaskSpec {
            payload_upload: receipt,
            ..noop(b"")
        })
        .await
        .unwrap();
        peer.plm.upload_payload(upload()).await.unwrap();
    });
}

#[test]
fn bytes_of_uploads_are_bounded_with_a_hint_and_taken_again_when_there_is_room() {
    let raw = RawConfig {
        payload_bytes_max: Some(300_000),
        spill_limit_bytes: Some(500_000),
        ..small()
    };
    on_both(&raw, |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let bytes = pattern(300_000);
        let upload = || tokio_stream::iter(chunks(0, 300_000, &bytes));
        let receipt = peer.plm.upload_payload(upload()).await.unwrap();
        let status = peer.plm.upload_payload(upload()).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        let refusal = refusal_of(&status).unwrap();
        assert_eq!(refusal.reason(), RefusalReason::SpillFailed);
        assert!(refusal.retry_after_ms > 0);
        assert!(refusal.message.contains("spill_limit_bytes"), "{refusal:?}");
        let task = TaskSpec {
            payload_upload: receipt.into_inner().upload,
            ..noop(b"")
        };
        let selection = TaskSelection {
            task_ids: vec![peer.submit(task).await.unwrap()],
            ..TaskSelection::default()
        };
        peer.plm.cancel_tasks(selection.clone()).await.unwrap();
        peer.plm.forget_tasks(selection).await.unwrap();
        peer.plm.upload_payload(upload()).await.unwrap();
    });
}

#[test]
fn stranger_may_not_upload_outputs() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let upload = tokio_stream::iter(chunks(77, 3, b"abc"));
        let status = peer.register.upload_output(upload).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::Unauthenticated);
    });
}

#[test]
fn chunk_without_data_is_refused_because_it_would_hold_the_upload_open() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let mut upload = chunks(0, 200_000, &pattern(100_000));
        upload.push(UploadChunk::default());
        let status = peer
            .plm
            .upload_payload(tokio_stream::iter(upload))
            .await
            .unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert!(status.message().contains("without data"), "{status}");
    });
}
