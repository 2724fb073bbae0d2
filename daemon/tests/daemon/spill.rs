//! Uploads and a disk that is slow, full, or does not answer.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

use qtf_daemon::config::faults::DiskFaults;
use qtf_daemon::{Daemon, RunningDaemon, Settings};
use qtf_proto::refusal::refusal_of;
use qtf_proto::v1::*;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

use crate::support::{Peer, RawWorker, hello, noop, run, small, stdout, until};

/// Space that an upload takes at once.
const STEP_BYTES: u64 = 1 << 20;
/// What the checksums and the file system take on top.
const SLACK_BYTES: u64 = 64 << 10;

/// The disk of spill files, as a test wants it.
#[derive(Debug, Default)]
struct Disk {
    state: Mutex<State>,
    woken: Condvar,
}

#[derive(Debug, Default)]
struct State {
    hangs: bool,
    is_full: bool,
    /// Jobs that have come as far as this.
    seen: u64,
}

impl Disk {
    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
        self.woken.notify_all();
    }

    fn seen(&self) -> u64 {
        self.state.lock().unwrap().seen
    }
}

impl DiskFaults for Disk {
    fn spill(&self) -> bool {
        let mut state = self.state.lock().unwrap();
        state.seen += 1;
        let state = self.woken.wait_while(state, |state| state.hangs).unwrap();
        state.is_full
    }
}

fn start(folder: &Path, disk: &Arc<Disk>) -> RunningDaemon {
    let faults: Arc<dyn DiskFaults> = Arc::clone(disk) as _;
    let settings = Settings::private_with(small()).unwrap();
    let settings = settings.spill_dir(folder.to_owned()).disk_faults(faults);
    Daemon::start(settings).unwrap()
}

/// Space that the files of a folder take on the disk.
fn space(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    let blocks = entries.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.blocks()));
    blocks.sum::<u64>() * 512
}

fn chunk(total: u64, bytes: usize) -> UploadChunk {
    UploadChunk {
        session: 0,
        total_bytes: total,
        data: vec![7; bytes].into(),
    }
}

/// An upload that goes on as the test says.
struct Upload {
    chunks: mpsc::Sender<UploadChunk>,
    call: JoinHandle<Result<Response<UploadReceipt>, Status>>,
}

impl Upload {
    async fn begin(peer: &Peer, first: UploadChunk) -> Self {
        let (chunks, stream) = mpsc::channel(4);
        chunks.send(first).await.unwrap();
        let mut plm = peer.plm.clone();
        let call =
            tokio::spawn(async move { plm.upload_payload(ReceiverStream::new(stream)).await });
        Self { chunks, call }
    }

    async fn finish(self) -> Result<u64, Status> {
        drop(self.chunks);
        let receipt = self.call.await.unwrap();
        Ok(receipt?.into_inner().upload)
    }
}

#[test]
fn many_uploads_that_announce_much_and_send_a_byte_take_a_step_each() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk::default());
    let daemon = start(folder.path(), &disk);
    run(async {
        let peer = Peer::new(&daemon).await;
        let mut uploads = Vec::new();
        for _ in 0..64 {
            uploads.push(Upload::begin(&peer, chunk(64 << 20, 1)).await);
        }
        // Each was begun and has written its byte; nothing is left to be done for it.
        until(async || disk.seen() >= 2 * 64).await;
        let files = || std::fs::read_dir(folder.path()).map_or(0, Iterator::count);
        assert_eq!(files(), 64);
        let taken = space(folder.path());
        assert!(taken <= 64 * (STEP_BYTES + SLACK_BYTES), "{taken}");
        for upload in uploads {
            upload.call.abort();
        }
        until(async || files() == 0).await;
    });
}

#[test]
fn disk_of_spill_files_that_hangs_keeps_uploads_and_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk::default());
    let daemon = start(folder.path(), &disk);
    run(async {
        let uploading = Peer::new(&daemon).await;
        let first = Upload::begin(&uploading, chunk(100_000, 50_000)).await;
        until(async || disk.seen() >= 2).await;
        disk.set(|state| state.hangs = true);
        first.chunks.send(chunk(0, 50_000)).await.unwrap();
        let second = Upload::begin(&uploading, chunk(10, 10)).await;
        until(async || disk.seen() >= 3).await;
        // The rest of the daemon goes on: a task is taken, run, and its end told.
        let mut peer = Peer::new(&daemon).await;
        let mut worker = RawWorker::join(&mut peer, hello(1), 1).await;
        for _ in 0..10 {
            let task = peer.submit(noop(b"x")).await.unwrap();
            let assignment = worker.assignments().await.remove(0);
            let told = worker.finish(assignment.task.unwrap(), b"out").await;
            assert_eq!(told, ResultDisposition::Recorded);
            assert_eq!(peer.state(task).await, TaskState::Done);
            let more = DispatchRequest {
                credits: 1,
                ..DispatchRequest::default()
            };
            worker.grants.send(more).await.unwrap();
        }
        assert!(!first.call.is_finished() && !second.call.is_finished());
        disk.set(|state| state.hangs = false);
        for upload in [first, second] {
            let receipt = upload.finish().await.unwrap();
            let task = TaskSpec {
                payload_upload: receipt,
                ..noop(b"")
            };
            peer.submit(task).await.unwrap();
        }
    });
}

