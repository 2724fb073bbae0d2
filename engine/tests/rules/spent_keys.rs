//! What becomes of a key when its task is acknowledged: an automatic one ends, one that somebody chose goes when its place is needed,
//! and no other one ever does before its time.

use std::ops::Range;

use qtf_engine::{ClientHello, Principal, RejectReason, Rejection};
use qtf_shm::{ClientIndex, Counter, KeyId, TaskId};

use crate::snapshot::take_snapshot;
use qtf_world::JournalWorld;
use qtf_world::{SECOND, World, client};

/// A key somebody chose; `1` to `255` and so on are different keys.
fn key(number: u64) -> KeyId {
    KeyId::from_words([number + 1, 7]).expect("not zero")
}

fn automatic(number: u64) -> KeyId {
    KeyId::from_words([number + 1, 8]).expect("not zero")
}

fn small() -> World {
    World::with(4_000, qtf_engine::EngineConfig::default())
}

fn usable(world: &World) -> u64 {
    let capacity = u64::from(world.segment().keys().capacity());
    capacity - capacity / 4
}

fn knows(world: &World, key: KeyId) -> bool {
    world.segment().keys().find(key, world.now).is_some()
}

fn submit_as(world: &mut World, client: ClientIndex, key: KeyId) -> Result<TaskId, Rejection> {
    world.submit_with("exec", |task| {
        task.client = client;
        task.key = Some(key);
    })
}

/// A task whose result is there.
fn ended(world: &mut World, client: ClientIndex, key: KeyId) -> TaskId {
    let task = submit_as(world, client, key).expect("there is a place");
    let now = world.now;
    world.engine.cancel(now, task).expect("it waits");
    world.effects();
    task
}

fn acknowledge(world: &mut World, task: TaskId) {
    let now = world.now;
    world.engine.forget(now, task).expect("it has ended");
}

fn opened(world: &mut World, uid: u32) -> ClientIndex {
    let hello = ClientHello {
        principal: Principal::Uid(uid),
        ..client("another")
    };
    let session = world.engine.client_hello(world.now, &hello);
    session.expect("no hello is refused").index
}

fn with_automatic_key(world: &mut World, key: KeyId, has_side_record: bool) -> TaskId {
    let task = world.submit_with("exec", |task| {
        task.key = Some(key);
        task.key_is_automatic = true;
        task.estimate_ms = u32::from(has_side_record);
    });
    let task = task.expect("there is a place");
    let now = world.now;
    world.engine.cancel(now, task).expect("it waits");
    world.effects();
    task
}

#[test]
fn automatic_key_ends_with_the_acknowledgement_of_its_task_and_a_chosen_one_does_not() {
    for has_side_record in [false, true] {
        let mut world = World::new();
        let client = world.client;
        let first = with_automatic_key(&mut world, automatic(1), has_side_record);
        assert_eq!(
            submit_as(&mut world, client, automatic(1)),
            Ok(first),
            "its end alone changes nothing"
        );
        acknowledge(&mut world, first);
        assert!(!knows(&world, automatic(1)));
        assert_eq!(world.counter(Counter::KeyEnded), 1);
        let chosen = ended(&mut world, client, key(1));
        acknowledge(&mut world, chosen);
        assert_eq!(submit_as(&mut world, client, key(1)), Ok(chosen));
        assert_eq!(world.counter(Counter::KeyEnded), 1);
        world.verify();
    }
}

#[test]
fn automatic_keys_of_acknowledged_tasks_use_no_place_up() {
    let mut world = small();
    for number in 0..4 * u64::from(world.segment().keys().capacity()) {
        let task = with_automatic_key(&mut world, automatic(number), false);
        acknowledge(&mut world, task);
    }
    assert_eq!(world.segment().keys().iter().count(), 0);
    assert_eq!(world.counter(Counter::KeyEvicted), 0);
}

#[test]
fn keys_of_acknowledged_tasks_go_oldest_first_where_places_run_short_and_no_others_do() {
    let mut world = small();
    let client = world.client;
    let share = usable(&world) / 32 * 31;
    let kept: Vec<TaskId> = (0..100)
        .map(|number| ended(&mut world, client, key(number)))
        .collect();
    let acknowledged = 100..share + 300;
    for number in acknowledged.clone() {
        let task = ended(&mut world, client, key(number));
        acknowledge(&mut world, task);
    }
    assert_eq!(world.counter(Counter::RefusedKeysFull), 0);
    assert_eq!(world.counter(Counter::KeyEvicted), 300);
    for (number, &task) in (0..).zip(&kept) {
        assert_eq!(
            submit_as(&mut world, client, key(number)),
            Ok(task),
            "it was never acknowledged"
        );
    }
    assert_went_oldest_first(&world, acknowledged, 300);
    world.verify();
}

