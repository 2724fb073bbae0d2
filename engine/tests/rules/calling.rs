//! Workers that call instead of holding streams: what they are lent, until when, and what becomes of it.

use qtf_engine::{
    Disposition, Effect, EngineConfig, Loan, Principal, RejectReason, Rejection, Reserve, Reserved,
    StopReason,
};
use qtf_shm::{Counter, Phase, WorkerCounter, WorkerId, WorkerPhase};

use qtf_world::{Dispatched, MS, SECOND, World, dispatched, task_ref};

const HERE: Principal = Principal::Uid(1_000);

fn ask(world: &mut World, name: &str, count: u32, request: u64) -> Result<Reserved, Rejection> {
    let kinds = ["exec".to_owned()];
    let reserve = Reserve {
        count,
        request,
        ..call_of(HERE, name, &kinds)
    };
    world.engine.reserve(world.now, &reserve)
}

/// A call for one task, without a number.
fn ask_as(
    world: &mut World,
    principal: Principal,
    name: &str,
    kinds: &[&str],
) -> Result<Reserved, Rejection> {
    let kinds: Vec<String> = kinds.iter().map(ToString::to_string).collect();
    let reserve = call_of(principal, name, &kinds);
    world.engine.reserve(world.now, &reserve)
}

fn call_of<'a>(principal: Principal, name: &'a str, kinds: &'a [String]) -> Reserve<'a> {
    Reserve {
        principal,
        name,
        host: "there",
        pid: 8,
        kinds,
        count: 1,
        request: 0,
    }
}

/// A loan of so long, as the answer to a call with this number.
fn loan(lease_ns: u64, request: u64) -> Loan {
    Loan {
        lease_ns,
        request: Some(request),
    }
}

/// A call for so many tasks, answered with what is placed at once.
fn reserve(world: &mut World, name: &str, count: u32, lease_ns: u64) -> Vec<Dispatched> {
    let reserved = ask(world, name, count, 0).expect("the call is taken");
    answer(world, reserved.id, count, loan(lease_ns, 0))
}

fn answer(world: &mut World, id: WorkerId, count: u32, loan: Loan) -> Vec<Dispatched> {
    let mut got = world.dispatches();
    got.retain(|&(worker, ..)| worker == id);
    let placed = u32::try_from(got.len()).unwrap();
    for &(worker, task, attempt) in &got {
        let asked = task_ref(task, attempt);
        assert!(world.engine.lend_attempt(world.now, worker, asked, loan));
    }
    world.engine.reserve_ended(world.now, id, count - placed);
    got
}

fn touch(world: &mut World, got: Dispatched, lease_ns: u64) -> Option<StopReason> {
    let (worker, task, attempt) = got;
    let asked = task_ref(task, attempt);
    world
        .engine
        .touch_attempt(world.now, worker, asked, lease_ns)
}

fn phase_of(world: &World, worker: WorkerId) -> WorkerPhase {
    world.segment().worker(worker.slot()).state().phase()
}

#[test]
fn call_is_given_at_most_what_it_asked_for_and_its_attempts_have_begun() {
    let mut world = World::new();
    let tasks: Vec<_> = (0..3).map(|_| world.submit("exec")).collect();
    let got = reserve(&mut world, "cron", 2, SECOND);
    assert_eq!(got.len(), 2);
    assert_eq!(world.phase(tasks[0]), Phase::Running);
    assert_eq!(world.phase(tasks[2]), Phase::Ready);
    let state = world.segment().worker(got[0].0.slot()).state();
    assert_eq!((state.running(), state.capacity()), (2, 2));
    assert_eq!(
        world.report(got[0], qtf_shm::OutcomeKind::Exited, 0),
        Disposition::Recorded
    );
    assert_eq!(world.phase(tasks[0]), Phase::Done);
    world.verify();
}

#[test]
fn calls_of_the_same_principal_name_and_kinds_are_those_of_one_worker() {
    let mut world = World::new();
    let first = ask(&mut world, "cron", 1, 0).unwrap();
    assert!(first.is_new && first.waits());
    let again = ask(&mut world, "cron", 1, 0).unwrap();
    assert_eq!(
        (again.id, again.token, again.is_new),
        (first.id, first.token, false)
    );
    let name = ask(&mut world, "other", 1, 0).unwrap();
    let user = ask_as(&mut world, Principal::Uid(7), "cron", &["exec"]).unwrap();
    let kinds = ask_as(&mut world, HERE, "cron", &["exec", "noop"]).unwrap();
    let ids = [first.id, name.id, user.id, kinds.id];
    assert_eq!(
        ids.iter().collect::<std::collections::BTreeSet<_>>().len(),
        4
    );
    world.verify();
}

