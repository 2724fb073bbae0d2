//! Rules of dead letters: how tasks get there, and what an operator may do with them.

use qtf_engine::{ATTEMPTS_USED_UP, Disposition, EngineConfig, RejectReason};
use qtf_shm::{Counter, Event, FENCE_MAX, OutcomeKind, Phase, TaskId, WorkerId};

use qtf_world::JournalWorld;
use qtf_world::{Dispatched, World, finished};

fn config() -> EngineConfig {
    EngineConfig {
        losses_max: 1,
        ..EngineConfig::default()
    }
}

/// A task that has taken two workers down, with its last dispatch.
fn buried(world: &mut World) -> (TaskId, Dispatched) {
    let task = world.submit("exec");
    let mut last = None;
    for _ in 0..2 {
        let worker = world.worker(1, &["exec"]);
        last = Some(world.dispatch());
        world.engine.worker_gone(world.now, worker);
        world.settle();
    }
    assert_eq!(world.phase(task), Phase::DeadLetter);
    (task, last.expect("it was handed out"))
}

#[test]
fn poison_task_ends_with_its_reason_and_takes_no_more_workers_down() {
    let mut world = World::with(64, config());
    let (task, _) = buried(&mut world);
    let outcome = world.outcome(task);
    assert_eq!((outcome.kind, outcome.code), (OutcomeKind::WorkerLost, 0));
    world.worker(1, &["exec"]);
    assert!(world.dispatches().is_empty());
    world.verify();
}

#[test]
fn revived_task_waits_at_its_old_place_with_its_losses_reset_and_its_attempts_counting_on() {
    let mut world = World::with(64, config());
    let (task, _) = buried(&mut world);
    let later = world.submit("exec");
    let answer = world.engine.revive(world.now, task).unwrap();
    assert_eq!((answer.phase, answer.durable), (Phase::Ready, None));
    assert_eq!(world.segment().task(task.slot()).losses(), 0);
    assert_eq!(world.outcome(task).kind, OutcomeKind::WorkerLost);
    world.verify();
    world.worker(2, &["exec"]);
    let got = world.dispatches();
    assert_eq!((got[0].1, got[0].2), (task, 3));
    assert_eq!(got[1].1, later);
    assert_eq!(world.end(got[0], 0), Disposition::Recorded);
    assert_eq!(finished(&world.settle()), [(task, Phase::Done)]);
    assert_eq!(world.counter(Counter::TaskRevived), 1);
    world.verify();
}

#[test]
fn result_of_an_attempt_before_the_revival_stays_stale() {
    let mut world = World::with(64, config());
    let (task, last) = buried(&mut world);
    world.engine.revive(world.now, task).unwrap();
    world.worker(1, &["exec"]);
    let got = world.dispatch();
    assert_eq!(world.end((got.0, task, last.2), 0), Disposition::Stale);
    assert_eq!(world.phase(task), Phase::Assigned);
}

#[test]
fn only_dead_letters_are_revived() {
    let mut world = World::with(64, config());
    let waiting = world.submit("exec");
    let refused = world.engine.revive(world.now, waiting).unwrap_err();
    assert_eq!(refused.reason, RejectReason::WrongState);
    assert!(
        refused
            .to_string()
            .ends_with("only a dead letter can be revived")
    );
    let gone = TaskId::from_raw((9 << 24) | 3).unwrap();
    let refused = world.engine.revive(world.now, gone).unwrap_err();
    assert_eq!(refused.reason, RejectReason::UnknownTask);
}

#[test]
fn task_whose_attempts_are_used_up_is_buried_with_that_reason_and_not_revived() {
    let mut world = World::with(
        64,
        EngineConfig {
            losses_max: 255,
            ..EngineConfig::default()
        },
    );
    let task = world.submit("exec");
    let worker = world.worker(1, &["exec"]);
    world.dispatch();
    use_up_all_hand_outs_but_one(&world, task, worker);
    world.engine.worker_gone(world.now, worker);
    world.settle();
    assert_eq!(world.phase(task), Phase::DeadLetter);
    assert_eq!(world.outcome(task).code, ATTEMPTS_USED_UP);
    let refused = world.engine.revive(world.now, task).unwrap_err();
    assert_eq!(refused.reason, RejectReason::WrongState);
    assert!(
        refused
            .to_string()
            .ends_with("all of its 4,095 attempts are used up: purge it and submit it anew")
    );
    world.verify();
}

