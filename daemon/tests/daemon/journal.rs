//! Journal tasks through a real `qtfd`, over both backends of the journal: answered when stable, there again after a
//! kill with the segment and without it.

use nix::sys::signal::Signal;
use qtf_proto::v1::*;

use crate::full_disk::submit_when_there_is_room;
use crate::process::{Home, Qtfd};
use crate::support::{Peer, RawWorker, edge_threads, hello, noop, run, stdout};

/// Runs a test over each backend that there is, and with edge threads.
fn on_both(test: &str, check: impl Fn(&Home, &[&str])) {
    for (backend, edge_threads) in [("auto", 0), ("auto", edge_threads()), ("io_uring", 0)] {
        if backend == "io_uring" && qtf_needs::lacks(qtf_needs::Need::IoUring) {
            break;
        }
        let home = Home::new(&format!("{test}-{backend}-{edge_threads}"));
        let threads = edge_threads.to_string();
        let data = home.data();
        let data = data.to_str().unwrap().to_owned();
        home.configure(
            "segment_bytes = 33554432\njournal_file_bytes = 524288\nsnapshot_after_bytes = 1048576\n",
        );
        let journal = ["--data-dir", &data, "--journal", backend];
        let edges = ["--edge-threads", &threads];
        check(&home, &[&journal[..], &edges[..]].concat());
    }
}

async fn info(peer: &mut Peer) -> DaemonInfo {
    let info = peer.admin.get_info(GetInfoRequest {}).await.unwrap();
    info.into_inner()
}

async fn task(peer: &mut Peer, task_id: u64) -> TaskInfo {
    let info = peer.plm.get_task(GetTaskRequest { task_id }).await.unwrap();
    info.into_inner()
}

#[test]
fn submission_is_answered_when_it_is_stable_and_says_so() {
    on_both("stable", |home, arguments| {
        let daemon = home.serving(arguments);
        run(async {
            let mut peer = home.connect().await;
            let request = SubmitTaskRequest {
                task: Some(noop(b"x")),
                ..SubmitTaskRequest::default()
            };
            let answer = peer.plm.submit_task(request).await.unwrap().into_inner();
            assert_eq!(answer.durability(), Durability::Journal);
            let lsn = task(&mut peer, answer.task_id).await.journal_lsn;
            let journal = info(&mut peer).await.journal.unwrap();
            assert!((1..=journal.durable_lsn).contains(&lsn), "{journal:?}");
            assert_eq!(journal.state(), JournalState::Open);
            let memory = TaskSpec {
                durability: Durability::Memory.into(),
                ..noop(b"y")
            };
            let memory = peer.submit(memory).await.unwrap();
            assert_eq!(task(&mut peer, memory).await.journal_lsn, 0);
        });
        assert_eq!(daemon.stop(), Some(0));
    });
}

#[test]
fn each_backend_says_in_the_log_what_it_is() {
    on_both("named", |home, arguments| {
        let daemon = home.serving(arguments);
        let is_on_ring = arguments.contains(&"io_uring");
        let wanted = if is_on_ring { "io_uring" } else { "thread" };
        let line = daemon.said.iter().find(|line| line.contains("data_dir="));
        let line = line.unwrap_or_else(|| panic!("{:#?}", daemon.said)).clone();
        assert!(line.contains(wanted), "{line}");
        assert_eq!(daemon.stop(), Some(0));
    });
}

/// Submits many batches at once and gives the ids in the order of the answers.
async fn submit_many(peer: &mut Peer, batches: u64, entries: usize) -> Vec<u64> {
    let requests = (1..=batches).map(move |batch| SubmitStreamRequest {
        batch,
        tasks: vec![noop(b"many"); entries],
        ..SubmitStreamRequest::default()
    });
    let stream = tokio_stream::iter(requests);
    let mut answers = peer.plm.submit_stream(stream).await.unwrap().into_inner();
    let mut ids = Vec::new();
    let mut next = 1;
    while let Some(answer) = answers.message().await.unwrap() {
        assert_eq!(answer.batch, next, "batches are answered in their order");
        next += 1;
        for verdict in answer.verdicts {
            assert_eq!(verdict.refusal, None);
            assert_eq!(verdict.durability(), Durability::Journal);
            ids.push(verdict.task_id);
        }
    }
    assert_eq!(next, batches + 1);
    ids
}

#[test]
fn answered_tasks_keep_their_order_over_kills_with_and_without_the_segment() {
    on_both("kills", |home, arguments| {
        let daemon = home.serving(arguments);
        let ids = run(async { submit_many(&mut home.connect().await, 8, 100).await });
        daemon.kill();
        let daemon = restarted(home, arguments, StartKind::Hot, &ids);
        daemon.kill();
        home.lose_segment();
        let daemon = restarted(home, arguments, StartKind::Cold, &ids);
        assert_eq!(daemon.stop(), Some(0));
        home.lose_segment();
        let daemon = restarted(home, arguments, StartKind::Cold, &ids);
        run(async {
            // What was submitted after a cold start has an id of its own.
            let mut peer = home.connect().await;
            let new = peer.submit(noop(b"new")).await.unwrap();
            assert!(!ids.contains(&new));
            let mut worker = RawWorker::join(&mut peer, hello(1), 1).await;
            let first = worker.assignments().await;
            assert_eq!(
                first[0].task.unwrap().task_id,
                ids[0],
                "first in, first out"
            );
        });
        assert_eq!(daemon.stop(), Some(0));
    });
}

