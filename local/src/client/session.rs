//! The session of a local client: its hello opens the segment, and it lasts until there is another one in its place.
//!
//! Invariant: there is one seat at a time. A new hello takes the one that is there if its segment still is the instance's, so what was begun goes
//! on.

use core::pin::Pin;
use core::time::Duration;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::Stream;
use qtf_proto::limits::{self, INLINE_BYTES_MAX};
use qtf_proto::v1::register_server::Register;
use qtf_proto::v1::{
    ClientHeartbeat, ClientNotice, ClientWelcome, RefusalReason, UploadChunk, UploadReceipt,
    WorkerNotice, WorkerReport,
};
use qtf_proto::{refusal, version};
use qtf_shm::layout::attach::AttachRole;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::seat::Seat;
use crate::instance::{Instance, OpenFailure};
use crate::refusals;
use crate::uploads::Uploads;

/// Heartbeats tell nobody anything here.
const HEARTBEAT_MS: u32 = 60_000;
/// Whether the segment still is the instance's is looked at so often.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A welcome of the core is waited for so long; without one the session opens all the same, and the daemon is away.
const WELCOME_MAX: Duration = Duration::from_millis(200);
const WELCOME_LOOK: Duration = Duration::from_millis(1);

/// The services of a local client.
#[derive(Debug, Clone)]
pub(crate) struct ClientEdge(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    instance: Instance,
    name: String,
    seat: Mutex<Option<Arc<Seat>>>,
    uploads: Uploads,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let seat = self.seat.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(seat) = seat.take() {
            seat.leave();
        }
    }
}

impl ClientEdge {
    pub(crate) fn new(instance: Instance, name: &str) -> Self {
        Self(Arc::new(Inner {
            instance,
            name: name.to_owned(),
            seat: Mutex::default(),
            uploads: Uploads::default(),
        }))
    }

    /// Where a daemon is asked for what is not answered here.
    pub(crate) fn socket(&self) -> String {
        format!("unix:{}", self.0.instance.socket().display())
    }

    pub(crate) fn uploads(&self) -> &Uploads {
        &self.0.uploads
    }

    pub(crate) fn instance(&self) -> &Instance {
        &self.0.instance
    }

    fn current(&self) -> MutexGuard<'_, Option<Arc<Seat>>> {
        self.0.seat.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The seat, if there is one.
    ///
    /// # Errors
    /// No session is open.
    pub(crate) fn seat(&self) -> Result<Arc<Seat>, Status> {
        self.current().clone().ok_or_else(refusals::unknown_session)
    }

    /// The seat of a session.
    ///
    /// # Errors
    /// The session is not open, or not any more.
    pub(crate) fn seat_of(&self, session: u64) -> Result<Arc<Seat>, Status> {
        let seat = self.seat()?;
        if session == 0 || session == seat.token {
            Ok(seat)
        } else {
            Err(refusals::unknown_session())
        }
    }

    /// Takes a seat unless there is one at the segment that is the instance's.
    pub(crate) fn try_open(&self) -> Result<Arc<Seat>, OpenFailure> {
        let mut current = self.current();
        if let Some(seat) = current.as_ref() {
            if self.is_good(seat) {
                return Ok(Arc::clone(seat));
            }
            seat.leave();
            *current = None;
        }
        let opened = self.0.instance.open(AttachRole::Client, &self.0.name)?;
        let seat = Seat::take(opened).map_err(|source| OpenFailure::Thread { source })?;
        *current = Some(Arc::clone(&seat));
        Ok(seat)
    }

    /// The seat's segment still is the one that is found under the name. While none is found, it is: its daemon may be starting.
    fn is_good(&self, seat: &Seat) -> bool {
        if !seat.attachment.is_removed() {
            return true;
        }
        let own = seat.attachment.segment_id();
        self.0.instance.segment_now().is_none_or(|now| now == own)
    }
}

