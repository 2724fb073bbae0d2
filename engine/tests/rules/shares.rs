//! What one principal can use up of what all need, and what others see then.

use qtf_engine::{
    ClientHello, Durability, Engine, Payload, Principal, RejectReason, Rejection, Submission,
};
use qtf_shm::{ClientIndex, Counter, KeyId, TaskId};

use qtf_world::JournalWorld;
use qtf_world::{World, client};

const GREEDY: Principal = Principal::Uid(1000);
const OTHER: Principal = Principal::Uid(1001);
const ROOT: Principal = Principal::Uid(0);

/// A client of a principal, with a connection.
fn opened(world: &mut World, principal: Principal, name: &str) -> ClientIndex {
    let hello = ClientHello {
        principal,
        ..client(name)
    };
    let session = world.engine.client_hello(world.now, &hello);
    session.expect("no hello is refused").index
}

/// Who is somebody by name.
fn name_of(world: &World, index: ClientIndex) -> String {
    world.segment().client(index).name()
}

fn principal_of(engine: &Engine, task: TaskId) -> Principal {
    engine.principal_of(engine.segment().task(task.slot()).client())
}

fn submit_as(world: &mut World, client: ClientIndex) -> Result<TaskId, Rejection> {
    world.submit_with("exec", |task| task.client = client)
}

/// Submits until it is refused.
fn submit_all(world: &mut World, client: ClientIndex) -> (Vec<TaskId>, Rejection) {
    let mut tasks = Vec::new();
    loop {
        match submit_as(world, client) {
            Ok(task) => tasks.push(task),
            Err(refused) => return (tasks, refused),
        }
    }
}

fn end_and_forget(world: &mut World, task: TaskId) {
    let now = world.now;
    world.engine.cancel(now, task).expect("it waits");
    world.engine.forget(now, task).expect("it has ended");
}

#[test]
fn user_who_fills_the_task_slots_leaves_a_share_to_others_and_hears_so() {
    let mut world = World::with(1_024, qtf_engine::EngineConfig::default());
    let slots = u64::from(world.segment().geometry().tasks());
    let greedy = world.client;
    let other = opened(&mut world, OTHER, "other");
    let (mut tasks, refused) = submit_all(&mut world, greedy);
    let held = u64::try_from(tasks.len()).unwrap();
    assert_eq!(held, slots / 32 * 31);
    assert_eq!(refused.reason, RejectReason::TasksFull);
    assert!(refused.retry_after_ms > 0);
    let text = refused.to_string();
    assert!(
        text.starts_with(&format!("uid 1000 holds {held} of {slots} task slots")),
        "{text}"
    );
    assert_eq!(world.counter(Counter::RefusedTasksFull), 1);
    let (others, _) = submit_all(&mut world, other);
    assert!(others.len() > 16, "{}", others.len());
    let third = opened(&mut world, Principal::Uid(1002), "third");
    let thirds = submit_as(&mut world, third).expect("there is always something left");
    for task in others {
        end_and_forget(&mut world, task);
    }
    end_and_forget(&mut world, thirds);
    end_and_forget(&mut world, tasks.pop().unwrap());
    assert!(submit_as(&mut world, greedy).is_ok());
    assert!(submit_as(&mut world, greedy).is_err());
}

/// Submits tasks with a payload of this size until one is refused.
fn submit_large(world: &mut World, client: ClientIndex, bytes: usize) -> (Vec<TaskId>, Rejection) {
    let payload = vec![7; bytes];
    let mut tasks = Vec::new();
    loop {
        let mut submission = Submission::new(client, "exec", Payload::Bytes(&payload));
        submission.durability = Durability::Best;
        match world.engine.submit(world.now, &submission) {
            Ok(accepted) => tasks.push(accepted.task),
            Err(refused) => return (tasks, refused),
        }
    }
}

