//! Holding waiting tasks back, and releasing them.

use std::sync::Arc;

use qtf_engine::{Answer, RejectReason, Rejection};
use qtf_shm::layout::attach::AttachRole;
use qtf_shm::sync::kill::{killed_after, paused_after};
use qtf_shm::{
    Attachment, AttachmentSpec, Event, KindSet, LocalWorker, LocalWorkerSpec, OutcomeKind, Phase,
    Segment, TaskFields, TaskId, TaskOptions,
};

use qtf_world::JournalWorld;
use qtf_world::{MS, SECOND, World, dispatched, finished};

fn hold(world: &mut World, task: TaskId) -> Result<Phase, RejectReason> {
    phase_or_reason(world.engine.hold(world.now, task))
}

fn release(world: &mut World, task: TaskId) -> Result<Phase, RejectReason> {
    phase_or_reason(world.engine.release(world.now, task))
}

fn phase_or_reason(answer: Result<Answer, Rejection>) -> Result<Phase, RejectReason> {
    answer
        .map(|answer| answer.phase)
        .map_err(|refused| refused.reason)
}

/// A process beside the daemon, for as long as the test lives.
fn process(segment: &Segment, role: AttachRole) -> Attachment {
    let spec = AttachmentSpec::new(role, "local", std::env::temp_dir());
    let id = segment.shm_id().expect("it is the kernel's");
    Attachment::open_id(id, &spec).expect("an attach record is free")
}

const LOCAL: LocalWorkerSpec<'static> = LocalWorkerSpec {
    name: "local",
    host: "here",
    kinds: KindSet::ALL,
    capacity: 4,
    losses_max: 3,
};

#[test]
fn held_task_is_not_started_until_it_is_released_and_keeps_its_place() {
    let mut world = World::new();
    let (first, second) = (world.submit("exec"), world.submit("exec"));
    assert_eq!(hold(&mut world, first), Ok(Phase::Held));
    world.verify();
    world.worker(1, &["exec"]);
    let got = world.dispatch();
    assert_eq!(got.1, second);
    let third = world.submit("exec");
    assert_eq!(release(&mut world, first), Ok(Phase::Ready));
    world.verify();
    world.end(got, 0);
    let got = world.dispatch();
    assert_eq!(got.1, first, "it was submitted before {third}");
    world.end(got, 0);
    assert_eq!(world.dispatch().1, third);
    world.verify();
}

#[test]
fn task_that_is_submitted_held_waits_for_its_release_alone() {
    let mut world = World::new();
    world.worker(4, &["exec"]);
    let held = world
        .submit_with("exec", |submission| submission.hold = true)
        .unwrap();
    assert_eq!((world.phase(held), world.counts()), (Phase::Held, (1, 0)));
    assert_eq!(dispatched(&world.settle_for(100 * SECOND)), []);
    world.worker(4, &["exec"]);
    assert_eq!(world.phase(held), Phase::Held, "no time ends it");
    world.verify();
    assert_eq!(release(&mut world, held), Ok(Phase::Ready));
    assert_eq!(world.dispatch().1, held);
}

#[test]
fn asking_again_changes_nothing() {
    let mut world = World::new();
    let task = world.submit("exec");
    for _ in 0..2 {
        assert_eq!(hold(&mut world, task), Ok(Phase::Held));
    }
    for _ in 0..2 {
        assert_eq!(release(&mut world, task), Ok(Phase::Ready));
    }
    world.worker(1, &["exec"]);
    let got = world.dispatch();
    assert_eq!(
        release(&mut world, task),
        Ok(Phase::Assigned),
        "it is not held"
    );
    world.end(got, 0);
    world.verify();
}

#[test]
fn what_a_worker_has_and_what_has_ended_is_not_held() {
    let mut world = World::new();
    let task = world.submit("exec");
    world.worker(1, &["exec"]);
    let got = world.dispatch();
    assert_eq!(hold(&mut world, task), Err(RejectReason::WrongState));
    world.start(got);
    let refused = world.engine.hold(world.now, task).unwrap_err();
    assert!(
        refused
            .to_string()
            .ends_with("only a task that waits can be held"),
        "{refused}"
    );
    world.end(got, 0);
    for asked in [hold(&mut world, task), release(&mut world, task)] {
        assert_eq!(asked, Err(RejectReason::WrongState));
    }
    let never = TaskId::new(1 << 34, task.slot());
    for asked in [hold(&mut world, never), release(&mut world, never)] {
        assert_eq!(asked, Err(RejectReason::UnknownTask));
    }
    world.verify();
}