/// As a status: what does not pass is a refusal.
fn status_of(failure: &OpenFailure) -> Status {
    let reason = match failure {
        OpenFailure::Full { .. } => RefusalReason::ConnectionsFull,
        OpenFailure::NotThere { .. }
        | OpenFailure::Starting { .. }
        | OpenFailure::Thread { .. } => {
            return Status::unavailable(failure.to_string());
        }
        OpenFailure::Elsewhere { .. }
        | OpenFailure::Denied { .. }
        | OpenFailure::Layout { .. }
        | OpenFailure::Untrusted { .. }
        | OpenFailure::Other { .. } => RefusalReason::Unsupported,
    };
    refusals::status(reason, failure.to_string())
}

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Register for ClientEdge {
    type WorkerSessionStream = Boxed<WorkerNotice>;
    type ClientSessionStream = Boxed<ClientNotice>;

    async fn worker_session(
        &self,
        _request: Request<Streaming<WorkerReport>>,
    ) -> Result<Response<Self::WorkerSessionStream>, Status> {
        Err(refusals::status(
            RefusalReason::Unsupported,
            "a client's transport takes no worker's session",
        ))
    }

    async fn upload_output(
        &self,
        _request: Request<Streaming<UploadChunk>>,
    ) -> Result<Response<UploadReceipt>, Status> {
        Err(refusals::status(
            RefusalReason::Unsupported,
            "a client's transport takes no outputs",
        ))
    }

    async fn client_session(
        &self,
        request: Request<Streaming<ClientHeartbeat>>,
    ) -> Result<Response<Self::ClientSessionStream>, Status> {
        let mut heartbeats = request.into_inner();
        let first = heartbeats.message().await?.and_then(|first| first.hello);
        let Some(hello) = first else {
            return Err(refusal::status_of(refusals::invalid(
                "the first message of a session must have a hello",
            )));
        };
        version::check("client", hello.protocol_version)
            .map_err(|text| refusals::status(RefusalReason::Unsupported, text))?;
        let seat = self.try_open().map_err(|failure| status_of(&failure))?;
        let (out, notices) = mpsc::channel(2);
        let welcome = welcome(&seat).await;
        let welcome = ClientNotice {
            welcome: Some(welcome),
            daemon_stopping: false,
        };
        // There is room for two.
        let _ = out.send(Ok(welcome)).await;
        tokio::spawn(stay(self.clone(), seat, heartbeats, out));
        Ok(Response::new(Box::pin(ReceiverStream::new(notices))))
    }
}

async fn welcome(seat: &Seat) -> ClientWelcome {
    let until = tokio::time::Instant::now() + WELCOME_MAX;
    let mut client = seat.client();
    let is_welcomed = seat.daemon_is_there();
    while client.is_none() && is_welcomed && tokio::time::Instant::now() < until {
        tokio::time::sleep(WELCOME_LOOK).await;
        client = seat.client();
    }
    ClientWelcome {
        session: seat.token,
        client_id: client.map_or(0, |client| client.index.get().into()),
        segment_id: seat.attachment.segment_id(),
        heartbeat_ms: HEARTBEAT_MS,
        payload_limit_bytes: seat.attachment.payload_limit(),
        payload_inline_limit_bytes: INLINE_BYTES_MAX as u64,
        key_slots: seat.attachment.keys().capacity().into(),
        protocol_version: version::PROTOCOL_VERSION,
        limits: Some(limits::limits()),
    }
}

/// Until the client goes, or its segment.
async fn stay(
    edge: ClientEdge,
    seat: Arc<Seat>,
    mut heartbeats: Streaming<ClientHeartbeat>,
    out: mpsc::Sender<Result<ClientNotice, Status>>,
) {
    // The edge ends with its client, and this with the edge.
    let inner = Arc::downgrade(&edge.0);
    drop(edge);
    loop {
        tokio::select! {
            beat = heartbeats.message() => if !matches!(beat, Ok(Some(_))) {
                return;
            },
            () = tokio::time::sleep(LOOK_EVERY) => {
                let Some(inner) = inner.upgrade() else {
                    return;
                };
                if !ClientEdge(inner).is_good(&seat) {
                    let gone = Status::unavailable("the instance has another segment now");
                    // A client that is gone does not hear it.
                    let _ = out.send(Err(gone)).await;
                    return;
                }
            }
        }
    }
}
