//! Local processes: attach records, submissions and takes without a daemon, and who is dead.

use std::path::PathBuf;

use super::spec_in;
use crate::id::{AttachIndex, TaskId, WORKERS_COUNT_MAX, WorkerId, WorkerIndex};
use crate::kind_set::KindSet;
use crate::layout::Geometry;
use crate::layout::attach::AttachRole;
use crate::segment::{
    Attachment, AttachmentSpec, JoinError, Liveness, LocalWorkerSpec, LockFile, OpenError, Part,
    Segment, TaskFields,
};
use crate::task::slot::{Outcome, OutcomeKind, TaskOptions};
use crate::task::state::{Event, Owner, Phase};
use crate::worker::{WorkerEvent, WorkerWriter};

/// A real segment with a lock file, as a daemon makes it, which this process is.
struct Ground {
    segment: Segment,
    folder: tempfile::TempDir,
    daemon: LockFile,
}

impl Ground {
    fn new() -> Self {
        Self::with_workers(None)
    }

    /// With so many worker slots, where it says how many.
    fn with_workers(workers: Option<u32>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let lock = folder.path().join("a.lock");
        std::fs::write(&lock, "").unwrap();
        let mut spec = spec_in(folder.path(), 64, 1 << 20);
        if let Some(workers) = workers {
            spec.geometry = Geometry::for_counts(64, workers.into()).unwrap();
        }
        let segment = Segment::create_private(&spec).unwrap();
        let daemon = LockFile::open(&lock).unwrap();
        assert!(daemon.lock(0).unwrap());
        segment.set_lock_file(daemon.identity());
        Self {
            segment,
            folder,
            daemon,
        }
    }

    fn lock_path(&self) -> PathBuf {
        self.folder.path().join("a.lock")
    }

    fn spec(&self, role: AttachRole) -> AttachmentSpec {
        AttachmentSpec::new(role, "local", self.folder.path()).with_lock_file(self.lock_path())
    }

    fn open(&self, role: AttachRole) -> Attachment {
        Attachment::open_id(self.segment.shm_id().unwrap(), &self.spec(role)).unwrap()
    }
}

fn submit(client: &Attachment, payload: &[u8]) -> TaskId {
    submit_with(client, payload, TaskOptions::NONE)
}

fn submit_with(client: &Attachment, payload: &[u8], options: TaskOptions) -> TaskId {
    let mut claimed = client.claim().unwrap();
    claimed.set_payload(payload).unwrap();
    let fields = TaskFields {
        kind: client.kinds().find("noop"),
        priority: 9,
        options,
        ..TaskFields::default()
    };
    claimed.write(&fields).unwrap();
    claimed.publish(Event::Admit, client.next_stamp()).unwrap()
}

const WORKER: LocalWorkerSpec<'static> = LocalWorkerSpec {
    name: "w",
    host: "here",
    kinds: KindSet::ALL,
    capacity: 2,
    losses_max: 3,
};

const WELL: Outcome = Outcome {
    kind: OutcomeKind::Exited,
    code: 0,
    result_dropped: false,
    output_cut: false,
};