#[test]
fn disk_of_spill_files_that_hangs_keeps_whoever_fetches_and_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk::default());
    let daemon = start(folder.path(), &disk);
    run(async {
        let mut peer = Peer::new(&daemon).await;
        let upload = Upload::begin(&peer, chunk(150_000, 150_000)).await;
        let task = TaskSpec {
            payload_upload: upload.finish().await.unwrap(),
            ..noop(b"")
        };
        peer.submit(task).await.unwrap();
        let mut worker = RawWorker::join(&mut peer, hello(1), 1).await;
        let assignment = worker.assignments().await.remove(0);
        disk.set(|state| state.hangs = true);
        let seen = disk.seen();
        let fetching: Vec<_> = (0..40)
            .map(|_| {
                let mut scheduler = peer.scheduler.clone();
                let request = FetchPayloadRequest {
                    worker_id: worker.welcome.worker_id,
                    token: worker.welcome.token,
                    task: assignment.task,
                };
                tokio::spawn(async move {
                    let mut chunks = scheduler.fetch_payload(request).await?.into_inner();
                    let mut bytes = Vec::new();
                    while let Some(chunk) = chunks.message().await? {
                        bytes.extend_from_slice(&chunk.data);
                    }
                    Ok::<_, Status>(bytes)
                })
            })
            .collect();
        until(async || disk.seen() > seen).await;
        for _ in 0..10 {
            peer.submit(noop(b"x")).await.unwrap();
        }
        assert!(fetching.iter().all(|call| !call.is_finished()));
        // Some go before anything was read.
        for call in &fetching[..20] {
            call.abort();
        }
        disk.set(|state| state.hangs = false);
        for call in fetching.into_iter().skip(20) {
            assert!(call.await.unwrap().unwrap() == vec![7; 150_000]);
        }
    });
}

/// What a list says, and how many bytes of each payload it shows.
async fn listed(peer: &mut Peer, without_preview: bool) -> Vec<(u64, usize)> {
    let request = ListTasksRequest {
        without_preview,
        ..ListTasksRequest::default()
    };
    let mut stream = peer.plm.list_tasks(request).await.unwrap().into_inner();
    let mut tasks = Vec::new();
    while let Some(page) = stream.message().await.unwrap() {
        let shown = |info: TaskInfo| (info.task_id, info.payload_preview.len());
        tasks.extend(page.tasks.into_iter().map(shown));
    }
    tasks.sort_unstable();
    tasks
}

#[test]
fn previews_of_payloads_in_files_are_read_by_the_spill_thread_and_left_out_when_the_disk_hangs() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk::default());
    let daemon = start(folder.path(), &disk);
    run(async {
        let mut peer = Peer::new(&daemon).await;
        let mut wanted = Vec::new();
        for number in 0..6 {
            let task = if number % 2 == 0 {
                let upload = Upload::begin(&peer, chunk(150_000, 150_000)).await;
                let payload_upload = upload.finish().await.unwrap();
                TaskSpec {
                    payload_upload,
                    ..noop(b"")
                }
            } else {
                noop(b"small")
            };
            let shown = if number % 2 == 0 { 4_096 } else { 5 };
            wanted.push((peer.submit(task).await.unwrap(), shown));
        }
        wanted.sort_unstable();
        let in_file = wanted.iter().find(|task| task.1 > 5).unwrap().0;
        let get = GetTaskRequest { task_id: in_file };
        // No more than one read for each, and none on the daemon's thread.
        let jobs = disk.seen();
        assert_eq!(listed(&mut peer, false).await, wanted);
        assert_eq!(disk.seen() - jobs, 3);
        let info = peer.plm.get_task(get).await.unwrap().into_inner();
        assert!(info.payload_preview == vec![7; 4_096]);
        assert_eq!(disk.seen() - jobs, 4);
        disk.set(|state| state.hangs = true);
        assert_eq!(listed(&mut peer, true).await.len(), 6);
        assert_eq!(disk.seen() - jobs, 4);
        let mut asking = Peer::new(&daemon).await;
        let list = tokio::spawn(async move { listed(&mut asking, false).await });
        until(async || disk.seen() - jobs == 5).await;
        // Others go on meanwhile; and so does the list, without what the disk keeps.
        for task in &mut wanted {
            peer.submit(noop(b"x")).await.unwrap();
            task.1 = if task.1 > 5 { 0 } else { 5 };
        }
        let mut shown = list.await.unwrap();
        shown.retain(|task| task.0 <= wanted[5].0);
        assert_eq!(shown, wanted);
        let info = peer.plm.get_task(get).await.unwrap().into_inner();
        assert!(info.payload_preview.is_empty() && info.payload_bytes == 150_000);
        disk.set(|state| state.hangs = false);
        while !listed(&mut peer, false).await.iter().any(|task| task.1 > 5) {}
    });
}

