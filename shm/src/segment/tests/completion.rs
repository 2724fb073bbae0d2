//! What local workers hand over beside the slots: late ends, ends without a daemon, full lanes, kills after each write.

use super::spec_in;
use crate::hand_over::ENTRIES;
use crate::id::TaskId;
use crate::kind_set::KindSet;
use crate::layout::attach::AttachRole;
use crate::segment::{
    Attachment, AttachmentSpec, LocalWorkerSpec, Part, RepairScope, Repairer, Segment, Taken,
    TaskFields,
};
use crate::sync::kill::{Killed, killed_after, paused_after};
use crate::task::slot::{Outcome, OutcomeKind, TaskOptions};
use crate::task::state::{Event, FLAG_CANCEL, FLAG_TIMED_OUT, Phase};
use crate::worker::{WorkerEvent, WorkerPhase};

/// A segment whose daemon lives as long as this process says so: it holds no lock, so the pid in its record tells.
struct Ground {
    segment: Segment,
    folder: tempfile::TempDir,
}

const WORKER: LocalWorkerSpec<'static> = LocalWorkerSpec {
    name: "w",
    host: "here",
    kinds: KindSet::ALL,
    capacity: 200,
    losses_max: 3,
};

const WELL: Outcome = Outcome {
    kind: OutcomeKind::Exited,
    code: 0,
    result_dropped: false,
    output_cut: false,
};

impl Ground {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.lock"), "").unwrap();
        let spec = spec_in(folder.path(), 256, 1 << 20);
        let segment = Segment::create_private(&spec).unwrap();
        let lock = crate::segment::LockFile::open(&folder.path().join("a.lock")).unwrap();
        // Nobody holds the daemon's byte: it is dead.
        segment.set_lock_file(lock.identity());
        Self { segment, folder }
    }

    fn open(&self) -> Attachment {
        let spec = AttachmentSpec::new(AttachRole::Worker, "local", self.folder.path())
            .with_lock_file(self.folder.path().join("a.lock"));
        Attachment::open_id(self.segment.shm_id().unwrap(), &spec).unwrap()
    }

    fn result_of(&self, task: TaskId) -> Vec<u8> {
        let mut bytes = vec![0; 100];
        let count = self
            .segment
            .load(task, Part::Result, 0, &mut bytes)
            .unwrap();
        bytes.truncate(count);
        bytes
    }

    /// As a daemon does that starts beside whoever is attached.
    fn start_daemon(&self) {
        let lock = crate::segment::LockFile::open(&self.folder.path().join("a.lock")).unwrap();
        self.segment.adopt_again(Some(&lock));
    }

    fn verify(&self) {
        assert_eq!(self.segment.verify().findings, []);
    }
}

fn submit(client: &Attachment) -> TaskId {
    let claimed = client.claim().unwrap();
    submit_claimed(client, claimed)
}

fn submit_claimed(client: &Attachment, mut claimed: crate::ClaimedTask<'_>) -> TaskId {
    let fields = TaskFields {
        kind: client.kinds().find("noop"),
        priority: 9,
        max_attempts: 3,
        ..TaskFields::default()
    };
    claimed.write(&fields).unwrap();
    claimed.publish(Event::Admit, client.next_stamp()).unwrap()
}

#[test]
fn end_that_comes_late_touches_nothing_of_the_task_that_has_the_slot_by_then() {
    let ground = Ground::new();
    let (process, other) = (ground.open(), ground.open());
    let (worker, second) = (
        process.join_as_worker(&WORKER).unwrap(),
        other.join_as_worker(&WORKER).unwrap(),
    );
    let task = submit(&process);
    let slot = task.slot();
    let late = worker.take().unwrap();
    late.start().unwrap();
    // Whatever takes the attempt away; then the task ends elsewhere, is freed, and its slot is another task's.
    let held = process.state(slot);
    let ready = ground.segment.apply(slot, held, Event::Requeue).unwrap();
    ground.segment.index_ready(slot, ready);
    let lost = ground.segment.worker(worker.id().slot());
    lost.apply(lost.state(), WorkerEvent::Give).unwrap();
    second.take().unwrap().finish(WELL, b"first").unwrap();
    ground.segment.free_task(slot, process.state(slot)).unwrap();
    let next = loop {
        let claimed = process.claim().unwrap();
        if claimed.slot() == slot {
            break submit_claimed(&process, claimed);
        }
        drop(claimed);
    };
    let failed = Outcome { code: 7, ..WELL };
    second
        .take()
        .unwrap()
        .finish(failed, b"of the next")
        .unwrap();
    let before = ground.segment.read_task(slot).unwrap().record;
    assert_eq!(before.id, Some(next));

    let error = late.finish(WELL, b"late").unwrap_err();
    assert!(matches!(error, crate::ApplyError::Moved(_)), "{error}");
    assert_eq!(ground.segment.read_task(slot).unwrap().record, before);
    assert_eq!(ground.result_of(next), b"of the next");
    ground.verify();
}

