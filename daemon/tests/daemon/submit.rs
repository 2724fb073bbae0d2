//! Submissions: what is taken, what is refused and how.

use qtf_daemon::config::RawConfig;
use qtf_proto::refusal::refusal_of;
use qtf_proto::v1::*;
use tokio_stream::wrappers::ReceiverStream;

use crate::support::{Peer, noop, on_both, small};

async fn reason(peer: &mut Peer, task: TaskSpec) -> (tonic::Code, RefusalReason, String) {
    let status = peer.submit(task).await.unwrap_err();
    let refusal = refusal_of(&status).unwrap_or_default();
    (status.code(), refusal.reason(), refusal.message)
}

fn bad_tasks() -> Vec<(TaskSpec, RefusalReason)> {
    let with = |change: fn(&mut TaskSpec)| {
        let mut task = noop(b"");
        change(&mut task);
        task
    };
    vec![
        (
            with(|task| task.kind = String::new()),
            RefusalReason::InvalidArgument,
        ),
        (
            with(|task| task.priority = Some(256)),
            RefusalReason::InvalidArgument,
        ),
        (
            with(|task| task.retries = 254),
            RefusalReason::InvalidArgument,
        ),
        (
            with(|task| task.delay_ms = u64::MAX),
            RefusalReason::InvalidArgument,
        ),
        (with(|task| task.durability = 2), RefusalReason::NoJournal),
        (
            with(|task| task.durability = 77),
            RefusalReason::InvalidArgument,
        ),
        (
            with(|task| task.idempotency_key = vec![1; 15].into()),
            RefusalReason::InvalidArgument,
        ),
        (
            with(|task| task.payload_upload = 99),
            RefusalReason::UnknownUpload,
        ),
        (noop(&vec![0; 65_537]), RefusalReason::PayloadTooLarge),
        (
            with(|task| {
                task.array_member = true;
                task.array_id = u64::MAX;
            }),
            RefusalReason::UnknownTask,
        ),
    ]
}

#[test]
fn each_bad_field_is_refused_with_its_own_reason() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        for (task, expected) in bad_tasks() {
            let (code, found, message) = reason(&mut peer, task).await;
            assert_eq!(found, expected, "{message}");
            assert_ne!(code, tonic::Code::Unknown);
            assert!(!message.is_empty());
        }
        let request = SubmitTaskRequest {
            session: 12_345,
            task: Some(noop(b"")),
            ..SubmitTaskRequest::default()
        };
        let status = peer.plm.submit_task(request).await.unwrap_err();
        assert_eq!(
            refusal_of(&status).unwrap().reason(),
            RefusalReason::UnknownSession
        );
        let request = SubmitTaskRequest {
            session: 0,
            task: None,
            ..SubmitTaskRequest::default()
        };
        let status = peer.plm.submit_task(request).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
    });
}

#[test]
fn full_segment_refuses_with_a_hint_and_takes_again_when_there_is_room() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let mut ids = Vec::new();
        let refused = loop {
            match peer.submit(noop(b"")).await {
                Ok(id) => ids.push(id),
                Err(status) => break status,
            }
            assert!(ids.len() <= 5_000, "never full");
        };
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        let refusal = refusal_of(&refused).unwrap();
        assert_eq!(refusal.reason(), RefusalReason::TasksFull);
        assert!(refusal.retry_after_ms > 0);
        let selection = TaskSelection {
            task_ids: vec![ids[0]],
            ..TaskSelection::default()
        };
        peer.plm.cancel_tasks(selection.clone()).await.unwrap();
        let verdict = peer
            .plm
            .forget_tasks(selection)
            .await
            .unwrap()
            .into_inner()
            .verdicts
            .remove(0);
        assert_eq!(verdict.refusal, None);
        peer.submit(noop(b"")).await.unwrap();
    });
}

#[test]
fn batches_are_answered_entry_by_entry_in_order() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let large = noop(&vec![7; 60_000]);
        let bad = TaskSpec {
            priority: Some(999),
            ..noop(b"")
        };
        let tasks = vec![
            noop(b"1"),
            bad,
            large.clone(),
            large.clone(),
            large,
            noop(b"2"),
        ];
        let request = SubmitStreamRequest {
            session: 0,
            batch: 42,
            tasks,
            ..SubmitStreamRequest::default()
        };
        let mut answers = peer
            .plm
            .submit_stream(tokio_stream::iter([request]))
            .await
            .unwrap()
            .into_inner();
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!(answer.batch, 42);
        let accepted: Vec<bool> = answer
            .verdicts
            .iter()
            .map(|verdict| verdict.task_id != 0)
            .collect();
        assert_eq!(accepted, [true, false, true, true, true, true]);
        assert!(answers.message().await.unwrap().is_none());
    });
}

