//! Rules of a task that may run at most once: it is never handed out again once a worker may have begun it.

use qtf_engine::{Durability, EngineConfig, Reconnect, RejectReason, WorkerHello};
use qtf_shm::{OutcomeKind, Phase, TaskId};

use qtf_world::JournalWorld;
use qtf_world::{SECOND, World, dispatched, finished, hello, task_ref};

fn once(world: &mut World) -> TaskId {
    let taken = world.submit_with("exec", |task| task.at_most_once = true);
    taken.expect("accepted")
}

#[test]
fn task_whose_worker_is_lost_is_a_dead_letter_at_once_begun_or_not() {
    for is_begun in [false, true] {
        let mut world = World::new();
        let worker = world.worker(1, &["exec"]);
        let task = once(&mut world);
        let got = world.dispatch();
        if is_begun {
            world.start(got);
        }
        let now = world.now;
        world.engine.worker_gone(now, worker);
        let effects = world.settle();
        assert_eq!(finished(&effects), [(task, Phase::DeadLetter)]);
        assert_eq!(world.outcome(task).kind, OutcomeKind::WorkerLost);
        world.worker(1, &["exec"]);
        assert!(world.dispatches().is_empty());
        // An operator may want it all the same.
        world.engine.revive(now, task).unwrap();
        assert_eq!(world.dispatch().1, task);
        world.verify();
    }
}

#[test]
fn task_that_a_leaving_worker_gives_back_goes_on_only_if_it_was_not_begun() {
    let mut world = World::new();
    let worker = world.worker(2, &["exec"]);
    let (begun, waiting) = (once(&mut world), once(&mut world));
    let got = world.dispatches();
    world.start(got[0]);
    let now = world.now;
    world.engine.worker_goodbye(now, worker);
    let effects = world.settle();
    assert_eq!(finished(&effects), [(begun, Phase::DeadLetter)]);
    assert_eq!(world.phase(waiting), Phase::Ready);
    world.worker(2, &["exec"]);
    assert_eq!(world.dispatch().1, waiting);
    world.verify();
}

#[test]
fn assignment_that_was_never_sent_is_made_again() {
    let mut world = World::new();
    let worker = world.worker(2, &["exec"]);
    let task = once(&mut world);
    world.dispatch();
    let now = world.now;
    let undelivered = world
        .engine
        .dispatch_undelivered(now, worker, task_ref(task, 1));
    assert!(undelivered);
    assert_eq!(world.dispatch(), (worker, task, 2));
    world.verify();
}

#[test]
fn failure_is_final_and_retries_are_refused() {
    let mut world = World::new();
    world.worker(1, &["exec"]);
    let task = once(&mut world);
    let got = world.dispatch();
    world.end(got, 1);
    assert_eq!(world.phase(task), Phase::Failed);
    let refused = world
        .submit_with("exec", |task| {
            task.at_most_once = true;
            task.retries = 1;
        })
        .unwrap_err();
    assert_eq!(refused.reason, RejectReason::InvalidArgument);
}

#[test]
fn task_that_a_local_worker_has_begun_and_left_is_buried_and_not_handed_out() {
    let mut world = World::new();
    let task = once(&mut world);
    // As a repairer leaves it, while no daemon looks.
    qtf_world::written(world.segment(), task.slot()).set_losses(1);
    world.worker(1, &["exec"]);
    let effects = world.settle();
    assert_eq!(finished(&effects), [(task, Phase::DeadLetter)]);
    assert_eq!(world.counts(), (0, 1));
    world.verify();
}

#[test]
fn task_is_not_handed_out_again_because_a_heartbeat_from_before_the_order_came_late() {
    let mut world = World::new();
    let worker = world.worker(1, &["exec"]);
    let task = once(&mut world);
    let got = world.dispatch();
    // The daemon is stopped for longer than a lease, twice; what the worker has said meanwhile comes in, the oldest first, and its answer
    // has overtaken that.
    for _ in 0..2 {
        world.pass(6 * SECOND);
        world.beat(worker, 0).unwrap();
        assert_eq!(world.phase(task), Phase::Assigned);
        let asked = world.effects();
        world.answer(&asked);
    }
    let mut effects = world.cycle();
    world.start(got);
    world.worker(1, &["exec"]);
    effects.extend(world.settle());
    assert_eq!(dispatched(&effects), []);
    assert_eq!(finished(&effects), [(task, Phase::DeadLetter)]);
    world.verify();
}

/// A journal task that waits for a worker.
fn journalled(world: &mut JournalWorld) -> TaskId {
    let taken = world.take_in("exec", |task| {
        task.at_most_once = true;
        task.durability = Durability::Journal;
    });
    world.sync();
    taken.expect("accepted").task
}

#[test]
fn journal_task_goes_to_its_worker_when_that_is_durable_and_not_before() {
    let mut world = JournalWorld::new();
    let worker = world.worker(1, &["exec"]);
    let task = journalled(&mut world);
    assert!(world.dispatches().is_empty());
    assert_eq!(world.phase(task), Phase::Assigned);
    assert_eq!(world.engine.awaited_lsn(), Some(world.last()));
    world.sync();
    assert_eq!(world.dispatch(), (worker, task, 1));
    world.verify();
}

