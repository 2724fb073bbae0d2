//! A daemon that is killed after any write of one call: what the task is then, and what the next daemon makes of it.

use qtf_engine::EngineConfig;
use qtf_shm::sync::kill::killed_after;
use qtf_shm::{Outcome, OutcomeKind, Phase, TaskId};

use qtf_world::JournalWorld;
use qtf_world::{SECOND, World, written};

/// As everybody reads it.
fn read(world: &World, task: TaskId) -> Outcome {
    let reading = world.segment().read_task(task.slot());
    reading.expect("there is such a slot").record.outcome
}

/// An outcome of an attempt before, as a task that waits again has one in its slot.
fn failed_before(world: &World, task: TaskId) {
    written(world.segment(), task.slot()).set_outcome(Outcome {
        kind: OutcomeKind::Exited,
        code: 3,
        result_dropped: false,
        output_cut: false,
    });
}

#[test]
fn cancellation_that_was_cut_short_has_its_outcome_and_its_whole_time_to_live() {
    let mut cancelled = 0;
    for writes in 1.. {
        let mut world = World::with(64, EngineConfig::default());
        let task = world.submit("exec");
        failed_before(&world, task);
        // It has waited for longer than a result is kept.
        let ttl_ns = world.engine.config().result_ttl_ns;
        world.pass(2 * ttl_ns);
        let now = world.now;
        let whole = killed_after(writes, || world.engine.cancel(now, task).is_ok());
        let mut world = world.restarted();
        if world.phase(task) == Phase::Cancelled {
            cancelled += 1;
            assert_eq!(read(&world, task).kind, OutcomeKind::Cancelled, "{writes}");
            world.settle();
            assert_eq!(world.outcome(task).kind, OutcomeKind::Cancelled, "{writes}");
            world.pass(ttl_ns - 1_000_000);
            world.settle();
            assert_eq!(world.phase(task), Phase::Cancelled, "{writes}");
        } else {
            assert_eq!(world.phase(task), Phase::Ready, "{writes}");
        }
        world.verify();
        if whole.is_ok() {
            assert!(cancelled > 3, "{cancelled} kills after the change");
            return;
        }
    }
}

#[test]
fn cancellation_that_was_cut_short_is_recorded_with_its_outcome() {
    let mut cancelled = 0;
    for writes in 1.. {
        let mut world = JournalWorld::new();
        let task = world.ready("exec");
        failed_before(&world, task);
        let now = world.now;
        let whole = killed_after(writes, || world.engine.cancel(now, task).is_ok());
        let mut world = world.hot_restart();
        world.sync();
        world.settle();
        let is_cancelled = world.phase(task) == Phase::Cancelled;
        if is_cancelled {
            cancelled += 1;
            assert_eq!(read(&world, task).kind, OutcomeKind::Cancelled, "{writes}");
        }
        world.verify();
        let mut world = world.hot_restart();
        world.sync();
        let world = world.cold_restart();
        assert_eq!(
            world.phase(task) == Phase::Cancelled,
            is_cancelled,
            "{writes}"
        );
        if is_cancelled {
            assert_eq!(read(&world, task).kind, OutcomeKind::Cancelled, "{writes}");
        }
        if whole.is_ok() {
            assert!(cancelled > 3, "{cancelled} kills after the change");
            return;
        }
    }
}

#[test]
fn burial_that_was_cut_short_says_why() {
    let mut buried = 0;
    for writes in 1.. {
        let mut world = World::with(64, EngineConfig::default());
        let task = world.submit("exec");
        failed_before(&world, task);
        // As repairers leave it: they count, and bury nobody.
        let allowed = world.engine.config().losses_max;
        written(world.segment(), task.slot()).set_losses(allowed + 1);
        world.worker(1, &["exec"]);
        let now = world.now;
        let whole = killed_after(writes, || world.engine.cycle(now));
        let mut world = world.restarted();
        if world.phase(task) == Phase::DeadLetter {
            buried += 1;
            assert_eq!(read(&world, task).kind, OutcomeKind::WorkerLost, "{writes}");
            // The background sweep comes by.
            world.settle_for(3 * SECOND);
            assert_eq!(
                world.outcome(task).kind,
                OutcomeKind::WorkerLost,
                "{writes}"
            );
        }
        if whole.is_ok() {
            assert!(buried > 3, "{buried} kills after the change");
            return;
        }
    }
}

#[test]
fn change_of_priority_that_was_cut_short_leaves_a_task_that_waits_with_one_or_the_other() {
    let (mut blocked, mut changed) = (0, 0);
    for writes in 1.. {
        let mut world = World::with(64, EngineConfig::default());
        world.worker_without_credits(1, &["exec"]);
        let task = world.submit("exec");
        let before = world.segment().task(task.slot()).priority();
        let now = world.now;
        let whole = killed_after(writes, || {
            world.engine.update_priority(now, task, 7).is_ok()
        });
        let mut world = world.restarted();
        blocked += u32::from(world.phase(task) == Phase::Blocked);
        world.settle_for(3 * SECOND);
        assert_eq!(world.phase(task), Phase::Ready, "{writes}");
        let after = world.segment().task(task.slot()).priority();
        assert!(after == before || after == 7, "{writes}: {after}");
        changed += u32::from(after == 7);
        world.verify();
        if whole.is_ok() {
            assert!(blocked > 1 && changed > 1, "{blocked} {changed}");
            return;
        }
    }
}