#[test]
fn attempt_whose_lease_is_over_counts_as_lost_goes_to_another_and_its_late_end_is_stale() {
    let mut world = World::new();
    let task = world.submit("exec");
    let got = reserve(&mut world, "cron", 1, 20 * SECOND)[0];
    world.settle_for(20 * SECOND - MS);
    assert_eq!(
        world.phase(task),
        Phase::Running,
        "no heartbeat is asked for"
    );
    world.pass(2 * MS);
    world.settle();
    let slot = world.segment().task(task.slot());
    assert_eq!((slot.losses(), slot.failures()), (1, 0));
    let lost = world
        .segment()
        .worker(got.0.slot())
        .counter(WorkerCounter::Lost);
    assert_eq!((lost, world.counter(Counter::AttemptLeaseOver)), (1, 1));
    assert_eq!(touch(&mut world, got, SECOND), Some(StopReason::Stale));
    assert_eq!(
        world.report(got, qtf_shm::OutcomeKind::Exited, 0),
        Disposition::Stale
    );
    let next = reserve(&mut world, "cron", 1, SECOND)[0];
    assert_eq!((next.1, next.2), (task, 2));
    world.verify();
}

#[test]
fn touch_starts_the_lease_over_and_says_that_the_attempt_is_to_stop() {
    let mut world = World::new();
    let task = world.submit("exec");
    let got = reserve(&mut world, "cron", 1, 2 * SECOND)[0];
    for _ in 0..5 {
        world.settle_for(SECOND + 500 * MS);
        assert_eq!(touch(&mut world, got, 2 * SECOND), None);
    }
    world.engine.cancel(world.now, task).unwrap();
    assert_eq!(
        touch(&mut world, got, 2 * SECOND),
        Some(StopReason::Cancelled)
    );
    world.report(got, qtf_shm::OutcomeKind::Cancelled, 0);
    assert_eq!(world.phase(task), Phase::Cancelled);
    assert_eq!(touch(&mut world, got, 2 * SECOND), Some(StopReason::Stale));
    world.verify();
}

#[test]
fn death_of_one_of_several_processes_of_a_worker_costs_its_own_attempts_only() {
    let mut world = World::new();
    let tasks = [world.submit("exec"), world.submit("exec")];
    let dead = reserve(&mut world, "php", 1, 2 * SECOND)[0];
    let alive = reserve(&mut world, "php", 1, 2 * SECOND)[0];
    assert_eq!(dead.0, alive.0);
    world.settle_for(SECOND);
    touch(&mut world, alive, 10 * SECOND);
    world.settle_for(5 * SECOND);
    assert_eq!(world.phase(tasks[0]), Phase::Ready);
    assert_eq!(world.segment().task(tasks[0].slot()).losses(), 1);
    assert_eq!(world.phase(tasks[1]), Phase::Running);
    assert_eq!(
        world.report(alive, qtf_shm::OutcomeKind::Exited, 0),
        Disposition::Recorded
    );
    world.verify();
}

#[test]
fn what_was_placed_for_a_call_that_broke_off_goes_back_unharmed() {
    let mut world = World::new();
    let task = world.submit("exec");
    let reserved = ask(&mut world, "cron", 1, 0).unwrap();
    let got = world.dispatch();
    assert_eq!(world.phase(task), Phase::Assigned);
    let asked = task_ref(task, got.2);
    assert!(
        world
            .engine
            .dispatch_undelivered(world.now, reserved.id, asked)
    );
    world.engine.reserve_ended(world.now, reserved.id, 0);
    world.settle();
    assert_eq!(world.phase(task), Phase::Ready);
    let slot = world.segment().task(task.slot());
    assert_eq!((slot.losses(), slot.failures()), (0, 0));
    let later = reserve(&mut world, "cron", 1, SECOND)[0];
    assert_eq!((later.1, later.2), (task, 2));
    world.verify();
}

#[test]
fn credits_of_a_call_end_with_it_and_those_of_another_stay() {
    let mut world = World::new();
    let first = ask(&mut world, "cron", 3, 0).unwrap();
    ask(&mut world, "cron", 1, 0).unwrap();
    world.engine.reserve_ended(world.now, first.id, 3);
    for _ in 0..4 {
        world.submit("exec");
    }
    assert_eq!(world.dispatches().len(), 1);
    let state = world.segment().worker(first.id.slot()).state();
    assert_eq!((state.running(), state.capacity()), (1, 1));
    world.verify();
}

