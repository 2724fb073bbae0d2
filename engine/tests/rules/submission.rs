//! What is accepted, what is refused and how, and in which order tasks stand.

use qtf_engine::{ArrayMember, Durability, EngineConfig, Payload, RejectReason, Rejection};
use qtf_shm::{ClientIndex, Counter, Phase, TaskId};

use qtf_world::{MS, World};

fn reason(refused: Result<TaskId, Rejection>) -> RejectReason {
    refused.expect_err("refused").reason
}

#[test]
fn memory_task_is_ready_at_once_and_in_the_task_heap() {
    let mut world = World::new();
    let task = world.submit("exec");
    assert_eq!(world.phase(task), Phase::Ready);
    let slot = world.segment().task(task.slot());
    assert_eq!(slot.priority(), 128);
    assert_eq!(slot.max_attempts(), 1);
    let leaf = world.segment().ready().leaf(task.slot().get());
    assert_eq!(leaf, Some(slot.key()));
    assert_eq!(world.counts(), (1, 0));
    world.verify();
}

#[test]
fn every_field_of_a_submission_arrives_in_the_slot() {
    let mut world = World::new();
    let first = world.submit("render");
    let task = world
        .submit_with("render", |submission| {
            submission.priority = Some(7);
            submission.timeout_ms = 1_234;
            submission.retries = 2;
            submission.estimate_ms = 99;
            submission.discard_result = true;
            submission.array = Some(ArrayMember {
                array: Some(first),
                index: 41,
            });
        })
        .unwrap();
    let segment = world.segment();
    let slot = segment.task(task.slot());
    assert_eq!((slot.priority(), slot.timeout_ms()), (7, 1_234));
    assert_eq!(slot.max_attempts(), 3);
    assert_eq!(slot.client(), world.client);
    assert!(slot.options().has(qtf_shm::TaskOptions::DISCARD_RESULT));
    assert!(slot.side_unit().is_some());
    assert_eq!(segment.kind_name(slot.kind().unwrap()).unwrap(), "render");
}

#[test]
fn fields_out_of_range_are_refused_by_name() {
    let mut world = World::new();
    let refused = world
        .submit_with("exec", |submission| submission.priority = Some(256))
        .unwrap_err();
    assert_eq!(refused.reason, RejectReason::InvalidArgument);
    assert_eq!(
        refused.to_string(),
        "priority is 256: it must be from 0 to 255"
    );
    let refused = world
        .submit_with("exec", |submission| submission.retries = 254)
        .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "retries is 254: it must be from 0 to 253"
    );
    let long = "x".repeat(49);
    for kind in ["", long.as_str(), "a\nb"] {
        let refused = world.submit_with(kind, |_| ());
        assert_eq!(reason(refused), RejectReason::InvalidArgument);
    }
    let refused = world.submit_with("exec", |submission| submission.delay_ms = u64::MAX);
    assert_eq!(reason(refused), RejectReason::InvalidArgument);
    assert_eq!(world.counts(), (0, 0));
    assert_eq!(world.counter(Counter::RefusedOther), 6);
}

#[test]
fn journal_durability_is_refused_and_not_faked() {
    let mut world = World::new();
    let refused = world
        .submit_with("exec", |submission| {
            submission.durability = Durability::Journal;
        })
        .unwrap_err();
    assert_eq!(refused.reason, RejectReason::NoJournal);
    assert!(refused.to_string().contains("durability memory"));
    assert_eq!(refused.retry_after_ms, 0);
}

#[test]
fn every_member_of_an_array_names_the_first_one_and_so_does_the_first() {
    let mut world = World::new();
    let member = |world: &mut World, array, index| {
        let place = ArrayMember { array, index };
        let taken = world.submit_with("exec", |submission| submission.array = Some(place));
        taken.unwrap()
    };
    let first = member(&mut world, None, 0);
    let second = member(&mut world, Some(first), 1);
    for (task, index) in [(first, 0), (second, 1)] {
        let record = world.segment().read_task(task.slot()).unwrap().record;
        let side = world.segment().read_side(&record).unwrap();
        assert_eq!((side.array_id, side.array_index), (first.as_raw(), index));
    }
    let alone = world.submit("exec");
    let record = world.segment().read_task(alone.slot()).unwrap().record;
    assert!(world.segment().read_side(&record).is_none());
    world.verify();
}

#[test]
fn payload_at_the_limit_is_accepted_and_one_byte_more_is_refused() {
    let config = EngineConfig {
        payload_limit: 100_000,
        ..EngineConfig::default()
    };
    let mut world = World::with(100, config);
    let bytes = vec![7; 100_001];
    let accepted = world.submit_with("exec", |submission| {
        submission.payload = Payload::Bytes(&bytes[1..]);
    });
    assert!(accepted.is_ok());
    let refused = world.submit_with("exec", |submission| {
        submission.payload = Payload::Bytes(&bytes);
    });
    assert_eq!(reason(refused), RejectReason::PayloadTooLarge);
    world.verify();
}

