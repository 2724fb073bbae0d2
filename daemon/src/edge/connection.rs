//! One connection, from its first byte to its end: preface, HTTP/2 with bounded settings, graceful end.
//!
//! Nothing that a peer sends or leaves out here can do more than end its own connection. Tested in
//! `tests/daemon/sockets.rs`.

use std::convert::Infallible;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::TokioTimer;
use qtf_engine::ShareRule;
use qtf_shm::sync::{AtomicBool, Ordering};
use tokio::sync::{Notify, watch};

use super::peer::{Peer, principal_of};
use super::places::{NARROW, NoPlace, Place, Places, Window};
use super::refused::{self, REFUSAL_TIME_MAX, Refusals};
use super::service::{EdgeService, OpenCalls};
use crate::core::core_cell;
use crate::net::Backend;
use crate::net::edge_io::{EdgeIo, Socket};

// LIMIT: what one connection can make us hold: its window ([`Window`]), the streams below, and their send buffers.
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
    /// What one principal may use of them.
    pub(crate) rule: ShareRule,
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

/// What all connections of the daemon share, whichever thread serves them.
pub(crate) struct Connections {
    backend: Backend,
    limits: ConnectionLimits,
    service: EdgeService,
    places: Places,
    was_full: AtomicBool,
    refusals: Refusals,
    all_closed: Notify,
    stop: watch::Receiver<bool>,
}

struct Open {
    connections: Arc<Connections>,
    place: Option<Place>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.place = None;
        if self.connections.places.taken() == 0 {
            self.connections.all_closed.notify_waiters();
        }
    }
}

/// A connection that has its place and is not served yet.
pub(crate) struct Admitted {
    open: Open,
    socket: Socket,
    window: Window,
}

impl Admitted {
    /// Serves it, on the calling thread from now on.
    pub(crate) fn serve(self) {
        let Self {
            open,
            socket,
            window,
        } = self;
        tokio::task::spawn_local(async move {
            open.connections.serve(socket, window).await;
        });
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
    ) -> Arc<Self> {
        Arc::new(Self {
            backend,
            places: Places::new(limits.connections, limits.rule),
            limits,
            service,
            was_full: AtomicBool::new(false),
            refusals: Refusals::default(),
            all_closed: Notify::new(),
            stop,
        })
    }

    /// Serves one more connection on the calling thread, unless there are too many, or too many of its principal.
    pub(crate) fn take(self: &Arc<Self>, socket: Socket) {
        if let Some(admitted) = self.admit(socket) {
            admitted.serve();
        }
    }

    /// Gives a connection its place. If there are too many, or too many of its principal, it is refused, on the calling thread, which
    /// is the same one for all.
    pub(crate) fn admit(self: &Arc<Self>, socket: Socket) -> Option<Admitted> {
        let place = match self.places.take(principal_of(&socket)) {
            Ok(place) => place,
            Err(why) => {
                // ORDERING: for the log, and of one thread.
                if !self.was_full.swap(true, Ordering::Relaxed) {
                    let why = refused::no_room(why).message;
                    tracing::warn!("connection refused: {why}");
                }
                self.refuse(socket, why);
                return None;
            }
        };
        // ORDERING: as above.
        self.was_full.store(false, Ordering::Relaxed);
        let window = place.window;
        let open = Open {
            connections: Arc::clone(self),
            place: Some(place),
        };
        Some(Admitted {
            open,
            socket,
            window,
        })
    }

    /// Says why a connection is not served, and ends it.
    fn refuse(self: &Arc<Self>, socket: Socket, why: NoPlace) {
        let Some(place) = self.refusals.place() else {
            return refused::say_goodbye(&socket, why);
        };
        let connections = Arc::clone(self);
        tokio::task::spawn_local(async move {
            let refusing = connections.serve_refusal(socket, why);
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
    async fn serve_refusal(&self, socket: Socket, why: NoPlace) {
        let Ok(io) = EdgeIo::new(socket, self.backend, core_cell::poke) else {
            return;
        };
        let is_told = Rc::new(Notify::new());
        let told = Rc::clone(&is_told);
        let service = hyper::service::service_fn(move |_| {
            told.notify_one();
            std::future::ready(Ok::<_, Infallible>(refused::answer(why)))
        });
        let connection = self.http2(NARROW).serve_connection(io, service);
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
        while self.places.taken() > 0 {
            let closed = self.all_closed.notified();
            if self.places.taken() == 0 {
                return;
            }
            closed.await;
        }
    }

    async fn serve(&self, socket: Socket, window: Window) {
        let peer = Arc::new(Peer::of(&socket));
        let mut io = match EdgeIo::new(socket, self.backend, core_cell::poke) {
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
        self.serve_http2(io, peer, window).await;
    }

    async fn serve_http2(&self, io: EdgeIo, peer: Arc<Peer>, window: Window) {
        let mut stop = self.stop.clone();
        let calls = OpenCalls::default();
        let service = self.service.for_peer(Arc::clone(&peer), calls.clone());
        let connection = self.http2(window).serve_connection(io, service);
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

    fn http2(&self, window: Window) -> http2::Builder<OnThisThread> {
        let mut builder = http2::Builder::new(OnThisThread);
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(window.stream_bytes)
            .initial_connection_window_size(window.connection_bytes)
            .max_send_buf_size(window.send_bytes)
            .max_concurrent_streams(self.limits.streams)
            .max_header_list_size(HEADER_LIST_BYTES_MAX)
            .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
            .max_local_error_reset_streams(LOCAL_RESETS_MAX)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT);
        builder
    }
}
