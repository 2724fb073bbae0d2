//! Workers that join, and workers that come back.

use qtf_engine::{
    Disposition, EngineConfig, Held, Reconnect, RejectReason, WorkerHello, WorkerWelcome,
};
use qtf_shm::id::WORKERS_COUNT_MAX;
use qtf_shm::{Counter, Now, Phase, TaskId, WorkerEvent, WorkerId, WorkerIndex, WorkerPhase};

use qtf_world::{Ground, JournalWorld};
use qtf_world::{SECOND, World, hello, task_ref};

fn kinds() -> Vec<String> {
    vec!["exec".to_owned()]
}

fn join(world: &mut World, capacity: u32) -> WorkerWelcome {
    let now = world.now;
    let welcome = world
        .engine
        .worker_hello(now, &hello(capacity, &kinds()))
        .unwrap();
    world
        .engine
        .worker_credits(now, welcome.id, capacity, true)
        .unwrap();
    welcome
}

fn held(task: TaskId, attempt: u32) -> Held {
    Held {
        task_id: task.as_raw(),
        attempt,
        finished: false,
    }
}

fn come_back(world: &mut World, welcome: &WorkerWelcome, held: &[Held]) -> WorkerWelcome {
    let segment_id = world.segment().header().segment_id;
    let reconnect = Reconnect {
        worker_id: welcome.id.as_raw(),
        token: welcome.token,
        segment_id,
    };
    let kinds = kinds();
    let hello = WorkerHello {
        reconnect: Some(reconnect),
        held,
        ..hello(4, &kinds)
    };
    let now = world.now;
    world.engine.worker_hello(now, &hello).unwrap()
}

#[test]
fn new_worker_gets_an_id_a_token_and_a_lease() {
    let mut world = World::new();
    let welcome = join(&mut world, 3);
    assert_eq!(welcome.id.incarnation(), 1);
    assert_ne!(welcome.token, 0);
    assert!(!welcome.is_known);
    let slot = world.segment().worker(welcome.id.slot());
    assert_eq!((slot.name().as_str(), slot.pid()), ("worker", 8));
    assert_eq!(slot.state().capacity(), 3);
    let raw = welcome.id.as_raw();
    assert!(world.engine.check_worker(raw, welcome.token).is_ok());
    for (id, token) in [
        (raw, 0),
        (raw, welcome.token ^ 1),
        (u64::MAX, welcome.token),
    ] {
        let refused = world.engine.check_worker(id, token).unwrap_err();
        assert_eq!(refused.reason, RejectReason::UnknownWorker);
    }
    world.verify();
}

#[test]
fn hello_with_fields_out_of_range_is_refused() {
    let mut world = World::new();
    let (now, good, none) = (world.now, kinds(), Vec::new());
    let many: Vec<_> = (0..257).map(|n| n.to_string()).collect();
    let empty = vec![String::new()];
    let long = "n".repeat(64);
    let base = hello(1, &good);
    for bad in [
        hello(0, &good),
        hello(65_536, &good),
        hello(1, &none),
        hello(1, &many),
        hello(1, &empty),
        WorkerHello { name: "", ..base },
        WorkerHello {
            name: &long,
            ..base
        },
    ] {
        let refused = world.engine.worker_hello(now, &bad).unwrap_err();
        assert_eq!(refused.reason, RejectReason::InvalidArgument, "{bad:?}");
    }
    assert_eq!(world.counter(Counter::WorkerJoined), 0);
}

#[test]
fn when_all_worker_slots_are_in_use_the_next_is_refused_with_a_hint() {
    let mut world = World::new();
    for _ in 0..16 {
        join(&mut world, 1);
    }
    let now = world.now;
    let refused = world
        .engine
        .worker_hello(now, &hello(1, &kinds()))
        .unwrap_err();
    assert_eq!(refused.reason, RejectReason::WorkersFull);
    assert!(refused.retry_after_ms > 0);
}

#[test]
fn slots_that_were_given_back_are_used_first_and_the_lowest_before_all() {
    let mut world = World::new();
    let there: Vec<_> = (0..10).map(|_| join(&mut world, 1).id).collect();
    for place in [7, 2, 4] {
        let now = world.now;
        world.engine.worker_goodbye(now, there[place]);
        world.settle();
    }
    let slots = [(); 4].map(|()| join(&mut world, 1).id.slot().get());
    assert_eq!(slots, [2, 4, 7, 10]);
    for slot in 11..16 {
        assert_eq!(join(&mut world, 1).id.slot().get(), slot);
    }
    let now = world.now;
    let refused = world.engine.worker_hello(now, &hello(1, &kinds()));
    assert_eq!(refused.unwrap_err().reason, RejectReason::WorkersFull);
    world.engine.worker_goodbye(now, there[9]);
    world.settle();
    assert_eq!(join(&mut world, 1).id.slot().get(), 9);
    world.verify();
}