#[test]
fn user_who_fills_the_arena_with_payloads_leaves_a_share_to_others_and_hears_so_also_after_a_restart()
 {
    const BYTES: usize = 60_000;
    let mut world = World::with(8_000, qtf_engine::EngineConfig::default());
    let size = u64::from(world.segment().blocks_for_submissions()) * (64 << 10);
    let greedy = world.client;
    let other = opened(&mut world, OTHER, "other");
    let (mut tasks, refused) = submit_large(&mut world, greedy, BYTES);
    let held = tasks.len() as u64 * (64 << 10);
    let left = size - held;
    assert!(held <= 31 * left && left >= 64 << 10 && left <= size / 8);
    assert_eq!(refused.reason, RejectReason::ArenaFull);
    assert!(refused.retry_after_ms > 0);
    let text = refused.to_string();
    let wanted = format!("uid 1000 holds {held} of {size} bytes for payloads in the arena");
    assert!(text.starts_with(&wanted), "{text}");
    // What needs no room there is still taken, and others have their part.
    assert!(submit_as(&mut world, greedy).is_ok());
    let (others, _) = submit_large(&mut world, other, BYTES);
    assert!(!others.is_empty());
    for &task in &others {
        end_and_forget(&mut world, task);
    }
    let mut world = world.restarted();
    let greedy = world.client;
    let (more, refused) = submit_large(&mut world, greedy, BYTES);
    assert_eq!((more.len(), refused.reason), (0, RejectReason::ArenaFull));
    for task in tasks.drain(..2) {
        end_and_forget(&mut world, task);
    }
    let (more, _) = submit_large(&mut world, greedy, BYTES);
    assert_eq!(more.len(), 2, "what was forgotten is free again");
    world.verify();
}

#[test]
fn shares_are_the_same_after_a_restart() {
    let mut world = World::with(256, qtf_engine::EngineConfig::default());
    let greedy = world.client;
    let (tasks, _) = submit_all(&mut world, greedy);
    let mut world = world.restarted();
    let again = world.client;
    assert_eq!(again, greedy, "its tasks keep the record");
    assert!(submit_as(&mut world, again).is_err());
    end_and_forget(&mut world, tasks[0]);
    assert!(submit_as(&mut world, again).is_ok());
}

#[test]
fn one_who_shares_the_segment_with_nobody_may_use_it_up() {
    let config = qtf_engine::EngineConfig {
        share_rule: qtf_engine::ShareRule::Whole,
        ..qtf_engine::EngineConfig::default()
    };
    let mut world = World::with(256, config);
    let slots = world.segment().geometry().tasks();
    let only = world.client;
    let (tasks, refused) = submit_all(&mut world, only);
    assert_eq!(tasks.len(), slots as usize);
    assert!(refused.to_string().starts_with("all "), "{refused}");
}

#[test]
fn clients_and_turns_are_counted_as_they_come_and_go() {
    let mut world = World::new();
    let count = |world: &World, counter| world.segment().counters().get(counter);
    let before = [Counter::ClientJoined, Counter::ClientLeft].map(|c| count(&world, c));
    let index = opened(&mut world, GREEDY, "a");
    assert_eq!(
        opened(&mut world, GREEDY, "a"),
        index,
        "its second connection"
    );
    let now = world.now;
    world.engine.client_closed(now, index);
    let after = [Counter::ClientJoined, Counter::ClientLeft].map(|c| count(&world, c));
    assert_eq!(after, [before[0] + 1, before[1]]);
    world.engine.client_closed(now, index);
    assert_eq!(count(&world, Counter::ClientLeft), before[1] + 1);
    let turns = |world: &World| [Counter::CycleBusy, Counter::CycleIdle].map(|c| count(world, c));
    let before = turns(&world);
    world.submit("exec");
    world.worker(1, &["exec"]);
    assert!(!world.engine.cycle(now).is_zero());
    assert!(world.engine.cycle(now).is_zero());
    assert_eq!(turns(&world), [before[0] + 1, before[1] + 1]);
}

/// Every record that the greedy one can get has a task and no connection.
fn crowd(world: &mut World) -> Vec<TaskId> {
    let records = world.segment().geometry().clients();
    (0..records + 10)
        .map(|number| {
            let index = opened(world, GREEDY, &format!("host-{number}"));
            let task = submit_as(world, index).expect("there are slots");
            let now = world.now;
            world.engine.client_closed(now, index);
            task
        })
        .collect()
}