#[test]
fn end_without_a_daemon_is_read_where_it_lies_and_moved_by_the_next_daemon() {
    let ground = Ground::new();
    let process = ground.open();
    let worker = process.join_as_worker(&WORKER).unwrap();
    let task = submit(&process);
    let taken = worker.take().unwrap();
    assert_eq!(taken.finish(WELL, b"result").unwrap(), Phase::Done);
    let slot = task.slot();
    assert_eq!(
        ground.segment.task(slot).outcome(),
        Outcome::default(),
        "a local worker writes no field of a slot"
    );
    let seen = ground.segment.read_task(slot).unwrap().record;
    assert_eq!(seen.outcome, WELL);
    assert_eq!(ground.result_of(task), b"result");
    ground.verify();
    let waiting: Vec<_> = ground.segment.waiting_ends().collect();
    assert_eq!(waiting.len(), 1);

    ground.start_daemon();
    assert_eq!(ground.segment.waiting_ends().count(), 0);
    assert_eq!(ground.segment.task(slot).outcome(), WELL);
    assert_eq!(ground.segment.task(slot).phase_time(), seen.phase_time);
    assert_eq!(ground.segment.read_task(slot).unwrap().record, seen);
    assert_eq!(ground.result_of(task), b"result");
    ground.verify();
}

#[test]
fn end_of_a_process_that_is_gone_waits_for_the_daemon_and_then_nothing_is_left_of_it() {
    let ground = Ground::new();
    let process = ground.open();
    let task = submit(&process);
    let index = process.index();
    let worker = process.join_as_worker(&WORKER).unwrap();
    worker.take().unwrap().finish(WELL, b"result").unwrap();
    drop(worker);
    drop(process);
    assert!(ground.segment.attach_info(index).is_some());
    // Somebody who repairs while no daemon lives leaves it alone.
    let repairer = ground.open();
    for _ in 0..2 {
        repairer.repairer().run(&repairer);
        assert_eq!(ground.result_of(task), b"result");
    }
    drop(repairer);
    ground.start_daemon();
    let slot = task.slot();
    assert_eq!(ground.segment.task(slot).outcome(), WELL);
    assert_eq!(ground.result_of(task), b"result");
    let scope = RepairScope {
        convicted: ground.segment.convict(None),
        takes_back: true,
    };
    Repairer::with_scope(&ground.segment, scope).run(&ground.segment);
    ground
        .segment
        .free_task(slot, ground.segment.state(slot))
        .unwrap();
    ground.verify();
    assert_eq!(ground.segment.verify().chunks, 0, "the lane is given back");
}

#[test]
fn full_lane_holds_up_its_own_worker_until_the_ends_are_moved_or_their_tasks_freed() {
    let ground = Ground::new();
    let process = ground.open();
    let worker = process.join_as_worker(&WORKER).unwrap();
    let tasks: Vec<_> = (0..ENTRIES + 2).map(|_| submit(&process)).collect();
    for _ in 0..ENTRIES {
        let taken = worker.take().unwrap();
        assert_eq!(taken.finish(WELL, b"r").unwrap(), Phase::Done);
    }
    assert!(worker.is_full());
    assert!(worker.take().is_none(), "nowhere to hand an end over");
    let second = ground.open();
    let second = second.join_as_worker(&WORKER).unwrap();
    second.take().unwrap().give_back();
    for &task in &tasks[..ENTRIES] {
        assert_eq!(ground.result_of(task), b"r", "nothing is lost");
    }
    let slot = tasks[3].slot();
    ground
        .segment
        .free_task(slot, ground.segment.state(slot))
        .unwrap();
    let taken = worker.take().unwrap();
    assert!(worker.is_full());
    taken.finish(WELL, b"r").unwrap();
    ground.start_daemon();
    assert!(!worker.is_full());
    ground.verify();
}

#[test]
fn entries_of_tasks_that_are_held_at_once_are_apart() {
    let ground = Ground::new();
    let process = ground.open();
    let worker = process.join_as_worker(&WORKER).unwrap();
    let tasks: Vec<_> = (0..ENTRIES).map(|_| submit(&process)).collect();
    let mut held: Vec<Taken<'_>> = (0..ENTRIES).map(|_| worker.take().unwrap()).collect();
    submit(&process);
    assert!(worker.take().is_none());
    for (code, taken) in (0..).zip(held.drain(..)) {
        taken.start().unwrap();
        let state = process.state(taken.slot());
        let running = process.completion(taken.slot(), state).unwrap();
        assert_eq!((running.task, running.end), (taken.id(), None));
        taken.finish(Outcome { code, ..WELL }, &[code]).unwrap();
    }
    for (code, task) in (0..).zip(tasks) {
        let record = process.read_task(task.slot()).unwrap().record;
        assert_eq!(record.outcome.code, code);
        assert_eq!(ground.result_of(task), [code]);
    }
}

