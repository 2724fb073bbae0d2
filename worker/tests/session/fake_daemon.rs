//! A daemon that does exactly what a test tells it; what makes a process of it is [`Host`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
pub(crate) use qtf_fake_daemon::soon;
use qtf_fake_daemon::{Answers, Host, chunks, refusal};
use qtf_proto::refusal::status_of;
use qtf_proto::v1::register_server::{Register, RegisterServer};
use qtf_proto::v1::scheduler_server::{Scheduler, SchedulerServer};
use qtf_proto::v1::{
    Assignment, ClientHeartbeat, ClientNotice, DispatchRequest, DispatchResponse,
    FetchPayloadRequest, OutputChunk, RefusalReason, ResultDisposition, ResultVerdict, StopOrder,
    StopReason, TaskRef, TaskResult, UploadChunk, UploadReceipt, WorkerHello, WorkerNotice,
    WorkerReport, WorkerWelcome,
};
use qtf_worker::Address;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic::{Request, Response, Status, Streaming};

pub(crate) const HEARTBEAT_MS: u32 = 50;
pub(crate) const TOKEN: u64 = 4711;

/// A worker's session as the daemon sees it; dropping it ends the stream.
pub(crate) struct Session {
    pub(crate) hello: WorkerHello,
    reports: Streaming<WorkerReport>,
    notices: mpsc::Sender<Result<WorkerNotice, Status>>,
}

impl Session {
    pub(crate) async fn welcome(&self, worker_id: u64, segment_id: u64, abandon: Vec<TaskRef>) {
        self.welcome_to((worker_id, segment_id), abandon, HEARTBEAT_MS)
            .await;
    }

    /// The same without heartbeats while the test lasts.
    pub(crate) async fn welcome_to_silence(&self, worker_id: u64, segment_id: u64) {
        self.welcome_to((worker_id, segment_id), vec![], u32::MAX)
            .await;
    }

    async fn welcome_to(
        &self,
        (worker_id, segment_id): (u64, u64),
        abandon: Vec<TaskRef>,
        heartbeat_ms: u32,
    ) {
        let welcome = WorkerWelcome {
            worker_id,
            token: TOKEN,
            segment_id,
            heartbeat_ms,
            lease_ms: 1000,
            output_limit_bytes: 1 << 20,
            abandon,
            ..WorkerWelcome::default()
        };
        let welcome = Some(welcome);
        self.notify(WorkerNotice {
            welcome,
            ..WorkerNotice::default()
        })
        .await;
    }

    pub(crate) async fn refuse(&self, reason: RefusalReason, message: &str) {
        let refused = status_of(refusal(reason, message, 0));
        self.notices.send(Err(refused)).await.unwrap();
    }

    pub(crate) async fn notify(&self, notice: WorkerNotice) {
        self.notices.send(Ok(notice)).await.unwrap();
    }

    pub(crate) async fn record(&self, result: &TaskResult) {
        self.judge(result, ResultDisposition::Recorded).await;
    }

    pub(crate) async fn judge(&self, result: &TaskResult, disposition: ResultDisposition) {
        let verdicts = vec![ResultVerdict {
            task: result.task,
            disposition: disposition.into(),
            reason: String::new(),
        }];
        self.notify(WorkerNotice {
            verdicts,
            ..WorkerNotice::default()
        })
        .await;
    }

    /// The next report; `None` at the end of the stream.
    pub(crate) async fn report(&mut self) -> Option<WorkerReport> {
        soon(self.reports.message()).await.ok().flatten()
    }

    /// The next report that is more than a heartbeat.
    pub(crate) async fn news(&mut self) -> WorkerReport {
        loop {
            let report = self.report().await.expect("the session is over");
            if !report.started.is_empty() || !report.results.is_empty() || report.goodbye {
                return report;
            }
        }
    }

    pub(crate) async fn result(&mut self) -> TaskResult {
        soon(self.next_result()).await
    }

    async fn next_result(&mut self) -> TaskResult {
        loop {
            let mut report = self.news().await;
            if let Some(result) = report.results.pop() {
                assert!(report.results.is_empty(), "more than one result");
                return result;
            }
        }
    }
}

