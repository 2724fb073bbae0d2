//! A daemon for one test, and raw peers: clients made of generated code only, so that every message is
//! under the test's control.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use qtf_daemon::config::{Network, RawConfig};
use qtf_daemon::{Daemon, RunningDaemon, Settings};
use qtf_proto::address::Address;
use qtf_proto::v1::admin_client::AdminClient;
use qtf_proto::v1::plm_client::PlmClient;
use qtf_proto::v1::register_client::RegisterClient;
use qtf_proto::v1::scheduler_client::SchedulerClient;
use qtf_proto::v1::*;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

/// LIMIT: a test that waits longer than this hangs.
const WATCHDOG: Duration = Duration::from_secs(300);

/// What a test of a small daemon starts from.
pub(crate) fn small() -> RawConfig {
    RawConfig {
        segment_tasks: Some(1_000),
        segment_workers: Some(50),
        stop_deadline_ms: Some(60_000),
        ..RawConfig::default()
    }
}

/// Threads for connections in these tests: two, where there are two cores.
pub(crate) fn edge_threads() -> u64 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    cores.min(2) as u64
}

/// The same, with threads for connections.
pub(crate) fn on_edge_threads(raw: RawConfig) -> RawConfig {
    RawConfig {
        edge_threads: Some(edge_threads()),
        ..raw
    }
}

/// Runs a test against a daemon on ordinary sockets, again with edge threads, and again on the ring where there is one.
pub(crate) fn on_both<F: Future<Output = ()>>(raw: &RawConfig, test: impl Fn(RunningDaemon) -> F) {
    let settings = Settings::private_with(on_edge_threads(raw.clone())).unwrap();
    run(test(Daemon::start(settings).unwrap()));
    for network in [Network::Auto, Network::IoUring] {
        if network == Network::IoUring && qtf_needs::lacks(qtf_needs::Need::IoUring) {
            break;
        }
        let settings = Settings::private_with(raw.clone())
            .unwrap()
            .network(network);
        let daemon = Daemon::start(settings).unwrap();
        run(test(daemon));
    }
}

/// Runs a test's future under the watchdog.
pub(crate) fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(WATCHDOG, test)
            .await
            .expect("the test hangs")
    })
}

/// Waits until a condition holds, looking again and again.
pub(crate) async fn until<F: Future<Output = bool>>(mut condition: impl FnMut() -> F) {
    while !condition().await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) async fn connect(daemon: &RunningDaemon) -> Channel {
    qtf_proto::channel::connect(&Address::InProcess(daemon.in_process()))
        .await
        .unwrap()
}

/// The four services over one connection.
#[derive(Clone)]
pub(crate) struct Peer {
    pub(crate) plm: PlmClient<Channel>,
    pub(crate) scheduler: SchedulerClient<Channel>,
    pub(crate) register: RegisterClient<Channel>,
    pub(crate) admin: AdminClient<Channel>,
}

impl Peer {
    pub(crate) async fn new(daemon: &RunningDaemon) -> Self {
        Self::over(connect(daemon).await)
    }

    pub(crate) fn over(channel: Channel) -> Self {
        Self {
            plm: PlmClient::new(channel.clone()).max_decoding_message_size(8 << 20),
            scheduler: SchedulerClient::new(channel.clone()),
            register: RegisterClient::new(channel.clone()),
            admin: AdminClient::new(channel),
        }
    }

    pub(crate) async fn submit(&mut self, task: TaskSpec) -> Result<u64, tonic::Status> {
        let request = SubmitTaskRequest {
            session: 0,
            task: Some(task),
            ..SubmitTaskRequest::default()
        };
        Ok(self.plm.submit_task(request).await?.into_inner().task_id)
    }

    pub(crate) async fn state(&mut self, task_id: u64) -> TaskState {
        match self.plm.get_task(GetTaskRequest { task_id }).await {
            Ok(info) => info.into_inner().state(),
            Err(_) => TaskState::Unspecified,
        }
    }

    pub(crate) async fn is_answered(&mut self) -> bool {
        self.admin.get_info(GetInfoRequest {}).await.is_ok()
    }

    pub(crate) async fn counter(&mut self, name: &str) -> u64 {
        let info = self
            .admin
            .get_info(GetInfoRequest {})
            .await
            .unwrap()
            .into_inner();
        info.counters
            .iter()
            .find(|counter| counter.name == name)
            .map_or(0, |counter| counter.value)
    }