/// The worker's writes one by one: after each the task has either not ended, or ended with all that belongs to it; and a daemon moves it once.
#[expect(clippy::mem_forget, reason = "a killed process drops nothing")]
#[test]
fn worker_killed_after_any_write_of_an_end_leaves_all_of_it_or_nothing() {
    let mut ended = 0;
    for writes in 1..100 {
        let ground = Ground::new();
        let process = ground.open();
        let worker = process.join_as_worker(&WORKER).unwrap();
        let task = submit(&process);
        let taken = worker.take().unwrap();
        let died = killed_after(writes, || {
            let _ = taken.finish(WELL, b"whole");
        });
        let slot = task.slot();
        let phase = process.state(slot).phase();
        if phase == Phase::Done {
            ended += 1;
            assert_eq!(process.read_task(slot).unwrap().record.outcome, WELL);
            assert_eq!(ground.result_of(task), b"whole");
            // A daemon is killed after each of its writes, and another starts.
            for turns in 1..8 {
                let right = ground.segment.plm_right().unwrap();
                let state = process.state(slot);
                let _ = killed_after(turns, || {
                    ground.segment.accept_completion(right, slot, state);
                });
                assert_eq!(process.read_task(slot).unwrap().record.outcome, WELL);
                assert_eq!(ground.result_of(task), b"whole");
            }
            ground.start_daemon();
            assert_eq!(ground.segment.task(slot).outcome(), WELL);
        } else {
            assert!(matches!(phase, Phase::Assigned | Phase::Running), "{phase}");
            assert_eq!(ground.segment.waiting_ends().count(), 0);
        }
        std::mem::forget(worker);
        if died != Err(Killed) {
            assert!(ended > 3, "{ended} kills after the end");
            return;
        }
    }
    panic!("an end does not end");
}

#[test]
fn attempt_that_a_daemon_flags_at_any_moment_of_its_end_is_left_to_that_daemon_with_its_flag() {
    use core::cell::Cell;
    use std::rc::Rc;
    let mut seen = [0, 0];
    for (flag, request) in [
        (FLAG_CANCEL, Event::RequestCancel),
        (FLAG_TIMED_OUT, Event::RequestStop),
    ] {
        for writes in 1.. {
            let ground = Ground::new();
            let process = ground.open();
            let worker = process.join_as_worker(&WORKER).unwrap();
            let task = submit(&process);
            let taken = worker.take().unwrap();
            taken.start().unwrap();
            assert!(!process.daemon_lives());
            let has_come = Rc::new(Cell::new(None));
            let (comes, daemon) = (Rc::clone(&has_come), ground.open());
            let flags = move || {
                let state = daemon.state(task.slot());
                comes.set(Some(daemon.apply(task.slot(), state, request).is_ok()));
            };
            let ended = paused_after(writes, flags, || taken.finish(WELL, b"result").unwrap());
            let Some(is_flagged) = has_come.get() else {
                assert!(writes > 8, "{writes} writes are too few to have met any");
                break;
            };
            let expected = if is_flagged {
                Phase::Ended
            } else {
                Phase::Done
            };
            let state = process.state(task.slot());
            assert_eq!((ended, state.phase()), (expected, expected), "{writes}");
            assert_eq!(state.has_flag(flag), is_flagged, "{writes}");
            seen[usize::from(is_flagged)] += 1;
            // Who judges finds all of it.
            assert_eq!(process.read_task(task.slot()).unwrap().record.outcome, WELL);
            assert_eq!(ground.result_of(task), b"result");
            assert_eq!(worker.state().running(), u16::from(is_flagged));
            ground.verify();
        }
    }
    assert!(seen.iter().all(|&ends| ends > 2), "{seen:?}");
}

#[test]
fn slot_of_a_lost_local_worker_is_freed_with_its_lane() {
    let ground = Ground::new();
    let process = ground.open();
    let worker = process.join_as_worker(&WORKER).unwrap();
    let task = submit(&process);
    worker.take().unwrap().finish(WELL, b"kept").unwrap();
    let (index, right) = (worker.id().slot(), ground.segment.plm_right().unwrap());
    let lost = ground.segment.worker(index);
    lost.apply(lost.state(), WorkerEvent::Lose).unwrap();
    assert!(ground.segment.free_lost_worker(right, index));
    assert_eq!(lost.state().phase(), WorkerPhase::Free);
    assert_eq!(ground.segment.task(task.slot()).outcome(), WELL);
    assert_eq!(ground.result_of(task), b"kept");
    ground.verify();
    drop(worker);
}