#[test]
fn slots_that_were_free_before_a_restart_are_found_after_it() {
    let mut world = World::new();
    let there: Vec<_> = (0..16).map(|_| join(&mut world, 1).id).collect();
    let now = world.now;
    world.engine.worker_goodbye(now, there[5]);
    world.settle();
    let mut world = world.restarted();
    assert_eq!(join(&mut world, 1).id.slot().get(), 5);
}

#[test]
fn worker_that_comes_back_keeps_its_id_and_what_it_holds() {
    let mut world = World::new();
    let welcome = join(&mut world, 4);
    let task = world.submit("exec");
    world.dispatch();
    let back = come_back(&mut world, &welcome, &[held(task, 1)]);
    assert_eq!((back.id, back.token), (welcome.id, welcome.token));
    assert!(back.is_known);
    assert_eq!(back.abandon, []);
    world.settle();
    assert_eq!(world.phase(task), Phase::Assigned);
    world.end((welcome.id, task, 1), 0);
    assert_eq!(world.phase(task), Phase::Done);
    assert_eq!(world.counter(Counter::WorkerReturned), 1);
    world.verify();
}

#[test]
fn what_the_segment_gives_it_but_it_does_not_hold_goes_back_uncounted() {
    let mut world = World::new();
    let welcome = join(&mut world, 4);
    let (kept, missing) = (world.submit("exec"), world.submit("exec"));
    assert_eq!(world.dispatches().len(), 2);
    come_back(&mut world, &welcome, &[held(kept, 1)]);
    world.settle();
    assert_eq!(world.phase(kept), Phase::Assigned);
    assert_eq!(world.phase(missing), Phase::Ready);
    let slot = world.segment().task(missing.slot());
    assert_eq!(slot.losses(), 0);
    assert_eq!(world.counter(Counter::AssignmentReconciled), 1);
    let now = world.now;
    world
        .engine
        .worker_credits(now, welcome.id, 3, true)
        .unwrap();
    assert_eq!(world.dispatch(), (welcome.id, missing, 2));
    world.verify();
}

#[test]
fn what_it_holds_but_no_longer_owns_it_is_told_to_abandon() {
    let mut world = World::new();
    let welcome = join(&mut world, 4);
    let task = world.submit("exec");
    let got = world.dispatch();
    world.end(got, 0);
    let garbage = Held {
        task_id: u64::MAX,
        attempt: 1,
        finished: true,
    };
    let wrong = held(task, 2);
    let over = held(task, 1);
    let back = come_back(&mut world, &welcome, &[garbage, wrong, over]);
    assert_eq!(back.abandon, [garbage, wrong, over]);
}

#[test]
fn credits_start_over_when_it_comes_back() {
    let mut world = World::new();
    let welcome = join(&mut world, 4);
    come_back(&mut world, &welcome, &[]);
    world.submit("exec");
    assert_eq!(world.dispatches(), []);
}

#[test]
fn nothing_new_is_sent_before_the_comparison_is_over() {
    let config = EngineConfig {
        sweep_slots_per_cycle: 1,
        ..EngineConfig::default()
    };
    let mut world = World::with(64, config);
    let welcome = join(&mut world, 4);
    for _ in 0..10 {
        world.submit("exec");
    }
    assert_eq!(world.dispatches().len(), 4);
    come_back(&mut world, &welcome, &[]);
    let now = world.now;
    world
        .engine
        .worker_credits(now, welcome.id, 4, true)
        .unwrap();
    for _ in 0..5 {
        assert_eq!(qtf_world::dispatched(&world.cycle()), []);
    }
    assert_eq!(world.dispatches().len(), 4);
    world.verify();
}

#[test]
fn lost_worker_wrong_token_or_another_segment_make_it_a_new_worker() {
    let mut world = World::new();
    let welcome = join(&mut world, 4);
    let task = world.submit("exec");
    world.dispatch();
    let kinds = kinds();
    let segment_id = world.segment().header().segment_id;
    let right = Reconnect {
        worker_id: welcome.id.as_raw(),
        token: welcome.token,
        segment_id,
    };
    let mine = [held(task, 1)];
    for wrong in [
        Reconnect {
            token: right.token ^ 1,
            ..right
        },
        Reconnect { token: 0, ..right },
        Reconnect {
            segment_id: segment_id ^ 1,
            ..right
        },
        Reconnect {
            worker_id: u64::MAX,
            ..right
        },
        Reconnect {
            worker_id: WorkerId::new(welcome.id.slot(), 7).as_raw(),
            ..right
        },
    ] {
        let hello = WorkerHello {
            reconnect: Some(wrong),
            held: &mine,
            ..hello(1, &kinds)
        };
        let now = world.now;
        let new = world.engine.worker_hello(now, &hello).unwrap();
        assert_ne!(new.id, welcome.id);
        assert!(!new.is_known);
        assert_eq!(new.abandon, mine);
    }
    let now = world.now;
    world.engine.worker_gone(now, welcome.id);
    let back = come_back(&mut world, &welcome, &mine);
    assert_ne!(back.id, welcome.id);
    assert_eq!(back.abandon, mine);
}

