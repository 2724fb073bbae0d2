//! Time that jumps: the wall clock by a year, the monotonic one by hours, a daemon that is stopped for longer than
//! every lease.

use std::sync::{Arc, Mutex};

use nix::sys::signal::Signal;
use qtf_daemon::clock::{Clock, SystemClock};
use qtf_daemon::config::RawConfig;
use qtf_daemon::{Daemon, RunningDaemon, Settings};
use qtf_proto::v1::*;

use crate::process::{Home, remove_segment};
use crate::support::{Peer, RawWorker, hello, noop, run, until};

const YEAR_NS: i64 = 365 * 86_400 * 1_000_000_000;
pub(crate) const HOUR_NS: i64 = 3_600 * 1_000_000_000;

/// The system's clocks, each with a step.
#[derive(Debug, Default)]
pub(crate) struct Stepped {
    monotonic: Mutex<i64>,
    wall: Mutex<i64>,
}

impl Stepped {
    pub(crate) fn step_wall(&self, ns: i64) {
        *self.wall.lock().unwrap() += ns;
    }

    pub(crate) fn step_monotonic(&self, ns: i64) {
        *self.monotonic.lock().unwrap() += ns;
    }
}

impl Clock for Stepped {
    fn monotonic_ns(&self) -> u64 {
        let step = *self.monotonic.lock().unwrap();
        SystemClock.monotonic_ns().saturating_add_signed(step)
    }

    fn wall_ns(&self) -> u64 {
        let step = *self.wall.lock().unwrap();
        SystemClock.wall_ns().saturating_add_signed(step)
    }
}

/// A daemon with a journal under a clock that can be stepped.
pub(crate) struct Place {
    folder: tempfile::TempDir,
    pub(crate) name: String,
    pub(crate) clock: Arc<Stepped>,
}

impl Place {
    pub(crate) fn new(test: &str) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            name: format!("clock-{test}-{}", std::process::id()),
            clock: Arc::default(),
        }
    }

    /// What its daemon starts from.
    pub(crate) fn raw(&self) -> RawConfig {
        RawConfig {
            instance: Some(self.name.clone()),
            runtime_dir: Some(self.folder.path().join("run")),
            data_dir: Some(self.folder.path().join("data")),
            listen: Some(Vec::new()),
            core: Some("none".parse().unwrap()),
            journal_file_bytes: Some(512 << 10),
            segment_tasks: Some(1_000),
            segment_workers: Some(8),
            lease_ms: Some(1_000),
            heartbeat_ms: Some(100),
            stop_deadline_ms: Some(2_000),
            ..RawConfig::default()
        }
    }

    pub(crate) fn start(&self) -> RunningDaemon {
        self.start_with(self.raw())
    }

    pub(crate) fn start_with(&self, raw: RawConfig) -> RunningDaemon {
        let clock: Arc<dyn Clock> = Arc::clone(&self.clock) as _;
        Daemon::start(Settings::from_raw(raw).unwrap().clock(clock)).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        remove_segment(&self.name);
    }
}

pub(crate) async fn beat(worker: &RawWorker, holding: u32) {
    let report = WorkerReport {
        holding: Some(holding),
        ..WorkerReport::default()
    };
    worker.reports.send(report).await.unwrap();
}

pub(crate) fn delayed(ms: u64) -> TaskSpec {
    TaskSpec {
        delay_ms: ms,
        ..noop(b"later")
    }
}

#[test]
fn steps_of_the_wall_clock_change_nothing_but_what_is_displayed() {
    let place = Place::new("wall");
    let daemon = place.start();
    run(async {
        let mut peer = Peer::new(&daemon).await;
        let mut worker = RawWorker::join(&mut peer, hello(1), 1).await;
        let running = peer.submit(noop(b"")).await.unwrap();
        let held = worker.assignments().await.remove(0).task.unwrap();
        let later = peer.submit(delayed(3_600_000)).await.unwrap();
        for step in [YEAR_NS, -2 * YEAR_NS, YEAR_NS] {
            place.clock.step_wall(step);
            beat(&worker, 1).await;
            assert_eq!(peer.state(later).await, TaskState::Delayed);
            assert_eq!(peer.state(running).await, TaskState::Assigned);
            let soon = peer.submit(noop(b"soon")).await.unwrap();
            assert_eq!(peer.state(soon).await, TaskState::Ready);
        }
        assert_eq!(worker.finish(held, b"").await, ResultDisposition::Recorded);
        assert_eq!(peer.state(running).await, TaskState::Done);
    });
    daemon.stop().unwrap();
}

#[test]
fn hours_of_the_monotonic_clock_make_due_what_is_due_and_kill_no_lease() {
    let place = Place::new("monotonic");
    let daemon = place.start();
    run(async {
        let mut peer = Peer::new(&daemon).await;
        let worker = RawWorker::join(&mut peer, hello(1), 0).await;
        let later = peer.submit(delayed(3_600_000)).await.unwrap();
        assert_eq!(peer.state(later).await, TaskState::Delayed);
        // As when the machine slept: the loop is late by hours, so nobody's silence counts.
        place.clock.step_monotonic(5 * HOUR_NS);
        beat(&worker, 0).await;
        until(|| async { peer.clone().state(later).await == TaskState::Ready }).await;
        let mut peer = peer.clone();
        assert_eq!(peer.counter("worker_lost").await, 0);
        let workers = peer
            .admin
            .list_workers(ListWorkersRequest {})
            .await
            .unwrap();
        assert_eq!(workers.into_inner().workers.len(), 1);
    });
    daemon.stop().unwrap();
}