/// Of a process that takes a task, ends it so, and dies.
fn last_words(process: Attachment, outcome: Outcome, output: &[u8]) {
    let worker = process.join_as_worker(&WORKER).unwrap();
    let taken = worker.take().expect("a task that waits");
    taken.finish(outcome, output).unwrap();
    process.dies();
    drop(worker);
    drop(process);
}

#[test]
fn end_that_is_handed_over_at_any_moment_of_a_daemons_start_is_not_lost() {
    use core::cell::Cell;
    use std::rc::Rc;
    // One to be judged, and one that is done.
    for outcome in [Outcome { code: 4, ..WELL }, WELL] {
        for writes in 1.. {
            let ground = Ground::new();
            let client = ground.open();
            let task = submit(&client);
            drop(client);
            let process = ground.open();
            let has_ended = Rc::new(Cell::new(false));
            let ends = Rc::clone(&has_ended);
            let pause = move || {
                last_words(process, outcome, b"last words");
                ends.set(true);
            };
            paused_after(writes, pause, || ground.start_daemon());
            if !has_ended.get() {
                assert!(writes > 2, "{writes} writes are too few to have met any");
                break;
            }
            let record = ground.segment.read_task(task.slot()).unwrap().record;
            assert_eq!(record.outcome, outcome, "{writes}");
            assert_eq!(ground.result_of(task), b"last words", "{writes}");
            ground.verify();
        }
    }
}

#[test]
fn rebuild_of_the_caches_keeps_what_only_a_lane_names() {
    let ground = Ground::new();
    let client = ground.open();
    let (small, large) = (submit(&client), submit(&client));
    drop(client);
    last_words(ground.open(), WELL, b"small");
    let in_a_file = vec![b'l'; 70 << 10];
    last_words(ground.open(), WELL, &in_a_file);
    for _ in 0..2 {
        ground.segment.rebuild_caches(ground.segment.now());
        ground.segment.remove_lost_spills();
        assert_eq!(ground.result_of(small), b"small");
        assert_eq!(ground.result_of(large), in_a_file[..100]);
        ground.verify();
    }
    ground.start_daemon();
    for (task, bytes) in [(small, &b"small"[..]), (large, &in_a_file[..100])] {
        assert_eq!(ground.segment.task(task.slot()).outcome(), WELL);
        assert_eq!(ground.result_of(task), bytes);
        let state = ground.segment.state(task.slot());
        ground.segment.free_task(task.slot(), state).unwrap();
    }
    ground.start_daemon();
    ground.verify();
    assert_eq!(ground.segment.verify().chunks, 0, "lanes are given back");
}

#[test]
fn daemon_killed_after_any_write_of_its_start_loses_no_end_that_waits() {
    for writes in 1.. {
        let ground = Ground::new();
        let client = ground.open();
        let task = submit(&client);
        drop(client);
        last_words(ground.open(), WELL, b"kept");
        let outcome = killed_after(writes, || ground.start_daemon());
        for _ in 0..2 {
            let record = ground.segment.read_task(task.slot()).unwrap().record;
            assert_eq!(record.outcome, WELL, "{writes}");
            assert_eq!(ground.result_of(task), b"kept", "{writes}");
            ground.start_daemon();
        }
        ground.verify();
        if outcome.is_ok() {
            assert!(writes > 30, "{writes} are too few to have been cut in");
            return;
        }
    }
}

#[test]
fn task_that_runs_at_most_once_and_is_given_back_half_done_ends_beside_the_slot() {
    let ground = Ground::new();
    let process = ground.open();
    let worker = process.join_as_worker(&WORKER).unwrap();
    let mut claimed = process.claim().unwrap();
    let fields = TaskFields {
        kind: process.kinds().find("noop"),
        options: TaskOptions::AT_MOST_ONCE,
        ..TaskFields::default()
    };
    claimed.write(&fields).unwrap();
    let task = claimed.publish(Event::Admit, 7).unwrap();
    let taken = worker.take().unwrap();
    taken.start().unwrap();
    let before = process.read_task(task.slot()).unwrap().record;
    taken.give_back();
    let after = process.read_task(task.slot()).unwrap().record;
    assert_eq!(after.state.phase(), Phase::Ended);
    assert_eq!(after.outcome.kind, OutcomeKind::WorkerLost);
    let slot = process.task(task.slot());
    assert_eq!(
        (slot.losses(), slot.outcome()),
        (before.losses, Outcome::default()),
        "a local worker writes no field of a slot"
    );
    assert!(worker.take().is_none());
    ground.verify();
}
