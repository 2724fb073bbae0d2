//! Client and worker in a process of their own, and the daemon that serves them, under the counting allocator.

use std::process::Command;
use std::time::Duration;

use prost::Message as _;
use qtf_daemon::config::RawConfig;
use qtf_daemon::{Daemon, Settings};
use qtf_proto::address::Address;
use qtf_proto::v1::plm_client::PlmClient;
use qtf_proto::v1::register_client::RegisterClient;
use qtf_proto::v1::scheduler_client::SchedulerClient;
use qtf_proto::v1::*;
use stats_alloc::Region;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::COUNTING;

/// Tells the child where the daemon is, and how many batches it is to run.
const VARIABLE: &str = "QTF_TEST_ALLOCATIONS";
/// LIMIT: a test that waits longer than this hangs.
const WATCHDOG: Duration = Duration::from_secs(300);
const BATCH: u64 = 512;
const PAYLOAD: [u8; 64] = [1; 64];
const OUTPUT: [u8; 16] = [2; 16];

/// Client and worker over one connection.
struct Traffic {
    submissions: mpsc::Sender<SubmitStreamRequest>,
    answers: Streaming<SubmitStreamResponse>,
    reports: mpsc::Sender<WorkerReport>,
    orders: Streaming<DispatchResponse>,
    _notices: Streaming<WorkerNotice>,
    _grants: mpsc::Sender<DispatchRequest>,
    received: Vec<u64>,
    number: u64,
}

impl Traffic {
    async fn open(address: &Address) -> Self {
        let channel = qtf_proto::channel::connect(address).await.unwrap();
        let (submissions, requests) = mpsc::channel(8);
        let mut plm = PlmClient::new(channel.clone()).max_decoding_message_size(8 << 20);
        let answers = plm.submit_stream(ReceiverStream::new(requests)).await;
        let (reports, notices, orders, grants) = Self::join(&channel).await;
        Self {
            submissions,
            answers: answers.unwrap().into_inner(),
            reports,
            orders,
            _notices: notices,
            _grants: grants,
            received: Vec::new(),
            number: 0,
        }
    }

    async fn join(
        channel: &Channel,
    ) -> (
        mpsc::Sender<WorkerReport>,
        Streaming<WorkerNotice>,
        Streaming<DispatchResponse>,
        mpsc::Sender<DispatchRequest>,
    ) {
        let (reports, requests) = mpsc::channel(8);
        let hello = WorkerHello {
            name: "a worker with a name".into(),
            host: "here".into(),
            pid: std::process::id(),
            capacity: u32::try_from(BATCH).unwrap(),
            kinds: vec!["noop".into()],
            ..WorkerHello::default()
        };
        let first = WorkerReport {
            hello: Some(hello),
            ..WorkerReport::default()
        };
        reports.send(first).await.unwrap();
        let mut register = RegisterClient::new(channel.clone());
        let session = register.worker_session(ReceiverStream::new(requests)).await;
        let mut notices = session.unwrap().into_inner();
        let welcome = notices.message().await.unwrap().unwrap().welcome.unwrap();
        let (grants, requests) = mpsc::channel(8);
        let first = DispatchRequest {
            worker_id: welcome.worker_id,
            token: welcome.token,
            credits: u32::try_from(BATCH).unwrap(),
            probe_answer: 0,
        };
        grants.send(first).await.unwrap();
        let mut scheduler =
            SchedulerClient::new(channel.clone()).max_decoding_message_size(8 << 20);
        let orders = scheduler.dispatch(ReceiverStream::new(requests)).await;
        (reports, notices, orders.unwrap().into_inner(), grants)
    }

    /// A batch from its submission to the last of its ends, which are acknowledged with the next one.
    async fn run_batch(&mut self, batch: u64) {
        let task = TaskSpec {
            kind: "noop".into(),
            payload: PAYLOAD.to_vec().into(),
            ..TaskSpec::default()
        };
        let count = usize::try_from(BATCH).unwrap();
        let request = SubmitStreamRequest {
            batch,
            tasks: vec![task; count],
            watch: true,
            with_output: true,
            acknowledge: std::mem::take(&mut self.received),
            ..SubmitStreamRequest::default()
        };
        self.submissions.send(request).await.unwrap();
        let mut done = 0;
        while done < count {
            done += self.work().await;
        }
        while self.received.len() < count {
            let answer = self.answers.message().await.unwrap().unwrap();
            assert!(
                answer
                    .verdicts
                    .iter()
                    .all(|verdict| verdict.refusal.is_none())
            );
            for end in answer.ends {
                assert_eq!(end.state(), TaskState::Done);
                assert_eq!(end.worker_name, "a worker with a name");
                let output = TaskOutput::decode(end.output).unwrap();
                assert_eq!(*output.stdout, OUTPUT);
                self.received.push(end.task_id);
            }
        }
    }

    /// Does what was handed out, and grants as many credits.
    async fn work(&mut self) -> usize {
        let orders = self.orders.message().await.unwrap().unwrap();
        let output = TaskOutput {
            stdout: OUTPUT.to_vec().into(),
            ..TaskOutput::default()
        };
        let output: bytes::Bytes = output.encode_to_vec().into();
        let ended = |assignment: Assignment| {
            assert_eq!(*assignment.payload, PAYLOAD);
            TaskResult {
                task: assignment.task,
                outcome: Some(Outcome {
                    kind: OutcomeKind::Exited.into(),
                    ..Outcome::default()
                }),
                output: output.clone(),
                ..TaskResult::default()
            }
        };
        let results: Vec<_> = orders.assignments.into_iter().map(ended).collect();
        let count = results.len();
        self.number += 1;
        let report = WorkerReport {
            results,
            credits: u32::try_from(count).unwrap(),
            number: self.number,
            ..WorkerReport::default()
        };
        self.reports.send(report).await.unwrap();
        count
    }
}

/// What the child does; nothing, if this is not it.
#[test]
fn child() {
    let Ok(order) = std::env::var(VARIABLE) else {
        return;
    };
    let (batches, address) = order.split_once(' ').unwrap();
    let batches: u64 = batches.parse().unwrap();
    let address: Address = address.parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut traffic = Traffic::open(&address).await;
        for batch in 0..batches {
            let run = traffic.run_batch(batch);
            tokio::time::timeout(WATCHDOG, run).await.expect("hangs");
        }
    });
}

/// Runs so many batches, and counts what the daemon allocates meanwhile.
fn allocated(address: &Address, batches: u64) -> u64 {
    let region = Region::new(COUNTING);
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tasks::child", "--nocapture"])
        .env(VARIABLE, format!("{batches} {address}"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{said}");
    let change = region.change();
    u64::try_from(change.allocations + change.reallocations).unwrap()
}

#[test]
fn task_that_comes_and_goes_in_batches_costs_the_daemon_no_allocation_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}", folder.path().join("q.sock").display());
    let raw = RawConfig {
        listen: Some(vec![socket]),
        segment_tasks: Some(5_000),
        segment_workers: Some(50),
        ..RawConfig::default()
    };
    let daemon = Daemon::start(Settings::private_with(raw).unwrap()).unwrap();
    let address = &daemon.addresses()[0];
    // Buffers grow to the size that they keep.
    allocated(address, 20);
    let (few, many) = (10, 60);
    let (for_few, for_many) = (allocated(address, few), allocated(address, many));
    let tasks = (many - few) * BATCH;
    let more = for_many.saturating_sub(for_few);
    assert!(
        more <= tasks / 4,
        "{more} allocations for {tasks} tasks more, {for_few} for {few} batches"
    );
}
