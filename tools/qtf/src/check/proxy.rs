//! The way between the worker that is checked and a real daemon: every call is handed on as it comes, byte for byte, and what the
//! checks are about is looked at, held back or added on its way.
//!
//! Nothing here knows what a call means but [`Wire`](super::wire::Wire), which is asked about each message. When the links are cut, all
//! connections of the worker break at once and new ones are closed, as when the daemon is killed.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes};
use futures_util::{Stream, StreamExt as _, stream};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use qtf_proto::address::Address;
use qtf_proto::limits::MESSAGE_BYTES_MAX;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::StreamingService;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use super::wire::{Call, Wire};
use crate::exit::{Exit, Failure};

const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Messages as they are.
#[derive(Debug, Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

type Messages = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;
type Answering<T> = Pin<Box<dyn Future<Output = Result<T, Status>> + Send>>;

/// One call on its way.
#[derive(Clone)]
struct Forward {
    daemon: Channel,
    wire: Arc<Wire>,
    path: http::uri::PathAndQuery,
}

impl StreamingService<Bytes> for Forward {
    type Response = Bytes;
    type ResponseStream = Messages;
    type Future = Answering<Response<Messages>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let Self { daemon, wire, path } = self.clone();
        Box::pin(async move {
            if !is_for_workers(path.path()) {
                return Err(Status::unimplemented("a check serves workers only"));
            }
            let (call, added) = wire.open(path.path());
            let up = Arc::clone(&wire);
            // A stream of the worker's that breaks is one that ends: there is nothing to tell the daemon besides.
            let requests = request.into_inner().filter_map(move |message| {
                let passed = message.ok().and_then(|bytes| up.upward(call, bytes));
                core::future::ready(passed)
            });
            let mut client = tonic::client::Grpc::new(daemon)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX);
            let ready = client.ready().await;
            ready.map_err(|error| Status::unavailable(error.to_string()))?;
            let down = Arc::clone(&wire);
            let seen = move |message: Result<Bytes, Status>| {
                message.map(|bytes| down.downward(call, bytes))
            };
            let answers: Messages = if call.is_session() {
                let over = Arc::clone(&wire);
                let over = async move { over.session_is_over(call).await };
                let requests = requests.chain(stream::pending()).take_until(over);
                let answer = client.streaming(Request::new(requests), path, Raw).await?;
                Box::pin(outliving(answer.into_inner().map(seen), call, wire))
            } else {
                let answer = client.streaming(Request::new(requests), path, Raw).await?;
                Box::pin(answer.into_inner().map(seen))
            };
            // What is added ends with the daemon's own answers.
            let answers = answers
                .map(Some)
                .chain(stream::once(core::future::ready(None)));
            let both = stream::select(answers, added.map(|bytes| Some(Ok(bytes))))
                .take_while(|message| core::future::ready(message.is_some()))
                .filter_map(core::future::ready);
            Ok(Response::new(Box::pin(both) as Messages))
        })
    }
}

/// Nobody else is let in: a client could have the worker run something.
fn is_for_workers(path: &str) -> bool {
    !path.starts_with("/qtf.v1.Plm/")
        && !path.starts_with("/qtf.v1.Admin/")
        && path != "/qtf.v1.Register/ClientSession"
}

/// The answers of a session, kept open towards the daemon when the worker's connection breaks: for the daemon all workers of this
/// process end with their session, and this one is of another process.
fn outliving(
    mut answers: impl Stream<Item = Result<Bytes, Status>> + Send + Unpin + 'static,
    call: Call,
    wire: Arc<Wire>,
) -> impl Stream<Item = Result<Bytes, Status>> + Send {
    let (to, mut given) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut over = core::pin::pin!(wire.session_is_over(call));
        loop {
            tokio::select! {
                message = answers.next() => match message {
                    // The worker may be away; the daemon's notices to it are lost then, as on any broken connection.
                    Some(message) => drop(to.send(message)),
                    None => return,
                },
                () = &mut over => return,
            }
        }
    });
    stream::poll_fn(move |cx| given.poll_recv(cx))
}

/// Whether connections of the worker are let through, and how often they were cut.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Links {
    cuts: u64,
    is_down: bool,
}

/// Serves one address.
#[derive(Debug)]
pub(super) struct Proxy {
    address: Address,
    links: watch::Sender<Links>,
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Socket for T {}

impl Proxy {
    /// Listens, and hands on what comes to `daemon`.
    pub(super) async fn start(
        address: &Address,
        daemon: Channel,
        wire: Arc<Wire>,
    ) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| {
            Failure::new(
                Exit::Unreachable,
                format!("cannot listen on {address}: {error}"),
            )
        };
        let listener = match address {
            Address::Unix(path) | Address::Own(path) => {
                Listener::Unix(UnixListener::bind(path).map_err(failed)?)
            }
            Address::Tcp(address) => {
                Listener::Tcp(TcpListener::bind(address).await.map_err(failed)?)
            }
            Address::InProcess(_) | Address::Segment(_) => {
                return Err(Failure::usage("--listen: not an address"));
            }
        };
        let links = watch::Sender::new(Links::default());
        tokio::spawn(accept(listener, daemon, wire, links.subscribe()));
        Ok(Self {
            address: address.clone(),
            links,
        })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// Breaks all connections, and lets none through until [`Self::mend`].
    pub(super) fn cut(&self) {
        self.links.send_modify(|links| {
            links.cuts += 1;
            links.is_down = true;
        });
    }

    /// Lets connections through again.
    pub(super) fn mend(&self) {
        self.links.send_modify(|links| links.is_down = false);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(path) = self.address.socket_file() {
            // It is ours; that it may be gone already does not matter.
            let _gone = std::fs::remove_file(path);
        }
    }
}

/// Accepts as long as there is a proxy.
async fn accept(
    listener: Listener,
    daemon: Channel,
    wire: Arc<Wire>,
    served: watch::Receiver<Links>,
) {
    while served.has_changed().is_ok() {
        let socket: std::io::Result<Box<dyn Socket>> = match &listener {
            Listener::Tcp(listener) => listener
                .accept()
                .await
                .map(|(socket, _)| Box::new(socket) as Box<dyn Socket>),
            Listener::Unix(listener) => listener
                .accept()
                .await
                .map(|(socket, _)| Box::new(socket) as Box<dyn Socket>),
        };
        let Ok(socket) = socket else {
            // A peer that went away before it was accepted is none; a want of descriptors passes.
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let mut links = served.clone();
        let now = *links.borrow_and_update();
        if now.is_down {
            continue;
        }
        let (daemon, wire) = (daemon.clone(), Arc::clone(&wire));
        tokio::spawn(async move {
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let path = request.uri().path_and_query().cloned();
                let forward = Forward {
                    daemon: daemon.clone(),
                    wire: Arc::clone(&wire),
                    path: path.unwrap_or_else(|| http::uri::PathAndQuery::from_static("/")),
                };
                async move {
                    let mut server = tonic::server::Grpc::new(Raw)
                        .max_decoding_message_size(MESSAGE_BYTES_MAX)
                        .max_encoding_message_size(MESSAGE_BYTES_MAX);
                    Ok::<_, core::convert::Infallible>(server.streaming(forward, request).await)
                }
            });
            let serve = http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(socket), service);
            let cut = links.wait_for(|links| links.cuts != now.cuts);
            tokio::select! {
                _ended = serve => {}
                _cut = cut => {}
            }
        });
    }
}
