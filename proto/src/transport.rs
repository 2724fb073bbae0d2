//! What calls go over: a connection, or the edge that a local process has in itself.
//!
//! Clients and workers are written against the services once. Over a [`Channel`] their messages travel as gRPC; a [`LocalService`]
//! answers the same calls in the same process, with the same messages and refusals, and no connection between.

use core::convert::Infallible;
use core::fmt;
use core::pin::Pin;
use core::task::{Context, Poll};

use futures_util::future::Either;
use http::{Request, Response};
use tonic::body::Body;
use tonic::transport::channel::ResponseFuture;
use tonic::transport::{Channel, Error};
use tower::Service;
use tower::util::BoxCloneSyncService;

/// Services that answer in this process.
pub type LocalService = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// See the head of this file. Cheap to clone.
#[derive(Clone)]
pub enum Transport {
    /// A connection to a daemon.
    Channel(Channel),
    /// Services in this process.
    Local(LocalService),
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Channel(_) => "Transport::Channel",
            Self::Local(_) => "Transport::Local",
        })
    }
}

impl From<Channel> for Transport {
    fn from(channel: Channel) -> Self {
        Self::Channel(channel)
    }
}

/// The answer of a [`LocalService`].
pub struct LocalAnswer(<LocalService as Service<Request<Body>>>::Future);

impl fmt::Debug for LocalAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LocalAnswer")
    }
}

impl Future for LocalAnswer {
    type Output = Result<Response<Body>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(cx)
            .map_err(|never: Infallible| match never {})
    }
}

impl Service<Request<Body>> for Transport {
    type Response = Response<Body>;
    type Error = Error;
    type Future = Either<ResponseFuture, LocalAnswer>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        match self {
            Self::Channel(channel) => channel.poll_ready(cx),
            Self::Local(service) => service
                .poll_ready(cx)
                .map_err(|never: Infallible| match never {}),
        }
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self {
            Self::Channel(channel) => Either::Left(channel.call(request)),
            Self::Local(service) => Either::Right(LocalAnswer(service.call(request))),
        }
    }
}
