//! Who gets what, in which order.

use qtf_engine::EngineConfig;
use qtf_shm::{Counter, Event, FENCE_MAX, OutcomeKind, Phase, TaskId, WorkerIndex};

use qtf_world::{MS, SECOND, World, dispatched};

fn order_of(dispatches: &[qtf_world::Dispatched]) -> Vec<TaskId> {
    dispatches.iter().map(|&(_, task, _)| task).collect()
}

#[test]
fn higher_priority_goes_first_and_within_one_priority_the_earlier() {
    let mut world = World::new();
    let with = |world: &mut World, priority| {
        world
            .submit_with("exec", |submission| submission.priority = Some(priority))
            .unwrap()
    };
    let (low, first, second, urgent) = (
        with(&mut world, 0),
        with(&mut world, 128),
        with(&mut world, 128),
        with(&mut world, 255),
    );
    world.worker(10, &["exec"]);
    let all = world.dispatches();
    assert_eq!(order_of(&all), [urgent, first, second, low]);
    world.verify();
}

#[test]
fn first_attempt_is_one_and_the_state_names_the_worker() {
    let mut world = World::new();
    let task = world.submit("exec");
    let worker = world.worker(1, &["exec"]);
    assert_eq!(world.dispatch(), (worker, task, 1));
    let state = world.engine.check(task).unwrap();
    assert_eq!(state.phase(), Phase::Assigned);
    assert_eq!(state.last_worker(), Some(worker.slot()));
    let order = world
        .engine
        .payload_for(worker, qtf_world::task_ref(task, 1))
        .unwrap();
    assert_eq!(order.payload.len(), 7);
    assert_eq!(world.segment().kind_name(order.kind).unwrap(), "exec");
}

#[test]
fn tasks_go_to_the_worker_with_the_lowest_share_of_its_slots_in_use() {
    let mut world = World::new();
    let small = world.worker(2, &["exec"]);
    let large = world.worker(8, &["exec"]);
    for _ in 0..10 {
        world.submit("exec");
    }
    let all = world.dispatches();
    assert_eq!(all.len(), 10);
    let to_small = all.iter().filter(|one| one.0 == small).count();
    assert_eq!(to_small, 2);
    // One of each goes first; then the large one has the lower share until both have a half, and
    // then it is the turn of the one that was assigned to longer ago.
    let first: Vec<_> = all[..7].iter().map(|one| one.0).collect();
    assert_eq!(first, [small, large, large, large, large, small, large]);
}

#[test]
fn equally_loaded_workers_take_turns() {
    let mut world = World::new();
    let workers = [(); 3].map(|()| world.worker(1, &["exec"]));
    for round in 0..4 {
        for worker in workers {
            world.submit("exec");
            let got = world.dispatch();
            assert_eq!(got.0, worker, "round {round}");
            world.end(got, 0);
        }
    }
}

#[test]
fn results_between_two_cycles_count_when_the_next_worker_is_picked() {
    let mut world = World::new();
    for _ in 0..2 {
        world.worker(4, &["exec"]);
    }
    for _ in 0..4 {
        world.submit("exec");
    }
    let held = world.dispatches();
    // The one that was given a task last is the less loaded one then, without a new credit.
    let last = held[3].0;
    for &got in held.iter().filter(|got| got.0 == last) {
        world.report(got, OutcomeKind::Exited, 0);
    }
    world.effects();
    world.submit("exec");
    assert_eq!(world.dispatch().0, last);
}

#[test]
fn worker_never_holds_more_than_its_capacity_whatever_it_grants() {
    let mut world = World::new();
    let worker = world.worker(2, &["exec"]);
    for _ in 0..10 {
        world.submit("exec");
    }
    let now = world.now;
    world
        .engine
        .worker_credits(now, worker, u32::MAX, false)
        .unwrap();
    assert_eq!(world.dispatches().len(), 2);
    world.verify();
}

#[test]
fn worker_never_gets_more_than_it_granted_whatever_its_capacity() {
    let mut world = World::new();
    let worker = world.worker_without_credits(8, &["exec"]);
    for _ in 0..10 {
        world.submit("exec");
    }
    assert_eq!(world.dispatches().len(), 0);
    let now = world.now;
    world.engine.worker_credits(now, worker, 3, false).unwrap();
    assert_eq!(world.dispatches().len(), 3);
    world.engine.worker_credits(now, worker, 1, true).unwrap();
    assert_eq!(world.dispatches().len(), 1);
}

#[test]
fn result_frees_a_slot_only_together_with_a_new_credit() {
    let mut world = World::new();
    world.worker(1, &["exec"]);
    world.submit("exec");
    world.submit("exec");
    let first = world.dispatch();
    world.report(first, OutcomeKind::Exited, 0);
    assert_eq!(world.dispatches(), []);
    let now = world.now;
    world.engine.worker_credits(now, first.0, 1, false).unwrap();
    assert_eq!(world.dispatches().len(), 1);
}

