//! A daemon that keeps tasks in a map and misbehaves as a test tells it, over a real Unix socket.

use core::pin::Pin;
use core::time::Duration;
use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use prost::Message as _;
use qtf_client::{Address, TaskId};
use qtf_proto::refusal::status_of;
use qtf_proto::v1::plm_server::{Plm, PlmServer};
use qtf_proto::v1::register_server::{Register, RegisterServer};
use qtf_proto::v1::{
    ClientHeartbeat, ClientHello, ClientNotice, ClientWelcome, FetchOutputRequest, GetTaskRequest,
    ListTasksRequest, ListTasksResponse, Outcome, OutcomeKind, OutputChunk, Refusal, RefusalReason,
    SubmitStreamRequest, SubmitStreamResponse, SubmitTaskRequest, SubmitTaskResponse,
    SubmitVerdict, TaskEnd, TaskInfo, TaskOutput, TaskSelection, TaskSpec, TaskState, TaskVerdict,
    TaskVerdicts, UpdateTasksRequest, UploadChunk, UploadReceipt, WatchRequest, WatchResponse,
    WorkerNotice, WorkerReport,
};
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

/// A test that waits longer hangs.
pub(crate) const WATCHDOG: Duration = Duration::from_secs(30);
pub(crate) const INLINE_BYTES: u64 = 1000;
pub(crate) const PAYLOAD_BYTES: u64 = 300_000;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Awaits one thing, or fails the test.
pub(crate) async fn soon<T>(thing: impl Future<Output = T>) -> T {
    tokio::time::timeout(WATCHDOG, thing)
        .await
        .expect("nothing happens")
}

#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) spec: TaskSpec,
    pub(crate) end: Option<TaskOutput>,
}

/// What the daemon knows, and how it is to misbehave.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) hello: Option<ClientHello>,
    pub(crate) heartbeats: u32,
    sessions: HashSet<u64>,
    next_session: u64,
    /// By raw id.
    pub(crate) tasks: BTreeMap<u64, Kept>,
    pub(crate) acknowledged: Vec<u64>,
    uploads: BTreeMap<u64, Bytes>,
    /// So many slots; 0 = no limit.
    pub(crate) capacity: usize,
    /// Entries in stream batches that arrived, accepted or not.
    pub(crate) entries_seen: usize,
    /// Break the submission stream before answering this batch number.
    pub(crate) break_before_batch: u64,
    /// Break each watch stream after so many ends; 0 = never.
    pub(crate) break_watch_after: usize,
    pub(crate) watches_opened: usize,
    pub(crate) refuse_clients: bool,
    /// Never answer `GetTask`.
    pub(crate) is_mute: bool,
}

fn refusal(reason: RefusalReason, message: &str, retry_after_ms: u32) -> Refusal {
    Refusal {
        reason: reason.into(),
        message: message.into(),
        retry_after_ms,
    }
}

impl World {
    /// Forgets all sessions, as a daemon does that was started anew.
    pub(crate) fn forget_sessions(&mut self) {
        self.sessions.clear();
    }

    fn check_session(&self, session: u64) -> Result<(), Refusal> {
        if self.sessions.contains(&session) {
            return Ok(());
        }
        let message = "the session is not known: say hello again";
        Err(refusal(RefusalReason::UnknownSession, message, 0))
    }

    fn submit(&mut self, mut spec: TaskSpec) -> Result<u64, Refusal> {
        if spec.payload_upload != 0 {
            let unknown = || refusal(RefusalReason::UnknownUpload, "no such upload", 0);
            spec.payload = self
                .uploads
                .remove(&spec.payload_upload)
                .ok_or_else(unknown)?;
        }
        if spec.kind == "bad" {
            return Err(refusal(RefusalReason::InvalidArgument, "kind: bad", 0));
        }
        let waiting = self
            .tasks
            .values()
            .filter(|task| task.end.is_none())
            .count();
        if self.capacity > 0 && waiting >= self.capacity {
            return Err(refusal(
                RefusalReason::TasksFull,
                "all task slots in use",
                10,
            ));
        }
        let slot = u64::try_from(self.tasks.len()).unwrap();
        let id = (1 << 24) | slot;
        self.tasks.insert(id, Kept { spec, end: None });
        Ok(id)
    }