/// A task that ran and whose output is the worker's to report; gives task and attempt.
async fn ran(peer: &mut Peer, worker: &mut RawWorker) -> (u64, TaskRef) {
    let more = DispatchRequest {
        credits: 1,
        ..DispatchRequest::default()
    };
    worker.grants.send(more).await.unwrap();
    let task = peer.submit(noop(b"x")).await.unwrap();
    let assignment = worker.assignments().await.remove(0);
    (task, assignment.task.unwrap())
}

async fn output_of(peer: &mut Peer, task_id: u64) -> Vec<u8> {
    let fetched = peer.plm.fetch_output(FetchOutputRequest { task_id }).await;
    let mut chunks = fetched.unwrap().into_inner();
    let mut bytes = Vec::new();
    while let Some(chunk) = chunks.message().await.unwrap() {
        bytes.extend_from_slice(&chunk.data);
    }
    bytes
}

#[test]
fn output_that_the_segment_has_no_room_for_goes_to_a_file_and_a_disk_that_hangs_keeps_only_its_verdict()
 {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk::default());
    let daemon = start(folder.path(), &disk);
    run(async {
        let mut peer = Peer::new(&daemon).await;
        let mut worker = RawWorker::join(&mut peer, hello(1), 0).await;
        let output = vec![9; 60_000];
        let mut in_file = 0;
        while disk.seen() == 0 {
            let (task, attempt) = ran(&mut peer, &mut worker).await;
            in_file = task;
            let told = worker.finish(attempt, &output).await;
            assert_eq!(told, ResultDisposition::Recorded);
            assert!(output_of(&mut peer, task).await == stdout(&output));
        }
        assert!(peer.counter("spill_written").await > 0);
        let (task, attempt) = ran(&mut peer, &mut worker).await;
        disk.set(|state| state.hangs = true);
        let seen = disk.seen();
        let result = TaskResult {
            task: Some(attempt),
            outcome: Some(Outcome {
                kind: OutcomeKind::Exited.into(),
                ..Outcome::default()
            }),
            output: stdout(&output),
            output_upload: 0,
            ..TaskResult::default()
        };
        let report = WorkerReport {
            results: vec![result],
            ..WorkerReport::default()
        };
        worker.reports.send(report).await.unwrap();
        until(async || disk.seen() > seen).await;
        // Others go on meanwhile, also those who hear of an output that lies there already: it is to be fetched.
        let (watch, mut ends) = peer.watch().await;
        let request = WatchRequest {
            watch: vec![in_file],
            with_output: true,
            ..WatchRequest::default()
        };
        watch.send(request).await.unwrap();
        let end = ends.message().await.unwrap().unwrap().ends.remove(0);
        assert_eq!(
            (end.output_bytes, end.output.len()),
            (stdout(&output).len() as u64, 0)
        );
        peer.submit(noop(b"x")).await.unwrap();
        assert_eq!(peer.state(task).await, TaskState::Running);
        disk.set(|state| state.hangs = false);
        let notice = worker.notices.message().await.unwrap().unwrap();
        let verdict = notice.verdicts[0].disposition();
        assert_eq!(verdict, ResultDisposition::Recorded);
        assert!(output_of(&mut peer, task).await == stdout(&output));
        // Where there is no room for the file either it is dropped, and said to be.
        disk.set(|state| state.is_full = true);
        let (_, attempt) = ran(&mut peer, &mut worker).await;
        let task_id = attempt.task_id;
        let told = worker.finish(attempt, &output).await;
        assert_eq!(told, ResultDisposition::Recorded);
        assert_eq!(peer.counter("result_dropped").await, 1);
        let info = peer.plm.get_task(GetTaskRequest { task_id }).await;
        assert_eq!(info.unwrap().into_inner().output_bytes, 0);
    });
}

#[test]
fn disk_that_is_full_in_the_middle_of_an_upload_is_named_with_what_helps_and_the_space_is_free_again()
 {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk::default());
    let daemon = start(folder.path(), &disk);
    run(async {
        let peer = Peer::new(&daemon).await;
        let upload = Upload::begin(&peer, chunk(3 << 20, 100_000)).await;
        until(async || disk.seen() >= 2).await;
        assert!(space(folder.path()) > 0);
        disk.set(|state| state.is_full = true);
        upload.chunks.send(chunk(0, 100_000)).await.unwrap();
        let refused = upload.finish().await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused}");
        let refusal = refusal_of(&refused).unwrap();
        assert_eq!(refusal.reason(), RefusalReason::SpillFailed);
        assert!(refusal.retry_after_ms > 0);
        let dir = folder.path().display().to_string();
        assert!(refusal.message.contains(&dir), "{}", refusal.message);
        assert!(
            refusal.message.contains("free some space"),
            "{}",
            refusal.message
        );
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        disk.set(|state| state.is_full = false);
        let again = Upload::begin(&peer, chunk(10, 10)).await;
        again.finish().await.unwrap();
    });
}