#[test]
fn known_key_gives_the_first_task_until_it_is_given_back() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let task = TaskSpec {
            idempotency_key: vec![7; 16].into(),
            ..noop(b"")
        };
        let batch = |tasks, received_keys| SubmitStreamRequest {
            tasks,
            received_keys,
            ..SubmitStreamRequest::default()
        };
        let unknown = vec![9; 16].into();
        let requests = [
            batch(vec![task.clone(), task.clone()], vec![]),
            batch(vec![], vec![unknown, vec![1].into(), vec![7; 16].into()]),
            batch(vec![task.clone()], vec![]),
        ];
        let requests = tokio_stream::iter(requests);
        let mut answers = peer.plm.submit_stream(requests).await.unwrap().into_inner();
        let mut verdicts = Vec::new();
        while let Some(answer) = answers.message().await.unwrap() {
            verdicts.extend(answer.verdicts);
        }
        let [first, again, other] = verdicts.as_slice() else {
            panic!("{verdicts:?}");
        };
        assert_eq!((first.task_id, first.is_repeat), (again.task_id, false));
        assert!(again.is_repeat && !again.result_expired);
        assert!(other.task_id != first.task_id && !other.is_repeat);
    });
}

#[test]
fn members_of_an_array_carry_the_first_members_id() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let member = |index| TaskSpec {
            array_member: true,
            array_index: index,
            ..noop(b"")
        };
        let batch = |tasks| SubmitStreamRequest {
            as_array: true,
            tasks,
            ..Default::default()
        };
        let requests = [batch(vec![member(0), member(1)]), batch(vec![member(2)])];
        let mut answers = peer
            .plm
            .submit_stream(tokio_stream::iter(requests))
            .await
            .unwrap()
            .into_inner();
        let mut ids = Vec::new();
        while let Some(answer) = answers.message().await.unwrap() {
            ids.extend(answer.verdicts.iter().map(|verdict| verdict.task_id));
        }
        assert_eq!(ids.len(), 3);
        for (task_id, index) in ids.iter().zip(0..) {
            let request = GetTaskRequest { task_id: *task_id };
            let info = peer.plm.get_task(request).await.unwrap().into_inner();
            assert_eq!((info.array_id, info.array_index), (ids[0], index));
        }
    });
}

#[test]
fn batch_over_the_limit_ends_the_stream_with_the_limit() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let tasks = vec![noop(b""); 1025];
        let request = SubmitStreamRequest {
            tasks,
            ..SubmitStreamRequest::default()
        };
        let mut answers = peer
            .plm
            .submit_stream(tokio_stream::iter([request]))
            .await
            .unwrap()
            .into_inner();
        let status = answers.message().await.unwrap_err();
        assert!(status.message().contains("at most 1024"), "{status}");
    });
}

#[test]
fn message_over_the_limit_is_refused_and_the_connection_lives() {
    let raw = RawConfig {
        message_bytes_max: Some(128 << 10),
        ..small()
    };
    on_both(&raw, |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let status = peer.submit(noop(&vec![0; 200_000])).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::OutOfRange, "{status}");
        peer.submit(noop(b"")).await.unwrap();
    });
}

#[test]
fn client_that_disconnects_in_mid_stream_loses_no_accepted_task() {
    on_both(&small(), |daemon| async move {
        let task_id = {
            let mut peer = Peer::new(&daemon).await;
            let (sender, requests) = tokio::sync::mpsc::channel(4);
            let request = SubmitStreamRequest {
                tasks: vec![noop(b"x")],
                ..Default::default()
            };
            sender.send(request).await.unwrap();
            let mut answers = peer
                .plm
                .submit_stream(ReceiverStream::new(requests))
                .await
                .unwrap()
                .into_inner();
            answers.message().await.unwrap().unwrap().verdicts[0].task_id
        };
        let mut later = Peer::new(&daemon).await;
        assert_ne!(later.state(task_id).await, TaskState::Unspecified);
    });
}
