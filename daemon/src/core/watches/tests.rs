//! Watches: told once, counted once, and never more than a bounded number of steps at a time.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, mpsc};

use super::entries::NEAR_MAX;
use super::*;

const ONE: Principal = Principal::Uid(1);

fn task(number: u64) -> TaskId {
    TaskId::from_raw((1 << 24) | number).unwrap()
}

/// Does what is left, and says how many turns that took.
fn settle(watches: &mut Watches) -> usize {
    let mut turns = 0;
    while watches.is_busy() {
        let steps = watches.tend();
        assert!(steps <= 3 * STEPS, "{steps} steps in one turn");
        turns += 1;
    }
    turns
}

#[test]
fn everybody_who_waits_is_told_once() {
    let mut watches = Watches::new(100, 10, ShareRule::Whole);
    let (first, second) = (watches.open(ONE), watches.open(ONE));
    watches.add(first, task(1)).unwrap();
    watches.add(first, task(1)).unwrap();
    watches.add(second, task(1)).unwrap();
    watches.finished(task(1), Phase::Done);
    watches.finished(task(1), Phase::Done);
    settle(&mut watches);
    assert_eq!(watches.next_ended(first), Some((task(1), Phase::Done)));
    assert_eq!(watches.next_ended(first), None);
    assert_eq!(watches.next_ended(second), Some((task(1), Phase::Done)));
    assert!(watches.is_idle(first));
}

#[test]
fn end_of_a_later_task_in_the_same_slot_is_told_to_nobody() {
    let later = TaskId::from_raw((2 << 24) | 1).unwrap();
    let mut watches = Watches::new(100, 10, ShareRule::Whole);
    let (key, other) = (watches.open(ONE), watches.open(ONE));
    watches.add(key, task(1)).unwrap();
    watches.finished(later, Phase::Done);
    watches.add(other, task(1)).unwrap();
    watches.finished(later, Phase::Done);
    settle(&mut watches);
    assert_eq!(watches.next_ended(key), None);
    watches.finished(task(1), Phase::Failed);
    settle(&mut watches);
    assert_eq!(watches.next_ended(key), Some((task(1), Phase::Failed)));
    assert_eq!(watches.next_ended(other), Some((task(1), Phase::Failed)));
}

#[test]
fn number_of_watches_is_bounded_and_given_back_after_the_close() {
    let mut watches = Watches::new(100, 2, ShareRule::Whole);
    let key = watches.open(ONE);
    watches.add(key, task(1)).unwrap();
    watches.add(key, task(2)).unwrap();
    assert_eq!(
        watches.add(key, task(3)),
        Err(TooManyWatches::Full { limit: 2 })
    );
    assert_eq!(watches.add(key, task(2)), Ok(()), "it waits already");
    watches.close(key);
    settle(&mut watches);
    let again = watches.open(ONE);
    assert!(watches.add(again, task(3)).is_ok());
    assert_eq!(watches.named, 1);
    watches.close(key);
    assert!(
        !watches.is_busy(),
        "a key of the tenant before closes nothing"
    );
}

#[test]
fn ends_that_a_stream_does_not_take_count_until_it_does() {
    let full = Err(TooManyWatches::Full { limit: 2 });
    let mut watches = Watches::new(100, 2, ShareRule::Whole);
    let (slow, other) = (watches.open(ONE), watches.open(ONE));
    watches.add(slow, task(1)).unwrap();
    watches.finished(task(1), Phase::Done);
    watches.add_ended(slow, task(2), Phase::Done).unwrap();
    assert_eq!(watches.add(other, task(3)), full);
    assert_eq!(watches.add_ended(other, task(4), Phase::Done), full);
    assert!(watches.next_ended(slow).is_some());
    assert_eq!(watches.add(other, task(3)), Ok(()));
    assert_eq!(watches.add(other, task(4)), full);
    watches.close(slow);
    settle(&mut watches);
    assert_eq!(watches.named, 1);
}

