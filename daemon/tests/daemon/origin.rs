//! Beyond 833 days: stamps run out, starts move the segment's origin, and nobody notices but the log.

use qtf_daemon::RunningDaemon;
use qtf_proto::refusal;
use qtf_proto::v1::*;
use qtf_shm::SegmentView;

use crate::clock::{HOUR_NS, Place, beat, delayed};
use crate::full_disk::submit_when_there_is_room;
use crate::process::remove_segment;
use crate::support::{Peer, RawWorker, hello, noop, run};

const DAY_NS: i64 = 24 * HOUR_NS;

fn keyed(payload: &[u8], key: u8) -> TaskSpec {
    TaskSpec {
        idempotency_key: vec![key; 16].into(),
        ..noop(payload)
    }
}

/// Ids in the order in which they are handed out; each is finished.
async fn order_of(peer: &mut Peer, count: usize) -> Vec<u64> {
    let mut worker = RawWorker::join(peer, hello(100), 100).await;
    let mut ids = Vec::new();
    while ids.len() < count {
        for assignment in worker.assignments().await {
            let task = assignment.task.unwrap();
            ids.push(task.task_id);
            assert_eq!(
                worker.finish(task, b"done").await,
                ResultDisposition::Recorded
            );
        }
    }
    ids
}

fn days(place: &Place) -> u64 {
    let uid = nix::unistd::geteuid().as_raw();
    let view = SegmentView::attach_by_instance(&place.name, uid).unwrap();
    let clock: &dyn qtf_daemon::clock::Clock = &*place.clock;
    view.now_at(clock.monotonic_ns()).days()
}

/// A daemon that has run for so many hours, with something of everything in it.
struct Aged {
    place: Place,
    waiting: Vec<u64>,
    keyed: u64,
    late: u64,
    done: u64,
    /// The delayed task became due meanwhile.
    is_over: bool,
}

impl Aged {
    fn after(test: &str, hours: i64) -> (Self, RunningDaemon) {
        let place = Place::new(test);
        let daemon = place.start();
        let mut waiting = run(async {
            let mut peer = Peer::new(&daemon).await;
            let mut ids = vec![peer.submit(noop(b"oldest")).await.unwrap()];
            ids.push(peer.submit(noop(b"old")).await.unwrap());
            ids
        });
        place.clock.step_monotonic(hours * HOUR_NS);
        place.clock.step_wall(hours * HOUR_NS);
        let (keyed, late, done) = run(async {
            let mut peer = Peer::new(&daemon).await;
            let urgent = TaskSpec {
                priority: Some(255),
                ..noop(b"first")
            };
            let done = peer.submit(urgent).await.unwrap();
            let mut worker = RawWorker::join(&mut peer, hello(1), 1).await;
            let held = worker.assignments().await.remove(0).task.unwrap();
            assert_eq!(
                (held.task_id, worker.finish(held, b"result").await),
                (done, ResultDisposition::Recorded)
            );
            waiting.push(peer.submit(noop(b"new")).await.unwrap());
            let keyed = peer.submit(keyed(b"keyed", 5)).await.unwrap();
            waiting.push(keyed);
            let late = peer.submit(delayed(3_000_000)).await.unwrap();
            (keyed, late, done)
        });
        let aged = Self {
            place,
            waiting,
            keyed,
            late,
            done,
            is_over: false,
        };
        (aged, daemon)
    }

    /// Everything is as it was, and goes on.
    fn holds(&self, daemon: &RunningDaemon) {
        run(async {
            let mut peer = Peer::new(daemon).await;
            assert_eq!(peer.state(self.done).await, TaskState::Done);
            let is_due = peer.state(self.late).await == TaskState::Ready;
            assert!(is_due || peer.state(self.late).await == TaskState::Delayed);
            assert_eq!(is_due, self.is_over);
            for id in &self.waiting {
                assert_eq!(peer.state(*id).await, TaskState::Ready, "{id:#x}");
            }
            let again = peer.submit(keyed(b"keyed", 5)).await.unwrap();
            assert_eq!(again, self.keyed, "the key is still known");
            let newest = peer.submit(noop(b"newest")).await.unwrap();
            let mut wanted = self.waiting.clone();
            wanted.extend(is_due.then_some(self.late));
            wanted.push(newest);
            assert_eq!(order_of(&mut peer, wanted.len()).await, wanted);
            if is_due {
                return;
            }
            self.place.clock.step_monotonic(2 * HOUR_NS);
            self.place.clock.step_wall(2 * HOUR_NS);
            crate::support::until(|| async {
                peer.clone().state(self.late).await == TaskState::Ready
            })
            .await;
        });
    }
}