#[test]
fn what_one_process_submits_another_takes_and_ends_without_a_daemon() {
    let ground = Ground::new();
    ground.daemon.unlock(0).unwrap();
    let client = ground.open(AttachRole::Client);
    let process = ground.open(AttachRole::Worker);
    assert!(!client.daemon_lives());
    let worker = process.join_as_worker(&WORKER).unwrap();
    assert!(worker.take().is_none());
    let large = vec![7; 5_000];
    let tasks = [submit(&client, b"small"), submit(&client, &large)];
    let (first, second) = (worker.take().unwrap(), worker.take().unwrap());
    assert_eq!([first.id(), second.id()], tasks);
    assert!(worker.take().is_none(), "two at once");
    let mut payload = [0; 8];
    assert_eq!(
        process
            .load(first.id(), Part::Payload, 0, &mut payload)
            .unwrap(),
        5
    );
    first.start().unwrap();
    assert_eq!(first.finish(WELL, b"done").unwrap(), Phase::Done);
    assert_eq!(
        client
            .load(tasks[0], Part::Result, 0, &mut payload)
            .unwrap(),
        4
    );
    second.give_back();
    let again = worker.take().unwrap();
    assert_eq!((again.id(), again.attempt()), (tasks[1], 2));
    assert_eq!(again.finish(WELL, &large).unwrap(), Phase::Done);
    assert_eq!(worker.state().running(), 0);
    drop(worker);
    for task in tasks {
        let slot = client.slot_of(task).unwrap();
        client.free_task(slot, client.state(slot)).unwrap();
    }
    assert_eq!(ground.segment.verify().findings, []);
    // Its ends were still waiting when it left, so its records stay until somebody sees that nobody needs them any more.
    drop(process);
    client.repairer().run(&client);
    drop(client);
    assert_eq!(ground.segment.attached().count(), 1, "the daemon's");
}

#[test]
fn last_of_all_workers_that_a_segment_can_have_takes_and_ends_tasks_as_the_first_does() {
    let ground = Ground::with_workers(Some(WORKERS_COUNT_MAX));
    ground.daemon.unlock(0).unwrap();
    let process = ground.open(AttachRole::Worker);
    let client = ground.open(AttachRole::Client);
    let last = u16::try_from(WORKERS_COUNT_MAX - 1).unwrap();
    let index = |number| WorkerIndex::new_checked(number, WORKERS_COUNT_MAX).unwrap();
    for number in 0..last {
        let slot = WorkerWriter::of(ground.segment.worker(index(number)));
        slot.apply(slot.state(), WorkerEvent::Register { capacity: 1 })
            .unwrap();
    }
    let worker = process.join_as_worker(&WORKER).unwrap();
    let none = process.join_as_worker(&WORKER).map(|_| ()).unwrap_err();
    assert_eq!(
        none,
        JoinError::Full {
            slots: WORKERS_COUNT_MAX
        }
    );
    let task = submit(&client, b"work");
    let taken = worker.take().unwrap();
    let held = ground.segment.task(task.slot()).state();
    assert_eq!(held.owner(), Owner::Worker(index(last)));
    let id = WorkerId::new(index(last), 1);
    assert_eq!(WorkerId::from_raw(id.as_raw()), Some(id));
    assert_eq!(id.to_string().parse(), Ok(id));
    taken.start().unwrap();
    assert_eq!(taken.finish(WELL, b"done").unwrap(), Phase::Done);
    assert_eq!(worker.state().running(), 0);
}

#[test]
fn journal_task_that_runs_at_most_once_is_left_to_the_daemon() {
    let ground = Ground::new();
    let process = ground.open(AttachRole::Worker);
    let worker = process.join_as_worker(&WORKER).unwrap();
    let once = TaskOptions::AT_MOST_ONCE;
    submit_with(&process, b"x", once.with(TaskOptions::JOURNAL));
    assert!(worker.take().is_none());
    let memory = submit_with(&process, b"x", once);
    let taken = worker.take().unwrap();
    assert_eq!(taken.id(), memory);
    taken.start().unwrap();
    taken.give_back();
    assert!(worker.take().is_none(), "half done: nobody begins it again");
}

#[test]
fn task_that_was_taken_away_loses_nothing_when_its_worker_hands_it_back() {
    let ground = Ground::new();
    let process = ground.open(AttachRole::Worker);
    let worker = process.join_as_worker(&WORKER).unwrap();
    let task = submit_with(&process, b"x", TaskOptions::AT_MOST_ONCE);
    let slot = process.slot_of(task).unwrap();
    let first = worker.take().unwrap();
    first.start().unwrap();
    let held = process.state(slot);
    let ready = ground.segment.apply(slot, held, Event::Requeue).unwrap();
    ground.segment.index_ready(slot, ready);
    let second = worker.take().unwrap();
    second.start().unwrap();
    first.give_back();
    assert_eq!(ground.segment.task(slot).losses(), 0);
    assert_eq!(second.finish(WELL, b"").unwrap(), Phase::Ended);
}