#[test]
fn task_goes_to_the_worker_that_offers_its_kind_even_if_another_is_less_loaded() {
    let mut world = World::new();
    let idle = world.worker(8, &["exec"]);
    let painter = world.worker(2, &["exec", "render"]);
    let render = world.submit("render");
    assert_eq!(world.dispatch(), (painter, render, 1));
    world.submit("exec");
    assert_eq!(world.dispatch().0, idle);
}

#[test]
fn task_of_a_kind_that_nobody_offers_is_parked_and_blocks_nobody() {
    let mut world = World::new();
    let worker = world.worker(2, &["exec"]);
    let odd = world
        .submit_with("render", |submission| submission.priority = Some(255))
        .unwrap();
    let plain = world.submit("exec");
    assert_eq!(world.dispatch(), (worker, plain, 1));
    assert_eq!(world.phase(odd), Phase::Blocked);
    world.verify();
}

#[test]
fn nothing_is_parked_while_no_worker_is_free() {
    let mut world = World::new();
    let odd = world.submit("render");
    world.settle();
    assert_eq!(world.phase(odd), Phase::Ready);
    world.worker_without_credits(1, &["exec"]);
    world.settle();
    assert_eq!(world.phase(odd), Phase::Ready);
}

#[test]
fn parked_tasks_come_back_in_their_old_order_when_a_worker_offers_their_kind() {
    let mut world = World::new();
    world.worker(1, &["exec"]);
    let parked: Vec<_> = (0..3).map(|_| world.submit("render")).collect();
    world.settle();
    assert!(
        parked
            .iter()
            .all(|&task| world.phase(task) == Phase::Blocked)
    );
    let later = world.submit("render");
    let painter = world.worker(10, &["render"]);
    let mut expected = parked;
    expected.push(later);
    let all = world.dispatches();
    assert_eq!(all[0].0, painter);
    let mut got = order_of(&all);
    got.sort_unstable();
    expected.sort_unstable();
    assert_eq!(got, expected);
    world.verify();
}

#[test]
fn released_tasks_keep_their_place_before_later_ones() {
    let mut world = World::new();
    world.worker(1, &["exec"]);
    let early = world.submit("render");
    world.settle();
    assert_eq!(world.phase(early), Phase::Blocked);
    let painter = world.worker_without_credits(10, &["render"]);
    let late = world.submit("render");
    world.settle();
    assert_eq!(world.phase(early), Phase::Ready);
    let now = world.now;
    world.engine.worker_credits(now, painter, 10, true).unwrap();
    assert_eq!(order_of(&world.dispatches()), [early, late]);
}

#[test]
fn head_waits_for_busy_workers_of_its_kind_and_so_do_those_behind() {
    let mut world = World::new();
    let painter = world.worker(1, &["render"]);
    world.submit("render");
    let running = world.dispatch();
    let head = world.submit("render");
    world.worker(1, &["exec"]);
    let behind = world.submit("exec");
    assert_eq!(world.dispatches(), []);
    assert_eq!(world.phase(head), Phase::Ready);
    world.end(running, 0);
    let all = world.dispatches();
    assert_eq!(all[0], (painter, head, 1));
    assert_eq!(order_of(&all), [head, behind]);
}

#[test]
fn draining_worker_gets_nothing_new_and_keeps_what_it_has() {
    let mut world = World::new();
    let worker = world.worker(4, &["exec"]);
    let held = world.submit("exec");
    let got = world.dispatch();
    let now = world.now;
    world.engine.drain_worker(now, worker).unwrap();
    let effects = world.settle();
    assert!(effects.contains(&qtf_engine::Effect::Drain { worker }));
    world.submit("exec");
    assert_eq!(world.dispatches(), []);
    assert_eq!(world.phase(held), Phase::Assigned);
    world.end(got, 0);
    assert_eq!(world.phase(held), Phase::Done);
}

#[test]
fn worker_that_says_it_drains_gets_nothing_new() {
    let mut world = World::new();
    let worker = world.worker(4, &["exec"]);
    let beat = qtf_engine::Beat {
        draining: true,
        ..qtf_engine::Beat::default()
    };
    let now = world.now;
    world.engine.worker_beat(now, worker, &beat).unwrap();
    world.submit("exec");
    assert_eq!(world.dispatches(), []);
}