#[test]
fn task_between_two_attempts_waits_and_is_held_with_what_it_has_used_up() {
    let mut world = World::new();
    let task = world
        .submit_with("exec", |submission| submission.retries = 2)
        .unwrap();
    world.worker(1, &["exec"]);
    let got = world.dispatch();
    world.start(got);
    world.end(got, 1);
    assert_eq!(world.phase(task), Phase::Delayed);
    assert_eq!(hold(&mut world, task), Ok(Phase::Held));
    world.verify();
    assert_eq!(dispatched(&world.settle_for(20 * SECOND)), []);
    assert_eq!(world.report(got, OutcomeKind::Exited, 0), {
        // A report of the attempt before is late, as with every task that waits again.
        qtf_engine::Disposition::Stale
    });
    assert_eq!(
        release(&mut world, task),
        Ok(Phase::Ready),
        "its pause is over"
    );
    world.worker(1, &["exec"]);
    assert_eq!(world.dispatch().2, 2);
}

#[test]
fn later_start_goes_on_counting_while_the_task_is_held() {
    let mut world = World::new();
    world.worker(2, &["exec"]);
    let later = |submission: &mut qtf_engine::Submission<'_>| submission.delay_ms = 3_000;
    let delayed = world.submit_with("exec", later).unwrap();
    let submitted_held = world
        .submit_with("exec", |submission| {
            later(submission);
            submission.hold = true;
        })
        .unwrap();
    for task in [delayed, submitted_held] {
        assert_eq!(hold(&mut world, task), Ok(Phase::Held));
    }
    world.verify();
    world.settle_for(SECOND);
    for task in [delayed, submitted_held] {
        assert_eq!(release(&mut world, task), Ok(Phase::Delayed));
    }
    world.verify();
    assert_eq!(dispatched(&world.settle_for(1_990 * MS)), []);
    assert_eq!(dispatched(&world.settle_for(20 * MS)).len(), 2);
}

#[test]
fn parked_task_is_held_and_parked_again_when_nobody_offers_its_kind() {
    let mut world = World::new();
    world.worker(1, &["exec"]);
    let parked = world.submit("render");
    world.settle();
    assert_eq!(world.phase(parked), Phase::Blocked);
    assert_eq!(hold(&mut world, parked), Ok(Phase::Held));
    world.worker(1, &["render"]);
    assert_eq!(world.dispatches(), []);
    assert_eq!(release(&mut world, parked), Ok(Phase::Ready));
    assert_eq!(world.dispatch().1, parked);
    world.verify();
}

#[test]
fn held_task_can_be_cancelled_and_reprioritised() {
    let mut world = World::new();
    let (task, other) = (world.submit("exec"), world.submit("exec"));
    hold(&mut world, task).unwrap();
    hold(&mut world, other).unwrap();
    let now = world.now;
    let answer = world.engine.update_priority(now, other, 250).unwrap();
    assert_eq!(answer.phase, Phase::Held);
    assert_eq!(
        world.engine.cancel(now, task).unwrap().phase,
        Phase::Cancelled
    );
    assert_eq!(finished(&world.effects()), [(task, Phase::Cancelled)]);
    let urgent = world
        .submit_with("exec", |submission| submission.priority = Some(200))
        .unwrap();
    release(&mut world, other).unwrap();
    world.worker(1, &["exec"]);
    let got = world.dispatch();
    assert_eq!(got.1, other, "before {urgent}");
    world.verify();
}

#[test]
fn cancelled_task_that_was_taken_back_is_not_kept_from_its_end() {
    let mut world = JournalWorld::among_locals();
    let task = world.ready("exec");
    let segment = Arc::clone(world.engine.segment());
    let state = segment.state(task.slot());
    let worker = segment.worker_index(3).unwrap();
    let held = segment
        .apply(task.slot(), state, Event::Assign { worker })
        .and_then(|state| segment.apply(task.slot(), state, Event::RequestCancel))
        .and_then(|state| segment.apply(task.slot(), state, Event::Requeue));
    assert!(held.is_ok());
    assert_eq!(hold(&mut world, task), Err(RejectReason::WrongState));
}