#[test]
fn with_a_daemon_the_result_is_left_to_its_judgement_and_its_attention_is_called() {
    let ground = Ground::new();
    let process = ground.open(AttachRole::Worker);
    assert!(process.daemon_lives());
    let worker = process.join_as_worker(&WORKER).unwrap();
    let task = submit(&process, b"x");
    assert_eq!(
        worker.take().unwrap().finish(WELL, b"").unwrap(),
        Phase::Ended
    );
    let (slot, _) = ground.segment.timers().locate().unwrap();
    assert_eq!(slot, task.slot().get());
    drop(worker);
    let index = process.index();
    drop(process);
    let left = ground.segment.attach_info(index);
    assert!(left.is_some(), "what it ended still names its worker");
}

#[test]
fn records_are_told_from_one_another_and_run_out() {
    let ground = Ground::new();
    let count = ground.segment.geometry().attaches();
    let mut open: Vec<_> = (1..count)
        .map(|_| ground.open(AttachRole::Client))
        .collect();
    let spec = ground.spec(AttachRole::Client);
    let full = Attachment::open_id(ground.segment.shm_id().unwrap(), &spec);
    assert!(matches!(full, Err(OpenError::Full { .. })), "{full:?}");
    let text = full.unwrap_err().to_string();
    assert!(
        text.contains(&format!("all {count} attach records")),
        "{text}"
    );
    let lock = LockFile::open(&ground.lock_path()).unwrap();
    for info in ground.segment.attached() {
        assert_eq!(ground.segment.judge(&info, Some(&lock)), Liveness::Alive);
        assert_eq!(
            ground.segment.judge(&info, None),
            Liveness::Alive,
            "by its pid"
        );
    }
    let gone = open.pop().unwrap();
    let (index, before) = (
        gone.index(),
        ground.segment.attach_info(gone.index()).unwrap(),
    );
    drop(gone);
    assert!(ground.segment.attach_info(index).is_none());
    assert_eq!(
        ground.segment.judge(&before, Some(&lock)),
        Liveness::Dead,
        "its byte is free"
    );
    let next = ground.open(AttachRole::Worker);
    assert_eq!(next.index(), index);
    let after = ground.segment.attach_info(index).unwrap();
    assert_ne!(after.state, before.state);
    assert_eq!(after.role, Some(AttachRole::Worker));
    assert_ne!(index, AttachIndex::DAEMON);
}

#[test]
fn stamps_of_a_process_rise() {
    let ground = Ground::new();
    let client = ground.open(AttachRole::Client);
    let stamps: Vec<u64> = (0..1_000).map(|_| client.next_stamp()).collect();
    assert!(stamps.is_sorted_by(|a, b| a < b));
}

#[test]
fn sign_of_life_is_believed_for_a_moment_and_a_death_until_another_daemon_comes() {
    let ground = Ground::new();
    let process = ground.open(AttachRole::Client);
    let beat_now = || ground.segment.set_daemon_beat(process.now().stamp());
    ground.daemon.unlock(0).unwrap();
    beat_now();
    // As long as it is fresh; the machine may take the processor away for longer than that.
    let believed = (0..1_000).take_while(|_| process.daemon_lives()).count();
    assert!(believed <= 16, "{believed}");
    beat_now();
    assert!(
        !process.daemon_lives(),
        "the kernel has said that it is dead"
    );
    assert!(ground.daemon.lock(0).unwrap());
    ground.segment.raise_epoch();
    assert!(process.daemon_lives());
}

#[test]
fn old_sign_of_life_says_nothing_and_neither_does_one_that_cannot_be() {
    let ground = Ground::new();
    let process = ground.open(AttachRole::Client);
    let to_come = process.now().plus_ns(3_600_000_000_000);
    ground.segment.set_daemon_beat(to_come.stamp());
    assert!(process.daemon_lives());
    ground.daemon.unlock(0).unwrap();
    assert!(!process.daemon_lives());
}