    fn verdict(&mut self, spec: TaskSpec) -> SubmitVerdict {
        match self.submit(spec) {
            Ok(task_id) => SubmitVerdict {
                task_id,
                ..SubmitVerdict::default()
            },
            Err(refusal) => SubmitVerdict {
                refusal: Some(refusal),
                ..SubmitVerdict::default()
            },
        }
    }

    /// Ends waiting tasks, oldest first.
    pub(crate) fn end_oldest(&mut self, count: usize, stdout: &[u8]) {
        let waiting = self.tasks.values_mut().filter(|task| task.end.is_none());
        for task in waiting.take(count) {
            task.end = Some(TaskOutput {
                stdout: Bytes::copy_from_slice(stdout),
                ..TaskOutput::default()
            });
        }
    }

    pub(crate) fn end(&mut self, id: TaskId, stdout: &[u8]) {
        let task = self.tasks.get_mut(&id.as_raw()).unwrap();
        task.end = Some(TaskOutput {
            stdout: Bytes::copy_from_slice(stdout),
            ..TaskOutput::default()
        });
    }

    fn task_end(&self, id: u64, with_output: bool) -> Option<TaskEnd> {
        let mut end = TaskEnd {
            task_id: id,
            ..TaskEnd::default()
        };
        let Some(task) = self.tasks.get(&id) else {
            end.refusal = Some(refusal(RefusalReason::UnknownTask, "no such task", 0));
            return Some(end);
        };
        let output = task.end.as_ref()?.encode_to_vec();
        end.set_state(TaskState::Done);
        end.outcome = Some(Outcome {
            kind: OutcomeKind::Exited.into(),
            ..Outcome::default()
        });
        end.attempt = 1;
        end.output_bytes = u64::try_from(output.len()).unwrap();
        if with_output && output.len() <= 64 << 10 {
            end.output = output.into();
        }
        Some(end)
    }
}

#[derive(Clone)]
struct Service {
    world: Arc<Mutex<World>>,
    changed: Arc<Notify>,
}

impl Service {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    fn verdicts(
        &self,
        session: u64,
        ids: Vec<u64>,
        state: TaskState,
    ) -> Result<Response<TaskVerdicts>, Status> {
        let mut world = self.world();
        world.check_session(session).map_err(status_of)?;
        let verdicts = ids.into_iter().map(|task_id| {
            let mut verdict = TaskVerdict {
                task_id,
                ..TaskVerdict::default()
            };
            if world.tasks.contains_key(&task_id) {
                verdict.set_state(state);
                if state == TaskState::Done {
                    world.acknowledged.push(task_id);
                }
            } else {
                verdict.refusal = Some(refusal(RefusalReason::UnknownTask, "no such task", 0));
            }
            verdict
        });
        let verdicts = verdicts.collect();
        Ok(Response::new(TaskVerdicts { verdicts }))
    }

    async fn watch_all(
        self,
        mut requests: Streaming<WatchRequest>,
        answers: mpsc::Sender<Result<WatchResponse, Status>>,
    ) {
        let mut watched: Vec<u64> = Vec::new();
        let mut with_output = false;
        let mut told = 0;
        let mut is_open = true;
        while is_open || !watched.is_empty() {
            let changed = self.changed.notified();
            let mut changed = core::pin::pin!(changed);
            changed.as_mut().enable();
            let limit = self.world().break_watch_after;
            let mut ends = Vec::new();
            watched.retain(|id| match self.world().task_end(*id, with_output) {
                Some(end) if limit == 0 || told + ends.len() < limit => {
                    ends.push(end);
                    false
                }
                _ => true,
            });
            told += ends.len();
            if !ends.is_empty() && answers.send(Ok(WatchResponse { ends })).await.is_err() {
                return;
            }
            if limit > 0 && told >= limit {
                return;
            }
            tokio::select! {
                () = &mut changed => {}
                request = requests.message(), if is_open => match request {
                    Ok(Some(request)) => {
                        with_output = request.with_output;
                        watched.extend(request.watch);
                        self.world().acknowledged.extend(request.acknowledge);
                    }
                    Ok(None) | Err(_) => is_open = false,
                },
            }
        }
    }
}

