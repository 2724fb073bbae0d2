//! What a peer may name at once is bounded, and what goes beyond is refused by name. Further bounds are tested where the things
//! are: watches, uploads and orders in `core_cell/`, submissions in `submit.rs`, uploads in `transfer.rs`.

use qtf_proto::refusal::refusal_of;
use qtf_proto::v1::*;
use tokio_stream::wrappers::ReceiverStream;

use crate::support::{Peer, noop, on_both, small};

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