/// A dispatch stream as the daemon sees it; dropping it ends the stream.
pub(crate) struct Dispatch {
    pub(crate) first: DispatchRequest,
    requests: Streaming<DispatchRequest>,
    responses: mpsc::Sender<Result<DispatchResponse, Status>>,
}

/// Raw id of a slot's first task.
pub(crate) const fn task_id(slot: u64) -> u64 {
    (1 << 24) | slot
}

pub(crate) fn attempt(slot: u64, attempt: u32) -> TaskRef {
    TaskRef {
        task_id: task_id(slot),
        attempt,
    }
}

pub(crate) fn assignment(task: TaskRef, kind: &str, payload: impl Into<Bytes>) -> Assignment {
    let payload = payload.into();
    Assignment {
        task: Some(task),
        kind: kind.into(),
        payload_bytes: u64::try_from(payload.len()).unwrap(),
        payload,
        ..Assignment::default()
    }
}

impl Dispatch {
    pub(crate) async fn send(&self, response: DispatchResponse) {
        self.responses.send(Ok(response)).await.unwrap();
    }

    pub(crate) async fn assign(&self, assignments: Vec<Assignment>) {
        self.send(DispatchResponse {
            assignments,
            ..DispatchResponse::default()
        })
        .await;
    }

    pub(crate) async fn stop(&self, task: TaskRef, reason: StopReason) {
        let stops = vec![StopOrder {
            task: Some(task),
            reason: reason.into(),
        }];
        self.send(DispatchResponse {
            stops,
            ..DispatchResponse::default()
        })
        .await;
    }

    pub(crate) async fn request(&mut self) -> DispatchRequest {
        soon(self.requests.message())
            .await
            .unwrap()
            .expect("the dispatch stream is over")
    }
}

#[derive(Clone)]
struct Service {
    sessions: mpsc::Sender<Session>,
    dispatches: mpsc::Sender<Dispatch>,
    stored: Arc<Mutex<Stored>>,
}

#[derive(Default)]
pub(crate) struct Stored {
    /// By task id.
    pub(crate) payloads: HashMap<u64, Bytes>,
    /// By receipt.
    pub(crate) uploads: HashMap<u64, Vec<u8>>,
    pub(crate) refuse_uploads: bool,
    /// The next uploads are refused for these reasons.
    pub(crate) refuse_next: Vec<RefusalReason>,
    /// The next dispatch stream is refused for this reason.
    pub(crate) refuse_dispatch: Option<RefusalReason>,
}

#[tonic::async_trait]
impl Register for Service {
    type WorkerSessionStream = Answers<WorkerNotice>;
    type ClientSessionStream = Answers<ClientNotice>;

