//! Finds the service by the path of a request; no router stands between.
//!
//! Tested in `tests/services.rs`.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
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
        };
        (service, Health(reporter))
    }

    /// The same services, for one connection.
    pub(crate) fn for_peer(&self, peer: Arc<Peer>) -> Self {
        Self {
            peer: Some(peer),
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
        if is_upload(request.uri().path()) {
            return self.answer(request);
        }
        let answer = self.answer(request);
        Box::pin(async move {
            match tokio::time::timeout(CALL_TIME_MAX, answer).await {
                Ok(answer) => answer,
                Err(_) => Ok(
                    Status::deadline_exceeded("the request was not complete in time").into_http(),
                ),
            }
        })
    }
}

/// Who sent a request.
pub(crate) fn peer_of<T>(request: &tonic::Request<T>) -> Option<Arc<Peer>> {
    request.extensions().get::<Arc<Peer>>().cloned()
}