#[test]
fn ended_task_that_is_named_again_and_again_counts_once() {
    let mut watches = Watches::new(100, 2, ShareRule::Whole);
    let (greedy, other) = (watches.open(ONE), watches.open(ONE));
    for _ in 0..1_000 {
        watches.add_ended(greedy, task(1), Phase::Done).unwrap();
    }
    assert_eq!(watches.untold(greedy), 1);
    assert_eq!(watches.add(other, task(2)), Ok(()));
    assert_eq!(watches.next_ended(greedy), Some((task(1), Phase::Done)));
    assert_eq!(watches.next_ended(greedy), None);
}

#[test]
fn end_that_is_seen_before_its_notice_is_told_once() {
    let mut watches = Watches::new(100, 2, ShareRule::Whole);
    let key = watches.open(ONE);
    watches.add(key, task(1)).unwrap();
    watches.add_ended(key, task(1), Phase::Done).unwrap();
    watches.finished(task(1), Phase::Done);
    assert_eq!(watches.next_ended(key), Some((task(1), Phase::Done)));
    assert!(watches.is_idle(key));
}

#[test]
fn closing_a_stream_of_many_tasks_takes_a_bounded_number_of_steps_a_turn() {
    let many = 50 * STEPS as u64;
    let mut watches = Watches::new(1 << 17, 1 << 20, ShareRule::Whole);
    let (key, other) = (watches.open(ONE), watches.open(ONE));
    for number in 0..many {
        watches.add(key, task(number)).unwrap();
    }
    watches.add(other, task(many + 1)).unwrap();
    watches.close(key);
    assert_eq!(
        watches.named,
        usize::try_from(many).unwrap() + 1,
        "nothing is done at the close itself"
    );
    // While the rest is there the others are told as ever.
    watches.tend();
    watches.finished(task(many + 1), Phase::Done);
    assert!(watches.next_ended(other).is_some());
    // A task of the closed stream ends, and is told to nobody.
    watches.finished(task(many - 1), Phase::Done);
    let turns = settle(&mut watches);
    assert!(turns >= 49, "{turns}");
    assert_eq!(watches.named, 0);
}

#[test]
fn end_of_a_task_that_many_wait_for_takes_a_bounded_number_of_steps_a_turn() {
    let many = 20 * STEPS;
    let mut watches = Watches::new(100, 1 << 20, ShareRule::Whole);
    let keys: Vec<WatchKey> = (0..many).map(|_| watches.open(ONE)).collect();
    for key in &keys {
        watches.add(*key, task(7)).unwrap();
    }
    watches.finished(task(7), Phase::Done);
    // Some close before they are told, and later tenants of the slot wait for their own end.
    let later = TaskId::from_raw((2 << 24) | 7).unwrap();
    for key in &keys[..10] {
        watches.close(*key);
    }
    watches.add(keys[10], later).unwrap();
    assert!(settle(&mut watches) >= 20);
    for key in &keys[10..] {
        assert_eq!(watches.next_ended(*key), Some((task(7), Phase::Done)));
    }
    assert!(!watches.is_idle(keys[10]));
    watches.finished(later, Phase::Failed);
    assert_eq!(watches.next_ended(keys[10]), Some((later, Phase::Failed)));
    assert_eq!(watches.named, 0);
}

#[test]
fn of_the_many_who_wait_for_one_task_few_are_walked_through_and_each_waits_once() {
    let mut watches = Watches::new(100, 1 << 20, ShareRule::Whole);
    let keys: Vec<WatchKey> = (0..100).map(|_| watches.open(ONE)).collect();
    for _ in 0..2 {
        for key in &keys {
            watches.add(*key, task(7)).unwrap();
        }
    }
    assert_eq!(watches.named, 100, "waiting twice is waiting once");
    assert_eq!(watches.entries.near_count(task(7).as_raw()), NEAR_MAX);
    // Those that are walked through go, the others are found all the same.
    for key in &keys[..NEAR_MAX] {
        watches.close(*key);
    }
    settle(&mut watches);
    assert_eq!(watches.entries.near_count(task(7).as_raw()), 0);
    watches.add(keys[50], task(7)).unwrap();
    assert_eq!(watches.named, 100 - NEAR_MAX);
}