#[test]
fn one_cycle_assigns_a_bounded_number_and_the_next_goes_on() {
    let config = EngineConfig {
        tasks_per_cycle_max: 5,
        ..EngineConfig::default()
    };
    let mut world = World::with(100, config);
    world.worker(20, &["exec"]);
    for _ in 0..12 {
        world.submit("exec");
    }
    assert_eq!(dispatched(&world.cycle()).len(), 5);
    assert_eq!(dispatched(&world.cycle()).len(), 5);
    assert_eq!(dispatched(&world.cycle()).len(), 2);
}

#[test]
fn nothing_is_assigned_while_nobody_takes_effects_and_nothing_is_lost() {
    let config = EngineConfig {
        effects_max: 3,
        ..EngineConfig::default()
    };
    let mut world = World::with(100, config);
    world.worker(20, &["exec"]);
    for _ in 0..10 {
        world.submit("exec");
    }
    for _ in 0..5 {
        world.engine.cycle(world.now);
    }
    assert_eq!(dispatched(&world.effects()).len(), 3);
    assert_eq!(world.dispatches().len(), 7);
    assert_eq!(world.engine.effect_overruns(), 0);
}

#[test]
fn change_of_priority_moves_a_waiting_task_and_keeps_its_place_in_time() {
    let mut world = World::new();
    let (first, second, third) = (
        world.submit("exec"),
        world.submit("exec"),
        world.submit("exec"),
    );
    let now = world.now;
    world.engine.update_priority(now, third, 200).unwrap();
    world.engine.update_priority(now, second, 200).unwrap();
    world.verify();
    world.worker(3, &["exec"]);
    assert_eq!(order_of(&world.dispatches()), [second, third, first]);
    let refused = world.engine.update_priority(now, first, 1).unwrap_err();
    assert_eq!(refused.reason, qtf_engine::RejectReason::WrongState);
    let refused = world.engine.update_priority(now, first, 256).unwrap_err();
    assert_eq!(refused.reason, qtf_engine::RejectReason::InvalidArgument);
}

#[test]
fn change_of_priority_of_a_delayed_task_counts_when_it_is_due() {
    let mut world = World::new();
    let delayed = world
        .submit_with("exec", |submission| submission.delay_ms = 100)
        .unwrap();
    let now = world.now;
    world.engine.update_priority(now, delayed, 255).unwrap();
    let plain = world.submit("exec");
    world.pass(SECOND / 2 + MS);
    world.settle();
    world.worker(2, &["exec"]);
    assert_eq!(order_of(&world.dispatches()), [delayed, plain]);
}

#[test]
fn next_deadline_is_the_earliest_event_and_never_far_in_the_past() {
    let mut world = World::new();
    world.settle();
    let background = world.engine.next_deadline().unwrap();
    assert!(background > world.now);
    world
        .submit_with("exec", |submission| submission.delay_ms = 10)
        .unwrap();
    let next = world.engine.next_deadline().unwrap();
    assert!(next <= world.now.plus_ns(10 * MS));
    assert!(next.plus_ns(256) >= world.now.plus_ns(10 * MS));
}

#[test]
fn task_whose_hand_outs_are_used_up_while_it_waits_is_buried_and_blocks_nobody() {
    let mut world = World::new();
    let used_up = world.submit("exec");
    let slot = used_up.slot();
    let worker = WorkerIndex::new_checked(9, 16).unwrap();
    // As a local worker leaves it that has given its last hand-out back.
    for _ in 0..FENCE_MAX {
        for event in [Event::Assign { worker }, Event::Requeue] {
            let segment = world.segment();
            segment
                .apply(slot, segment.task(slot).state(), event)
                .unwrap();
        }
    }
    let next = world.submit("exec");
    world.worker(1, &["exec"]);
    let effects = world.settle();
    assert_eq!(dispatched(&effects)[0].1, next);
    assert_eq!(world.phase(used_up), Phase::DeadLetter);
    let told = [(used_up, Phase::DeadLetter)];
    assert_eq!(qtf_world::finished(&effects), told);
    let settled = world.engine.settled_end(used_up);
    assert_eq!(settled.unwrap(), Some(Phase::DeadLetter));
    assert_eq!(world.counts(), (1, 1));
    assert_eq!(world.counter(Counter::WordImpossible), 0);
    assert_eq!(world.segment().ready().leaf(slot.get()), None);
}

#[test]
fn whoever_waits_for_a_task_that_another_process_has_set_aside_is_told_by_the_sweep() {
    let mut world = World::new();
    let task = world.submit("exec");
    let segment = world.segment();
    let state = segment.task(task.slot()).state();
    segment
        .apply(task.slot(), state, Event::Quarantine)
        .unwrap();
    let effects = world.settle_for(2_000 * MS);
    let told = (task, Phase::Quarantine);
    assert!(qtf_world::finished(&effects).contains(&told));
}