#[test]
fn user_with_a_thousand_names_keeps_nobody_out_before_and_after_a_restart() {
    let config = qtf_engine::EngineConfig {
        operator_uid: 7,
        ..qtf_engine::EngineConfig::default()
    };
    let mut world = World::with(4_000, config);
    let tasks = crowd(&mut world);
    for is_restarted in [false, true] {
        let own = opened(&mut world, GREEDY, "one-more");
        assert_eq!(name_of(&world, own), "", "the common record of its user");
        assert!(submit_as(&mut world, own).is_ok());
        let other = opened(&mut world, OTHER, "other");
        assert_eq!(name_of(&world, other), "other");
        for operator in [ROOT, Principal::Uid(7)] {
            let index = opened(&mut world, operator, "operator");
            assert_ne!(index, ClientIndex::UNKNOWN, "{operator}");
        }
        for &task in &tasks {
            assert_eq!(principal_of(&world.engine, task), GREEDY);
        }
        if !is_restarted {
            world = world.restarted();
        }
    }
}

#[test]
fn operators_have_a_record_when_a_hundred_users_have_taken_all_others() {
    let config = qtf_engine::EngineConfig {
        operator_uid: 42,
        ..qtf_engine::EngineConfig::default()
    };
    let mut world = World::with(4_000, config);
    let records = world.segment().geometry().clients();
    for number in 0..2 * records {
        let uid = 10_000 + number % 2_000;
        opened(&mut world, Principal::Uid(uid), &format!("name-{number}"));
    }
    let late = opened(&mut world, Principal::Uid(99_999), "late");
    assert_eq!(late, ClientIndex::UNKNOWN, "no record is left for it");
    assert!(submit_as(&mut world, late).is_ok());
    for operator in [ROOT, Principal::Uid(42)] {
        let index = opened(&mut world, operator, "operator");
        assert_ne!(index, ClientIndex::UNKNOWN, "{operator}");
        assert_eq!(world.engine.principal_of(index), operator);
    }
}

#[test]
fn results_of_idle_names_go_over_to_the_common_record_and_the_names_are_free_again() {
    let mut world = World::with(4_000, qtf_engine::EngineConfig::default());
    let tasks = crowd(&mut world);
    let now = world.now;
    for &task in &tasks[1..] {
        world.engine.cancel(now, task).unwrap();
    }
    let before = opened(&mut world, GREEDY, "before");
    assert_eq!(name_of(&world, before), "", "no name is left");
    world.settle();
    let after = opened(&mut world, GREEDY, "after");
    assert_eq!(name_of(&world, after), "after");
    let mut counts = (0, 0);
    for number in 0..u16::try_from(world.segment().geometry().clients()).unwrap() {
        let index = world.segment().client_index(number).unwrap();
        let record = world.segment().client(index);
        if record.is_used() {
            counts.0 += record.unfinished();
            counts.1 += record.kept();
        }
    }
    assert_eq!(counts, (1, tasks.len() as u64 - 1));
    for &task in &tasks {
        assert_eq!(principal_of(&world.engine, task), GREEDY);
    }
    let waits = world.segment().task(tasks[0].slot()).client();
    assert_eq!(
        name_of(&world, waits),
        "host-0",
        "a task that has not ended"
    );
    world.cycle();
    world.verify();
}

#[test]
fn call_without_a_session_has_the_record_of_its_user_and_leaves_none_when_it_is_refused() {
    let mut world = World::new();
    let now = world.now;
    let host = Principal::of_address("192.0.2.7".parse().unwrap());
    for principal in [OTHER, host] {
        let index = world.engine.client_for(now, principal);
        assert_eq!(world.engine.principal_of(index), principal);
        let refused = world.submit_with("exec", |task| {
            task.client = index;
            task.priority = Some(999);
        });
        assert!(refused.is_err());
        assert!(!world.segment().client(index).is_used());
        let index = world.engine.client_for(now, principal);
        let task = submit_as(&mut world, index).unwrap();
        assert_eq!(world.engine.client_for(now, principal), index);
        assert_eq!(principal_of(&world.engine, task), principal);
    }
    let world = world.restarted();
    let uids = |principal| {
        let mut all = (1..10).filter_map(|number| world.segment().client_index(number));
        all.any(|index| {
            world.segment().client(index).is_used() && world.engine.principal_of(index) == principal
        })
    };
    assert!(uids(OTHER) && uids(host), "known by the segment");
}

