//! Services in this process as what a library's calls go over: found by the path of a request.

use core::convert::Infallible;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use http::{Request, Response};
use qtf_proto::transport::{LocalService, Transport};
use qtf_proto::v1::RefusalReason;
use tonic::body::Body;
use tower::Service;

use crate::refusals;

pub(crate) type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

/// Services by name.
pub(crate) trait Services: Clone + Send + Sync + 'static {
    /// The answer of the service of this name; `None` if there is no such service.
    fn answer(&self, service: &str, request: Request<Body>) -> Option<Answer>;

    /// What to say of a service that is not here.
    fn elsewhere(&self) -> String;
}

#[derive(Clone)]
struct Routed<S>(S);

/// Calls over this transport are answered by these services.
pub(crate) fn transport(services: impl Services) -> Transport {
    Transport::Local(LocalService::new(Routed(services)))
}

impl<S: Services> Service<Request<Body>> for Routed<S> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answer {
        let path = request.uri().path().to_owned();
        let service = path.trim_start_matches('/').split('/').next();
        match self.0.answer(service.unwrap_or_default(), request) {
            Some(answer) => answer,
            None => {
                let refused = refusals::status(RefusalReason::Unsupported, self.0.elsewhere());
                Box::pin(core::future::ready(Ok(refused.into_http())))
            }
        }
    }
}

/// Has one generated server answer.
pub(crate) fn call<S>(service: &S, request: Request<Body>) -> Answer
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
{
    let mut service = service.clone();
    Box::pin(async move { service.call(request).await })
}