#[test]
fn stop_wakes_every_stream_a_bounded_number_a_turn() {
    struct Told(mpsc::Sender<()>);
    impl std::task::Wake for Told {
        fn wake(self: Arc<Self>) {
            // Who counts has gone: nobody wants to know.
            let _ = self.0.send(());
        }
    }
    let (told, woken) = mpsc::channel();
    let waker = Waker::from(Arc::new(Told(told)));
    let mut watches = Watches::new(100, 10, ShareRule::Whole);
    for _ in 0..5 * STEPS {
        let key = watches.open(ONE);
        watches.keep_waker(key, &waker);
    }
    watches.wake_all();
    watches.tend();
    let first = woken.try_iter().count();
    assert!(first <= STEPS, "{first}");
    settle(&mut watches);
    assert_eq!(first + woken.try_iter().count(), 5 * STEPS);
}

/// Against a model that is too simple to be wrong.
#[test]
fn whatever_is_named_told_and_closed_the_model_agrees() {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) % below
    };
    for _ in 0..50 {
        let mut watches = Watches::new(8, 40, ShareRule::Whole);
        let mut keys: Vec<WatchKey> = (0..4).map(|_| watches.open(ONE)).collect();
        let mut model: HashMap<(usize, TaskId), bool> = HashMap::new();
        // An end is seen by who asks from the moment on at which it is noticed, or before.
        let mut ended: HashSet<TaskId> = HashSet::new();
        let phase_of = |id: TaskId| {
            if id.as_raw().is_multiple_of(2) {
                Phase::Done
            } else {
                Phase::Failed
            }
        };
        for _ in 0..400 {
            let who = usize::try_from(random(4)).unwrap();
            let id = TaskId::from_raw(((random(50) + 1) << 24) | random(8)).unwrap();
            match random(6) {
                0 | 1 if !ended.contains(&id) => {
                    if watches.add(keys[who], id).is_ok() {
                        model.entry((who, id)).or_insert(false);
                    }
                }
                0..=2 => {
                    ended.insert(id);
                    if watches.add_ended(keys[who], id, phase_of(id)).is_ok() {
                        model.insert((who, id), true);
                    }
                }
                3 => {
                    ended.insert(id);
                    watches.finished(id, phase_of(id));
                    for (_, end) in model.iter_mut().filter(|((_, of), _)| *of == id) {
                        *end = true;
                    }
                }
                4 => {
                    settle(&mut watches);
                    while let Some((id, phase)) = watches.next_ended(keys[who]) {
                        assert_eq!(model.remove(&(who, id)), Some(true));
                        assert_eq!(phase, phase_of(id));
                    }
                    let left = model.iter().filter(|((of, _), _)| *of == who);
                    assert!(left.clone().all(|(_, end)| !end));
                    assert_eq!(watches.is_idle(keys[who]), left.count() == 0);
                }
                _ => {
                    watches.close(keys[who]);
                    if random(2) == 0 {
                        settle(&mut watches);
                    }
                    keys[who] = watches.open(ONE);
                    model.retain(|(of, _), _| *of != who);
                }
            }
        }
        settle(&mut watches);
        assert_eq!(watches.named, model.len());
    }
}

#[test]
fn principal_who_takes_all_watches_leaves_some_to_others_and_has_them_back_when_they_are_read() {
    let other = Principal::Uid(2);
    let mut watches = Watches::new(1_000, 320, ShareRule::Shared);
    let (greedy, again) = (watches.open(ONE), watches.open(ONE));
    let mut count = 0;
    let refused = loop {
        // Over two streams: they are one principal's.
        let key = if count % 2 == 0 { greedy } else { again };
        match watches.add(key, task(count)) {
            Ok(()) => count += 1,
            Err(refused) => break refused,
        }
    };
    assert_eq!(count, 310);
    let TooManyWatches::Share(used_up) = refused else {
        panic!("{refused:?}");
    };
    let text = used_up.to_string();
    assert!(text.contains("uid 1 holds 310 of 320 watches"), "{text}");
    let key = watches.open(other);
    assert_eq!(watches.add(key, task(400)), Ok(()));
    watches.close(key);
    settle(&mut watches);
    watches.finished(task(0), Phase::Done);
    assert!(watches.add(greedy, task(500)).is_err(), "not read yet");
    assert!(watches.next_ended(greedy).is_some());
    assert_eq!(watches.add(greedy, task(500)), Ok(()));
    for key in [greedy, again] {
        watches.close(key);
    }
    settle(&mut watches);
    assert!(watches.accounts.is_empty());
}