#[test]
fn held_tasks_are_there_for_the_next_daemon_and_not_started_by_it() {
    let mut world = World::new();
    let task = world.submit("exec");
    let submitted_held = world
        .submit_with("exec", |submission| submission.hold = true)
        .unwrap();
    hold(&mut world, task).unwrap();
    let mut world = world.restarted();
    world.worker(4, &["exec"]);
    assert_eq!(dispatched(&world.settle_for(20 * SECOND)), []);
    world.worker(4, &["exec"]);
    for task in [task, submitted_held] {
        assert_eq!(release(&mut world, task), Ok(Phase::Ready));
    }
    assert_eq!(world.dispatches().len(), 2);
    world.verify();
}

#[test]
fn hold_and_release_of_a_journal_task_last_when_they_are_answered() {
    let mut world = JournalWorld::new();
    let (kept, let_go) = (world.ready("exec"), world.ready("exec"));
    let taken = world.take_in("exec", |task| task.hold = true).unwrap();
    assert!(taken.durable.is_some());
    let now = world.now;
    let answer = world.engine.hold(now, kept).unwrap();
    assert!(answer.durable > Some(world.durable()));
    world.engine.hold(now, let_go).unwrap();
    world.sync();
    let answer = world.engine.release(now, let_go).unwrap();
    assert!(answer.durable > Some(world.durable()));
    world.sync();
    let mut world = world.cold_restart();
    for held in [kept, taken.task] {
        assert_eq!(world.phase(held), Phase::Held);
    }
    world.worker(4, &["exec"]);
    world.sync();
    assert_eq!(world.dispatch().1, let_go);
    for held in [kept, taken.task] {
        assert_eq!(release(&mut world, held), Ok(Phase::Ready));
    }
    world.sync();
    assert_eq!(world.dispatches().len(), 2);
    world.verify();
}

#[test]
fn later_start_of_a_held_journal_task_is_known_after_a_reboot() {
    let mut world = JournalWorld::new();
    let later = world
        .take_in("exec", |task| task.delay_ms = 60_000)
        .unwrap();
    let submitted_held = world
        .take_in("exec", |task| {
            task.delay_ms = 60_000;
            task.hold = true;
        })
        .unwrap();
    world.sync();
    assert_eq!(hold(&mut world, later.task), Ok(Phase::Held));
    world.sync();
    let mut world = world.cold_restart();
    for taken in [later, submitted_held] {
        assert_eq!(world.phase(taken.task), Phase::Held);
        assert_eq!(release(&mut world, taken.task), Ok(Phase::Delayed));
    }
    world.sync();
    let world = world.cold_restart();
    for taken in [later, submitted_held] {
        assert_eq!(world.phase(taken.task), Phase::Delayed);
    }
}

#[test]
fn held_journal_task_is_not_released_before_its_submission_is_durable() {
    let mut world = JournalWorld::new();
    world.worker(4, &["exec"]);
    let submitted_held = world.take_in("exec", |task| task.hold = true).unwrap().task;
    let submitted = world.submit_journal("exec").task;
    assert_eq!(hold(&mut world, submitted), Ok(Phase::Held));
    for task in [submitted_held, submitted] {
        assert_eq!(release(&mut world, task), Err(RejectReason::JournalFull));
    }
    world.sync();
    assert_eq!(world.dispatches(), []);
    for task in [submitted_held, submitted] {
        assert_eq!(release(&mut world, task), Ok(Phase::Ready));
    }
    assert_eq!(world.dispatches().len(), 2);
}

