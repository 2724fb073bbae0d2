//! Programs that follow each other: slots, order, what may not begin any more, and what is left when the worker goes.

use std::path::{Path, PathBuf};

use super::*;

/// A folder in which the programs of a test meet.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A script that runs in the folder.
    fn script(&self, script: &str) -> Vec<u8> {
        shell(&format!("cd '{}'; {script}", self.0.path().display()))
    }

    /// One that runs until [`Place::open`].
    fn gated(&self) -> Vec<u8> {
        self.script("touch begun; while [ ! -e open ]; do sleep 0.01; done")
    }

    fn open(&self) {
        std::fs::write(self.file("open"), "").unwrap();
    }
}

async fn appears(path: &Path) {
    let wait = async {
        while !path.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(wait).await;
}

async fn is_gone(process: &str) {
    let wait = async {
        while std::fs::read_to_string(format!("/proc/{process}/stat"))
            .is_ok_and(|stat| !stat.contains(") Z "))
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(wait).await;
}

#[tokio::test]
async fn programs_follow_each_other_in_their_order_and_never_more_at_once_than_there_are_slots() {
    let mut daemon = FakeDaemon::start();
    let hour = Duration::from_secs(3600);
    let _worker = run(builder(&daemon).slots(2).prefetch(62).gather(hour));
    let (mut session, dispatch) = daemon.accept(9).await;
    let place = Place::new();
    // Each takes one of two places; a third at the same time finds none. Ends and exit codes of both kinds, early and late.
    let task = |id: u64| {
        let script = format!(
            "for slot in a b; do mkdir $slot 2>/dev/null && {{ echo {id} >> order; {} rmdir $slot; exit 0; }}; done; exit 9",
            if id.is_multiple_of(7) {
                "sleep 0.05;"
            } else {
                ""
            },
        );
        assignment(attempt(id, 1), "exec", place.script(&script))
    };
    dispatch.assign((1..=64).map(task).collect()).await;
    let mut ended = Vec::new();
    while ended.len() < 64 {
        for result in session.news().await.results {
            let outcome = result.outcome.unwrap();
            assert_eq!((outcome.kind(), outcome.code), (OutcomeKind::Exited, 0));
            ended.push(result.task.unwrap().task_id);
        }
    }
    ended.sort_unstable();
    assert_eq!(ended, (1..=64).map(task_id).collect::<Vec<_>>());
    let order = std::fs::read_to_string(place.file("order")).unwrap();
    for (at, line) in order.lines().enumerate() {
        let id: usize = line.parse().unwrap();
        // Where two run, one may overtake the other, and be overtaken as it writes.
        assert!(id.abs_diff(at + 1) <= 16, "{id} was number {}", at + 1);
    }
}

#[tokio::test]
async fn program_that_is_cancelled_while_it_waits_for_a_slot_never_runs_and_those_behind_it_do() {
    let mut daemon = FakeDaemon::start();
    let _worker = run(builder(&daemon).slots(1).prefetch(4));
    let (mut session, dispatch) = daemon.accept(9).await;
    let place = Place::new();
    let tasks = vec![
        assignment(attempt(1, 1), "exec", place.gated()),
        assignment(attempt(2, 1), "exec", place.script("touch second")),
        assignment(attempt(3, 1), "exec", place.script("touch third")),
    ];
    dispatch.assign(tasks).await;
    appears(&place.file("begun")).await;
    dispatch.stop(attempt(2, 1), StopReason::Cancelled).await;
    let result = session.result().await;
    assert_eq!(result.task, Some(attempt(2, 1)), "while the first runs");
    assert_eq!(result.outcome.unwrap().kind(), OutcomeKind::Cancelled);
    place.open();
    assert_eq!(session.result().await.task, Some(attempt(1, 1)));
    let third = session.result().await;
    assert_eq!(third.task, Some(attempt(3, 1)));
    assert_eq!(third.outcome.unwrap().kind(), OutcomeKind::Exited);
    assert!(!place.file("second").exists());
}

#[tokio::test]
async fn program_that_waits_when_the_worker_drains_is_handed_back_and_never_runs() {
    let mut daemon = FakeDaemon::start();
    let mut worker = run(builder(&daemon).slots(1).prefetch(4));
    let (mut session, dispatch) = daemon.accept(9).await;
    let place = Place::new();
    let tasks = vec![
        assignment(attempt(1, 1), "exec", place.gated()),
        assignment(attempt(2, 1), "exec", place.script("touch second")),
    ];
    dispatch.assign(tasks).await;
    appears(&place.file("begun")).await;
    worker.shut_down();
    while !session.report().await.unwrap().draining {}
    place.open();
    let result = session.result().await;
    assert_eq!(result.task, Some(attempt(1, 1)));
    session.record(&result).await;
    let goodbye = session.news().await;
    assert!(goodbye.goodbye && goodbye.started.is_empty(), "{goodbye:?}");
    assert_eq!(goodbye.holding, Some(1));
    drop((session, dispatch));
    assert_eq!(worker.end().await, Ok(()));
    assert!(!place.file("second").exists());
}

#[tokio::test]
async fn time_limit_of_a_program_begins_with_it_and_not_when_it_begins_to_wait() {
    let mut daemon = FakeDaemon::start();
    let _worker = run(builder(&daemon).slots(1).prefetch(4));
    let (mut session, dispatch) = daemon.accept(9).await;
    let place = Place::new();
    let mut second = assignment(attempt(2, 1), "exec", place.script("exit 0"));
    second.timeout_ms = 1_500;
    let tasks = vec![
        assignment(attempt(1, 1), "exec", place.script("sleep 2")),
        second,
    ];
    dispatch.assign(tasks).await;
    for id in [1, 2] {
        let result = session.result().await;
        assert_eq!(result.task, Some(attempt(id, 1)));
        assert_eq!(result.outcome.unwrap().kind(), OutcomeKind::Exited);
    }
}

#[tokio::test]
async fn what_a_program_leaves_behind_and_what_it_writes_is_attended_to_however_soon_it_ends() {
    let mut daemon = FakeDaemon::start();
    let policy = ExecPolicy::default().linger(Duration::from_millis(50));
    let _worker = run(builder(&daemon).slots(2).prefetch(8).exec(policy));
    let (mut session, dispatch) = daemon.accept(9).await;
    let place = Place::new();
    // More than a pipe holds, to both outputs; a child that keeps them open; a child in a session of its own that has closed them.
    let scripts = [
        "head -c 300000 /dev/zero; head -c 200000 /dev/zero >&2",
        "sleep 1000 & echo $! > kept",
        "setsid sleep 1000 >/dev/null 2>&1 & echo $! > left",
    ];
    let tasks = (1..).zip(scripts);
    let tasks = tasks.map(|(id, script)| assignment(attempt(id, 1), "exec", place.script(script)));
    dispatch.assign(tasks.collect()).await;
    for _ in scripts {
        let result = session.result().await;
        assert_eq!(result.outcome.unwrap().code, 0);
        if result.task == Some(attempt(1, 1)) {
            // Too much for the report.
            let uploads = &daemon.stored.lock().unwrap().uploads;
            let output = decoded(&uploads[&result.output_upload].clone().into());
            assert_eq!(
                (output.stdout.len(), output.stderr.len()),
                (300_000, 200_000)
            );
        }
    }
    for left in ["kept", "left"] {
        is_gone(std::fs::read_to_string(place.file(left)).unwrap().trim()).await;
    }
}

#[tokio::test]
async fn dropping_a_worker_kills_programs_that_have_just_begun_and_those_that_last() {
    let mut daemon = FakeDaemon::start();
    let worker = run(builder(&daemon).slots(3));
    let (session, dispatch) = daemon.accept(9).await;
    let place = Place::new();
    let task = |id: u64| {
        let script = format!("echo $$ > p-{id}; mv p-{id} pid-{id}; exec sleep 1000");
        assignment(attempt(id, 1), "exec", place.script(&script))
    };
    dispatch.assign(vec![task(1), task(2)]).await;
    appears(&place.file("pid-1")).await;
    appears(&place.file("pid-2")).await;
    dispatch.assign(vec![task(3)]).await;
    appears(&place.file("pid-3")).await;
    worker.handle.abort();
    assert!(worker.handle.await.is_err());
    for id in 1..=3 {
        let pid = std::fs::read_to_string(place.file(&format!("pid-{id}"))).unwrap();
        is_gone(pid.trim()).await;
    }
    drop((session, dispatch));
}
