//! Finds the service by the path of a request; no router stands between.
//!
//! Tested in `tests/daemon/services.rs`.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use qtf_engine::Principal;
use qtf_proto::v1::admin_server::AdminServer;
use qtf_proto::v1::plm_server::PlmServer;
use qtf_proto::v1::register_server::RegisterServer;
use qtf_proto::v1::scheduler_server::SchedulerServer;
use tonic::Status;
use tonic::body::Body;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use tonic_reflection::server::v1::{ServerReflection, ServerReflectionServer};
use tower::Service;

use super::admin::AdminEdge;
use super::peer::Peer;
use super::plm::PlmEdge;
use super::register::RegisterEdge;
use super::scheduler::SchedulerEdge;

/// LIMIT: a call must be complete by then; streams only have to begin.
const CALL_TIME_MAX: Duration = Duration::from_secs(30);

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>>>>;

/// Reflection as a plain closure, because its type cannot be named.
type Reflect = Arc<dyn Fn(Request<Body>) -> Answer + Send + Sync>;

/// All services of the daemon.
#[derive(Clone)]
pub(crate) struct EdgeService {
    plm: PlmServer<PlmEdge>,
    scheduler: SchedulerServer<SchedulerEdge>,
    register: RegisterServer<RegisterEdge>,
    admin: AdminServer<AdminEdge>,
    health: HealthServer<HealthService>,
    reflect: Reflect,
    peer: Option<Arc<Peer>>,
    calls: OpenCalls,
}

/// Counts the calls of one connection whose answers are not complete.
#[derive(Debug, Clone, Default)]
pub(crate) struct OpenCalls(Arc<()>);

impl OpenCalls {
    /// Whether the service of a connection, which was made with a clone of this, has none.
    pub(crate) fn is_none(&self) -> bool {
        // One is ours, one is the service's.
        Arc::strong_count(&self.0) <= 2
    }
}

/// The body of an answer; its call is open until it is dropped.
struct CountedBody {
    body: Body,
    _call: OpenCalls,
}

impl hyper::body::Body for CountedBody {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Self::Data>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

/// Says whether the daemon serves.
#[derive(Clone)]
pub(crate) struct Health(HealthReporter);

impl Health {
    /// From now on it does not.
    pub(crate) async fn stops(&self) {
        self.0
            .set_service_status("", ServingStatus::NotServing)
            .await;
        for name in [
            "qtf.v1.Plm",
            "qtf.v1.Scheduler",
            "qtf.v1.Register",
            "qtf.v1.Admin",
        ] {
            self.0
                .set_service_status(name, ServingStatus::NotServing)
                .await;
        }
    }
}

fn reflect_with<T: ServerReflection>(server: ServerReflectionServer<T>) -> Reflect {
    Arc::new(move |request| {
        let mut server = server.clone();
        Box::pin(async move { server.call(request).await })
    })
}

impl EdgeService {
    /// Makes the services. `message_bytes_max` bounds what is decoded.
    pub(crate) async fn new(message_bytes_max: usize) -> (Self, Health) {
        let reporter = HealthReporter::new();
        for name in [
            "qtf.v1.Plm",
            "qtf.v1.Scheduler",
            "qtf.v1.Register",
            "qtf.v1.Admin",
        ] {
            reporter
                .set_service_status(name, ServingStatus::Serving)
                .await;
        }
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(qtf_proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .expect(
                "the descriptors are compiled in and were checked by the compiler of the protocol",
            );
        let service = Self {
            plm: PlmServer::new(PlmEdge).max_decoding_message_size(message_bytes_max),
            scheduler: SchedulerServer::new(SchedulerEdge)
                .max_decoding_message_size(message_bytes_max),
            register: RegisterServer::new(RegisterEdge)
                .max_decoding_message_size(message_bytes_max),
            admin: AdminServer::new(AdminEdge).max_decoding_message_size(message_bytes_max),
            health: HealthServer::new(HealthService::from_health_reporter(reporter.clone())),
            reflect: reflect_with(reflection),
            peer: None,
            calls: OpenCalls::default(),
        };
        (service, Health(reporter))
    }

    /// The same services, for one connection.
    pub(crate) fn for_peer(&self, peer: Arc<Peer>, calls: OpenCalls) -> Self {
        Self {
            peer: Some(peer),
            calls,
            ..self.clone()
        }
    }

    fn answer(&self, request: Request<Body>) -> Answer {
        macro_rules! call {
            ($service:expr) => {{
                let mut service = $service.clone();
                Box::pin(async move { service.call(request).await })
            }};
        }
        let service = request
            .uri()
            .path()
            .trim_start_matches('/')
            .split('/')
            .next();
        match service.unwrap_or_default() {
            "qtf.v1.Plm" => call!(self.plm),
            "qtf.v1.Scheduler" => call!(self.scheduler),
            "qtf.v1.Register" => call!(self.register),
            "qtf.v1.Admin" => call!(self.admin),
            "grpc.health.v1.Health" => call!(self.health),
            "grpc.reflection.v1.ServerReflection" => (self.reflect)(request),
            _ => {
                let status = Status::unimplemented("no such service here: see grpc.reflection.v1");
                Box::pin(std::future::ready(Ok(status.into_http())))
            }
        }
    }
}

/// Uploads are complete when their last chunk is; each chunk has its own time.
fn is_upload(path: &str) -> bool {
    path.ends_with("/UploadPayload") || path.ends_with("/UploadOutput")
}

impl hyper::service::Service<Request<Incoming>> for EdgeService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: Request<Incoming>) -> Answer {
        let mut request = request.map(Body::new);
        if let Some(peer) = &self.peer {
            request.extensions_mut().insert(Arc::clone(peer));
        }
        let time_max = if is_upload(request.uri().path()) {
            None
        } else {
            Some(CALL_TIME_MAX)
        };
        let answer = self.answer(request);
        let call = self.calls.clone();
        Box::pin(async move {
            let response = match time_max {
                None => answer.await,
                Some(time_max) => match tokio::time::timeout(time_max, answer).await {
                    Ok(response) => response,
                    Err(_) => Ok(
                        Status::deadline_exceeded("the request was not complete in time")
                            .into_http(),
                    ),
                },
            };
            response
                .map(|response| response.map(|body| Body::new(CountedBody { body, _call: call })))
        })
    }
}

/// Who sent a request.
pub(crate) fn peer_of<T>(request: &tonic::Request<T>) -> Option<Arc<Peer>> {
    request.extensions().get::<Arc<Peer>>().cloned()
}

/// For whom a request is made.
pub(crate) fn principal_of<T>(request: &tonic::Request<T>) -> Principal {
    let peer = request.extensions().get::<Arc<Peer>>();
    peer.map_or(Principal::Unknown, |peer| peer.principal())
}