#[test]
fn worker_that_was_told_to_drain_is_told_again_when_it_comes_back() {
    let mut world = World::new();
    let welcome = join(&mut world, 4);
    let now = world.now;
    world.engine.drain_worker(now, welcome.id).unwrap();
    world.effects();
    come_back(&mut world, &welcome, &[]);
    let worker = welcome.id;
    assert_eq!(world.effects(), [qtf_engine::Effect::Drain { worker }]);
}

#[test]
fn what_an_idle_worker_does_not_hold_goes_back_after_a_lease_and_its_answer() {
    let mut world = World::new();
    let worker = world.worker(4, &["exec"]);
    let task = world.submit("exec");
    world.dispatch();
    for _ in 0..5 {
        world.settle_for(SECOND);
        world.beat(worker, 0).unwrap();
    }
    for _ in 0..2 {
        assert_eq!(world.phase(task), Phase::Assigned, "it may be on its way");
        world.settle_for(SECOND);
        world.beat(worker, 0).unwrap();
        let asked = world.effects();
        world.answer(&asked);
    }
    let effects = world.settle();
    assert_eq!(
        qtf_world::dispatched(&effects),
        [(worker, task, 2)],
        "it has credits left"
    );
    assert!(world.engine.payload_for(worker, task_ref(task, 1)).is_err());
    assert_eq!(
        world.segment().task(task.slot()).losses(),
        1,
        "the next one may be lost there as well, and not for ever"
    );
    world.verify();
}

#[test]
fn drain_by_bare_slot_means_the_present_worker() {
    let mut world = World::new();
    let worker = world.worker(1, &["exec"]);
    let bare = WorkerId::new(worker.slot(), 0);
    let now = world.now;
    world.engine.drain_worker(now, bare).unwrap();
    let state = world.segment().worker(worker.slot()).state();
    assert_eq!(state.phase(), WorkerPhase::Draining);
    let nobody = WorkerId::from_raw(9).unwrap();
    let refused = world.engine.drain_worker(now, nobody).unwrap_err();
    assert_eq!(refused.reason, RejectReason::UnknownWorker);
}

#[test]
fn hello_that_names_more_tasks_than_a_worker_can_hold_is_refused_and_one_task_named_often_counts_once()
 {
    let mut world = World::new();
    let welcome = join(&mut world, 4);
    let task = world.submit("exec");
    let got = world.dispatch();
    assert_eq!(got.1, task);
    world.start(got);
    let often = vec![held(task, 1); 131_070];
    let back = come_back(&mut world, &welcome, &often);
    assert!(back.is_known && back.abandon.is_empty());
    world.settle();
    assert_eq!(world.phase(task), Phase::Running);
    let kinds = kinds();
    let too_often = vec![held(task, 1); 131_071];
    let hello = WorkerHello {
        held: &too_often,
        ..hello(4, &kinds)
    };
    let now = world.now;
    let refused = world.engine.worker_hello(now, &hello).unwrap_err();
    assert_eq!(refused.reason, RejectReason::InvalidArgument);
    assert!(refused.to_string().contains("held tasks"), "{refused}");
}

#[test]
fn task_that_its_worker_came_back_without_goes_back_also_if_its_last_record_found_no_room() {
    let mut world = JournalWorld::new();
    let welcome = join(&mut world, 1);
    let task = world.ready("exec");
    world.dispatch();
    // As a full group leaves it.
    let slot = qtf_world::written(world.segment(), task.slot());
    slot.set_lsn(qtf_journal::LSN_MAX);
    come_back(&mut world, &welcome, &[]);
    world.settle();
    assert_eq!(world.phase(task), Phase::Ready);
    world.verify();
}

#[test]
fn last_of_all_workers_that_a_segment_can_have_is_served_as_the_first_is() {
    let count = WORKERS_COUNT_MAX;
    let ground = Ground::of(64, count.into());
    let now = Now::from_ns(SECOND);
    let mut world = World::on(ground, EngineConfig::default(), now, &["tester"]);
    let right = world.segment().plm_right().unwrap();
    for number in (0..u16::MAX - 1).filter_map(|number| WorkerIndex::new_checked(number, count)) {
        let slot = world.segment().write_worker(right, number);
        slot.apply(slot.state(), WorkerEvent::Register { capacity: 1 })
            .unwrap();
    }
    let worker = world.worker(2, &["exec"]);
    assert_eq!(u32::from(worker.slot().get()), count - 1);
    let refused = world
        .engine
        .worker_hello(now, &hello(1, &["exec".to_owned()]));
    assert!(refused.is_err(), "{refused:?}");
    let task = world.submit("exec");
    let got = world.dispatch();
    assert_eq!((got.0, got.1), (worker, task));
    world.start(got);
    assert_eq!(world.end(got, 0), Disposition::Recorded);
    // A daemon that slept for long would believe in it.
    for _ in 0..60 {
        world.pass(SECOND);
        world.settle();
    }
    let now = world.now;
    assert!(world.engine.worker_credits(now, worker, 1, false).is_err());
}