#[test]
fn user_who_fills_the_table_of_keys_leaves_places_to_others_and_hears_so() {
    let mut world = World::with(4_000, qtf_engine::EngineConfig::default());
    let capacity = u64::from(world.segment().keys().capacity());
    let usable = capacity - capacity / 4;
    let mut held = 0;
    let refused = loop {
        let key = KeyId::from_words([held + 1, 7]);
        if let Err(refused) = world.submit_with("exec", |task| task.key = key) {
            break refused;
        }
        held += 1;
    };
    assert_eq!(held, usable / 32 * 31);
    assert_eq!(refused.reason, RejectReason::KeysFull);
    let text = refused.to_string();
    assert!(
        text.starts_with(&format!("uid 1000 holds {held} of {usable} ")),
        "{text}"
    );
    let other = opened(&mut world, OTHER, "other");
    for number in 0..usable / 64 {
        let taken = world.submit_with("exec", |task| {
            task.client = other;
            task.key = KeyId::from_words([number + 1, 8]);
        });
        assert!(taken.is_ok(), "{number}");
    }
    let now = world.now;
    let given_back = KeyId::from_words([1, 7]).unwrap();
    world.engine.release_keys(now, &[given_back]);
    for number in 0..usable / 64 {
        let key = KeyId::from_words([number + 1, 8]).unwrap();
        world.engine.release_keys(now, &[key]);
    }
    let key = KeyId::from_words([held + 1, 7]);
    assert!(world.submit_with("exec", |task| task.key = key).is_ok());
    world.effects();
}

#[test]
fn refusals_for_want_of_keys_look_for_expired_ones_once_in_a_millisecond_however_many_they_are() {
    let mut world = World::with(4_000, qtf_engine::EngineConfig::default());
    let mut number = 0;
    let mut submit = |world: &mut World| {
        number += 1;
        let taken = world.submit_with("exec", |task| {
            task.key = KeyId::from_words([number, 7]);
            task.key_ttl_ms = 2;
        });
        taken.map_err(|refused| refused.reason)
    };
    while submit(&mut world).is_ok() {}
    // No cycle in between: nothing but the refusals looks.
    world.now = world.now.plus_ns(1_500_000);
    assert_eq!(
        submit(&mut world),
        Err(RejectReason::KeysFull),
        "none has expired"
    );
    world.now = world.now.plus_ns(600_000);
    assert_eq!(
        submit(&mut world),
        Err(RejectReason::KeysFull),
        "looked a moment ago"
    );
    world.now = world.now.plus_ns(400_000);
    assert!(submit(&mut world).is_ok(), "all have expired");
    world.effects();
}

#[test]
fn keys_that_have_expired_are_no_part_of_a_share() {
    let mut world = World::with(64, qtf_engine::EngineConfig::default());
    let capacity = u64::from(world.segment().keys().capacity());
    for number in 0..4 * capacity {
        let taken = world.submit_with("exec", |task| {
            task.key = KeyId::from_words([number + 1, 7]);
            task.key_ttl_ms = 1;
        });
        end_and_forget(&mut world, taken.expect("keys before are over"));
        world.effects();
        world.pass(2_000_000);
    }
}

/// A journal task with a key, whole life: submitted, ended; `forget` says whether its result is gone too.
fn passing(world: &mut JournalWorld, key: KeyId, ttl_ms: u64) -> TaskId {
    let taken = world.take_in("exec", |task| {
        task.key = Some(key);
        task.key_ttl_ms = ttl_ms;
    });
    let task = taken.expect("there is a place for its key").task;
    world.cancel(task).unwrap();
    world.sync();
    world.ends();
    task
}