/// Starts a daemon again; it must find these tasks waiting, in this order, and the way it says.
fn restarted(home: &Home, arguments: &[&str], start: StartKind, ids: &[u64]) -> Qtfd {
    let daemon = home.serving(arguments);
    run(async {
        let mut peer = home.connect().await;
        assert_eq!(info(&mut peer).await.start(), start);
        let request = ListTasksRequest::default();
        let mut list = peer.plm.list_tasks(request).await.unwrap().into_inner();
        let mut found = Vec::new();
        while let Some(part) = list.message().await.unwrap() {
            found.extend(part.tasks.into_iter().map(|task| {
                assert_eq!(task.state(), TaskState::Ready);
                task.task_id
            }));
        }
        let (mut found, mut wanted) = (found, ids.to_vec());
        found.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(found, wanted);
    });
    daemon
}

#[test]
fn result_is_told_after_its_own_record_and_kept_over_both_kinds_of_restart() {
    on_both("result", |home, arguments| {
        let daemon = home.serving(arguments);
        let id = run(async {
            let mut peer = home.connect().await;
            let id = peer.submit(noop(b"in")).await.unwrap();
            let mut worker = RawWorker::join(&mut peer, hello(1), 1).await;
            let assignment = worker.assignments().await.remove(0);
            let before = info(&mut peer).await.journal.unwrap().durable_lsn;
            let verdict = worker.finish(assignment.task.unwrap(), b"out").await;
            assert_eq!(verdict, ResultDisposition::Recorded);
            let journal = info(&mut peer).await.journal.unwrap();
            let lsn = task(&mut peer, id).await.journal_lsn;
            assert!(
                lsn > before && lsn <= journal.durable_lsn,
                "{lsn} {journal:?}"
            );
            id
        });
        daemon.kill();
        let daemon = home.serving(arguments);
        run(fetched(home, id));
        daemon.kill();
        home.lose_segment();
        let daemon = home.serving(arguments);
        run(fetched(home, id));
        run(async {
            // Acknowledged once, it stays gone.
            let mut peer = home.connect().await;
            let selection = TaskSelection {
                task_ids: vec![id],
                ..TaskSelection::default()
            };
            let verdicts = peer.plm.forget_tasks(selection).await.unwrap().into_inner();
            assert_eq!(verdicts.verdicts[0].refusal, None);
        });
        daemon.kill();
        home.lose_segment();
        let daemon = home.serving(arguments);
        run(async {
            let state = home.connect().await.state(id).await;
            assert_eq!(state, TaskState::Unspecified, "it was acknowledged");
        });
        assert_eq!(daemon.stop(), Some(0));
    });
}

/// The output of a task that is done can be watched and fetched.
async fn fetched(home: &Home, id: u64) {
    let mut peer = home.connect().await;
    let (watch, mut ends) = peer.watch().await;
    let request = WatchRequest {
        watch: vec![id],
        with_output: true,
        ..WatchRequest::default()
    };
    watch.send(request).await.unwrap();
    let end = ends.message().await.unwrap().unwrap().ends.remove(0);
    assert_eq!(
        (end.state(), &end.output[..]),
        (TaskState::Done, &stdout(b"out")[..])
    );
}

#[test]
fn running_task_of_a_living_worker_goes_on_over_a_kill_of_the_daemon() {
    on_both("running", |home, arguments| {
        let daemon = home.serving(arguments);
        let (id, held, welcome) = run(async {
            let mut peer = home.connect().await;
            let id = peer.submit(noop(b"in")).await.unwrap();
            let mut worker = RawWorker::join(&mut peer, hello(1), 1).await;
            let held = worker.assignments().await.remove(0).task.unwrap();
            (id, held, worker.welcome.clone())
        });
        daemon.signal(Signal::SIGKILL);
        drop(daemon);
        let daemon = home.serving(arguments);
        run(async {
            let mut peer = home.connect().await;
            let again = WorkerHello {
                worker_id: welcome.worker_id,
                token: welcome.token,
                segment_id: welcome.segment_id,
                held: vec![HeldTask {
                    task: Some(held),
                    finished: false,
                }],
                ..hello(1)
            };
            let mut worker = RawWorker::join(&mut peer, again, 0).await;
            assert_eq!(worker.welcome.worker_id, welcome.worker_id);
            assert_eq!(worker.welcome.abandon, []);
            assert_eq!(
                worker.finish(held, b"out").await,
                ResultDisposition::Recorded
            );
            let info = task(&mut peer, id).await;
            assert_eq!((info.state(), info.attempt), (TaskState::Done, 1));
        });
        assert_eq!(daemon.stop(), Some(0));
    });
}

