//! The example programs, the client library and the worker library against the real daemon.
#![expect(clippy::unwrap_used, reason = "what cannot be set up is a failed test")]

use core::time::Duration;
use std::collections::{HashMap, HashSet};
use std::process::{Command, Stdio};

use futures_util::StreamExt as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use qtf_client::{
    Address, CallError, Client, OutcomeKind, RefusalReason, SubmitError, Task, TaskId, TaskState,
};
use qtf_daemon::{Daemon, RunningDaemon, Settings};
use qtf_worker::{ExecPolicy, Worker, WorkerError};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A test that waits longer hangs.
const WATCHDOG: Duration = Duration::from_secs(120);

async fn soon<T>(thing: impl Future<Output = T>) -> T {
    tokio::time::timeout(WATCHDOG, thing)
        .await
        .expect("nothing happens")
}

struct Place {
    daemon: RunningDaemon,
    address: Address,
    _directory: tempfile::TempDir,
}

fn start_with(settings: impl FnOnce(Settings) -> Settings) -> Place {
    let directory = tempfile::tempdir().unwrap();
    let address = Address::Unix(directory.path().join("daemon.sock"));
    let private = Settings::private()
        .segment_counts(20_000, 64)
        .spill_dir(directory.path().join("spill"))
        .listen_also(address.clone());
    let daemon = Daemon::start(settings(private)).unwrap();
    Place {
        daemon,
        address,
        _directory: directory,
    }
}

fn start() -> Place {
    start_with(|settings| settings)
}

impl Place {
    async fn client(&self) -> Client {
        soon(Client::connect(&self.address)).await.unwrap()
    }

    fn worker(&self, slots: u32) -> Working {
        let in_process = Address::InProcess(self.daemon.in_process());
        let policy = ExecPolicy::default().stop_grace(Duration::from_millis(200));
        let worker = Worker::builder(in_process)
            .slots(slots)
            .prefetch(slots)
            .exec(policy);
        let worker = worker.build().unwrap();
        let (shutdown, on_shutdown) = oneshot::channel::<()>();
        let run = async move { worker.run(async { drop(on_shutdown.await) }).await };
        Working {
            handle: tokio::spawn(run),
            shutdown,
        }
    }
}

struct Working {
    handle: JoinHandle<Result<(), WorkerError>>,
    shutdown: oneshot::Sender<()>,
}

impl Working {
    async fn leave(self) {
        drop(self.shutdown);
        soon(self.handle).await.unwrap().unwrap();
    }
}

fn example(name: &str) -> Command {
    Command::new(match name {
        "client" => env!("CARGO_BIN_EXE_word-count-client"),
        _ => env!("CARGO_BIN_EXE_word-count-worker"),
    })
}