#[test]
fn full_segment_refuses_with_a_hint_and_accepts_again_when_a_slot_is_free() {
    let mut world = World::of_one(64);
    let mut tasks = Vec::new();
    let refused = loop {
        match world.submit_with("exec", |_| ()) {
            Ok(task) => tasks.push(task),
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused.reason, RejectReason::TasksFull);
    assert!(refused.retry_after_ms > 0);
    let slots = u64::from(world.segment().geometry().tasks());
    assert_eq!(u64::try_from(tasks.len()).unwrap(), slots);
    assert_eq!(world.counter(Counter::RefusedTasksFull), 1);
    let now = world.now;
    world.engine.cancel(now, tasks[5]).unwrap();
    world.engine.forget(now, tasks[5]).unwrap();
    let again = world.submit("exec");
    assert_eq!(again.slot(), tasks[5].slot());
    assert!(again.generation() > tasks[5].generation());
    assert_eq!(world.counts(), (slots, 0));
    world.verify();
}

#[test]
fn full_arena_refuses_and_leaves_no_slot_behind() {
    let mut world = World::with(1_000, EngineConfig::default());
    let bytes = vec![1; 60_000];
    let mut accepted = 0;
    let refused = loop {
        let result = world.submit_with("exec", |submission| {
            submission.payload = Payload::Bytes(&bytes);
        });
        match result {
            Ok(_) => accepted += 1,
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused.reason, RejectReason::ArenaFull);
    assert!(refused.to_string().contains("in the arena"), "{refused}");
    assert!(refused.retry_after_ms > 0);
    assert_eq!(world.counts(), (accepted, 0));
    assert!(world.submit_with("exec", |_| ()).is_ok(), "inline fits");
    world.verify();
}

#[test]
fn stopped_intake_refuses_new_tasks_and_keeps_old_ones() {
    let mut world = World::new();
    let task = world.submit("exec");
    world.engine.stop_intake();
    let refused = world.submit_with("exec", |_| ());
    assert_eq!(reason(refused), RejectReason::Stopping);
    assert_eq!(world.phase(task), Phase::Ready);
}

#[test]
fn client_that_is_not_registered_cannot_own_tasks_but_record_zero_can() {
    let mut world = World::new();
    let stranger = ClientIndex::new_checked(9, 100).unwrap();
    let refused = world.submit_with("exec", |submission| submission.client = stranger);
    assert_eq!(reason(refused), RejectReason::UnknownSession);
    let anonymous = world.submit_with("exec", |submission| {
        submission.client = ClientIndex::UNKNOWN;
    });
    assert!(anonymous.is_ok());
    let record = world.segment().client(ClientIndex::UNKNOWN);
    assert_eq!(record.unfinished(), 1);
}

#[test]
fn table_of_kinds_full_is_refused_and_known_kinds_still_work() {
    let mut world = World::new();
    let full =
        (0..300).find_map(|number| world.submit_with(&format!("kind-{number}"), |_| ()).err());
    let full = full.unwrap();
    assert_eq!(full.reason, RejectReason::KindsFull);
    assert!(full.to_string().contains("table of task kinds"), "{full}");
    assert!(world.submit_with("kind-0", |_| ()).is_ok());
}

#[test]
fn stamps_rise_strictly_even_when_the_clock_stands_still_or_goes_back() {
    let mut world = World::new();
    let mut last = 0;
    for step in 0..50 {
        if step == 25 {
            world.now = qtf_shm::Now::from_ns(5);
        }
        let task = world.submit("exec");
        let stamp = world.segment().task(task.slot()).key().ready_stamp();
        assert!(stamp > last);
        last = stamp;
    }
}

#[test]
fn delayed_task_is_not_ready_before_its_time() {
    let mut world = World::new();
    let worker = world.worker(4, &["exec"]);
    let task = world
        .submit_with("exec", |submission| submission.delay_ms = 500)
        .unwrap();
    assert_eq!(world.phase(task), Phase::Delayed);
    world.verify();
    assert_eq!(world.dispatches(), []);
    world.pass(499 * MS);
    assert_eq!(world.dispatches(), []);
    world.pass(2 * MS);
    assert_eq!(world.dispatches(), [(worker, task, 1)]);
}

#[test]
fn ids_that_never_were_and_ids_of_reused_slots_are_told_apart() {
    let mut world = World::of_one(64);
    let first = world.submit("exec");
    let now = world.now;
    let never = TaskId::new(first.generation() + 1_000, first.slot());
    assert_eq!(
        world.engine.check(never).unwrap_err().reason,
        RejectReason::UnknownTask
    );
    world.engine.cancel(now, first).unwrap();
    world.engine.forget(now, first).unwrap();
    let gone = world.engine.check(first).unwrap_err();
    assert_eq!(gone.reason, RejectReason::UnknownTask);
    let mut later = world.submit("exec");
    while later.slot() != first.slot() {
        later = world.submit("exec");
    }
    let stale = world.engine.check(first).unwrap_err();
    assert_eq!(stale.reason, RejectReason::StaleTask);
    assert!(stale.to_string().contains(&later.to_string()));
}

#[test]
fn names_that_nobody_offers_leave_room_for_the_kinds_of_workers() {
    let mut world = World::new();
    let refused = (0..256).find_map(|number| {
        world
            .submit_with(&format!("invented {number}"), |_| ())
            .err()
    });
    let refused = refused.unwrap();
    assert_eq!(refused.reason, RejectReason::KindsFull);
    assert!(refused.to_string().contains("worker offers"), "{refused}");
    let offered: Vec<String> = (0..16).map(|number| format!("real {number}")).collect();
    let offered: Vec<&str> = offered.iter().map(String::as_str).collect();
    world.worker(1, &offered);
    let task = world.submit("real 15");
    assert_eq!(world.dispatch().1, task);
    assert!(
        world.submit_with("invented 0", |_| ()).is_ok(),
        "a known name"
    );
    world.verify();
}