#[test]
fn hot_start_after_any_age_keeps_order_delays_results_and_keys() {
    for age in [600, 626, 700, 832] {
        let (aged, daemon) = Aged::after(&format!("hot-{age}"), 24 * age);
        daemon.stop().unwrap();
        let daemon = aged.place.start();
        assert_eq!(
            days(&aged.place),
            if age < 625 { 600 } else { 208 },
            "{age}"
        );
        aged.holds(&daemon);
        daemon.stop().unwrap();
    }
}

#[test]
fn cold_starts_after_years_keep_order_and_leave_time() {
    let (aged, daemon) = Aged::after("cold-old", 24 * 700);
    daemon.stop().unwrap();
    for _ in 0..3 {
        assert!(remove_segment(&aged.place.name));
        let daemon = aged.place.start();
        assert_eq!(days(&aged.place), 208);
        daemon.stop().unwrap();
    }
    let daemon = aged.place.start();
    aged.holds(&daemon);
    daemon.stop().unwrap();
}

#[test]
fn cold_start_behind_a_moved_origin_still_knows_what_was_submitted_first() {
    let place = Place::new("moved-cold");
    let mut ids = Vec::new();
    let mut submitted = |place: &Place, payload: &[u8]| {
        let daemon = place.start();
        // After several starts in quick succession files may still be made.
        ids.push(run(async {
            let mut peer = Peer::new(&daemon).await;
            submit_when_there_is_room(&mut peer, noop(payload)).await
        }));
        daemon.stop().unwrap();
        place.clock.step_monotonic(650 * DAY_NS);
        place.clock.step_wall(650 * DAY_NS);
    };
    // Each start but the first moves the origin; the fourth is cold.
    for number in 0..3 {
        submitted(&place, &[number]);
    }
    assert!(remove_segment(&place.name));
    for number in 3..5 {
        submitted(&place, &[number]);
    }
    assert!(remove_segment(&place.name));
    let daemon = place.start();
    run(async {
        let mut peer = Peer::new(&daemon).await;
        assert_eq!(order_of(&mut peer, ids.len()).await, ids);
    });
    daemon.stop().unwrap();
}

#[test]
fn daemon_that_outlives_its_stamps_keeps_all_it_has_and_says_what_to_do() {
    let (mut aged, daemon) = Aged::after("outlived", 24 * 833 + 23);
    run(async {
        let mut peer = Peer::new(&daemon).await;
        let worker = RawWorker::join(&mut peer, hello(1), 0).await;
        for _ in 0..3 {
            aged.place.clock.step_monotonic(400 * DAY_NS);
            beat(&worker, 0).await;
            let refused = peer.submit(noop(b"no")).await.unwrap_err();
            assert!(refused.message().contains("restart qtfd"), "{refused}");
            let reason = refusal::refusal_of(&refused).unwrap().reason();
            assert_eq!(reason, RefusalReason::IdsExhausted);
            assert_eq!(peer.state(aged.done).await, TaskState::Done);
            let listed = peer.admin.list_workers(ListWorkersRequest {}).await;
            let listed = listed.unwrap().into_inner().workers;
            let id = worker.welcome.worker_id;
            assert!(
                listed.iter().any(|listed| listed.worker_id == id),
                "its lease is not over"
            );
            assert_eq!(peer.counter("result_expired").await, 0);
        }
    });
    daemon.stop().unwrap();
    aged.is_over = true;
    let daemon = aged.place.start();
    assert_eq!(days(&aged.place), 208);
    aged.holds(&daemon);
    daemon.stop().unwrap();
}