#[test]
fn repeated_call_is_given_what_the_first_was_given_as_long_as_it_has_it() {
    let mut world = World::new();
    let tasks = [
        world.submit("exec"),
        world.submit("exec"),
        world.submit("exec"),
    ];
    let reserved = ask(&mut world, "cron", 2, 77).unwrap();
    let got = answer(&mut world, reserved.id, 2, loan(SECOND, 77));
    let again = ask(&mut world, "cron", 2, 77).unwrap();
    assert!(!again.waits());
    let named: Vec<_> = got.iter().map(|got| task_ref(got.1, got.2)).collect();
    assert_eq!(again.again, named);
    world.report(got[0], qtf_shm::OutcomeKind::Exited, 0);
    assert_eq!(ask(&mut world, "cron", 2, 77).unwrap().again, named[1..]);
    touch(&mut world, got[1], 5 * SECOND);
    assert_eq!(ask(&mut world, "cron", 2, 77).unwrap().again, named[1..]);
    assert!(world.dispatches().is_empty(), "it waits for nothing");
    world.report(got[1], qtf_shm::OutcomeKind::Exited, 0);
    let new = ask(&mut world, "cron", 1, 77).unwrap();
    assert!(new.waits());
    assert_eq!(world.dispatch().1, tasks[2]);
    world.verify();
}

#[test]
fn record_leaves_when_nothing_is_of_it_and_a_repeated_report_finds_it_until_then() {
    let mut world = World::new();
    world.submit("exec");
    let got = reserve(&mut world, "cron", 1, 300 * SECOND)[0];
    world.report(got, qtf_shm::OutcomeKind::Exited, 0);
    world.settle_for(59 * SECOND);
    assert_eq!(
        world.report(got, qtf_shm::OutcomeKind::Exited, 0),
        Disposition::AlreadyRecorded
    );
    world.settle_for(2 * SECOND);
    assert_eq!(phase_of(&world, got.0), WorkerPhase::Free);
    assert_eq!(world.counter(Counter::WorkerLeft), 1);
    assert_eq!(world.counter(Counter::WorkerLost), 0);
    world.verify();
}

#[test]
fn kinds_of_a_worker_that_stays_away_go_off_offer_and_hold_up_no_others() {
    let mut world = World::new();
    let got = reserve(&mut world, "cron", 1, 60 * SECOND);
    assert!(got.is_empty());
    let waits = world.submit("exec");
    let other = world.submit("noop");
    let worker = world.worker(1, &["noop"]);
    world.settle();
    assert_eq!(
        world.phase(other),
        Phase::Ready,
        "the head waits for the worker to come back"
    );
    world.settle_for(SECOND + MS);
    world.beat(worker, 0).unwrap();
    assert_eq!(world.phase(waits), Phase::Blocked);
    assert_eq!(world.phase(other), Phase::Assigned);
    let got = reserve(&mut world, "cron", 1, SECOND);
    assert_eq!(got[0].1, waits);
    world.verify();
}

#[test]
fn attempts_outlive_a_restart_of_the_daemon_by_their_leases_and_what_no_call_was_answered_with_goes_back()
 {
    let mut world = World::new();
    let begun = world.submit("exec");
    let got = reserve(&mut world, "cron", 1, 30 * SECOND)[0];
    let placed = world.submit("exec");
    ask(&mut world, "cron", 1, 0).unwrap();
    world.dispatch();
    assert_eq!(world.phase(placed), Phase::Assigned);
    let mut world = world.restarted();
    world.settle();
    assert_ne!(world.phase(placed), Phase::Assigned);
    assert_eq!(world.segment().task(placed.slot()).losses(), 0);
    world.settle_for(25 * SECOND);
    assert_eq!(world.phase(begun), Phase::Running);
    let again = ask(&mut world, "cron", 1, 0).unwrap();
    assert_eq!((again.id, again.is_new), (got.0, false));
    world.settle_for(6 * SECOND);
    assert_eq!(
        world.segment().task(begun.slot()).losses(),
        1,
        "its lease was over"
    );
    assert_eq!(
        world.report(got, qtf_shm::OutcomeKind::Exited, 0),
        Disposition::Stale
    );
    world.verify();
}

