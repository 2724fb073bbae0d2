//! Rules of idempotency keys: a repeat gets the first task.

use qtf_engine::{Durability, RejectReason};
use qtf_shm::{Counter, KeyId, Phase};

use qtf_world::JournalWorld;
use qtf_world::{MS, SECOND, World};

fn key(number: u8) -> KeyId {
    KeyId::from_bytes(&[number; 16]).unwrap()
}

fn keyed(world: &mut JournalWorld, number: u8) -> qtf_engine::Accepted {
    let taken = world.take_in("exec", |task| task.key = Some(key(number)));
    taken.expect("accepted")
}

#[test]
fn repeat_of_a_memory_task_gets_the_first_one_at_once_whatever_else_it_says() {
    let mut world = World::new();
    let first = world.submit_with("exec", |task| task.key = Some(key(1)));
    let again = world.submit_with("render", |task| {
        task.key = Some(key(1));
        task.payload = qtf_engine::Payload::Bytes(b"another payload");
        task.priority = Some(999);
    });
    assert_eq!(again, first);
    let other = world.submit_with("exec", |task| task.key = Some(key(2)));
    assert_ne!(other, first);
    assert_eq!(world.counter(Counter::KeyRepeated), 1);
    assert_eq!(world.counts(), (2, 0));
    world.verify();
}

#[test]
fn repeat_while_the_first_waits_waits_for_the_same_record() {
    let mut world = JournalWorld::new();
    let first = keyed(&mut world, 1);
    world.submit_journal("exec");
    let again = keyed(&mut world, 1);
    assert!(again.is_repeat && !again.result_expired);
    assert_eq!(
        (again.task, again.durable, again.durability),
        (first.task, first.durable, Durability::Journal)
    );
    world.sync();
    let after = keyed(&mut world, 1);
    assert_eq!((after.task, after.durable), (first.task, None));
    assert_eq!(world.counts().0, 2);
}

#[test]
fn repeat_after_the_result_is_gone_gets_the_id_and_hears_that() {
    let mut world = JournalWorld::new();
    world.worker(1, &["exec"]);
    let first = keyed(&mut world, 1);
    world.sync();
    let got = world.dispatch();
    world.result(got, 0, b"output");
    world.sync();
    world.settle();
    assert!(!keyed(&mut world, 1).result_expired);
    world.forget(first.task).unwrap();
    world.sync();
    let again = keyed(&mut world, 1);
    assert!(again.is_repeat && again.result_expired);
    assert_eq!((again.task, again.durable), (first.task, None));
    // The slot has a new tenant: the key still stands for the old one.
    for _ in 0..300 {
        let Ok(taken) = world.take_in("exec", |_| ()) else {
            break;
        };
        assert_ne!(taken.task, first.task);
    }
    assert!(keyed(&mut world, 1).result_expired);
}

#[test]
fn key_lives_as_long_as_its_submission_says_and_is_swept_then() {
    let mut world = World::new();
    let first = world.submit_with("exec", |task| {
        task.key = Some(key(1));
        task.key_ttl_ms = 2_000;
    });
    let kept = world.submit_with("exec", |task| task.key = Some(key(2)));
    world.settle_for(1_900 * MS);
    assert_eq!(
        world.submit_with("exec", |task| task.key = Some(key(1))),
        first
    );
    world.settle_for(200 * MS);
    let second = world.submit_with("exec", |task| {
        task.key = Some(key(1));
        task.key_ttl_ms = 1;
    });
    assert_ne!(second, first);
    world.settle_for(60 * SECOND);
    assert!(world.counter(Counter::KeyExpired) >= 1);
    assert_eq!(world.segment().keys().iter().count(), 1);
    assert_eq!(
        world.submit_with("exec", |task| task.key = Some(key(2))),
        kept
    );
    let refused = world.submit_with("exec", |task| {
        task.key = Some(key(3));
        task.key_ttl_ms = u64::MAX;
    });
    assert_eq!(refused.unwrap_err().reason, RejectReason::InvalidArgument);
}

#[test]
fn released_key_is_free_for_another_task() {
    let mut world = World::new();
    let first = world.submit_with("exec", |task| task.key = Some(key(1)));
    let now = world.now;
    world.engine.release_keys(now, &[key(1), key(9)]);
    assert_eq!(world.counter(Counter::KeyReleased), 1);
    let second = world.submit_with("exec", |task| task.key = Some(key(1)));
    assert_ne!(first, second);
}

#[test]
fn refused_submission_leaves_no_key_behind() {
    let mut world = World::new();
    let refused = world.submit_with("exec", |task| {
        task.key = Some(key(1));
        task.priority = Some(256);
    });
    assert!(refused.is_err());
    while world.submit_with("exec", |_| ()).is_ok() {}
    let refused = world.submit_with("exec", |task| task.key = Some(key(1)));
    assert_eq!(refused.unwrap_err().reason, RejectReason::TasksFull);
    assert_eq!(world.segment().keys().iter().count(), 0);
}

