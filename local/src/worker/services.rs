//! Services `Register` and `Scheduler` of a local worker.
//!
//! Invariant: the hands end with the session: when the agent's stream of reports has ended, or nobody reads its notices.

use core::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::Stream;
use qtf_proto::v1::register_server::Register;
use qtf_proto::v1::scheduler_server::Scheduler;
use qtf_proto::v1::{
    ClientHeartbeat, ClientNotice, DispatchRequest, DispatchResponse, FetchPayloadRequest,
    OutputChunk, RefusalReason, UploadChunk, UploadReceipt, WorkerNotice, WorkerReport,
};
use qtf_proto::{refusal, version};
use qtf_shm::Part;
use qtf_shm::layout::attach::AttachRole;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnboundedReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use super::hands;
use super::post::Post;
use crate::instance::{Instance, OpenFailure};
use crate::{chunks, records, refusals};

/// LIMIT: chunks of a payload that wait for their reader.
const CHUNKS_MAX: usize = 4;

/// The services of a local worker. One session: whoever loses it opens another.
#[derive(Debug, Clone)]
pub(crate) struct WorkerEdge(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    post: Arc<Post>,
    has_session: Mutex<Session>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Session {
    None,
    Begun,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.post.say(|inbox| inbox.is_over = true);
    }
}

impl WorkerEdge {
    pub(crate) fn open(instance: &Instance, name: &str) -> Result<Self, OpenFailure> {
        let opened = instance.open(AttachRole::Worker, name)?;
        Ok(Self(Arc::new(Inner {
            post: Arc::new(Post::new(opened.attachment)),
            has_session: Mutex::new(Session::None),
        })))
    }
}

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Register for WorkerEdge {
    type WorkerSessionStream = Boxed<WorkerNotice>;
    type ClientSessionStream = Boxed<ClientNotice>;

    async fn worker_session(
        &self,
        request: Request<Streaming<WorkerReport>>,
    ) -> Answer<Self::WorkerSessionStream> {
        let mut reports = request.into_inner();
        let first = reports.message().await?.and_then(|first| first.hello);
        let Some(hello) = first else {
            return Err(refusal::status_of(refusals::invalid(
                "the first message of a session must have a hello",
            )));
        };
        version::check("worker", hello.protocol_version)
            .map_err(|text| refusals::status(RefusalReason::Unsupported, text))?;
        {
            let mut session = self
                .0
                .has_session
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if *session == Session::Begun {
                return Err(refusals::unknown_session());
            }
            *session = Session::Begun;
        }
        let post = Arc::clone(&self.0.post);
        let (tell, notices) = mpsc::unbounded_channel();
        hands::start(Arc::clone(&post), hello, tell.clone())
            .map_err(|error| Status::unavailable(format!("no thread can be started: {error}")))?;
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    report = reports.message() => match report {
                        Ok(Some(report)) => post.say(|inbox| inbox.reports.push_back(report)),
                        Ok(None) | Err(_) => break,
                    },
                    () = tell.closed() => break,
                }
            }
            post.say(|inbox| inbox.is_over = true);
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(
            notices,
        ))))
    }

    async fn upload_output(
        &self,
        request: Request<Streaming<UploadChunk>>,
    ) -> Answer<UploadReceipt> {
        let post = &self.0.post;
        let limit = post.attachment.payload_limit();
        let mut chunks = request.into_inner();
        let upload = post.uploads.take_in(&mut chunks, limit, |_| Ok(())).await?;
        Ok(Response::new(UploadReceipt { upload }))
    }

    async fn client_session(
        &self,
        _request: Request<Streaming<ClientHeartbeat>>,
    ) -> Answer<Self::ClientSessionStream> {
        Err(refusals::status(
            RefusalReason::Unsupported,
            "a worker's transport takes no client's session",
        ))
    }
}

#[tonic::async_trait]
impl Scheduler for WorkerEdge {
    type DispatchStream = Boxed<DispatchResponse>;
    type FetchPayloadStream = Boxed<OutputChunk>;

    async fn dispatch(
        &self,
        request: Request<Streaming<DispatchRequest>>,
    ) -> Answer<Self::DispatchStream> {
        let post = Arc::clone(&self.0.post);
        let mut requests = request.into_inner();
        let (tell, dispatches) = mpsc::unbounded_channel();
        let of_hands = tell.clone();
        post.say(|inbox| inbox.dispatches = Some(of_hands));
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    request = requests.message() => match request {
                        Ok(Some(request)) => post.say(|inbox| {
                            inbox.credits = inbox.credits.saturating_add(request.credits);
                        }),
                        Ok(None) | Err(_) => return,
                    },
                    () = tell.closed() => return,
                }
            }
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(
            dispatches,
        ))))
    }

    async fn fetch_payload(
        &self,
        request: Request<FetchPayloadRequest>,
    ) -> Answer<Self::FetchPayloadStream> {
        let asked = request.into_inner().task.unwrap_or_default();
        let task = refusals::task_id(asked.task_id).map_err(refusal::status_of)?;
        let post = Arc::clone(&self.0.post);
        let record = records::task(&post.attachment, task)
            .ok_or_else(|| refusal::status_of(refusals::unknown_task(task)))?;
        let total_bytes = record.payload.len();
        let (out, chunks) = mpsc::channel(CHUNKS_MAX);
        tokio::spawn(async move {
            let load =
                |offset, data: &mut [u8]| post.attachment.load(task, Part::Payload, offset, data);
            chunks::send(task, total_bytes, load, out).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(chunks))))
    }
}
