//! Finds the service by the path of a request; no router stands between.
//!
//! Tested in `tests/daemon/services.rs` and `tests/daemon/grpc.rs`.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use qtf_engine::Principal;
use qtf_proto::served::admin_server::AdminServer;
use qtf_proto::served::plm_server::PlmServer;
use qtf_proto::served::register_server::RegisterServer;
use qtf_proto::served::scheduler_server::SchedulerServer;
use qtf_proto::served::work_server::WorkServer;
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use tonic_reflection::server::v1::ServerReflectionServer;
use tower::Service;

use super::admin::AdminEdge;
use super::grpc::{self, CallBody, Deadline};
use super::half_messages::{HalfMessages, Holder, MeteredBody};
use super::peer::Peer;
use super::plm::PlmEdge;
use super::reflection::{self, Reflection};
use super::register::RegisterEdge;
use super::scheduler::SchedulerEdge;
use super::work::WorkEdge;

/// LIMIT: a call must be complete by then; streams only have to begin.
const CALL_TIME_MAX: Duration = Duration::from_secs(30);

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>>>>;

/// All services of the daemon.
#[derive(Clone)]
pub(crate) struct EdgeService {
    plm: PlmServer<PlmEdge>,
    scheduler: SchedulerServer<SchedulerEdge>,
    register: RegisterServer<RegisterEdge>,
    admin: AdminServer<AdminEdge>,
    work: WorkServer<WorkEdge>,
    health: HealthServer<HealthService>,
    reflection: ServerReflectionServer<Reflection>,
    peer: Option<Arc<Peer>>,
    half_messages: HalfMessages,
    holder: Arc<Holder>,
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
            "qtf.v1.Work",
        ] {
            self.0
                .set_service_status(name, ServingStatus::NotServing)
                .await;
        }
    }
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
            "qtf.v1.Work",
        ] {
            reporter
                .set_service_status(name, ServingStatus::Serving)
                .await;
        }
        let reflection = reflection::service(&[
            qtf_proto::DESCRIPTORS,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        ]);
        let half_messages = HalfMessages::new(message_bytes_max);
        let service = Self {
            plm: PlmServer::new(PlmEdge).max_decoding_message_size(message_bytes_max),
            scheduler: SchedulerServer::new(SchedulerEdge)
                .max_decoding_message_size(message_bytes_max),
            register: RegisterServer::new(RegisterEdge)
                .max_decoding_message_size(message_bytes_max),
            admin: AdminServer::new(AdminEdge).max_decoding_message_size(message_bytes_max),
            work: WorkServer::new(WorkEdge).max_decoding_message_size(message_bytes_max),
            health: HealthServer::new(HealthService::from_health_reporter(reporter.clone())),
            reflection,
            peer: None,
            holder: Arc::new(half_messages.holder(Principal::Unknown)),
            half_messages,
            calls: OpenCalls::default(),
        };
        (service, Health(reporter))
    }

    /// The same services, for one connection.
    pub(crate) fn for_peer(&self, peer: Arc<Peer>, calls: OpenCalls) -> Self {
        Self {
            holder: Arc::new(self.half_messages.holder(peer.principal())),
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
            "qtf.v1.Work" => call!(self.work),
            "grpc.health.v1.Health" => call!(self.health),
            reflection::NAME => call!(self.reflection),
            reflection::NAME_BEFORE => {
                let mut service = self.reflection.clone();
                Box::pin(async move { service.call(reflection::renamed(request)).await })
            }
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
        let deadline = match grpc::check(&request) {
            Ok(time) => time.and_then(Deadline::after),
            Err(refused) => return Box::pin(std::future::ready(Ok(*refused))),
        };
        let holder = Holder::clone(&self.holder);
        let mut request = request.map(|body| Body::new(MeteredBody::new(body, holder)));
        if let Some(peer) = &self.peer {
            request.extensions_mut().insert(Arc::clone(peer));
        }
        let until = if is_upload(request.uri().path()) {
            None
        } else {
            Some(Instant::now() + CALL_TIME_MAX)
        };
        let answer = self.answer(request);
        let call = self.calls.clone();
        Box::pin(async move {
            in_time(answer, until, deadline)
                .await
                .map(|response| response.map(|body| Body::new(CallBody::new(body, deadline, call))))
        })
    }
}

/// The answer, or that it did not come in time: in our time, or in the caller's.
async fn in_time(
    answer: Answer,
    until: Option<Instant>,
    deadline: Option<Deadline>,
) -> Result<Response<Body>, Infallible> {
    let theirs = deadline.map(Deadline::at);
    let Some(first) = until.into_iter().chain(theirs).min() else {
        return answer.await;
    };
    match (tokio::time::timeout_at(first, answer).await, deadline) {
        (Ok(response), _) => response,
        (Err(_), Some(deadline)) if theirs == Some(first) => Ok(deadline.status().into_http()),
        (Err(_), _) => {
            Ok(Status::deadline_exceeded("the request was not complete in time").into_http())
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn call_without_an_answer_ends_with_the_deadline_of_its_caller_and_its_work_with_it() {
        let (working, work) = tokio::sync::oneshot::channel::<()>();
        let answer: Answer = Box::pin(async move {
            let _working = working;
            std::future::pending().await
        });
        let deadline = Deadline::after(Duration::from_millis(1));
        let response = in_time(answer, Some(Instant::now() + CALL_TIME_MAX), deadline).await;
        let status = Status::from_header_map(response.unwrap().headers()).unwrap();
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
        assert!(status.message().contains("grpc-timeout of 1ms"), "{status}");
        assert!(work.await.is_err(), "what worked for it is dropped");
    }
}