#[tonic::async_trait]
impl Register for Service {
    type WorkerSessionStream = Answers<WorkerNotice>;
    type ClientSessionStream = Answers<ClientNotice>;

    async fn worker_session(
        &self,
        _: Request<Streaming<WorkerReport>>,
    ) -> Result<Response<Self::WorkerSessionStream>, Status> {
        Err(Status::unimplemented("clients only"))
    }

    async fn upload_output(
        &self,
        _: Request<Streaming<UploadChunk>>,
    ) -> Result<Response<UploadReceipt>, Status> {
        Err(Status::unimplemented("clients only"))
    }

    async fn client_session(
        &self,
        request: Request<Streaming<ClientHeartbeat>>,
    ) -> Result<Response<Self::ClientSessionStream>, Status> {
        let mut heartbeats = request.into_inner();
        let first = heartbeats.message().await?.and_then(|first| first.hello);
        let session = {
            let mut world = self.world();
            if world.refuse_clients {
                let message = "64 of 64 client records in use";
                return Err(status_of(refusal(RefusalReason::ClientsFull, message, 0)));
            }
            world.hello = first;
            world.next_session += 1;
            let session = 100 + world.next_session;
            world.sessions.insert(session);
            session
        };
        let welcome = ClientNotice {
            welcome: Some(ClientWelcome {
                session,
                client_id: 5,
                segment_id: 7,
                heartbeat_ms: 20,
                payload_limit_bytes: PAYLOAD_BYTES,
                payload_inline_limit_bytes: INLINE_BYTES,
            }),
            daemon_stopping: false,
        };
        let (notices, stream) = mpsc::channel(1);
        notices.try_send(Ok(welcome)).unwrap();
        let service = self.clone();
        tokio::spawn(async move {
            while let Ok(Some(_)) = heartbeats.message().await {
                service.world().heartbeats += 1;
            }
            drop(notices);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

#[tonic::async_trait]
impl Plm for Service {
    type SubmitStreamStream = Answers<SubmitStreamResponse>;
    type WatchStream = Answers<WatchResponse>;
    type FetchOutputStream = Answers<OutputChunk>;
    type ListTasksStream = Answers<ListTasksResponse>;

    async fn submit_task(
        &self,
        request: Request<SubmitTaskRequest>,
    ) -> Result<Response<SubmitTaskResponse>, Status> {
        let request = request.into_inner();
        let mut world = self.world();
        world.check_session(request.session).map_err(status_of)?;
        let task_id = world.submit(request.task.unwrap()).map_err(status_of)?;
        Ok(Response::new(SubmitTaskResponse {
            task_id,
            ..SubmitTaskResponse::default()
        }))
    }

    async fn submit_stream(
        &self,
        request: Request<Streaming<SubmitStreamRequest>>,
    ) -> Result<Response<Self::SubmitStreamStream>, Status> {
        let service = self.clone();
        let answers = request.into_inner().map(move |request| {
            let request = request?;
            let mut world = service.world();
            world.check_session(request.session).map_err(status_of)?;
            world.entries_seen += request.tasks.len();
            if request.batch == world.break_before_batch {
                return Err(Status::unavailable("the connection broke"));
            }
            let verdicts = request.tasks.into_iter().map(|spec| world.verdict(spec));
            let verdicts = verdicts.collect();
            let batch = request.batch;
            Ok(SubmitStreamResponse { batch, verdicts })
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn upload_payload(
        &self,
        request: Request<Streaming<UploadChunk>>,
    ) -> Result<Response<UploadReceipt>, Status> {
        let mut chunks = request.into_inner();
        let mut data = Vec::new();
        while let Some(chunk) = chunks.message().await? {
            if data.is_empty() {
                self.world()
                    .check_session(chunk.session)
                    .map_err(status_of)?;
            }
            data.extend_from_slice(&chunk.data);
        }
        let mut world = self.world();
        let upload = 1 + u64::try_from(world.uploads.len()).unwrap();
        world.uploads.insert(upload, data.into());
        Ok(Response::new(UploadReceipt { upload }))
    }

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (answers, stream) = mpsc::channel(4);
        self.world().watches_opened += 1;
        tokio::spawn(self.clone().watch_all(request.into_inner(), answers));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn fetch_output(
        &self,
        request: Request<FetchOutputRequest>,
    ) -> Result<Response<Self::FetchOutputStream>, Status> {
        let id = request.into_inner().task_id;
        let output = self
            .world()
            .tasks
            .get(&id)
            .and_then(|task| task.end.clone());
        let output = output.ok_or_else(|| Status::not_found("no such task"))?;
        let output = output.encode_to_vec();
        let total_bytes = u64::try_from(output.len()).unwrap();
        let chunks: Vec<Result<OutputChunk, Status>> = output
            .chunks(64 << 10)
            .map(|data| {
                let data = Bytes::copy_from_slice(data);
                Ok(OutputChunk { total_bytes, data })
            })
            .collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(chunks))))
    }

    async fn get_task(
        &self,
        request: Request<GetTaskRequest>,
    ) -> Result<Response<TaskInfo>, Status> {
        if self.world().is_mute {
            core::future::pending::<()>().await;
        }
        let task_id = request.into_inner().task_id;
        if !self.world().tasks.contains_key(&task_id) {
            let message = "no such task";
            return Err(status_of(refusal(RefusalReason::UnknownTask, message, 0)));
        }
        Ok(Response::new(TaskInfo {
            task_id,
            ..TaskInfo::default()
        }))
    }

    async fn list_tasks(
        &self,
        request: Request<ListTasksRequest>,
    ) -> Result<Response<Self::ListTasksStream>, Status> {
        let limit = usize::try_from(request.into_inner().limit).unwrap();
        let ids: Vec<u64> = self.world().tasks.keys().copied().take(limit).collect();
        let batches: Vec<Result<ListTasksResponse, Status>> = ids
            .chunks(3)
            .map(|ids| {
                let tasks = ids.iter().map(|id| TaskInfo {
                    task_id: *id,
                    ..TaskInfo::default()
                });
                Ok(ListTasksResponse {
                    tasks: tasks.collect(),
                })
            })
            .collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(batches))))
    }

    async fn cancel_tasks(
        &self,
        request: Request<TaskSelection>,
    ) -> Result<Response<TaskVerdicts>, Status> {
        let request = request.into_inner();
        self.verdicts(request.session, request.task_ids, TaskState::Cancelled)
    }

    async fn forget_tasks(
        &self,
        request: Request<TaskSelection>,
    ) -> Result<Response<TaskVerdicts>, Status> {
        let request = request.into_inner();
        self.verdicts(request.session, request.task_ids, TaskState::Done)
    }

    async fn update_tasks(
        &self,
        request: Request<UpdateTasksRequest>,
    ) -> Result<Response<TaskVerdicts>, Status> {
        let request = request.into_inner();
        self.verdicts(request.session, request.task_ids, TaskState::Ready)
    }

    async fn revive_tasks(
        &self,
        request: Request<TaskSelection>,
    ) -> Result<Response<TaskVerdicts>, Status> {
        let request = request.into_inner();
        self.verdicts(request.session, request.task_ids, TaskState::Ready)
    }
}

pub(crate) struct FakeDaemon {
    pub(crate) address: Address,
    service: Service,
    server: tokio::task::JoinHandle<()>,
    _directory: tempfile::TempDir,
}

impl Drop for FakeDaemon {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl FakeDaemon {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("daemon.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let service = Service {
            world: Arc::new(Mutex::new(World::default())),
            changed: Arc::new(Notify::new()),
        };
        let server = tonic::transport::Server::builder()
            .add_service(RegisterServer::new(service.clone()))
            .add_service(PlmServer::new(service.clone()))
            .serve_with_incoming(UnixListenerStream::new(listener));
        let server = tokio::spawn(async move { server.await.unwrap() });
        Self {
            address: Address::Unix(path),
            service,
            server,
            _directory: directory,
        }
    }

    /// Changes or reads the world, and lets watchers look again.
    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        let result = change(&mut self.service.world());
        self.service.changed.notify_waiters();
        result
    }

    /// Waits until something is true of the world.
    pub(crate) async fn until(&self, is_so: impl Fn(&World) -> bool) {
        soon(async {
            while !self.with(|world| is_so(world)) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
    }
}