#[test]
fn end_of_an_attempt_that_began_before_a_restart_is_recorded_after_it() {
    let mut world = World::new();
    let task = world.submit("exec");
    let got = reserve(&mut world, "cron", 1, SECOND)[0];
    let mut world = world.restarted();
    world.settle();
    assert_eq!(touch(&mut world, got, SECOND), None);
    assert_eq!(
        world.report(got, qtf_shm::OutcomeKind::Exited, 0),
        Disposition::Recorded
    );
    assert_eq!(world.phase(task), Phase::Done);
    world.verify();
}

#[test]
fn daemon_that_did_not_listen_takes_no_attempt_for_lost_at_once() {
    let mut world = World::new();
    let task = world.submit("exec");
    let got = reserve(&mut world, "cron", 1, 2 * SECOND)[0];
    world.settle();
    world.pass(60 * SECOND);
    world.settle();
    assert_eq!(world.phase(task), Phase::Running);
    assert_eq!(touch(&mut world, got, 2 * SECOND), None);
    world.settle_for(6 * SECOND);
    assert_ne!(world.phase(task), Phase::Running);
    world.verify();
}

#[test]
fn worker_that_is_to_leave_is_given_nothing_more_and_leaves_when_it_holds_nothing() {
    let mut world = World::new();
    world.submit("exec");
    let got = reserve(&mut world, "cron", 1, 3 * SECOND)[0];
    world.engine.drain_worker(world.now, got.0).unwrap();
    world.effects();
    let asked = ask(&mut world, "cron", 1, 0).unwrap();
    assert!(asked.drains && !asked.waits());
    world.report(got, qtf_shm::OutcomeKind::Exited, 0);
    world.settle_for(7 * SECOND);
    assert_eq!(phase_of(&world, got.0), WorkerPhase::Free);
    assert!(ask(&mut world, "cron", 1, 0).unwrap().is_new);
    world.verify();
}

#[test]
fn worker_that_is_given_up_loses_its_attempts_at_once() {
    let mut world = World::new();
    let task = world.submit("exec");
    let got = reserve(&mut world, "cron", 1, 300 * SECOND)[0];
    world.engine.evict_worker(world.now, got.0).unwrap();
    let effects = world.settle();
    assert!(effects.contains(&Effect::Evict { worker: got.0 }));
    assert_eq!(touch(&mut world, got, SECOND), Some(StopReason::Stale));
    assert_eq!(world.segment().task(task.slot()).losses(), 1);
    assert_eq!(phase_of(&world, got.0), WorkerPhase::Free);
    world.settle_for(SECOND);
    world.verify();
}

#[test]
fn attempt_that_is_cancelled_before_its_call_is_answered_goes_to_nobody() {
    let mut world = World::new();
    let task = world.submit("exec");
    let reserved = ask(&mut world, "cron", 1, 0).unwrap();
    let (worker, _, attempt) = world.dispatch();
    world.engine.cancel(world.now, task).unwrap();
    let asked = task_ref(task, attempt);
    assert!(
        !world
            .engine
            .lend_attempt(world.now, worker, asked, loan(SECOND, 0))
    );
    assert_eq!(world.phase(task), Phase::Cancelled);
    world.engine.reserve_ended(world.now, reserved.id, 0);
    world.settle();
    world.verify();
}

#[test]
fn principal_with_many_names_leaves_worker_slots_to_others_and_hears_so() {
    let mut world = World::with(100, EngineConfig::default());
    let refused = (0..20).find_map(|number| ask(&mut world, &format!("n{number}"), 1, 0).err());
    let refused = refused.expect("not all are its own");
    assert_eq!(refused.reason, RejectReason::WorkersFull);
    assert!(refused.to_string().contains("uid 1000 holds"), "{refused}");
    assert!(ask_as(&mut world, Principal::Uid(7), "cron", &["exec"]).is_ok());
    world.verify();
}

#[test]
fn worker_that_calls_cannot_be_taken_over_by_a_hello() {
    let mut world = World::new();
    let reserved = ask(&mut world, "cron", 1, 0).unwrap();
    let kinds = vec!["exec".to_owned()];
    let mut hello = qtf_world::hello(1, &kinds);
    hello.reconnect = Some(qtf_engine::Reconnect {
        worker_id: reserved.id.as_raw(),
        token: reserved.token,
        segment_id: world.segment().header().segment_id,
    });
    let welcome = world.engine.worker_hello(world.now, &hello).unwrap();
    assert!(!welcome.is_known);
    assert_ne!(welcome.id, reserved.id);
    let _ = dispatched(&world.settle());
    world.verify();
}
