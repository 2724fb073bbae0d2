//! The bitmap against a set, with operations cut after each of their writes, and with threads.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{Bitmap, words_for};
use crate::sync::kill::{Killed, killed_after};
use crate::sync::{AtomicU64, Ordering, zeroed_words};

#[derive(Debug, Clone)]
enum Command {
    Take { hint: u32, limit: u32 },
    TakeAt(u32),
    GiveBack(u32),
    GiveBackTaken(u32),
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        8 => (any::<u32>(), any::<u32>()).prop_map(|(hint, limit)| Command::Take { hint, limit }),
        1 => any::<u32>().prop_map(Command::TakeAt),
        1 => any::<u32>().prop_map(Command::GiveBack),
        3 => any::<u32>().prop_map(Command::GiveBackTaken),
    ]
}

/// Lengths that end inside, at and after a word, and one with more than one window.
fn length() -> impl Strategy<Value = u32> {
    prop_oneof![
        1..130_u32,
        Just(4_095),
        Just(4_096),
        Just(4_097),
        Just(9_000)
    ]
}

/// What `take_below` should give.
fn expected(model: &BTreeSet<u32>, limit: u32, hint: u32) -> Option<u32> {
    let first = (0..limit).find(|entry| !model.contains(entry))?;
    let start = first - first % Bitmap::WINDOW;
    let end = limit.min(start + Bitmap::WINDOW);
    let from = start + hint % Bitmap::WINDOW;
    let mut round = (from..end).chain(start..from.min(end));
    round.find(|entry| !model.contains(entry))
}

fn run(bitmap: Bitmap<'_>, model: &mut BTreeSet<u32>, command: &Command) {
    let len = bitmap.len();
    match *command {
        Command::Take { hint, limit } => {
            let limit = if limit % 2 == 0 {
                len
            } else {
                limit % (len + 1)
            };
            let taken = bitmap.take_below(limit, hint);
            assert_eq!(taken, expected(model, limit, hint));
            model.extend(taken);
        }
        Command::TakeAt(entry) => {
            let entry = entry % (len + 2);
            assert_eq!(bitmap.take_at(entry), entry < len && model.insert(entry));
        }
        Command::GiveBack(entry) => {
            let entry = entry % (len + 2);
            assert_eq!(bitmap.give_back(entry), model.remove(&entry));
        }
        Command::GiveBackTaken(nth) => {
            let Some(&entry) = model.iter().nth(nth as usize % model.len().max(1)) else {
                return;
            };
            model.remove(&entry);
            assert!(bitmap.give_back(entry));
        }
    }
}

fn assert_equals(bitmap: Bitmap<'_>, model: &BTreeSet<u32>) {
    assert!(bitmap.iter_taken(0..u32::MAX).eq(model.iter().copied()));
    assert_eq!(bitmap.count_taken() as usize, model.len());
    assert_eq!(
        bitmap.high_water(),
        model.last().map_or(0, |&last| last + 1)
    );
    assert_eq!(bitmap.check().collect::<Vec<_>>(), []);
}

proptest! {
    #[test]
    fn behaves_as_a_set_of_taken_entries(
        len in length(),
        full in any::<bool>(),
        commands in prop::collection::vec(command(), 1..150),
    ) {
        let words = zeroed_words(words_for(len));
        let bitmap = Bitmap::new(&words, len);
        let mut model = BTreeSet::new();
        if full {
            model.extend(0..len - len / 50);
            bitmap.rebuild(model.iter().copied());
        }
        for command in &commands {
            run(bitmap, &mut model, command);
        }
        assert_equals(bitmap, &model);
        let range = len / 3..len / 2 + 1;
        prop_assert!(bitmap.iter_taken(range.clone()).eq(model.range(range).copied()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, ..ProptestConfig::default() })]

    #[test]
    fn an_operation_cut_at_any_write_is_healed_by_scrub(
        len in length(),
        missing in prop::collection::btree_set(any::<u32>(), 0..3),
        command in command(),
    ) {
        for writes in 0.. {
            let words = zeroed_words(words_for(len));
            let bitmap = Bitmap::new(&words, len);
            let mut model: BTreeSet<u32> = (0..len).collect();
            for entry in &missing {
                model.remove(&(entry % len));
            }
            bitmap.rebuild(model.iter().copied());
            let outcome = killed_after(writes, || run(bitmap, &mut model.clone(), &command));
            bitmap.scrub();
            // Whatever the cut left in the entries' bits, the summaries agree with it again ..
            prop_assert_eq!(bitmap.check().collect::<Vec<_>>(), []);
            // .. at most one entry differs, and all free ones can be had.
            let now: BTreeSet<u32> = bitmap.iter_taken(0..len).collect();
            prop_assert!(now.symmetric_difference(&model).count() <= 1);
            for _ in now.len()..len as usize {
                prop_assert!(bitmap.take(7).is_some());
            }
            prop_assert_eq!(bitmap.take(7), None);
            if outcome != Err(Killed) {
                break;
            }
        }
    }
}

