//! A journal whose disk fails: what was answered is there afterwards, what could not be written was never answered,
//! and the daemon says so and ends.

use std::collections::BTreeSet;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use prost::Message as _;
use qtf_daemon::config::RawConfig;
use qtf_daemon::config::faults::{DiskFaults, WriteFault};
use qtf_daemon::{BootError, Daemon, Exit, RunningDaemon, Settings};
use qtf_journal::{Fault, FaultyStorage, Storage};
use qtf_proto::address::Address;
use qtf_proto::refusal;
use qtf_proto::v1::*;
use tokio::sync::Semaphore;

use crate::grpc::one_piece;
use crate::process::remove_segment;
use crate::support::{Peer, noop, run};

/// A disk on which chosen writes of groups, or one operation on files, fail.
#[derive(Debug, Default)]
struct Disk {
    plan: Mutex<Plan>,
    files: Mutex<Option<FaultyStorage>>,
}

#[derive(Debug, Default)]
struct Plan {
    count: u64,
    /// Which write fails, and how.
    one: Option<(u64, WriteFault)>,
    /// How all others do.
    all: Option<WriteFault>,
    /// What each waits for: a permit.
    gate: Option<Arc<Semaphore>>,
    /// Which operation on files fails, and how.
    operation: Option<(u64, Fault)>,
}

impl Disk {
    fn plan(&self, change: impl FnOnce(&mut Plan)) {
        change(&mut self.plan.lock().unwrap());
    }

    fn hit(&self) -> bool {
        let files = self.files.lock().unwrap();
        files.as_ref().is_some_and(|files| files.hit().is_some())
    }
}

impl DiskFaults for Disk {
    fn storage(&self, real: Arc<dyn Storage>) -> Arc<dyn Storage> {
        let faulty = FaultyStorage::new(real);
        if let Some((number, fault)) = self.plan.lock().unwrap().operation {
            faulty.fail(number, fault);
        }
        *self.files.lock().unwrap() = Some(faulty.clone());
        Arc::new(faulty)
    }

    fn held(&self) -> Option<Pin<Box<dyn Future<Output = ()> + Send>>> {
        let gate = self.plan.lock().unwrap().gate.clone()?;
        Some(Box::pin(async move {
            let _open = gate.acquire().await.unwrap();
        }))
    }

    fn write(&self) -> Option<WriteFault> {
        let mut plan = self.plan.lock().unwrap();
        plan.count += 1;
        match plan.one {
            Some((number, fault)) if number == plan.count => Some(fault),
            _ => plan.all,
        }
    }
}

/// Where the daemons of one test live; the segment goes with it.
struct Place {
    folder: tempfile::TempDir,
    name: String,
    journal: &'static str,
}

impl Place {
    fn new(test: &str, journal: &'static str) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            name: format!("fault-{test}-{journal}-{}", std::process::id()),
            journal,
        }
    }

    fn start(&self, disk: &Arc<Disk>) -> Result<RunningDaemon, BootError> {
        let path = |name: &str| Path::new(self.folder.path()).join(name);
        let settings = Settings::from_raw(RawConfig {
            instance: Some(self.name.clone()),
            runtime_dir: Some(path("run")),
            data_dir: Some(path("data")),
            listen: Some(vec![format!("unix:{}", path("socket").display())]),
            core: Some("none".parse().unwrap()),
            journal: Some(self.journal.to_owned()),
            journal_file_bytes: Some(512 << 10),
            segment_tasks: Some(2_000),
            segment_workers: Some(8),
            stop_deadline_ms: Some(2_000),
            ..RawConfig::default()
        });
        let faults: Arc<dyn DiskFaults> = Arc::clone(disk) as _;
        Daemon::start(settings.unwrap().disk_faults(faults))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        remove_segment(&self.name);
    }
}

/// Submits until it is refused or `count` are answered; gives the ids that were.
async fn submit(daemon: &RunningDaemon, count: usize) -> (BTreeSet<u64>, Option<tonic::Status>) {
    let mut peer = Peer::new(daemon).await;
    let mut answered = BTreeSet::new();
    for _ in 0..count {
        match peer.submit(noop(&[7; 2_000])).await {
            Ok(id) => answered.insert(id),
            Err(status) => return (answered, Some(status)),
        };
    }
    (answered, None)
}

async fn all_are_there(daemon: &RunningDaemon, ids: &BTreeSet<u64>) {
    let mut peer = Peer::new(daemon).await;
    for id in ids {
        assert_eq!(peer.state(*id).await, TaskState::Ready, "{id:#x}");
    }
}

/// What can write the journal here.
fn backends() -> &'static [&'static str] {
    if qtf_needs::lacks(qtf_needs::Need::IoUring) {
        &["auto"]
    } else {
        &["auto", "io_uring"]
    }
}

#[test]
fn write_that_fails_ends_the_daemon_and_loses_nothing_that_was_answered() {
    for &backend in backends() {
        for number in [2, 3, 9] {
            let place = Place::new("write", backend);
            let disk = Arc::new(Disk::default());
            disk.plan(|plan| plan.one = Some((number, WriteFault::Errno(libc::EIO))));
            let daemon = place.start(&disk).unwrap();
            let (answered, refused) = run(async {
                let mut peer = Peer::new(&daemon).await;
                let (watch, mut ends) = peer.watch().await;
                let result = submit(&daemon, 50).await;
                let end = ends.message().await.unwrap_err();
                assert_eq!(end.code(), tonic::Code::Unavailable, "{end}");
                drop(watch);
                result
            });
            let refused = refused.expect("one write fails");
            let reason = refusal::refusal_of(&refused).unwrap().reason();
            assert_eq!(reason, RefusalReason::JournalFailed, "{refused}");
            assert_eq!(refused.code(), tonic::Code::Unavailable);
            // It ends by itself.
            run(daemon.ended());
            let error = daemon.stop().unwrap_err();
            assert_eq!(error.exit(), Exit::JournalFailed);
            let text = error.to_string();
            assert!(text.contains("log-") && text.contains("offset"), "{text}");
            disk.plan(|plan| plan.one = None);
            let daemon = place.start(&disk).unwrap();
            run(all_are_there(&daemon, &answered));
            daemon.stop().unwrap();
        }
    }
}