/// As for a worker whose welcome comes from the daemon before, and whose next call reaches this one.
#[test]
fn a_known_worker_without_a_session_is_told_to_say_hello_again() {
    on_both("no-session", |home, arguments| {
        let daemon = home.serving(arguments);
        let welcome = run(async {
            let mut peer = home.connect().await;
            let worker = RawWorker::join(&mut peer, hello(1), 1).await;
            worker.welcome.clone()
        });
        daemon.signal(Signal::SIGKILL);
        drop(daemon);
        let daemon = home.serving(arguments);
        run(async {
            let mut peer = home.connect().await;
            let early = DispatchRequest {
                worker_id: welcome.worker_id,
                token: welcome.token,
                credits: 1,
                probe_answer: 0,
            };
            let orders = peer.scheduler.dispatch(tokio_stream::iter([early])).await;
            let status = orders.unwrap().into_inner().message().await.unwrap_err();
            let refusal = qtf_proto::refusal::refusal_of(&status).unwrap();
            assert_eq!(refusal.reason(), RefusalReason::UnknownSession, "{status}");
            let again = WorkerHello {
                worker_id: welcome.worker_id,
                token: welcome.token,
                segment_id: welcome.segment_id,
                ..hello(1)
            };
            let worker = RawWorker::join(&mut peer, again, 0).await;
            assert_eq!(worker.welcome.worker_id, welcome.worker_id);
        });
        assert_eq!(daemon.stop(), Some(0));
    });
}

#[test]
fn snapshot_is_taken_beside_the_work_and_a_cold_start_goes_on_from_it() {
    on_both("snapshot", |home, arguments| {
        let daemon = home.serving(arguments);
        let ids = run(async {
            let mut peer = home.connect().await;
            let mut ids = Vec::new();
            let payload = vec![5; 20_000];
            // Far beyond what one snapshot is taken after.
            for _ in 0..80 {
                // On a busy machine files are written faster than they are made.
                ids.push(submit_when_there_is_room(&mut peer, noop(&payload)).await);
            }
            let again = peer.clone();
            crate::support::until(|| async {
                let journal = info(&mut again.clone()).await.journal.unwrap();
                journal.snapshot_lsn > 0 && journal.files < 8
            })
            .await;
            ids
        });
        daemon.kill();
        home.lose_segment();
        let mut daemon = home.serving(arguments);
        let line = daemon.said.iter().find(|line| line.contains("restored"));
        let line = line.unwrap_or_else(|| panic!("{:#?}", daemon.said)).clone();
        assert!(line.contains("tasks=80"), "{line}");
        run(async {
            let mut peer = home.connect().await;
            for id in &ids {
                assert_eq!(peer.state(*id).await, TaskState::Ready);
            }
        });
        assert!(daemon.has_said("serving"));
        assert_eq!(daemon.stop(), Some(0));
    });
}

#[test]
fn payload_in_a_file_of_its_own_outlives_the_segment() {
    on_both("spill", |home, arguments| {
        let daemon = home.serving(arguments);
        let payload: Vec<u8> = (0..200_000_u32)
            .map(|number| (number % 251) as u8)
            .collect();
        let id = run(async {
            let mut peer = home.connect().await;
            let chunks: Vec<UploadChunk> = payload
                .chunks(50_000)
                .map(|data| UploadChunk {
                    total_bytes: payload.len() as u64,
                    data: data.to_vec().into(),
                    ..UploadChunk::default()
                })
                .collect();
            let receipt = peer.plm.upload_payload(tokio_stream::iter(chunks)).await;
            let task = TaskSpec {
                payload_upload: receipt.unwrap().into_inner().upload,
                ..noop(b"")
            };
            peer.submit(task).await.unwrap()
        });
        daemon.kill();
        home.lose_segment();
        let daemon = home.serving(arguments);
        run(async {
            let mut peer = home.connect().await;
            let mut worker = RawWorker::join(&mut peer, hello(1), 1).await;
            let assignment = worker.assignments().await.remove(0);
            assert_eq!(assignment.task.unwrap().task_id, id);
            let request = FetchPayloadRequest {
                worker_id: worker.welcome.worker_id,
                token: worker.welcome.token,
                task: assignment.task,
            };
            let chunks = peer.scheduler.fetch_payload(request).await.unwrap();
            let (mut chunks, mut found) = (chunks.into_inner(), Vec::new());
            while let Some(chunk) = chunks.message().await.unwrap() {
                found.extend_from_slice(&chunk.data);
            }
            assert!(found == payload, "{} bytes", found.len());
        });
        assert_eq!(daemon.stop(), Some(0));
    });
}