    async fn worker_session(
        &self,
        request: Request<Streaming<WorkerReport>>,
    ) -> Result<Response<Self::WorkerSessionStream>, Status> {
        let mut reports = request.into_inner();
        let first = reports
            .message()
            .await?
            .ok_or_else(|| Status::unknown("nothing"))?;
        let hello = first.hello.ok_or_else(|| Status::unknown("no hello"))?;
        let (notices, stream) = mpsc::channel(16);
        let session = Session {
            hello,
            reports,
            notices,
        };
        self.sessions
            .send(session)
            .await
            .map_err(|_| Status::unavailable("over"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn upload_output(
        &self,
        request: Request<Streaming<UploadChunk>>,
    ) -> Result<Response<UploadReceipt>, Status> {
        let mut chunks = request.into_inner();
        let mut data = Vec::new();
        let mut total_bytes = 0;
        while let Some(chunk) = chunks.message().await? {
            if data.is_empty() {
                assert_eq!(chunk.session, TOKEN);
                total_bytes = chunk.total_bytes;
            }
            assert!(chunk.data.len() <= 64 << 10);
            data.extend_from_slice(&chunk.data);
        }
        assert_eq!(u64::try_from(data.len()).unwrap(), total_bytes);
        let mut stored = self.stored.lock().unwrap();
        let refused = stored.refuse_next.pop();
        let refused = refused.or(stored.refuse_uploads.then_some(RefusalReason::SpillFailed));
        if let Some(reason) = refused {
            return Err(status_of(refusal(reason, "no space left", 0)));
        }
        let upload = 1000 + u64::try_from(stored.uploads.len()).unwrap();
        stored.uploads.insert(upload, data);
        Ok(Response::new(UploadReceipt { upload }))
    }

    async fn client_session(
        &self,
        _: Request<Streaming<ClientHeartbeat>>,
    ) -> Result<Response<Self::ClientSessionStream>, Status> {
        Err(Status::unimplemented("workers only"))
    }
}

#[tonic::async_trait]
impl Scheduler for Service {
    type DispatchStream = Answers<DispatchResponse>;
    type FetchPayloadStream = Answers<OutputChunk>;

    async fn dispatch(
        &self,
        request: Request<Streaming<DispatchRequest>>,
    ) -> Result<Response<Self::DispatchStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests
            .message()
            .await?
            .ok_or_else(|| Status::unknown("nothing"))?;
        if let Some(reason) = self.stored.lock().unwrap().refuse_dispatch.take() {
            return Err(status_of(refusal(reason, "not over this connection", 0)));
        }
        let (responses, stream) = mpsc::channel(16);
        let dispatch = Dispatch {
            first,
            requests,
            responses,
        };
        self.dispatches
            .send(dispatch)
            .await
            .map_err(|_| Status::unavailable("over"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn fetch_payload(
        &self,
        request: Request<FetchPayloadRequest>,
    ) -> Result<Response<Self::FetchPayloadStream>, Status> {
        let request = request.into_inner();
        assert_eq!(request.token, TOKEN);
        let task_id = request.task.unwrap().task_id;
        let payload = self.stored.lock().unwrap().payloads.get(&task_id).cloned();
        let payload = payload.ok_or_else(|| Status::not_found("the spill file is gone"))?;
        Ok(Response::new(chunks(&payload)))
    }
}

pub(crate) struct FakeDaemon {
    pub(crate) address: Address,
    pub(crate) stored: Arc<Mutex<Stored>>,
    service: Service,
    host: Host,
    sessions: mpsc::Receiver<Session>,
    dispatches: mpsc::Receiver<Dispatch>,
}

impl FakeDaemon {
    pub(crate) fn start() -> Self {
        let (session_sender, sessions) = mpsc::channel(4);
        let (dispatch_sender, dispatches) = mpsc::channel(4);
        let stored = Arc::new(Mutex::new(Stored::default()));
        let service = Service {
            sessions: session_sender,
            dispatches: dispatch_sender,
            stored: Arc::clone(&stored),
        };
        let host = Host::start(service.router());
        Self {
            address: host.address(),
            stored,
            service,
            host,
            sessions,
            dispatches,
        }
    }

    /// Ends it as SIGKILL does: its connections break, its socket file stays.
    pub(crate) fn kill(&mut self) {
        self.host.kill();
    }

    /// Starts another one at the same address.
    pub(crate) fn start_again(&mut self) {
        self.host.start_again(self.service.router());
    }

    /// After a kill: waits until a worker has called at the address and has found no daemon.
    pub(crate) async fn called_in_vain(&mut self) {
        self.host.called_in_vain().await;
    }

    pub(crate) async fn session(&mut self) -> Session {
        soon(self.sessions.recv()).await.unwrap()
    }

    pub(crate) async fn dispatch(&mut self) -> Dispatch {
        soon(self.dispatches.recv()).await.unwrap()
    }

    /// A worker's usual way in.
    pub(crate) async fn accept(&mut self, worker_id: u64) -> (Session, Dispatch) {
        let session = self.session().await;
        session.welcome(worker_id, 7, vec![]).await;
        let dispatch = self.dispatch().await;
        (session, dispatch)
    }
}

impl Service {
    fn router(&self) -> Router {
        Server::builder()
            .add_service(RegisterServer::new(self.clone()))
            .add_service(SchedulerServer::new(self.clone()))
    }
}
