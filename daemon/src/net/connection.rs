//! One connection, from its first byte to its end: preface, HTTP/2 with bounded settings, graceful end.
//!
//! Nothing that a peer sends or leaves out here can do more than end its own connection. Tested in
//! `tests/daemon/sockets.rs`.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::TokioTimer;
use tokio::sync::{Notify, watch};

use super::Backend;
use super::edge_io::{EdgeIo, Socket};
use super::refused::{self, REFUSAL_TIME_MAX, Refusals};
use crate::edge::peer::Peer;
use crate::edge::service::{EdgeService, OpenCalls};

// LIMIT: what one connection can make us hold: these windows, the streams below, and its send buffers.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
const SEND_BUFFER_BYTES: usize = 256 << 10;
const HEADER_LIST_BYTES_MAX: u32 = 8 << 10;
// LIMIT: bounds what a flood of resets can cost.
const PENDING_RESETS_MAX: usize = 20;
const LOCAL_RESETS_MAX: usize = 256;
/// Three of these without an open call end a connection that is being shut down.
const QUIET_TICK: Duration = Duration::from_millis(10);
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Bounds that come from the configuration.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectionLimits {
    pub(crate) connections: usize,
    pub(crate) streams: u32,
    pub(crate) handshake: Duration,
}

/// Comes back when a connection that is being shut down has had no open call for a moment: a peer that does
/// not answer the shutdown holds nobody up then.
async fn no_calls_left(calls: &OpenCalls) {
    let mut quiet = 0;
    while quiet < 3 {
        tokio::time::sleep(QUIET_TICK).await;
        quiet = if calls.is_none() { quiet + 1 } else { 0 };
    }
}

/// What all connections of the daemon share.
pub(crate) struct Connections {
    backend: Backend,
    limits: ConnectionLimits,
    service: EdgeService,
    open: Cell<usize>,
    was_full: Cell<bool>,
    refusals: Refusals,
    all_closed: Notify,
    stop: watch::Receiver<bool>,
}

struct Open(Rc<Connections>);

impl Drop for Open {
    fn drop(&mut self) {
        let open = self.0.open.get().saturating_sub(1);
        self.0.open.set(open);
        if open == 0 {
            self.0.all_closed.notify_waiters();
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct OnThisThread;

impl<F> hyper::rt::Executor<F> for OnThisThread
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

impl Connections {
    /// No connections yet. `stop` becomes true when open ones are to end.
    pub(crate) fn new(
        backend: Backend,
        limits: ConnectionLimits,
        service: EdgeService,
        stop: watch::Receiver<bool>,
    ) -> Rc<Self> {
        Rc::new(Self {
            backend,
            limits,
            service,
            open: Cell::new(0),
            was_full: Cell::new(false),
            refusals: Refusals::default(),
            all_closed: Notify::new(),
            stop,
        })
    }

    /// Serves one more connection, unless there are too many.
    pub(crate) fn take(self: &Rc<Self>, socket: Socket) {
        if self.open.get() >= self.limits.connections {
            if !self.was_full.replace(true) {
                tracing::warn!(
                    connections = self.limits.connections,
                    "connection refused: all are in use; raise connections_max"
                );
            }
            return self.refuse(socket);
        }
        self.was_full.set(false);
        self.open.set(self.open.get().saturating_add(1));
        let open = Open(Rc::clone(self));
        tokio::task::spawn_local(async move { open.0.serve(socket).await });
    }

    /// Says why a connection is not served, and ends it.
    fn refuse(self: &Rc<Self>, socket: Socket) {
        let Some(place) = self.refusals.place() else {
            return refused::say_goodbye(&socket, self.limits.connections);
        };
        let connections = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let refusing = connections.serve_refusal(socket);
            if tokio::time::timeout(REFUSAL_TIME_MAX, refusing)
                .await
                .is_err()
            {
                tracing::debug!("a refused connection did not end by itself");
            }
            drop(place);
        });
    }

    /// Serves a connection as far as its first call.
    async fn serve_refusal(&self, socket: Socket) {
        let Ok(io) = EdgeIo::new(socket, self.backend) else {
            return;
        };
        let connections_max = self.limits.connections;
        let is_told = Rc::new(Notify::new());
        let told = Rc::clone(&is_told);
        let service = hyper::service::service_fn(move |_| {
            told.notify_one();
            std::future::ready(Ok::<_, Infallible>(refused::answer(connections_max)))
        });
        let connection = self.http2().serve_connection(io, service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            biased;
            _ = connection.as_mut() => return,
            () = is_told.notified() => connection.as_mut().graceful_shutdown(),
        }
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a refused connection broke");
        }
    }

    /// Waits until none is open.
    pub(crate) async fn all_closed(&self) {
        while self.open.get() > 0 {
            let closed = self.all_closed.notified();
            if self.open.get() == 0 {
                return;
            }
            closed.await;
        }
    }

    async fn serve(&self, socket: Socket) {
        let peer = Arc::new(Peer::of(&socket));
        let mut io = match EdgeIo::new(socket, self.backend) {
            Ok(io) => io,
            Err(error) => {
                tracing::debug!(%peer, %error, "connection not taken");
                return;
            }
        };
        let mut stop = self.stop.clone();
        let greeting = tokio::time::timeout(self.limits.handshake, io.speaks_http2());
        let greeting = tokio::select! {
            biased;
            greeting = greeting => greeting,
            _ = stop.wait_for(|stop| *stop) => return tracing::debug!(%peer, "silent at the stop, closed"),
        };
        match greeting {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => return tracing::debug!(%peer, "not HTTP/2, closed"),
            Ok(Err(error)) => return tracing::debug!(%peer, %error, "closed before it spoke"),
            Err(_) => return tracing::debug!(%peer, "silent, closed"),
        }
        self.serve_http2(io, peer).await;
    }

    async fn serve_http2(&self, io: EdgeIo, peer: Arc<Peer>) {
        let mut stop = self.stop.clone();
        let calls = OpenCalls::default();
        let service = self.service.for_peer(Arc::clone(&peer), calls.clone());
        let connection = self.http2().serve_connection(io, service);
        let mut connection = std::pin::pin!(connection);
        let result = tokio::select! {
            biased;
            result = connection.as_mut() => result,
            _ = stop.wait_for(|stop| *stop) => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    biased;
                    result = connection => result,
                    () = no_calls_left(&calls) => Ok(()),
                }
            }
        };
        if let Err(error) = result {
            tracing::debug!(%peer, %error, "connection broke");
        }
    }

    fn http2(&self) -> http2::Builder<OnThisThread> {
        let mut builder = http2::Builder::new(OnThisThread);
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .max_concurrent_streams(self.limits.streams)
            .max_header_list_size(HEADER_LIST_BYTES_MAX)
            .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
            .max_local_error_reset_streams(LOCAL_RESETS_MAX)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT);
        builder
    }
}