#[test]
fn short_and_interrupted_writes_are_gone_on_with() {
    for &backend in backends() {
        let place = Place::new("short", backend);
        let disk = Arc::new(Disk::default());
        disk.plan(|plan| plan.all = Some(WriteFault::Short));
        let daemon = place.start(&disk).unwrap();
        let (mut answered, refused) = run(submit(&daemon, 20));
        assert!(refused.is_none());
        for errno in [libc::EINTR, libc::EAGAIN] {
            disk.plan(|plan| {
                plan.all = None;
                plan.one = Some((plan.count + 2, WriteFault::Errno(errno)));
            });
            let (more, refused) = run(submit(&daemon, 5));
            assert!(refused.is_none());
            answered.extend(more);
        }
        daemon.stop().unwrap();
        let daemon = place.start(&disk).unwrap();
        run(all_are_there(&daemon, &answered));
        daemon.stop().unwrap();
    }
}

#[test]
fn each_operation_on_files_of_a_start_fails_once_and_nothing_is_lost() {
    for errno in [libc::EIO, libc::ENOSPC] {
        let mut number = 0;
        while start_fails_once(number, errno) {
            number += 1;
        }
        assert!(number > 10, "a start does more than that");
    }
}

/// A start in which this operation fails serves with all that was answered, or ends in order and the next one does. False if a
/// start has no such operation. Each time from the beginning, because a start that serves leaves one more file to be read.
fn start_fails_once(number: u64, errno: i32) -> bool {
    let place = Place::new("files", "thread");
    let disk = Arc::new(Disk::default());
    let daemon = place.start(&disk).unwrap();
    let (answered, refused) = run(submit(&daemon, 5));
    assert!(refused.is_none());
    daemon.stop().unwrap();
    disk.plan(|plan| plan.operation = Some((number, Fault::Errno(errno))));
    match place.start(&disk) {
        Ok(daemon) => {
            run(all_are_there(&daemon, &answered));
            daemon.stop().unwrap();
        }
        Err(error) => assert!(
            matches!(error.exit(), Exit::JournalFailed | Exit::Failed),
            "operation {number}: {error}"
        ),
    }
    let was_hit = disk.hit();
    disk.plan(|plan| plan.operation = None);
    let daemon = place.start(&disk).unwrap();
    run(all_are_there(&daemon, &answered));
    daemon.stop().unwrap();
    was_hit
}

/// A submission over HTTP/2 as such, without a client whose own clock could be the first to end it.
async fn submit_by_hand(
    daemon: &RunningDaemon,
    submission: &SubmitTaskRequest,
    timeout: &str,
) -> tonic::Status {
    let [Address::Unix(path)] = daemon.addresses() else {
        panic!("{:?}", daemon.addresses());
    };
    let stream = tokio::net::UnixStream::connect(path).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(
        hyper_util::rt::TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(stream),
    )
    .await
    .unwrap();
    let serving = tokio::spawn(connection);
    let message = submission.encode_to_vec();
    let mut body = vec![0];
    body.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    body.extend_from_slice(&message);
    let request = http::Request::post("http://localhost/qtf.v1.Plm/SubmitTask")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", timeout)
        .body(Box::pin(one_piece(body)))
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    serving.abort();
    tonic::Status::from_header_map(answer.headers()).expect("the call ended without a message")
}

#[test]
fn call_that_waits_for_the_journal_ends_with_the_deadline_of_its_caller_and_its_task_stays() {
    for &backend in backends() {
        let place = Place::new("slow", backend);
        let disk = Arc::new(Disk::default());
        let daemon = place.start(&disk).unwrap();
        run(async {
            let mut peer = Peer::new(&daemon).await;
            // What a first submission writes besides is written.
            peer.submit(noop(b"first")).await.unwrap();
            let gate = Arc::new(Semaphore::new(0));
            disk.plan(|plan| plan.gate = Some(Arc::clone(&gate)));
            let submission = SubmitTaskRequest {
                task: Some(TaskSpec {
                    idempotency_key: vec![7; 16].into(),
                    ..noop(b"slow")
                }),
                ..SubmitTaskRequest::default()
            };
            let over = submit_by_hand(&daemon, &submission, "50m").await;
            assert_eq!(over.code(), tonic::Code::DeadlineExceeded, "{over}");
            assert!(over.message().contains("grpc-timeout of 50ms"), "{over}");
            // Nobody else waits for the disk who need not.
            let memory = TaskSpec {
                durability: Durability::Memory.into(),
                ..noop(b"memory")
            };
            let memory = peer.submit(memory).await.unwrap();
            assert_eq!(peer.state(memory).await, TaskState::Ready);
            gate.add_permits(1);
            // As the answer said: what the call changed before stays. The repeat is told of the same task.
            let again = peer.plm.submit_task(submission).await.unwrap().into_inner();
            assert_eq!(peer.state(again.task_id).await, TaskState::Ready);
            assert_eq!(peer.counter("key_repeated").await, 1);
        });
        daemon.stop().unwrap();
    }
}
