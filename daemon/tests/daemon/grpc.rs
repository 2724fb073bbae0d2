//! The rules of gRPC itself: what is no call is told so, a caller's deadline is kept, half messages are bounded.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use hyper::body::Frame;
use qtf_daemon::config::RawConfig;
use qtf_proto::v1::*;
use tokio::sync::mpsc;
use tonic::Code;
use tonic::body::Body;
use tonic::transport::Channel;
use tower::Service as _;

use crate::support::{Peer, connect, noop, on_both, small, until};

/// A body whose bytes are sent one piece at a time, and that ends when its sender is dropped.
pub(crate) struct Pieces(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        self.0
            .poll_recv(cx)
            .map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

fn request(method: Method, path: &str, headers: &[(&str, &str)]) -> http::request::Builder {
    let mut request = Request::builder()
        .method(method)
        .uri(format!("http://localhost{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request
}

async fn call(channel: &mut Channel, request: Request<Body>) -> Response<Body> {
    std::future::poll_fn(|cx| channel.poll_ready(cx))
        .await
        .unwrap();
    channel.call(request).await.unwrap()
}

const GRPC: (&str, &str) = ("content-type", "application/grpc");
const TRAILERS: (&str, &str) = ("te", "trailers");
const INFO: &str = "/qtf.v1.Admin/GetInfo";

#[test]
fn what_is_no_grpc_call_is_told_so_and_reaches_no_service() {
    on_both(&small(), |daemon| async move {
        let mut channel = connect(&daemon).await;
        let mut send = async |method, headers: &[(&str, &str)]| {
            // A whole message: empty.
            let body = Body::new(one_piece(vec![0; 5]));
            let request = request(method, INFO, headers).body(body).unwrap();
            let answer = call(&mut channel, request).await;
            let status = answer.headers().get("grpc-status").cloned();
            let text = |value: http::HeaderValue| value.to_str().unwrap().to_owned();
            (answer.status().as_u16(), status.map(text))
        };
        let post = Method::POST;
        assert_eq!(send(Method::GET, &[GRPC, TRAILERS]).await, (405, None));
        assert_eq!(send(post.clone(), &[TRAILERS]).await, (415, None));
        let json = ("content-type", "application/json");
        assert_eq!(send(post.clone(), &[json, TRAILERS]).await, (415, None));
        let invalid = (200, Some("3".to_owned()));
        assert_eq!(send(post.clone(), &[GRPC]).await, invalid);
        let soon = ("grpc-timeout", "soon");
        assert_eq!(send(post.clone(), &[GRPC, TRAILERS, soon]).await, invalid);
        assert_eq!(send(post, &[GRPC, TRAILERS]).await, (200, None));
    });
}

/// A body of these bytes.
pub(crate) fn one_piece(bytes: impl Into<Bytes>) -> Pieces {
    let (sender, pieces) = mpsc::channel(1);
    sender.try_send(bytes.into()).unwrap();
    Pieces(pieces)
}

#[test]
fn stream_that_waits_ends_with_the_deadline_of_its_caller() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let task_id = peer.submit(noop(b"")).await.unwrap();
        // A stream that waits for what does not come.
        let (watch, requests) = mpsc::channel(4);
        let named = WatchRequest {
            watch: vec![task_id],
            ..WatchRequest::default()
        };
        watch.send(named).await.unwrap();
        let mut request =
            tonic::Request::new(tokio_stream::wrappers::ReceiverStream::new(requests));
        request.set_timeout(Duration::from_millis(100));
        let mut ends = peer.plm.watch(request).await.unwrap().into_inner();
        let over = ends.message().await.unwrap_err();
        assert_eq!(over.code(), Code::DeadlineExceeded);
        assert!(over.message().contains("grpc-timeout of 100ms"), "{over}");
        // The request half is gone as well: the work has ended.
        watch.closed().await;
    });
}

fn request_of(
    path: &str,
    headers: &[(&str, &str)],
    pieces: mpsc::Receiver<Bytes>,
) -> Request<Body> {
    request(Method::POST, path, headers)
        .body(Body::new(Pieces(pieces)))
        .unwrap()
}

/// LIMIT: the smallest that may be configured.
const MESSAGE_BYTES: usize = 128 << 10;

/// Begins a message of the largest size on a stream of its own, and sends all but its last byte.
async fn half_message(channel: &mut Channel) -> (mpsc::Sender<Bytes>, Response<Body>) {
    let (sender, pieces) = mpsc::channel(4);
    let upload = request_of("/qtf.v1.Plm/SubmitStream", &[GRPC, TRAILERS], pieces);
    let answer = call(channel, upload).await;
    let mut bytes = vec![0];
    bytes.extend_from_slice(&u32::try_from(MESSAGE_BYTES).unwrap().to_be_bytes());
    bytes.resize(4 + MESSAGE_BYTES, 0);
    sender.send(bytes.into()).await.unwrap();
    (sender, answer)
}

async fn trailers(answer: &mut Response<Body>) -> http::HeaderMap {
    loop {
        let frame = std::future::poll_fn(|cx| {
            hyper::body::Body::poll_frame(Pin::new(answer.body_mut()), cx)
        });
        match frame.await {
            Some(Ok(frame)) => {
                if let Ok(trailers) = frame.into_trailers() {
                    return trailers;
                }
            }
            Some(Err(error)) => panic!("{error}"),
            None => return answer.headers().clone(),
        }
    }
}

#[test]
fn half_messages_of_one_connection_are_bounded_and_others_go_on() {
    let raw = RawConfig {
        message_bytes_max: Some(MESSAGE_BYTES as u64),
        ..small()
    };
    on_both(&raw, |daemon| async move {
        let mut channel = connect(&daemon).await;
        let mut held = Vec::new();
        for _ in 0..8 {
            held.push(half_message(&mut channel).await);
        }
        let (_sender, mut over) = half_message(&mut channel).await;
        let refused = trailers(&mut over).await;
        assert_eq!(refused["grpc-status"], "8", "{refused:?}");
        let text = refused["grpc-message"].to_str().unwrap();
        assert!(
            text.contains("half%20messages%20of%20this%20connection"),
            "{text}"
        );
        // The others are as they were, and so is everything else on this and on other connections.
        let mut other = Peer::new(&daemon).await;
        other.submit(noop(b"")).await.unwrap();
        let mut same = Peer::over(channel.clone());
        same.submit(noop(b"")).await.unwrap();
        // What they held comes back with them.
        drop(held);
        until(|| {
            let mut channel = channel.clone();
            async move {
                let (sender, mut answer) = half_message(&mut channel).await;
                // With its last byte it is a message, if none that can be read.
                let _ = sender.send(Bytes::from_static(&[0])).await;
                trailers(&mut answer).await["grpc-status"] != "8"
            }
        })
        .await;
    });
}