/// Beats so often, five times in a lease: steps that excuse nobody.
async fn beat_often(place: &Place, worker: &mut RawWorker, beat: &WorkerReport, times: u32) {
    for _ in 0..times {
        place.clock.step_monotonic(200_000_000);
        worker.reports.send(beat.clone()).await.unwrap();
        heard(worker).await;
    }
}

/// All reports have been read: they are in their order, and one about nobody's task has its verdict.
async fn heard(worker: &mut RawWorker) {
    let nobodys = TaskRef {
        task_id: u64::MAX,
        attempt: 1,
    };
    let verdict = worker.finish(nobodys, b"").await;
    assert_eq!(verdict, ResultDisposition::Stale);
}

#[test]
fn worker_that_says_nothing_of_what_it_holds_keeps_it_and_one_that_holds_nothing_does_not() {
    let place = Place::new("holding");
    let daemon = place.start();
    run(async {
        let mut peer = Peer::new(&daemon).await;
        let mut worker = RawWorker::join(&mut peer, hello(4), 4).await;
        let task = peer.submit(noop(b"")).await.unwrap();
        let held = worker.assignments().await.remove(0).task.unwrap();
        let nothing_said = WorkerReport::default();
        beat_often(&place, &mut worker, &nothing_said, 15).await;
        assert_eq!(peer.counter("assignment_reconciled").await, 0);
        let named = WorkerReport {
            held: Some(HeldTasks {
                tasks: vec![HeldTask {
                    task: Some(held),
                    finished: false,
                }],
            }),
            ..WorkerReport::default()
        };
        beat_often(&place, &mut worker, &named, 15).await;
        assert_eq!(peer.counter("assignment_reconciled").await, 0);
        assert_eq!(worker.finish(held, b"").await, ResultDisposition::Recorded);
        assert_eq!(peer.state(task).await, TaskState::Done);

        let task = peer.submit(noop(b"")).await.unwrap();
        let first = worker.assignments().await.remove(0).task.unwrap();
        let none = WorkerReport {
            held: Some(HeldTasks::default()),
            ..WorkerReport::default()
        };
        beat_often(&place, &mut worker, &none, 15).await;
        // It was asked whether all that was sent has come.
        assert_eq!(peer.counter("assignment_reconciled").await, 0);
        let asked = worker.orders.message().await.unwrap().unwrap();
        assert_ne!(asked.probe, 0);
        let answer = DispatchRequest {
            probe_answer: asked.probe,
            ..DispatchRequest::default()
        };
        worker.grants.send(answer).await.unwrap();
        while peer.counter("assignment_reconciled").await == 0 {
            beat_often(&place, &mut worker, &none, 1).await;
        }
        let second = worker.assignments().await.remove(0).task.unwrap();
        assert_eq!((second.task_id, second.attempt), (first.task_id, 2));
        assert_eq!(worker.finish(first, b"").await, ResultDisposition::Stale);
        assert_eq!(
            worker.finish(second, b"").await,
            ResultDisposition::Recorded
        );
        assert_eq!(peer.state(task).await, TaskState::Done);
    });
    daemon.stop().unwrap();
}

#[test]
fn delay_goes_on_by_the_wall_clock_over_a_cold_start() {
    let place = Place::new("cold");
    let daemon = place.start();
    let (soon, late) = run(async {
        let mut peer = Peer::new(&daemon).await;
        let soon = peer.submit(delayed(3_600_000)).await.unwrap();
        (soon, peer.submit(delayed(3 * 3_600_000)).await.unwrap())
    });
    daemon.stop().unwrap();
    assert!(remove_segment(&place.name));
    // The machine was off for two hours; its monotonic clock began anew.
    place.clock.step_wall(2 * HOUR_NS);
    let daemon = place.start();
    run(async {
        let peer = Peer::new(&daemon).await;
        until(|| async { peer.clone().state(soon).await == TaskState::Ready }).await;
        assert_eq!(peer.clone().state(late).await, TaskState::Delayed);
    });
    daemon.stop().unwrap();
}

/// Of the configuration below.
const LEASE_AND_PROBE: std::time::Duration = std::time::Duration::from_millis(300 + 100);

#[test]
fn daemon_that_was_stopped_for_longer_than_every_lease_loses_no_worker() {
    let home = Home::new("stopped");
    let data = home.data();
    home.configure(
        "segment_bytes = 8388608\njournal_file_bytes = 524288\nlease_ms = 300\nheartbeat_ms = 50\nprobe_ms = 100\n",
    );
    let daemon = home.serving(&["--data-dir", data.to_str().unwrap()]);
    run(async {
        let mut peer = home.connect().await;
        let mut worker = RawWorker::join(&mut peer, hello(1), 1).await;
        let task = peer.submit(noop(b"")).await.unwrap();
        let held = worker.assignments().await.remove(0).task.unwrap();
        daemon.signal(Signal::SIGSTOP);
        // Nothing is waited for: the time itself is what is tried, and any longer one would do.
        tokio::time::sleep(3 * LEASE_AND_PROBE).await;
        daemon.signal(Signal::SIGCONT);
        for _ in 0..5 {
            beat(&worker, 1).await;
            heard(&mut worker).await;
        }
        assert_eq!(peer.counter("worker_lost").await, 0);
        assert_eq!(worker.finish(held, b"").await, ResultDisposition::Recorded);
        assert_eq!(peer.state(task).await, TaskState::Done);
    });
    assert_eq!(daemon.stop(), Some(0));
}