/// Waits until something is true that nobody tells of.
async fn until(is_so: impl AsyncFn() -> bool) {
    soon(async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn example_client_gets_its_results_from_the_example_worker() {
    let place = start();
    let address = place.address.to_string();
    let mut worker = example("worker").arg(&address).spawn().unwrap();
    let client = example("client")
        .args([&address, "400"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = tokio::task::spawn_blocking(move || client.wait_with_output());
    let output = soon(output).await.unwrap().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let lines: HashSet<&str> = text.lines().collect();
    assert!(lines.contains("400 texts, 0 failed"), "{text}");
    assert!(lines.contains("text 400: 400 task"), "{text}");
    assert_eq!(lines.len(), 401);
    kill(
        Pid::from_raw(worker.id().try_into().unwrap()),
        Signal::SIGINT,
    )
    .unwrap();
    let status = tokio::task::spawn_blocking(move || worker.wait());
    assert!(soon(status).await.unwrap().unwrap().success());
    let client = place.client().await;
    until(async || client.workers().await.unwrap().is_empty()).await;
}

#[tokio::test]
async fn programs_run_and_leave_their_output() {
    let place = start();
    let worker = place.worker(4);
    let client = place.client().await;
    let task = Task::exec(["sh", "-c", "cat; echo \"$GREETING\" >&2; exit 3"]);
    let id = client
        .submit(task.stdin("in").env("GREETING", "hello"))
        .await
        .unwrap();
    let end = soon(client.wait(id)).await.unwrap();
    assert_eq!(end.state, TaskState::Failed);
    assert_eq!(
        (end.outcome.kind(), end.outcome.code),
        (OutcomeKind::Exited, 3)
    );
    let output = end.output.unwrap();
    assert_eq!(
        (&output.stdout[..], &output.stderr[..]),
        (&b"in"[..], &b"hello\n"[..])
    );

    let id = client
        .submit(Task::exec(["no-such-program"]))
        .await
        .unwrap();
    let end = soon(client.wait(id)).await.unwrap();
    assert_eq!(
        (end.outcome.kind(), end.outcome.code),
        (OutcomeKind::SpawnFailed, 2)
    );
    assert!(end.output.unwrap().message.contains("no-such-program"));
    worker.leave().await;
}

#[tokio::test]
async fn ten_thousand_tasks_come_back_once_each_over_three_workers() {
    let place = start();
    let workers = [place.worker(8), place.worker(8), place.worker(8)];
    let client = place.client().await;
    let count = 10_000;
    let tasks = (0..count).map(|n| Task::handler("echo", n.to_string()));
    let mut answers = client.submit_many(tasks);
    let (feed, mut results) = client.result_feed();
    let submitting = async move {
        let mut ids = Vec::new();
        while let Some(answer) = answers.next().await {
            let id = answer.unwrap().id;
            feed.watch([id]);
            ids.push(id);
        }
        ids
    };
    let reading = async {
        let mut outputs: HashMap<TaskId, String> = HashMap::new();
        while let Some(end) = results.next().await {
            let end = end.unwrap();
            assert!(end.is_done());
            results.acknowledge([end.id]);
            let text = String::from_utf8(end.output.unwrap().stdout.to_vec()).unwrap();
            assert!(outputs.insert(end.id, text).is_none(), "told twice");
        }
        outputs
    };
    let (ids, outputs) = soon(async { tokio::join!(submitting, reading) }).await;
    results.close().await.unwrap();
    assert_eq!((ids.len(), outputs.len()), (count, count));
    for (n, id) in ids.iter().enumerate() {
        assert_eq!(outputs[id], n.to_string());
    }
    let shares = client.workers().await.unwrap();
    assert_eq!(shares.len(), 3);
    assert!(
        shares.iter().all(|worker| worker.tasks_done > 0),
        "{shares:?}"
    );
    assert_eq!(
        shares.iter().map(|worker| worker.tasks_done).sum::<u64>(),
        10_000
    );
    for worker in workers {
        worker.leave().await;
    }
}

#[tokio::test]
async fn large_payload_and_large_output_make_the_round() {
    let place = start();
    let worker = place.worker(1);
    let client = place.client().await;
    let large: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let id = client
        .submit(Task::exec(["cat"]).stdin(large.clone()))
        .await
        .unwrap()
        .id;
    let end = soon(client.wait(id)).await.unwrap();
    assert!(end.is_done(), "{end:?}");
    assert!(end.output.unwrap().stdout == large);
    let verdicts = client.forget(&[id]).await.unwrap();
    assert!(verdicts[0].result.is_ok(), "{verdicts:?}");
    let error = client.task(id).await.unwrap_err();
    assert!(matches!(error, CallError::Refused(refusal) if refusal.is_unknown()));
    worker.leave().await;
}

#[tokio::test]
async fn waiting_and_running_tasks_are_cancelled() {
    let place = start();
    let client = place.client().await;
    let waiting = client
        .submit(Task::exec(["sleep", "1000"]))
        .await
        .unwrap()
        .id;
    let verdicts = client.cancel(&[waiting], "test").await.unwrap();
    assert_eq!(verdicts[0].result, Ok(TaskState::Cancelled));
    let worker = place.worker(1);
    let running = client
        .submit(Task::exec(["sleep", "1000"]))
        .await
        .unwrap()
        .id;
    until(async || client.task(running).await.unwrap().state() == TaskState::Running).await;
    client.cancel(&[running], "test").await.unwrap();
    let end = soon(client.wait(running)).await.unwrap();
    assert_eq!(end.state, TaskState::Cancelled);
    worker.leave().await;
}

#[tokio::test]
async fn timeout_and_retries_use_up_the_attempts() {
    let place = start();
    let worker = place.worker(1);
    let client = place.client().await;
    let timed = Task::exec(["sleep", "1000"]).timeout(Duration::from_millis(100));
    let id = client.submit(timed).await.unwrap().id;
    let end = soon(client.wait(id)).await.unwrap();
    assert_eq!(end.state, TaskState::Failed);
    assert_eq!(end.outcome.kind(), OutcomeKind::TimedOut);
    let id = client
        .submit(Task::exec(["sh", "-c", "test $QTF_ATTEMPT = 3"]).retries(2))
        .await;
    let end = soon(client.wait(id.unwrap())).await.unwrap();
    assert!(end.is_done());
    assert_eq!(end.attempt, 3);
    worker.leave().await;
}

#[tokio::test]
async fn worker_killed_with_its_tasks_loses_none_of_them() {
    let place = start();
    let client = place.client().await;
    let address = place.address.to_string();
    let mut doomed = example("worker").arg(&address).spawn().unwrap();
    until(async || !client.workers().await.unwrap().is_empty()).await;
    let gate = tempfile::tempdir().unwrap();
    let open = gate.path().join("open");
    let script = format!(
        "while [ ! -e '{}' ]; do sleep 0.02; done; echo $0",
        open.display()
    );
    let tasks: Vec<Task> = (0..8)
        .map(|n| Task::exec(["sh", "-c", &script, &n.to_string()]))
        .collect();
    let answers = client.submit_many(tasks);
    let ids: Vec<TaskId> = answers.map(|answer| answer.unwrap().id).collect().await;
    until(async || client.workers().await.unwrap()[0].running >= 8).await;
    doomed.kill().unwrap();
    tokio::task::spawn_blocking(move || doomed.wait())
        .await
        .unwrap()
        .unwrap();
    std::fs::write(&open, "").unwrap();
    let worker = place.worker(4);
    let mut results = client.results(ids.iter().copied());
    let mut outputs = HashSet::new();
    while let Some(end) = soon(results.next()).await {
        let end = end.unwrap();
        assert!(end.is_done(), "{end:?}");
        assert_eq!(end.attempt, 2);
        outputs.insert(end.output.unwrap().stdout);
    }
    assert_eq!(outputs.len(), 8);
    worker.leave().await;
}

#[tokio::test]
async fn drained_worker_finishes_what_it_runs_and_leaves() {
    let place = start();
    let worker = place.worker(2);
    let client = place.client().await;
    let gate = tempfile::tempdir().unwrap();
    let open = gate.path().join("open");
    let script = format!(
        "while [ ! -e '{}' ]; do sleep 0.02; done; echo done",
        open.display()
    );
    let id = client
        .submit(Task::exec(["sh", "-c", &script]))
        .await
        .unwrap()
        .id;
    until(async || client.task(id).await.unwrap().state() == TaskState::Running).await;
    let info = client.workers().await.unwrap().remove(0);
    let drained = qtf_client::WorkerId::from_raw(info.worker_id).unwrap();
    client.drain(drained, "test").await.unwrap();
    std::fs::write(&open, "").unwrap();
    let end = soon(client.wait(id)).await.unwrap();
    assert_eq!(end.output.unwrap().stdout, "done\n");
    assert_eq!(end.attempt, 1);
    soon(worker.handle).await.unwrap().unwrap();
}

#[tokio::test]
async fn full_segment_takes_all_tasks_in_the_end_and_loses_none() {
    let place = start_with(|settings| settings.segment_counts(4096, 16));
    let client = place.client().await;
    let info = client.info().await.unwrap();
    let count = usize::try_from(info.task_slots).unwrap() + 2000;
    let tasks = (0..count).map(|n| Task::handler("echo", n.to_string()));
    let mut answers = client.submit_many(tasks.collect::<Vec<_>>());
    let (feed, mut results) = client.result_feed();
    let submitting = async move {
        let mut accepted = 0;
        while let Some(answer) = answers.next().await {
            feed.watch([answer.unwrap()]);
            accepted += 1;
        }
        accepted
    };
    let reading = async {
        let mut seen = 0;
        while let Some(end) = results.next().await {
            results.acknowledge([end.unwrap().id]);
            seen += 1;
        }
        seen
    };
    let refused = async {
        // Full: one more is refused with a hint, and then a worker comes.
        loop {
            match client.submit(Task::handler("echo", "one more")).await {
                Ok(accepted) => drop(client.cancel(&[accepted.id], "test").await.unwrap()),
                Err(SubmitError::Refused(refusal)) => {
                    assert_eq!(refusal.reason, RefusalReason::TasksFull);
                    assert!(refusal.retry_after_ms > 0);
                    return place.worker(16);
                }
                Err(error) => panic!("{error}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let all = async { tokio::join!(submitting, reading, refused) };
    let (accepted, seen, worker) = soon(all).await;
    assert_eq!((accepted, seen), (count, count));
    worker.leave().await;
}

#[tokio::test]
async fn client_that_goes_away_leaves_its_tasks_and_results_behind() {
    let place = start();
    let client = place.client().await;
    let answers = client.submit_many((0..100).map(|n| Task::handler("echo", n.to_string())));
    let ids: Vec<TaskId> = answers.map(|answer| answer.unwrap().id).collect().await;
    drop(client);
    let worker = place.worker(4);
    let client = place.client().await;
    let ends: Vec<_> = soon(client.results(ids).collect::<Vec<_>>()).await;
    assert_eq!(ends.len(), 100);
    assert!(
        ends.iter()
            .all(|end| end.as_ref().is_ok_and(qtf_client::TaskEnd::is_done))
    );
    worker.leave().await;
}

#[tokio::test]
async fn journal_durability_is_refused_while_there_is_no_journal() {
    let place = start();
    let client = place.client().await;
    let task = Task::handler("noop", "").durability(qtf_client::Durability::Journal);
    let SubmitError::Refused(refusal) = client.submit(task).await.unwrap_err() else {
        panic!("not refused");
    };
    assert_eq!(refusal.reason, RefusalReason::NoJournal);
}
