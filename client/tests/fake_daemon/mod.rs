//! A daemon that keeps tasks in a map and misbehaves as a test tells it; what makes a process of it is [`Host`].
#![expect(dead_code, reason = "each test file uses another part of it")]

use core::time::Duration;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use prost::Message as _;
use qtf_client::{Address, TaskId};
pub(crate) use qtf_fake_daemon::soon;
use qtf_fake_daemon::{Answers, Host, chunks, refusal};
use qtf_proto::refusal::status_of;
use qtf_proto::v1::plm_server::{Plm, PlmServer};
use qtf_proto::v1::register_server::{Register, RegisterServer};
use qtf_proto::v1::{
    ClientHeartbeat, ClientHello, ClientNotice, ClientWelcome, Durability, FetchOutputRequest,
    GetTaskRequest, ListTasksRequest, ListTasksResponse, Outcome, OutcomeKind, OutputChunk,
    Refusal, RefusalReason, SubmitStreamRequest, SubmitStreamResponse, SubmitTaskRequest,
    SubmitTaskResponse, SubmitVerdict, TaskEnd, TaskInfo, TaskOutput, TaskSelection, TaskSpec,
    TaskState, TaskVerdict, TaskVerdicts, UpdateTasksRequest, UploadChunk, UploadReceipt,
    WatchRequest, WatchResponse, WorkerNotice, WorkerReport,
};
use tokio::sync::{Notify, mpsc};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic::{Request, Response, Status, Streaming};

pub(crate) const INLINE_BYTES: u64 = 1000;
pub(crate) const PAYLOAD_BYTES: u64 = 300_000;

#[derive(Clone, Debug)]
pub(crate) struct Kept {
    /// Of its key; empty = none.
    key: Bytes,
    pub(crate) spec: TaskSpec,
    pub(crate) end: Option<TaskOutput>,
}

/// What the daemon knows, and how it is to misbehave.
#[derive(Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one way to misbehave, and any may be combined"
)]
pub(crate) struct World {
    pub(crate) hello: Option<ClientHello>,
    pub(crate) heartbeats: u32,
    sessions: HashSet<u64>,
    next_session: u64,
    /// By raw id.
    pub(crate) tasks: BTreeMap<u64, Kept>,
    pub(crate) acknowledged: Vec<u64>,
    uploads: BTreeMap<u64, Bytes>,
    uploads_seen: u64,
    /// Take no more than the first chunk of an upload.
    pub(crate) hold_uploads: bool,
    pub(crate) uploads_under_way: usize,
    pub(crate) uploads_at_once: usize,
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
    pub(crate) segment_id: u64,
    pub(crate) key_slots: usize,
    /// When the next place for a key is said to be free.
    pub(crate) key_hint_ms: u32,
    /// Task of each key.
    pub(crate) keys: HashMap<Bytes, u64>,
    /// Keys that were given back.
    pub(crate) keys_received: usize,
    /// Submissions whose key was known.
    pub(crate) repeats: usize,
    pub(crate) journal_is_full: bool,
    /// Accept so many entries of the stream and then break it without an answer to their batch; once.
    pub(crate) break_after_entries: Option<usize>,
    /// Carry so many single calls out without answering them.
    pub(crate) answers_to_lose: u32,
    /// Have no room for the first entry of each stream batch.
    pub(crate) refuse_first_of_batch: bool,
    /// Take submissions in without answering them.
    pub(crate) hold_answers: bool,
    /// Send each answer of the two streams twice.
    pub(crate) answers_twice: bool,
    next_slot: u64,
    /// Never answer `GetTask`.
    pub(crate) is_mute: bool,
}

impl Service {
    fn with_one_more_upload(&self) {
        let mut world = self.world();
        world.uploads_under_way += 1;
        world.uploads_at_once = world.uploads_at_once.max(world.uploads_under_way);
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
        let key = core::mem::take(&mut spec.idempotency_key);
        if let Some(id) = self.keys.get(&key) {
            self.repeats += 1;
            return Ok(*id);
        }
        if !key.is_empty() && self.keys.len() >= self.key_slots {
            let message = "all keys in use";
            return Err(refusal(RefusalReason::KeysFull, message, self.key_hint_ms));
        }
        if self.journal_is_full && spec.durability() != Durability::Memory {
            let message = "the journal has no room";
            return Err(refusal(RefusalReason::JournalFull, message, 10));
        }
        if self.capacity > 0 && waiting >= self.capacity {
            return Err(refusal(
                RefusalReason::TasksFull,
                "all task slots in use",
                10,
            ));
        }
        let id = (self.segment_id << 24) | self.next_slot;
        self.next_slot += 1;
        if !key.is_empty() {
            self.keys.insert(key.clone(), id);
        }
        let end = None;
        self.tasks.insert(id, Kept { key, spec, end });
        Ok(id)
    }

    fn take_back(&mut self, keys: &[Bytes]) {
        for key in keys {
            self.keys.remove(key);
        }
        self.keys_received += keys.len();
    }

    /// What a new daemon with an empty segment finds: the tasks of the journal.
    fn start_cold(&mut self) {
        self.segment_id += 1;
        self.next_slot = 0;
        let is_kept = |kept: &Kept| kept.spec.durability() == Durability::Journal;
        self.tasks.retain(|_, kept| is_kept(kept));
        let tasks = &self.tasks;
        self.keys.retain(|_, id| tasks.contains_key(id));
    }

    /// True when the answer to this call is to be lost.
    fn loses_answer(&mut self) -> bool {
        let loses = self.answers_to_lose > 0;
        self.answers_to_lose = self.answers_to_lose.saturating_sub(1);
        loses
    }