#[test]
fn full_table_of_keys_refuses_for_now() {
    let mut world = World::with(4_000, qtf_engine::EngineConfig::default());
    let capacity = world.segment().keys().capacity();
    let mut refusal = None;
    for number in 1..=u64::from(capacity) + 1 {
        let id = KeyId::from_words([number, 7]);
        let taken = world.submit_with("exec", |task| task.key = id);
        let task = match taken {
            Ok(task) => task,
            Err(refused) => {
                refusal = Some(refused);
                break;
            }
        };
        // Its result is not acknowledged: the key stays.
        world.engine.cancel(world.now, task).unwrap();
    }
    let refused = refusal.expect("more keys than places");
    assert_eq!(refused.reason, RejectReason::KeysFull);
    assert!(refused.retry_after_ms > 0);
    assert_eq!(world.counter(Counter::RefusedKeysFull), 1);
    world.effects();
    world.verify();
}

#[test]
fn answer_to_a_known_key_can_be_had_without_a_submission() {
    let mut world = JournalWorld::new();
    let now = world.now;
    assert_eq!(world.engine.submitted_before(now, key(1)), Ok(None));
    let first = keyed(&mut world, 1);
    let known = world.engine.submitted_before(now, key(1)).unwrap().unwrap();
    assert_eq!((known.task, known.durable), (first.task, first.durable));
}

#[test]
fn keys_outlive_a_kill_of_the_daemon_at_any_point_of_the_submission() {
    let mut world = JournalWorld::new();
    let first = keyed(&mut world, 1);
    let mut world = world.hot_restart();
    let again = keyed(&mut world, 1);
    assert_eq!(again.task, first.task);
    assert!(again.durable > Some(world.durable()), "its record was lost");
    world.sync();
    assert_eq!(world.phase(first.task), Phase::Ready);
    assert_eq!(keyed(&mut world, 1).durable, None);
}

#[test]
fn keys_outlive_a_reboot_with_their_task_and_without() {
    let mut world = JournalWorld::new();
    let kept = keyed(&mut world, 1);
    let gone = keyed(&mut world, 2);
    world.sync();
    world.cancel(gone.task).unwrap();
    world.forget(gone.task).unwrap();
    world.sync();
    let lost = keyed(&mut world, 3);
    let mut world = world.cold_restart();
    world.sync();
    let again = keyed(&mut world, 1);
    assert_eq!((again.task, again.is_repeat), (kept.task, true));
    let again = keyed(&mut world, 2);
    assert_eq!((again.task, again.result_expired), (gone.task, true));
    // Was never answered, so it may be a new one: with a new id.
    let again = keyed(&mut world, 3);
    assert!(!again.is_repeat && again.task != lost.task);
    world.verify();
}

/// The key of a whole task, as a snapshot or a repeated record would carry it.
fn key_of(world: &JournalWorld, task: qtf_shm::TaskId) -> Option<KeyId> {
    let record = world.segment().read_task(task.slot()).unwrap().record;
    let side = world.segment().read_side(&record);
    let key = world.segment().key_of(&record, side.as_ref());
    key.map(|(key, _)| key)
}

#[test]
fn key_is_found_from_its_task_for_as_long_as_it_is_known() {
    let mut world = JournalWorld::new();
    let first = keyed(&mut world, 1).task;
    let slot = world.segment().task(first.slot());
    assert_eq!(slot.side_unit(), None, "nothing else needs a side record");
    assert_eq!(key_of(&world, first), Some(key(1)));
    let now = world.now;
    world.engine.release_keys(now, &[key(1)]);
    assert_eq!(key_of(&world, first), None);
    // The same key, and so most likely the same place, for another task.
    let second = keyed(&mut world, 1).task;
    assert_eq!(key_of(&world, first), None);
    assert_eq!(key_of(&world, second), Some(key(1)));
    world.verify();
}

#[test]
fn key_of_a_task_whose_record_was_lost_is_written_again_with_it() {
    for in_array in [false, true] {
        let mut world = JournalWorld::new();
        let taken = world.take_in("exec", |task| {
            task.key = Some(key(1));
            task.array = in_array.then_some(qtf_engine::ArrayMember {
                array: None,
                index: 7,
            });
        });
        let first = taken.unwrap().task;
        // The daemon dies before anything is written: the segment alone knows of the task.
        let mut world = world.hot_restart();
        world.sync();
        let mut world = world.cold_restart();
        world.sync();
        assert_eq!(key_of(&world, first), Some(key(1)));
        let again = keyed(&mut world, 1);
        assert_eq!((again.task, again.is_repeat), (first, true));
        world.verify();
    }
}

#[test]
fn key_stays_with_a_task_that_a_cold_start_itself_changes_and_writes_again() {
    let mut world = JournalWorld::new();
    world.worker(1, &["exec"]);
    let first = keyed(&mut world, 1).task;
    // Others whose keys fill the table before and behind it.
    for number in 2..100 {
        keyed(&mut world, number);
    }
    world.sync();
    let got = world.dispatch();
    assert_eq!(got.1, first);
    world.start(got);
    world.cancel(first).unwrap();
    world.sync();
    // Cancelled now, which is written as a whole task.
    let mut world = world.cold_restart();
    world.sync();
    assert_eq!(world.phase(first), Phase::Cancelled);
    let mut world = world.cold_restart();
    world.sync();
    for number in 1..100 {
        let again = keyed(&mut world, number);
        assert!(again.is_repeat, "key {number}");
        assert_eq!(key_of(&world, again.task), Some(key(number)));
    }
    assert_eq!(keyed(&mut world, 1).task, first);
    world.verify();
}