#[test]
fn keys_that_were_given_back_do_not_come_back_at_a_cold_start() {
    let mut world = JournalWorld::new();
    let capacity = u64::from(world.segment().keys().capacity());
    for number in 1..=capacity * 3 / 2 {
        let key = KeyId::from_words([number, 9]).unwrap();
        let task = passing(&mut world, key, 120_000);
        let now = world.now;
        if number % 2 == 0 {
            world.engine.release_keys(now, &[key]);
            world.forget(task).unwrap();
        } else {
            world.forget(task).unwrap();
            world.sync();
            world.engine.release_keys(now, &[key]);
        }
        world.sync();
    }
    let mut world = world.cold_restart();
    world.sync();
    assert_eq!(world.segment().keys().iter().count(), 0);
    for number in 1..=59 {
        let key = KeyId::from_words([number, 10]).unwrap();
        passing(&mut world, key, 120_000);
    }
    world.verify();
}

#[test]
fn key_given_back_while_its_result_is_kept_stays_away_also_of_an_array_and_behind_a_snapshot() {
    let mut world = JournalWorld::new();
    let keys = [1, 2].map(|number| KeyId::from_words([number, 9]).unwrap());
    let plain = passing(&mut world, keys[0], 120_000);
    let member = world.take_in("exec", |task| {
        task.key = Some(keys[1]);
        // This one has a side record, which names its key.
        task.estimate_ms = 7;
    });
    let member = member.unwrap().task;
    world.sync();
    let now = world.now;
    world.engine.release_keys(now, &keys);
    world.cancel(member).unwrap();
    world.sync();
    // Hot, so that the whole of one is written again.
    let mut world = world.hot_restart();
    world.sync();
    let world = world.cold_restart();
    for task in [plain, member] {
        assert!(world.engine.check(task).is_ok(), "its result is kept");
    }
    assert_eq!(world.segment().keys().iter().count(), 0);
}

#[test]
fn cold_start_leaves_a_quarter_of_the_keys_free_and_those_of_forgotten_tasks_go_first() {
    let mut world = JournalWorld::new();
    let capacity = u64::from(world.segment().keys().capacity());
    let kept = KeyId::from_words([1, 1]).unwrap();
    passing(&mut world, kept, 60_000);
    // Each is forgotten: so many that the first ones made room for the last.
    for number in 2..=capacity {
        let key = KeyId::from_words([number, 9]).unwrap();
        let task = passing(&mut world, key, 3_600_000 + number);
        world.forget(task).unwrap();
        world.sync();
    }
    let mut world = world.cold_restart();
    world.sync();
    let known = world.segment().keys().iter().count() as u64;
    assert!(
        known <= capacity * 3 / 4 && known > capacity / 2,
        "{known} of {capacity}"
    );
    let now = world.now;
    assert!(world.segment().keys().find(kept, now).is_some());
    let oldest = KeyId::from_words([2, 9]).unwrap();
    assert!(world.segment().keys().find(oldest, now).is_none());
    for number in 1..=capacity / 16 {
        let key = KeyId::from_words([number, 10]).unwrap();
        let task = passing(&mut world, key, 120_000);
        world.forget(task).unwrap();
        world.sync();
    }
}

#[test]
fn what_is_refused_leaves_no_kinds_behind() {
    let mut world = World::with(64, qtf_engine::EngineConfig::default());
    let known = |world: &World| world.segment().kinds().iter().count();
    let many: Vec<String> = (0..255).map(|number| format!("kind-{number}")).collect();
    world.submit("exec");
    let before = known(&world);
    let hello = qtf_world::hello(1, &many);
    let refused = world.engine.worker_hello(world.now, &hello).unwrap_err();
    assert_eq!(refused.reason, RejectReason::KindsFull);
    while world
        .engine
        .worker_hello(world.now, &qtf_world::hello(1, &["exec".to_owned()]))
        .is_ok()
    {}
    let few = ["a".to_owned(), "b".to_owned()];
    let refused = world
        .engine
        .worker_hello(world.now, &qtf_world::hello(1, &few));
    assert_eq!(refused.unwrap_err().reason, RejectReason::WorkersFull);
    let greedy = world.client;
    submit_all(&mut world, greedy);
    let refused = world.submit_with("render", |_: &mut Submission<'_>| ());
    assert_eq!(refused.unwrap_err().reason, RejectReason::TasksFull);
    assert_eq!(known(&world), before);
}