    fn verdict(&mut self, spec: TaskSpec) -> SubmitVerdict {
        let durability = spec.durability;
        let repeats = self.repeats;
        match self.submit(spec) {
            Ok(task_id) => SubmitVerdict {
                task_id,
                durability,
                is_repeat: self.repeats > repeats,
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
                    world.tasks.remove(&task_id);
                }
            } else {
                verdict.refusal = Some(refusal(RefusalReason::UnknownTask, "no such task", 0));
            }
            verdict
        });
        let verdicts = verdicts.collect();
        if world.loses_answer() {
            return Err(lost());
        }
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
            let times = if self.world().answers_twice { 2 } else { 1 };
            for _ in 0..times {
                let ends = ends.clone();
                if !ends.is_empty() && answers.send(Ok(WatchResponse { ends })).await.is_err() {
                    return;
                }
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
        let (session, segment_id, key_slots) = {
            let mut world = self.world();
            if world.refuse_clients {
                let message = "64 of 64 client records in use";
                return Err(status_of(refusal(RefusalReason::ClientsFull, message, 0)));
            }
            world.hello = first;
            world.next_session += 1;
            let session = 100 + world.next_session;
            world.sessions.insert(session);
            let key_slots = u64::try_from(world.key_slots).unwrap();
            (session, world.segment_id, key_slots)
        };
        let welcome = ClientNotice {
            welcome: Some(ClientWelcome {
                session,
                client_id: 5,
                segment_id,
                heartbeat_ms: 20,
                payload_limit_bytes: PAYLOAD_BYTES,
                payload_inline_limit_bytes: INLINE_BYTES,
                key_slots,
                ..ClientWelcome::default()
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
        world.take_back(&request.received_keys);
        let verdict = world.verdict(request.task.unwrap());
        if world.loses_answer() {
            return Err(lost());
        }
        if let Some(refusal) = verdict.refusal {
            return Err(status_of(refusal));
        }
        Ok(Response::new(SubmitTaskResponse {
            task_id: verdict.task_id,
            durability: verdict.durability,
            is_repeat: verdict.is_repeat,
            result_expired: verdict.result_expired,
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
            world.take_back(&request.received_keys);
            if request.batch == world.break_before_batch {
                return Err(lost());
            }
            let mut verdicts = Vec::new();
            for (place, spec) in request.tasks.into_iter().enumerate() {
                if world.refuse_first_of_batch && place == 0 {
                    let full = refusal(RefusalReason::TasksFull, "no room", 60_000);
                    verdicts.push(SubmitVerdict {
                        refusal: Some(full),
                        ..SubmitVerdict::default()
                    });
                    continue;
                }
                verdicts.push(world.verdict(spec));
                match &mut world.break_after_entries {
                    Some(0) => {
                        world.break_after_entries = None;
                        return Err(lost());
                    }
                    Some(left) => *left -= 1,
                    None => {}
                }
            }
            let batch = request.batch;
            Ok(SubmitStreamResponse { batch, verdicts })
        });
        let service = self.clone();
        let answers = answers.then(move |answer| {
            let holds = service.world().hold_answers;
            async move {
                if holds {
                    core::future::pending::<()>().await;
                }
                answer
            }
        });
        let service = self.clone();
        let answers = futures_util::StreamExt::flat_map(answers, move |answer| {
            let times = if service.world().answers_twice { 2 } else { 1 };
            tokio_stream::iter(vec![answer; times])
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn upload_payload(
        &self,
        request: Request<Streaming<UploadChunk>>,
    ) -> Result<Response<UploadReceipt>, Status> {
        let mut chunks = request.into_inner();
        let mut data = Vec::new();
        self.with_one_more_upload();
        while let Some(chunk) = chunks.message().await? {
            if data.is_empty() {
                self.world()
                    .check_session(chunk.session)
                    .map_err(status_of)?;
            }
            data.extend_from_slice(&chunk.data);
            while self.world().hold_uploads {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        let mut world = self.world();
        world.uploads_under_way -= 1;
        world.uploads_seen += 1;
        let upload = world.uploads_seen;
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
        Ok(Response::new(chunks(&output.encode_to_vec())))
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

    async fn hold_tasks(
        &self,
        request: Request<TaskSelection>,
    ) -> Result<Response<TaskVerdicts>, Status> {
        let request = request.into_inner();
        self.verdicts(request.session, request.task_ids, TaskState::Held)
    }

    async fn release_tasks(
        &self,
        request: Request<TaskSelection>,
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

/// What a new daemon finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restart {
    /// The segment of the one before.
    Hot,
    /// An empty segment, and a journal.
    Cold,
}

pub(crate) struct FakeDaemon {
    pub(crate) address: Address,
    service: Service,
    host: Host,
}

impl FakeDaemon {
    pub(crate) fn start() -> Self {
        let service = Service {
            world: Arc::new(Mutex::new(World {
                segment_id: 7,
                key_slots: 100_000,
                key_hint_ms: 10,
                ..World::default()
            })),
            changed: Arc::new(Notify::new()),
        };
        let host = Host::start(service.router());
        Self {
            address: host.address(),
            service,
            host,
        }
    }

    /// Ends it as SIGKILL does: its connections break, its socket file stays.
    pub(crate) fn kill(&mut self) {
        self.host.kill();
    }

    /// Starts another one at the same address.
    pub(crate) fn start_again(&mut self, restart: Restart) {
        self.kill();
        {
            let mut world = self.service.world();
            world.forget_sessions();
            if restart == Restart::Cold {
                world.start_cold();
            }
        }
        self.host.start_again(self.service.router());
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

fn lost() -> Status {
    Status::unavailable("the connection broke")
}

impl Service {
    fn router(&self) -> Router {
        Server::builder()
            .add_service(RegisterServer::new(self.clone()))
            .add_service(PlmServer::new(self.clone()))
    }
}