#[test]
fn reboot_runs_what_was_never_sent_and_buries_what_may_have_begun() {
    for is_sent in [false, true] {
        let mut world = JournalWorld::with(EngineConfig::default());
        world.worker(1, &["exec"]);
        let task = journalled(&mut world);
        assert!(world.dispatches().is_empty());
        if is_sent {
            world.sync();
            assert_eq!(world.dispatch().1, task);
        }
        let mut world = world.cold_restart();
        world.worker(1, &["exec"]);
        world.settle();
        world.sync();
        let effects = world.settle();
        if is_sent {
            assert_eq!(finished(&effects), [(task, Phase::DeadLetter)]);
            assert_eq!(world.outcome(task).kind, OutcomeKind::WorkerLost);
        } else {
            assert_eq!(world.phase(task), Phase::Assigned);
        }
        world.verify();
        // And that is in the journal.
        let world = world.cold_restart();
        assert_eq!(world.phase(task), Phase::DeadLetter);
    }
}

#[test]
fn daemon_that_died_before_it_sent_an_order_leaves_that_to_the_next() {
    let mut world = JournalWorld::new();
    let worker = world.worker(1, &["exec"]);
    let task = journalled(&mut world);
    assert!(world.dispatches().is_empty());
    let mut world = world.hot_restart();
    world.settle();
    world.sync();
    assert_eq!(world.dispatches(), [(worker, task, 1)]);
    world.settle_for(SECOND);
    world.verify();
}

#[test]
fn order_that_waits_for_its_record_does_not_go_to_a_worker_that_came_back_without_it() {
    let config = EngineConfig {
        sweep_slots_per_cycle: 1,
        ..EngineConfig::default()
    };
    let mut world = JournalWorld::with(config);
    // Slots that the walk looks at first.
    for _ in 0..4 {
        world.ready("other");
    }
    let kinds = ["exec".to_owned()];
    let now = world.now;
    let welcome = world
        .engine
        .worker_hello(now, &hello(1, &kinds))
        .expect("a worker slot is free");
    world
        .engine
        .worker_credits(now, welcome.id, 1, true)
        .expect("the worker is known");
    let task = journalled(&mut world);
    assert!(world.dispatches().is_empty());
    // Its link broke before the order went out.
    let back = WorkerHello {
        reconnect: Some(Reconnect {
            segment_id: world.segment().header().segment_id,
            worker_id: welcome.id.as_raw(),
            token: welcome.token,
        }),
        ..hello(1, &kinds)
    };
    assert!(world.engine.worker_hello(now, &back).unwrap().is_known);
    let other = world.worker(1, &["exec"]);
    world.sync();
    let mut sent = dispatched(&world.cycle());
    sent.extend(world.dispatches());
    world.sync();
    sent.extend(world.dispatches());
    assert_eq!(sent, [(other, task, 2)], "sent once");
    world.verify();
}

#[test]
fn task_that_is_cancelled_before_its_order_went_out_is_not_sent() {
    let mut world = JournalWorld::new();
    world.worker(1, &["exec"]);
    let task = journalled(&mut world);
    assert!(world.dispatches().is_empty());
    world.cancel(task).unwrap();
    world.sync();
    let effects = world.settle();
    assert!(dispatched(&effects).is_empty(), "{effects:?}");
    assert_eq!(finished(&effects), [(task, Phase::Cancelled)]);
    world.verify();
}

#[test]
fn worker_that_holds_nothing_is_not_doubted_for_an_order_that_only_just_went_out() {
    let mut world = JournalWorld::new();
    let worker = world.worker(1, &["exec"]);
    let task = journalled(&mut world);
    assert!(world.dispatches().is_empty());
    // The disk takes nearly as long as a lease.
    world.settle_for(2 * SECOND);
    world.beat(worker, 0).unwrap();
    world.settle_for(2 * SECOND + SECOND / 2);
    world.sync();
    assert_eq!(world.dispatch(), (worker, task, 1));
    // Said before the order arrived.
    world.settle_for(SECOND);
    world.beat(worker, 0).unwrap();
    world.settle();
    assert_eq!(world.phase(task), Phase::Assigned);
    assert_eq!(
        world.segment().task(task.slot()).state().fence(),
        1,
        "not taken back"
    );
    world.verify();
}

#[test]
fn dead_letter_that_was_revived_and_not_yet_handed_out_outlives_a_reboot() {
    let mut world = JournalWorld::new();
    let worker = world.worker(1, &["exec"]);
    let task = journalled(&mut world);
    world.settle();
    world.sync();
    assert_eq!(world.dispatch().1, task);
    world.lose(worker);
    world.settle();
    world.sync();
    assert_eq!(world.phase(task), Phase::DeadLetter);
    let now = world.now;
    let answer = world.engine.revive(now, task).unwrap();
    world.sync();
    assert!(answer.durable.unwrap() <= world.durable());
    let world = world.cold_restart();
    assert_eq!(world.phase(task), Phase::Ready);
}
