//! Local workers that sleep for want of work: rung for what they can run, and for nothing else; what nobody takes the daemon hears of.

use std::time::Duration;

use super::spec_in;
use crate::id::KindIndex;
use crate::kind_set::KindSet;
use crate::layout::attach::AttachRole;
use crate::segment::{
    Attachment, AttachmentSpec, LocalWorker, LocalWorkerSpec, Segment, TaskFields,
};
use crate::sync::{AtomicBool, Ordering};
use crate::task::slot::{Outcome, OutcomeKind};
use crate::task::state::{Event, Phase};

struct Ground {
    segment: Segment,
    folder: tempfile::TempDir,
}

impl Ground {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let segment = Segment::create_private(&spec_in(folder.path(), 64, 1 << 20)).unwrap();
        segment.doorbell().goes_to_sleep();
        Self { segment, folder }
    }

    fn open(&self, role: AttachRole) -> Attachment {
        let spec = AttachmentSpec::new(role, "local", self.folder.path());
        Attachment::open_id(self.segment.shm_id().unwrap(), &spec).unwrap()
    }

    fn kind(&self, name: &str) -> KindIndex {
        self.segment.kinds().intern(name).unwrap()
    }

    /// Whether the sleeping daemon was rung; it goes to sleep again.
    fn daemon_was_rung(&self) -> bool {
        let is_rung = !self.segment.doorbell().rings().is_asleep();
        self.segment.doorbell().goes_to_sleep();
        is_rung
    }
}

fn join(process: &Attachment, kinds: KindSet) -> LocalWorker<'_> {
    process
        .join_as_worker(&LocalWorkerSpec {
            name: "w",
            host: "here",
            kinds,
            capacity: 1,
            losses_max: 3,
        })
        .unwrap()
}

fn submit(client: &Attachment, kind: KindIndex) {
    let mut claimed = client.claim().unwrap();
    let fields = TaskFields {
        kind: Some(kind),
        ..TaskFields::default()
    };
    claimed.write(&fields).unwrap();
    claimed.publish(Event::Admit, client.next_stamp()).unwrap();
}

const WELL: Outcome = Outcome {
    kind: OutcomeKind::Exited,
    code: 0,
    result_dropped: false,
    output_cut: false,
};

const FOR_EVER: Duration = Duration::from_secs(3_600);

#[test]
fn sleeping_worker_is_woken_by_each_submission_for_it_and_the_daemon_is_left_asleep() {
    let ground = Ground::new();
    let (client, process) = (
        ground.open(AttachRole::Client),
        ground.open(AttachRole::Worker),
    );
    let (own, other) = (ground.kind("own"), ground.kind("other"));
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let worker = join(&process, [own].into_iter().collect());
            let lane = process.open_lane().unwrap();
            let mut done = 0;
            while !is_over.load(Ordering::Acquire) {
                while let Some(taken) = worker.take() {
                    taken.start().unwrap();
                    taken.finish(WELL, b"").unwrap();
                    done += 1;
                }
                worker.sleep(&lane.events, FOR_EVER);
            }
            done
        });
        let sleeps = || {
            while ground.segment.idle_worker_bits() == 0
                || !ground.segment.lane_info(process.index()).unwrap().is_asleep
            {
                std::thread::yield_now();
            }
        };
        for _ in 0..30 {
            sleeps();
            let _ = ground.daemon_was_rung();
            let before = ground.segment.doorbell().rings().count();
            submit(&client, other);
            assert!(ground.daemon_was_rung(), "nobody here runs it");
            submit(&client, own);
            // Its end rings the daemon, which judges it.
            while ground.segment.counters().gauge(Phase::Ended) == 0 {
                std::thread::yield_now();
            }
            sleeps();
            assert_eq!(ground.segment.doorbell().rings().count() - before, 2);
            clear(&ground);
        }
        sleeps();
        is_over.store(true, Ordering::Release);
        ground.segment.ring_lane(process.index());
        assert_eq!(worker.join().unwrap(), 30);
    });
    drop(client);
}

/// All tasks go, as the daemon would see to.
fn clear(ground: &Ground) {
    let segment = &ground.segment;
    for slot in segment.allocated_slots(0..segment.high_water()) {
        let state = segment.task(slot).state();
        let event = if state.phase() == Phase::Ready {
            Event::Cancel
        } else if state.phase() == Phase::Ended {
            Event::Complete
        } else {
            continue;
        };
        let over = segment.apply(slot, state, event).unwrap();
        segment.unindex_ready(slot);
        let right = segment.plm_right().unwrap();
        let _ = segment.accept_completion(right, slot, over);
        segment.free_task(slot, over).unwrap();
        // The worker counts what it holds until the daemon has judged it.
        if let Some(worker) = state.last_worker() {
            let slot = segment.worker(worker);
            let _ = slot.apply(slot.state(), crate::worker::WorkerEvent::Give);
        }
    }
}

#[test]
fn bit_of_a_worker_that_does_not_sleep_leads_to_the_daemon() {
    let ground = Ground::new();
    let (client, process) = (
        ground.open(AttachRole::Client),
        ground.open(AttachRole::Worker),
    );
    let own = ground.kind("own");
    let worker = join(&process, KindSet::ALL);
    let _lane = process.open_lane().unwrap();
    // As one that was killed, or stopped, before it slept.
    let _ = ground.daemon_was_rung();
    ground
        .segment
        .idle_workers_for_tests()
        .note(worker_index(&worker));
    submit(&client, own);
    assert!(ground.daemon_was_rung());
    assert!(worker.sees_work());
}

fn worker_index(worker: &LocalWorker<'_>) -> crate::id::WorkerIndex {
    worker.id().slot()
}

#[test]
fn one_submission_takes_one_of_many_sleepers_and_the_next_one_another() {
    let ground = Ground::new();
    let processes: Vec<_> = (0..3).map(|_| ground.open(AttachRole::Worker)).collect();
    let workers: Vec<_> = processes
        .iter()
        .map(|process| join(process, KindSet::ALL))
        .collect();
    let _lanes: Vec<_> = processes
        .iter()
        .map(|process| process.open_lane().unwrap())
        .collect();
    for (process, worker) in processes.iter().zip(&workers) {
        ground
            .segment
            .idle_workers_for_tests()
            .note(worker_index(worker));
        ground.segment.view.parts.lanes[process.index().position()]
            .bell()
            .goes_to_sleep();
    }
    let kind = Some(ground.kind("own"));
    let mut rung: Vec<_> = std::iter::from_fn(|| ground.segment.take_idle_worker(kind)).collect();
    rung.sort();
    let all: Vec<_> = processes.iter().map(Attachment::index).collect();
    assert_eq!(rung, all);
    assert_eq!(ground.segment.idle_worker_bits(), 0);
    assert_eq!(ground.segment.take_idle_worker(None), None);
}