#[test]
fn keys_of_acknowledged_tasks_are_no_reason_to_refuse_others_by_chance() {
    let mut world = small();
    let client = world.client;
    let capacity = u64::from(world.segment().keys().capacity());
    for number in 0..2 * capacity {
        let task = ended(&mut world, client, key(number));
        acknowledge(&mut world, task);
    }
    for number in (2 * capacity..).take(usize::try_from(capacity / 8 * 5).expect("small")) {
        submit_as(&mut world, client, key(number)).expect("an empty table takes as many");
    }
    assert_eq!(world.counter(Counter::RefusedKeysFull), 0);
    world.verify();
    world.effects();
}

#[test]
fn order_in_which_keys_go_and_what_may_go_outlive_the_daemon() {
    let mut world = small();
    let client = world.client;
    let share = usable(&world) / 32 * 31;
    for number in 0..100 {
        ended(&mut world, client, key(number));
    }
    for number in 100..share {
        let task = ended(&mut world, client, key(number));
        acknowledge(&mut world, task);
        world.pass(1_000_000);
    }
    let mut world = world.restarted();
    let client = world.client;
    for number in share..share + 400 {
        ended(&mut world, client, key(number));
    }
    for number in 0..100 {
        assert!(knows(&world, key(number)), "{number} was not acknowledged");
    }
    let evicted = world.counter(Counter::KeyEvicted);
    assert!(evicted > 0);
    assert_went_oldest_first(&world, 100..share, evicted);
}

/// So many keys of a range went, from its beginning on. One in a hundred at most went before its turn, where all places that a new key can
/// lie in were taken: for each of those one more of the oldest is there still.
fn assert_went_oldest_first(world: &World, range: Range<u64>, evicted: u64) {
    let gone: Vec<u64> = range
        .clone()
        .filter(|&number| !knows(world, key(number)))
        .collect();
    assert_eq!(gone.len() as u64, evicted);
    let in_order = range.zip(&gone).take_while(|(next, gone)| next == *gone);
    let by_chance = evicted - in_order.count() as u64;
    assert!(by_chance <= evicted / 100, "{by_chance} of {gone:?}");
}

#[test]
fn principal_with_most_acknowledged_keys_loses_them_first() {
    let mut world = small();
    let greedy = world.client;
    let modest = opened(&mut world, 1001);
    for number in 0..50 {
        let task = ended(&mut world, modest, automatic(number));
        acknowledge(&mut world, task);
    }
    for number in 0..3 * usable(&world) {
        let task = ended(&mut world, greedy, key(number));
        acknowledge(&mut world, task);
    }
    let count = usable(&world) / 2;
    for number in 50..count {
        submit_as(&mut world, modest, automatic(number)).expect("the other one makes room");
    }
    let known = (0..count).filter(|&number| knows(&world, automatic(number)));
    assert_eq!(known.count() as u64, count);
    assert_eq!(world.counter(Counter::RefusedKeysFull), 0);
    world.effects();
}

#[test]
fn keys_of_tasks_that_expired_or_were_not_kept_are_no_acknowledged_ones() {
    let config = qtf_engine::EngineConfig {
        result_ttl_ns: SECOND,
        ..qtf_engine::EngineConfig::default()
    };
    let mut world = World::with(4_000, config);
    let client = world.client;
    for number in 0..50 {
        ended(&mut world, client, key(number));
    }
    world.settle_for(2 * SECOND);
    assert_eq!(world.counter(Counter::ResultExpired), 50);
    let share = usable(&world) / 32 * 31;
    let refused = (50..=share)
        .find_map(|number| submit_as(&mut world, client, key(number)).err())
        .expect("none may go");
    assert_eq!(refused.reason, RejectReason::KeysFull);
    assert_eq!(world.counter(Counter::KeyEvicted), 0);
    for number in 0..50 {
        assert!(knows(&world, key(number)));
    }
    world.effects();
}