    pub(crate) async fn watch(&mut self) -> (mpsc::Sender<WatchRequest>, Streaming<WatchResponse>) {
        let (sender, requests) = mpsc::channel(64);
        let ends = self
            .plm
            .watch(ReceiverStream::new(requests))
            .await
            .unwrap()
            .into_inner();
        (sender, ends)
    }
}

pub(crate) fn noop(payload: &[u8]) -> TaskSpec {
    TaskSpec {
        kind: "noop".into(),
        payload: payload.to_vec().into(),
        ..TaskSpec::default()
    }
}

/// A worker that does only what the test says.
pub(crate) struct RawWorker {
    pub(crate) welcome: WorkerWelcome,
    pub(crate) reports: mpsc::Sender<WorkerReport>,
    pub(crate) notices: Streaming<WorkerNotice>,
    pub(crate) grants: mpsc::Sender<DispatchRequest>,
    pub(crate) orders: Streaming<DispatchResponse>,
}

pub(crate) fn hello(capacity: u32) -> WorkerHello {
    WorkerHello {
        name: "raw".into(),
        host: "here".into(),
        pid: std::process::id(),
        capacity,
        kinds: vec!["noop".into(), "echo".into()],
        ..WorkerHello::default()
    }
}

impl RawWorker {
    /// Registers and grants `credits`.
    pub(crate) async fn join(peer: &mut Peer, hello: WorkerHello, credits: u32) -> Self {
        let (reports, requests) = mpsc::channel(64);
        reports
            .send(WorkerReport {
                hello: Some(hello),
                ..WorkerReport::default()
            })
            .await
            .unwrap();
        let call = peer.register.worker_session(ReceiverStream::new(requests));
        let mut notices = call.await.unwrap().into_inner();
        let welcome = notices.message().await.unwrap().unwrap().welcome.unwrap();
        let (grants, requests) = mpsc::channel(64);
        let first = DispatchRequest {
            worker_id: welcome.worker_id,
            token: welcome.token,
            credits,
            probe_answer: 0,
        };
        grants.send(first).await.unwrap();
        let call = peer.scheduler.dispatch(ReceiverStream::new(requests));
        let orders = call.await.unwrap().into_inner();
        Self {
            welcome,
            reports,
            notices,
            grants,
            orders,
        }
    }

    /// Waits for the next assignments.
    pub(crate) async fn assignments(&mut self) -> Vec<Assignment> {
        loop {
            let response = self
                .orders
                .message()
                .await
                .unwrap()
                .expect("dispatch stream ended");
            if response.probe != 0 {
                let answer = DispatchRequest {
                    probe_answer: response.probe,
                    ..DispatchRequest::default()
                };
                self.grants.send(answer).await.unwrap();
            }
            if !response.assignments.is_empty() {
                return response.assignments;
            }
        }
    }

    /// Reports the end of an attempt with a standard output, and waits for the verdict.
    pub(crate) async fn finish(&mut self, task: TaskRef, output: &[u8]) -> ResultDisposition {
        self.report(TaskResult {
            task: Some(task),
            outcome: Some(Outcome {
                kind: OutcomeKind::Exited.into(),
                ..Outcome::default()
            }),
            output: stdout(output),
            output_upload: 0,
            ..TaskResult::default()
        })
        .await
    }

    /// Reports a result and waits for what is said of it.
    pub(crate) async fn report(&mut self, result: TaskResult) -> ResultDisposition {
        self.verdict(result).await.disposition()
    }

    /// The same, with the reason.
    pub(crate) async fn verdict(&mut self, result: TaskResult) -> ResultVerdict {
        let report = WorkerReport {
            results: vec![result],
            ..WorkerReport::default()
        };
        self.reports.send(report).await.unwrap();
        loop {
            let notice = self
                .notices
                .message()
                .await
                .unwrap()
                .expect("session ended");
            if let Some(verdict) = notice.verdicts.into_iter().next() {
                return verdict;
            }
        }
    }
}

/// What a worker reports of a program that printed this; nothing, if it printed nothing.
pub(crate) fn stdout(printed: &[u8]) -> Bytes {
    let output = TaskOutput {
        stdout: Bytes::copy_from_slice(printed),
        ..TaskOutput::default()
    };
    output.encode_to_vec().into()
}