/// The one that the worker has is the last.
fn use_up_all_hand_outs_but_one(world: &World, task: TaskId, worker: WorkerId) {
    let (segment, slot) = (world.segment(), task.slot());
    for _ in 1..FENCE_MAX {
        let held = segment.task(slot).state();
        let ready = segment.apply(slot, held, Event::Requeue).unwrap();
        let event = Event::Assign {
            worker: worker.slot(),
        };
        segment.apply(slot, ready, event).unwrap();
    }
    assert_eq!(segment.task(slot).state().fence(), 4_095);
}

/// As a local worker leaves it that has given its last hand-out back.
#[test]
fn task_that_waits_with_its_last_hand_out_behind_it_is_buried_with_that_reason_and_holds_nobody_up()
{
    let mut world = World::with(64, config());
    let task = world.submit("exec");
    let worker = world.worker(1, &["exec"]);
    world.dispatch();
    use_up_all_hand_outs_but_one(&world, task, worker);
    let (segment, slot) = (world.segment(), task.slot());
    let held = segment.task(slot).state();
    let ready = segment.apply(slot, held, Event::Requeue).unwrap();
    segment.index_ready(slot, ready);
    world.worker(1, &["exec"]);
    let next = world.submit("exec");
    world.settle();
    assert_eq!(world.phase(task), Phase::DeadLetter);
    assert_eq!(world.outcome(task).code, ATTEMPTS_USED_UP);
    assert_eq!(world.segment().task(slot).losses(), 0, "no worker was lost");
    assert_eq!(world.phase(next), Phase::Assigned);
}

#[test]
fn last_hand_out_that_fails_has_failed_whatever_retries_are_left() {
    let mut world = World::with(64, config());
    let task = world.submit("exec");
    let worker = world.worker(1, &["exec"]);
    world.dispatch();
    use_up_all_hand_outs_but_one(&world, task, worker);
    world.end((worker, task, FENCE_MAX), 3);
    world.settle();
    assert_eq!(world.phase(task), Phase::Failed);
    assert_eq!(world.segment().task(task.slot()).failures(), 1);
}

#[test]
fn purged_dead_letter_is_gone() {
    let mut world = World::with(64, config());
    let (task, _) = buried(&mut world);
    let answer = world.engine.forget(world.now, task).unwrap();
    assert_eq!(answer.phase, Phase::DeadLetter);
    assert!(world.engine.check(task).is_err());
    world.verify();
}

#[test]
fn dead_letter_that_is_revived_before_its_end_was_told_has_not_ended() {
    let mut world = JournalWorld::with(config());
    let task = world.ready("exec");
    for _ in 0..2 {
        let worker = world.worker(1, &["exec"]);
        world.dispatch();
        world.lose(worker);
        world.settle();
    }
    assert_eq!(world.phase(task), Phase::DeadLetter);
    let now = world.now;
    world.engine.revive(now, task).unwrap();
    world.sync();
    assert!(world.ends().is_empty());
}

#[test]
fn revival_and_purge_of_a_journal_task_outlive_a_reboot() {
    let mut world = JournalWorld::with(config());
    let mut dead = Vec::new();
    for _ in 0..3 {
        let task = world.ready("exec");
        for _ in 0..2 {
            let worker = world.worker(1, &["exec"]);
            world.dispatch();
            world.lose(worker);
            world.settle();
        }
        dead.push(task);
        world.sync();
    }
    let now = world.now;
    let answer = world.engine.revive(now, dead[0]).unwrap();
    assert_eq!(answer.durable, Some(world.last()));
    let answer = world.forget(dead[1]).unwrap();
    assert_eq!(answer.durable, Some(world.last()));
    world.sync();
    let mut world = world.cold_restart();
    assert_eq!(world.phase(dead[0]), Phase::Ready);
    assert!(world.engine.check(dead[1]).is_err());
    assert_eq!(world.phase(dead[2]), Phase::DeadLetter);
    world.verify();
    world.sync();
    world.worker(1, &["exec"]);
    let got = world.dispatch();
    assert_eq!((got.1, got.2), (dead[0], 3));
}

#[test]
fn dead_letter_that_is_revived_and_cancelled_before_its_end_was_told_is_cancelled_and_nothing_else()
{
    let mut world = JournalWorld::with(config());
    let task = world.ready("exec");
    for _ in 0..2 {
        let worker = world.worker(1, &["exec"]);
        world.dispatch();
        world.lose(worker);
        world.settle();
    }
    assert_eq!(world.phase(task), Phase::DeadLetter);
    // Written, and the sync is under way.
    assert!(world.write());
    let now = world.now;
    world.engine.revive(now, task).unwrap();
    assert_eq!(world.cancel(task).unwrap().phase, Phase::Cancelled);
    world.tell();
    assert_eq!(world.ends(), [], "its cancellation is not durable yet");
    world.sync();
    assert_eq!(world.ends(), [(task, Phase::Cancelled)]);
}