#[test]
fn refusal_names_what_gives_places_back_and_says_when_the_next_is_free() {
    let mut world = small();
    let client = world.client;
    let share = usable(&world) / 32 * 31;
    let take = |world: &mut World, number: u64, ttl_ms: u64| {
        world.submit_with("exec", |task| {
            task.client = client;
            task.key = Some(key(number));
            task.key_ttl_ms = ttl_ms;
        })
    };
    take(&mut world, 0, 90_000).expect("the first to end");
    for number in 1..share {
        take(&mut world, number, 3_600_000).expect("within the share");
    }
    let refused = take(&mut world, share, 3_600_000).unwrap_err();
    assert_eq!(refused.reason, RejectReason::KeysFull);
    assert!(
        (80_000..=90_000).contains(&refused.retry_after_ms),
        "{refused:?}"
    );
    let text = refused.to_string();
    for word in ["received_keys", "key_ttl_ms", "acknowledged", "in 90 s"] {
        assert!(text.contains(word), "{word} is not in: {text}");
    }
    world.settle_for(40 * SECOND);
    let refused = take(&mut world, share, 3_600_000).unwrap_err();
    assert!(
        (40_000..=50_000).contains(&refused.retry_after_ms),
        "{refused:?}"
    );
    world.settle_for(51 * SECOND);
    take(&mut world, share, 3_600_000).expect("as was said");
    // What ended last is no hint any more.
    let refused = take(&mut world, share + 1, 3_600_000).unwrap_err();
    world.settle_for(20 * SECOND);
    let later = take(&mut world, share + 1, 3_600_000).unwrap_err();
    assert!(later.retry_after_ms > 3_000_000, "{refused:?} {later:?}");
    world.effects();
}

/// A journal task with a key, acknowledged.
fn passing(world: &mut JournalWorld, key: KeyId, is_automatic: bool) -> TaskId {
    let taken = world.take_in("exec", |task| {
        task.key = Some(key);
        task.key_is_automatic = is_automatic;
    });
    let task = taken.expect("there is a place for its key").task;
    world.cancel(task).expect("it waits");
    world.sync();
    world.ends();
    world.forget(task).expect("it has ended");
    world.sync();
    task
}

#[test]
fn automatic_keys_that_ended_stay_away_after_hot_and_cold_starts() {
    let mut world = JournalWorld::new();
    for number in 0..20 {
        passing(&mut world, automatic(number), true);
    }
    passing(&mut world, key(1), false);
    let world = world.hot_restart();
    assert_eq!(world.segment().keys().iter().count(), 1);
    let mut world = world.cold_restart();
    assert_eq!(world.segment().keys().iter().count(), 1);
    world.sync();
    for number in 0..20 {
        let taken = world.take_in("exec", |task| task.key = Some(automatic(number)));
        assert!(!taken.expect("accepted").is_repeat);
        world.sync();
    }
    let known = world.take_in("exec", |task| task.key = Some(key(1)));
    assert!(known.expect("accepted").is_repeat);
    world.verify();
}

#[test]
fn key_that_a_cold_start_brings_back_with_its_task_is_still_automatic() {
    let mut world = JournalWorld::new();
    let taken = world.take_in("exec", |task| {
        task.key = Some(automatic(1));
        task.key_is_automatic = true;
    });
    let task = taken.expect("accepted").task;
    world.sync();
    let mut world = world.cold_restart();
    world.sync();
    world.cancel(task).expect("it waits");
    world.sync();
    world.ends();
    assert!(knows(&world, automatic(1)));
    world.forget(task).expect("it has ended");
    assert!(!knows(&world, automatic(1)));
    world.sync();
    world.verify();
}

#[test]
fn chosen_keys_may_still_go_after_cold_starts_with_and_without_a_snapshot() {
    let mut world = JournalWorld::new();
    let kept = world.take_in("exec", |task| task.key = Some(key(0)));
    let kept = kept.expect("accepted").task;
    let spent = 1..=30;
    for number in spent.clone() {
        passing(&mut world, key(number), false);
    }
    let is_spent = |world: &JournalWorld, number| {
        let entry = world.segment().keys().find(key(number), world.now);
        entry.expect("it is known").spent
    };
    let mut world = world.cold_restart();
    world.sync();
    assert!(spent.clone().all(|number| is_spent(&world, number)));
    assert!(!is_spent(&world, 0));
    take_snapshot(&mut world);
    let mut world = world.cold_restart();
    world.sync();
    assert!(spent.clone().all(|number| is_spent(&world, number)));
    assert!(!is_spent(&world, 0));
    for number in 1_000.. {
        passing(&mut world, key(number), false);
        if world.counter(Counter::KeyEvicted) > 60 {
            break;
        }
    }
    assert!(spent.clone().all(|number| !knows(&world, key(number))));
    let again = world.take_in("exec", |task| task.key = Some(key(0)));
    assert_eq!(again.expect("accepted").task, kept);
    world.verify();
}