#[test]
fn hold_that_was_cut_short_is_made_or_not_and_the_journal_knows() {
    for is_release in [false, true] {
        let mut changed = 0;
        for writes in 1.. {
            let mut world = JournalWorld::new();
            let task = world.ready("exec");
            if is_release {
                hold(&mut world, task).unwrap();
                world.sync();
            }
            let now = world.now;
            let whole = killed_after(writes, || {
                if is_release {
                    world.engine.release(now, task)
                } else {
                    world.engine.hold(now, task)
                }
                .is_ok()
            });
            let mut world = world.hot_restart();
            world.settle();
            world.sync();
            let phase = world.phase(task);
            let (before, after) = if is_release {
                (Phase::Held, Phase::Ready)
            } else {
                (Phase::Ready, Phase::Held)
            };
            assert!(phase == before || phase == after, "{writes}: {phase}");
            changed += u32::from(phase == after);
            world.verify();
            let world = world.cold_restart();
            assert_eq!(world.phase(task), phase, "{writes}");
            if whole.is_ok() {
                assert!(changed > 2, "{changed} kills after the change");
                break;
            }
        }
    }
}

#[test]
fn hold_that_comes_second_to_a_take_is_refused_and_writes_nothing_of_the_attempt() {
    let mut met = 0;
    for writes in 1.. {
        let mut world = JournalWorld::among_locals();
        let task = world.ready("exec");
        let local = process(world.segment(), AttachRole::Worker);
        let local: &'static Attachment = Box::leak(Box::new(local));
        let worker: &'static LocalWorker<'_> =
            Box::leak(Box::new(local.join_as_worker(&LOCAL).unwrap()));
        let before = world.segment().task(task.slot()).phase_time();
        world.pass(SECOND);
        let now = world.now;
        let seen = std::rc::Rc::new(std::cell::RefCell::new((false, None)));
        let took = std::rc::Rc::clone(&seen);
        let take = move || *took.borrow_mut() = (true, worker.take());
        let answer = paused_after(writes, take, || world.engine.hold(now, task));
        let (was_met, taken) = seen.take();
        if taken.is_some() {
            met += 1;
            let refused = answer.unwrap_err();
            assert_eq!(refused.reason, RejectReason::WrongState, "{writes}");
            assert_eq!(world.segment().task(task.slot()).phase_time(), before);
        } else {
            assert_eq!(answer.unwrap().phase, Phase::Held, "{writes}");
        }
        drop(taken);
        if !was_met {
            assert!(met > 0);
            return;
        }
    }
}

#[test]
fn local_worker_finds_no_held_task_and_gets_it_when_it_is_released() {
    let mut world = JournalWorld::among_locals();
    let task = world.ready("exec");
    let local = process(world.segment(), AttachRole::Worker);
    let worker = local.join_as_worker(&LOCAL).unwrap();
    hold(&mut world, task).unwrap();
    assert_eq!(world.segment().ready().leaf(task.slot().get()), None);
    assert!(worker.take().is_none());
    world.sync();
    release(&mut world, task).unwrap();
    assert_eq!(worker.take().unwrap().id(), task);
}

#[test]
fn local_client_submits_held_tasks_and_the_daemon_journals_them() {
    let mut world = JournalWorld::among_locals();
    let local = process(world.segment(), AttachRole::Client);
    let mut tasks = Vec::new();
    for options in [TaskOptions::NONE, TaskOptions::JOURNAL] {
        let mut claimed = local.claim().unwrap();
        let fields = TaskFields {
            kind: Some(local.kinds().intern("exec").unwrap()),
            options,
            ..TaskFields::default()
        };
        claimed.write(&fields).unwrap();
        tasks.push(
            claimed
                .publish(Event::AdmitHeld, local.next_stamp())
                .unwrap(),
        );
    }
    let [memory, journalled] = tasks[..] else {
        unreachable!("two were submitted");
    };
    world.worker(4, &["exec"]);
    assert_eq!(
        release(&mut world, journalled),
        Err(RejectReason::JournalFull),
        "nothing of it is written"
    );
    world.settle();
    world.sync();
    assert_eq!(world.dispatches(), []);
    assert_eq!(world.phase(memory), Phase::Held);
    let timer = world.segment().timers().leaf(journalled.slot().get());
    assert_eq!(timer, None, "it was looked at");
    assert_eq!(release(&mut world, memory), Ok(Phase::Ready));
    assert_eq!(world.dispatch().1, memory);
    let mut world = world.cold_restart();
    assert_eq!(world.phase(journalled), Phase::Held);
    assert_eq!(release(&mut world, journalled), Ok(Phase::Ready));
}