proptest! {
    #[test]
    fn nonsense_in_the_words_never_hands_out_what_does_not_exist(
        len in length(),
        nonsense in prop::collection::vec((any::<prop::sample::Index>(), any::<u64>()), 0..40),
        commands in prop::collection::vec(command(), 1..20),
    ) {
        let words = zeroed_words(words_for(len));
        let bitmap = Bitmap::new(&words, len);
        for (at, word) in nonsense {
            words[at.index(words.len())].store(word, Ordering::Relaxed);
        }
        for command in commands {
            if let Command::Take { hint, limit } = command {
                prop_assert!(bitmap.take_below(limit, hint).is_none_or(|entry| entry < len));
            }
        }
        prop_assert!(bitmap.count_taken() <= len && bitmap.high_water() <= len);
        bitmap.scrub();
        prop_assert_eq!(bitmap.check().collect::<Vec<_>>(), []);
    }
}

#[test]
fn allocation_goes_round_within_the_lowest_window_with_room() {
    let words = zeroed_words(words_for(10_000));
    let bitmap = Bitmap::new(&words, 10_000);
    let mut hint = 4_094;
    let mut taken = Vec::new();
    for _ in 0..4 {
        let entry = bitmap.take(hint).unwrap();
        assert!(bitmap.give_back(entry));
        taken.push(entry);
        hint = entry + 1;
    }
    assert_eq!(taken, [4_094, 4_095, 0, 1]);
}

#[test]
fn giving_back_twice_changes_nothing() {
    let words = zeroed_words(words_for(100));
    let bitmap = Bitmap::new(&words, 100);
    let entry = bitmap.take(0).unwrap();
    assert!(bitmap.give_back(entry));
    assert!(!bitmap.give_back(entry));
    assert!(!bitmap.give_back(100));
    assert_eq!(bitmap.count_taken(), 0);
}

#[test]
fn threads_never_get_the_same_entry_and_all_come_back() {
    const LEN: u32 = 130;
    const ROUNDS: u32 = if cfg!(debug_assertions) {
        20_000
    } else {
        500_000
    };
    let words = zeroed_words(words_for(LEN));
    let owners = zeroed_words(LEN as usize);
    let barrier = std::sync::Barrier::new(3);
    std::thread::scope(|scope| {
        for me in 1..=3_u64 {
            let (bitmap, owners, barrier) = (Bitmap::new(&words, LEN), &owners, &barrier);
            scope.spawn(move || {
                barrier.wait();
                let mut held: Vec<u32> = Vec::new();
                for round in 0..ROUNDS {
                    if let Some(entry) = bitmap.take(round) {
                        let owner: &AtomicU64 = &owners[entry as usize];
                        assert_eq!(owner.swap(me, Ordering::AcqRel), 0, "entry {entry} twice");
                        held.push(entry);
                    }
                    if held.len() > 50 || (round % 3 == 0 && !held.is_empty()) {
                        let entry = held.swap_remove(round as usize % held.len());
                        assert_eq!(owners[entry as usize].swap(0, Ordering::AcqRel), me);
                        assert!(bitmap.give_back(entry));
                    }
                }
                for entry in held {
                    assert_eq!(owners[entry as usize].swap(0, Ordering::AcqRel), me);
                    assert!(bitmap.give_back(entry));
                }
            });
        }
    });
    let bitmap = Bitmap::new(&words, LEN);
    assert_eq!(bitmap.count_taken(), 0);
    // A summary may be wrongly 0 after racing, never wrongly 1.
    assert!((0..LEN).all(|_| bitmap.take(0).is_some()));
}
