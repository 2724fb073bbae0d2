//! The key table against a sorted map, cut at every write, and full of nonsense.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{BUCKET_ENTRIES, KeyEntry, KeyId, KeyPlace, KeyTable, KeyView, KeysFull, SettledKeys};
use crate::id::{SlotIndex, TASKS_COUNT_MAX, TaskId};
use crate::sync::kill::{Killed, killed_after};
use crate::sync::{AtomicU64, Ordering, zeroed_words};
use crate::time::{Now, STAMP_MAX};

/// A table in memory of its own.
struct Cabinet {
    words: Box<[AtomicU64]>,
    used: AtomicU64,
    seed: u64,
}

impl Cabinet {
    fn new(buckets: usize) -> Self {
        Self {
            words: zeroed_words(buckets * BUCKET_ENTRIES * 4),
            used: AtomicU64::new(0),
            seed: 0x5eed,
        }
    }

    fn keys(&self) -> KeyTable<'_> {
        KeyTable::new(KeyView::new(&self.words, self.seed), &self.used)
    }

    fn all(&self) -> BTreeMap<KeyId, KeyEntry> {
        let mut all = BTreeMap::new();
        for entry in self.keys().iter() {
            assert!(all.insert(entry.key, entry).is_none(), "{entry:?} twice");
            let found = self.keys().find(entry.key, Now::from_ns(0));
            assert_eq!(found, Some(entry).filter(|entry| entry.expiry > 0));
        }
        all
    }
}

fn key(number: u64) -> KeyId {
    KeyId::from_words([number + 1, number / 3]).unwrap()
}

fn task(number: u64) -> TaskId {
    let slot = u32::try_from(number % 1_000).unwrap();
    TaskId::new(
        number + 1,
        SlotIndex::new_checked(slot, TASKS_COUNT_MAX).unwrap(),
    )
}

fn at(stamp: u64) -> Now {
    Now::from_stamp(stamp)
}

#[derive(Debug, Clone)]
enum Command {
    Reserve {
        key: u64,
        task: u64,
        life: u64,
        confirm: bool,
    },
    Remove {
        key: u64,
        own: bool,
    },
    /// The task of this key was acknowledged.
    Spend(u64),
    Find(u64),
    Expire,
    Settle {
        there: u64,
    },
    Wait(u64),
}

fn command() -> impl Strategy<Value = Command> {
    let number = 0..40_u64;
    prop_oneof![
        6 => (number.clone(), any::<u32>(), 0..30_u64, any::<bool>()).prop_map(
            |(key, task, life, confirm)| Command::Reserve { key, task: u64::from(task), life, confirm }
        ),
        2 => (number.clone(), any::<bool>()).prop_map(|(key, own)| Command::Remove { key, own }),
        2 => number.clone().prop_map(Command::Spend),
        3 => number.prop_map(Command::Find),
        1 => Just(Command::Expire),
        1 => (0..4_u64).prop_map(|there| Command::Settle { there }),
        2 => (0..10_u64).prop_map(Command::Wait),
    ]
}

/// What the table must say: the map of all entries that were not erased, and the time.
#[derive(Debug, Default, Clone)]
struct Model {
    entries: BTreeMap<KeyId, KeyEntry>,
    stamp: u64,
}

fn exists(task: TaskId, there: u64) -> bool {
    task.generation() % 4 >= there
}

fn reserve(keys: KeyTable<'_>, model: &mut Model, entry: KeyEntry) {
    let reserved = keys.reserve(entry.key, entry.task, entry.expiry, at(model.stamp));
    let place = match reserved {
        Ok(place) => place,
        Err(full) => {
            assert!(!model.entries.contains_key(&entry.key));
            assert_is_full(keys, model.stamp, entry.key, full);
            return;
        }
    };
    model.entries.remove(&entry.key);
    // An expired entry of another key may have been used again, and only such a one.
    let kept: Vec<KeyId> = keys.iter().map(|entry| entry.key).collect();
    let gone = |key: &&KeyId| !kept.contains(key);
    let lost: Vec<KeyId> = model.entries.keys().filter(gone).copied().collect();
    assert!(lost.len() <= 1);
    for key in lost {
        let entry = model.entries.remove(&key).unwrap();
        assert!(entry.expiry <= model.stamp, "{entry:?} was alive");
    }
    if entry.confirmed {
        assert!(keys.confirm(place));
    }
    model.entries.insert(entry.key, entry);
}

/// Refused only where all places are full of keys that are alive: of all its buckets, and none is spent, or of the one that is named,
/// one is spent, and no other has fewer that are not.
fn assert_is_full(keys: KeyTable<'_>, stamp: u64, key: KeyId, full: KeysFull) {
    let in_the_way = |place: &u32| {
        let entry = keys.at(*place).filter(|entry| entry.expiry > stamp);
        entry.is_some_and(|entry| !entry.spent)
    };
    let Some(bucket) = full.spent_in else {
        assert!(keys.entries_of(key).all(|place| in_the_way(&place)));
        return;
    };
    let places = keys.places_of_bucket(bucket);
    let alive = |place| keys.at(place).is_some_and(|entry| entry.expiry > stamp);
    assert!(places.clone().all(alive));
    let kept = places.clone().filter(in_the_way).count();
    assert!(kept < BUCKET_ENTRIES);
    let (here, elsewhere): (Vec<u32>, Vec<u32>) = keys
        .entries_of(key)
        .partition(|place| places.contains(place));
    assert_eq!(here.len(), BUCKET_ENTRIES);
    assert!(elsewhere.is_empty() || elsewhere.iter().copied().filter(in_the_way).count() >= kept);
}

fn run(keys: KeyTable<'_>, model: &mut Model, command: &Command) {
    match *command {
        Command::Reserve {
            key: number,
            task: id,
            life,
            confirm,
        } => {
            let entry = KeyEntry {
                key: key(number),
                task: task(id),
                expiry: model.stamp + life,
                confirmed: confirm,
                spent: false,
            };
            reserve(keys, model, entry);
        }
        Command::Remove { key: number, own } => {
            let found = model.entries.get(&key(number)).map(|entry| entry.task);
            let named = found
                .filter(|_| own)
                .unwrap_or_else(|| task(u64::MAX >> 40));
            let removed = keys.remove(key(number), named);
            assert_eq!(removed, found == Some(named));
            if removed {
                model.entries.remove(&key(number));
            }
        }
        Command::Spend(number) => {
            let Some(entry) = model.entries.get_mut(&key(number)) else {
                return;
            };
            let place = keys.find_placed(key(number), at(0)).map(|(place, _)| place);
            let Some(place) = place else {
                // It has no time at all.
                assert_eq!(entry.expiry, 0);
                return;
            };
            assert!(!keys.spend_at(place, task(u64::MAX >> 40)));
            assert_eq!(keys.spend_at(place, entry.task), !entry.spent);
            entry.spent = true;
        }
        Command::Find(number) => {
            let alive = |entry: &&KeyEntry| entry.expiry > model.stamp;
            let expected = model.entries.get(&key(number)).filter(alive).copied();
            assert_eq!(keys.find(key(number), at(model.stamp)), expected);
        }
        Command::Expire => {
            let before = model.entries.len();
            model.entries.retain(|_, entry| entry.expiry > model.stamp);
            let count = keys.expire(0..keys.capacity(), at(model.stamp), |_, _| ());
            assert_eq!(count as usize, before - model.entries.len());
        }
        Command::Settle { there } => {
            let settled = keys.settle_by(|task| exists(task, there));
            let mut expected = SettledKeys::default();
            model.entries.retain(|_, entry| {
                let keep = entry.confirmed || exists(entry.task, there);
                expected.removed += u32::from(!keep);
                expected.confirmed += u32::from(keep && !entry.confirmed);
                entry.confirmed = true;
                keep
            });
            assert_eq!(settled, expected);
        }
        Command::Wait(stamps) => model.stamp += stamps,
    }
}

proptest! {
    #[test]
    fn behaves_as_a_map_of_keys(
        buckets in 1_usize..6,
        commands in prop::collection::vec(command(), 1..200),
    ) {
        let cabinet = Cabinet::new(buckets);
        let mut model = Model::default();
        for command in &commands {
            run(cabinet.keys(), &mut model, command);
            prop_assert_eq!(&cabinet.all(), &model.entries);
        }
    }

    #[test]
    fn an_operation_cut_at_any_write_leaves_each_key_as_it_was_or_as_it_becomes(
        before in prop::collection::vec(command(), 0..40),
        cut in command(),
        there in 0..4_u64,
    ) {
        for writes in 0.. {
            let cabinet = Cabinet::new(3);
            let mut model = Model::default();
            for command in &before {
                run(cabinet.keys(), &mut model, command);
            }
            let old = model.clone();
            let mut new = model.clone();
            let outcome = killed_after(writes, || run(cabinet.keys(), &mut new, &cut));
            let new = if outcome.is_ok() { new } else { old.clone() };
            assert_each_key_is_whole(&cabinet.all(), &old, &new, &cut);
            // Settled by the next start, which may be cut as well, and again.
            for writes in 0.. {
                let settle = || cabinet.keys().settle_by(|task| exists(task, there));
                let settled = killed_after(writes, settle);
                if settled != Err(Killed) {
                    break;
                }
            }
            for entry in cabinet.all().values() {
                let was = old.entries.get(&entry.key);
                let known = was.is_some_and(|was| was.confirmed && was.task == entry.task);
                prop_assert!(entry.confirmed);
                prop_assert!(known || exists(entry.task, there) || confirms(&cut, entry));
            }
            if outcome != Err(Killed) {
                break;
            }
        }
    }

    #[test]
    fn nonsense_in_the_words_costs_keys_but_neither_panics_nor_hangs(
        buckets in 0_usize..4,
        nonsense in prop::collection::vec((any::<prop::sample::Index>(), any::<u64>()), 0..60),
        commands in prop::collection::vec(0..40_u64, 1..40),
    ) {
        let cabinet = Cabinet::new(buckets);
        let keys = cabinet.keys();
        for number in 0..20 {
            let _ = keys.reserve(key(number), task(number), number, at(0));
        }
        for (index, word) in nonsense.iter().filter(|_| buckets > 0) {
            cabinet.words[index.index(cabinet.words.len())].store(*word, Ordering::Relaxed);
        }
        for number in &commands {
            let _ = (keys.find(key(*number), at(3)), keys.iter().count());
            let _ = keys.remove(key(*number), task(*number));
            let _ = keys.reserve(key(*number), task(*number), 9, at(3)).map(|place| keys.confirm(place));
        }
        let _ = keys.expire(3..u32::MAX, at(5), |_, _| ());
        keys.settle_by(|_| true);
        prop_assert_eq!(keys.impossible().count(), 0);
        prop_assert!(keys.iter().all(|entry| entry.confirmed));
        // What no look can find expires like everything else, but for what never does.
        keys.expire(0..u32::MAX, at(STAMP_MAX), |_, _| ());
        prop_assert!(keys.iter().all(|entry| entry.expiry >= STAMP_MAX));
    }
}

fn confirms(cut: &Command, entry: &KeyEntry) -> bool {
    match *cut {
        Command::Reserve {
            key: number,
            confirm,
            ..
        } => confirm && key(number) == entry.key,
        Command::Settle { there } => exists(entry.task, there),
        Command::Remove { .. }
        | Command::Spend(_)
        | Command::Find(_)
        | Command::Expire
        | Command::Wait(_) => false,
    }
}

/// Nothing but what was there, or what the command puts there; no mixture of the two.
fn assert_each_key_is_whole(
    found: &BTreeMap<KeyId, KeyEntry>,
    old: &Model,
    new: &Model,
    cut: &Command,
) {
    for entry in found.values() {
        let same = |model: &Model| {
            let known = model.entries.get(&entry.key);
            known.is_some_and(|known| (known.task, known.expiry) == (entry.task, entry.expiry))
        };
        let put = match *cut {
            Command::Reserve {
                key: number,
                task: id,
                life,
                ..
            } => {
                let written = (key(number), task(id), old.stamp + life);
                (entry.key, entry.task, entry.expiry) == written
            }
            Command::Remove { .. }
            | Command::Spend(_)
            | Command::Find(_)
            | Command::Expire
            | Command::Settle { .. }
            | Command::Wait(_) => false,
        };
        assert!(
            same(old) || same(new) || put,
            "{entry:?} after a cut {cut:?}"
        );
    }
    let missing: Vec<_> = old
        .entries
        .values()
        .filter(|entry| !found.contains_key(&entry.key))
        .collect();
    for entry in &missing {
        let expected = match *cut {
            Command::Reserve { key: number, .. } => {
                key(number) == entry.key || entry.expiry <= old.stamp
            }
            Command::Remove { key: number, .. } => key(number) == entry.key,
            Command::Expire => entry.expiry <= old.stamp,
            Command::Settle { there } => !entry.confirmed && !exists(entry.task, there),
            Command::Spend(_) | Command::Find(_) | Command::Wait(_) => false,
        };
        assert!(expected, "{entry:?} is lost after a cut {cut:?}");
    }
}

#[test]
fn table_is_seven_tenths_full_before_the_first_key_is_refused() {
    for seed in 1..6 {
        let cabinet = Cabinet {
            seed,
            ..Cabinet::new(2048)
        };
        let keys = cabinet.keys();
        let capacity = u64::from(keys.capacity());
        let refused = (0..capacity).find(|&number| {
            keys.reserve(key(number * 7), task(number), STAMP_MAX, at(0))
                .is_err()
        });
        let refused = refused.unwrap_or(capacity);
        assert!(refused * 10 >= capacity * 7, "{refused} of {capacity}");
        // What expires makes room at once, without a sweep.
        let late = keys.reserve(key(capacity * 100), task(1), STAMP_MAX, at(STAMP_MAX));
        assert!(late.is_ok());
    }
}

/// A table beside whoever lets the oldest spent key of a bucket go where one is in the way.
struct Shelf {
    cabinet: Cabinet,
    next: u64,
}

impl Shelf {
    fn new(seed: u64) -> Self {
        let cabinet = Cabinet {
            seed,
            ..Cabinet::new(2048)
        };
        Self { cabinet, next: 0 }
    }

    fn part(&self, of_a_hundred: u64) -> u64 {
        u64::from(self.cabinet.keys().capacity()) * of_a_hundred / 100
    }

    /// Takes one key more; it was never seen before.
    fn take(&mut self) -> Result<u64, KeysFull> {
        let (number, keys) = (self.next, self.cabinet.keys());
        self.next += 1;
        let reserve = || keys.reserve(key(number), task(number), STAMP_MAX, at(0));
        if let Err(full) = reserve() {
            assert_is_full(keys, 0, key(number), full);
            let bucket = full.spent_in.ok_or(full)?;
            let near = keys.places_of_bucket(bucket);
            let spent = near
                .filter_map(|place| Some((keys.at(place)?, place)))
                .filter(|(entry, _)| entry.spent);
            let (oldest, place) = spent
                .min_by_key(|(entry, _)| entry.task.generation())
                .unwrap();
            assert!(keys.remove_at(place, oldest.task));
            reserve().unwrap();
        }
        Ok(number)
    }

    fn spend(&self, number: u64) {
        let table = self.cabinet.keys();
        let (place, _) = table.find_placed(key(number), at(0)).unwrap();
        assert!(table.spend_at(place, task(number)));
    }
}

#[test]
fn spent_keys_take_no_place_from_others_wherever_they_lie() {
    for seed in 1..9 {
        let mut shelf = Shelf::new(seed);
        for _ in 0..shelf.part(200) {
            let number = shelf.take().unwrap();
            shelf.spend(number);
        }
        // As many as an empty table takes without fail.
        for count in 0..shelf.part(62) {
            let taken = shelf.take();
            assert!(taken.is_ok(), "seed {seed}: {count} lie there");
        }
    }
}

#[test]
fn half_a_table_of_keys_that_come_and_are_spent_refuses_none() {
    for seed in 1..5 {
        let mut shelf = Shelf::new(seed);
        let mut kept: Vec<u64> = Vec::new();
        for turn in 0..shelf.part(300) {
            if kept.len() as u64 >= shelf.part(50) {
                // Any of them: the order is that of a hash.
                let at = turn.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
                let number = kept.swap_remove(usize::try_from(at).unwrap() % kept.len());
                shelf.spend(number);
            }
            let taken = shelf.take();
            kept.push(taken.unwrap_or_else(|full| panic!("seed {seed}, turn {turn}: {full}")));
        }
    }
}

#[test]
fn keys_that_fitted_before_are_put_back_whatever_their_order() {
    for seed in 1..4 {
        let cabinet = Cabinet {
            seed,
            ..Cabinet::new(256)
        };
        let keys = cabinet.keys();
        let count = u64::from(keys.capacity()) * 19 / 20;
        for number in 0..count {
            keys.put_back(key(number * 11), task(number), number + 1, at(0))
                .unwrap();
        }
        let all = cabinet.all();
        assert_eq!(all.len() as u64, count);
        for number in 0..count {
            let entry = all[&key(number * 11)];
            assert_eq!((entry.task, entry.expiry), (task(number), number + 1));
            assert!(entry.confirmed);
        }
        assert_eq!(keys.misplaced().count(), 0);
    }
}

#[test]
fn full_table_refuses_to_put_back_and_keeps_what_it_has() {
    let cabinet = Cabinet::new(2);
    let keys = cabinet.keys();
    let put = |number| {
        keys.put_back(key(number), task(number), 9, at(0))
            .map_err(drop)
    };
    let taken: Vec<u64> = (0..64).filter(|&number| put(number).is_ok()).collect();
    let all: Vec<u64> = (0..64)
        .filter(|&number| keys.find(key(number), at(0)).is_some())
        .collect();
    assert_eq!(taken, all);
    assert!((8..=16).contains(&taken.len()), "{taken:?}");
}

#[test]
fn table_without_room_refuses_with_its_capacity() {
    let cabinet = Cabinet::new(0);
    let refused = cabinet.keys().reserve(key(1), task(1), 5, at(0));
    assert_eq!(refused.unwrap_err().capacity, 0);
    assert_eq!(cabinet.keys().find(key(1), at(0)), None);
}

#[test]
fn late_confirmation_leaves_the_next_key_alone() {
    let cabinet = Cabinet::new(1);
    let keys = cabinet.keys();
    let first = keys.reserve(key(1), task(1), 10, at(0)).unwrap();
    assert!(keys.remove(key(1), task(1)));
    let second = keys.reserve(key(2), task(2), 10, at(0)).unwrap();
    assert_eq!(first.index, second.index);
    assert!(!keys.confirm(first));
    assert!(!keys.find(key(2), at(0)).unwrap().confirmed);
    assert!(keys.confirm(second));
    assert!(keys.find(key(2), at(0)).unwrap().confirmed);
    assert!(!keys.confirm(KeyPlace {
        index: u32::MAX,
        task: task(1)
    }));
}

#[test]
fn table_never_used_says_so() {
    let cabinet = Cabinet::new(1);
    assert!(!cabinet.keys().is_used());
    cabinet.keys().reserve(key(1), task(1), 10, at(0)).unwrap();
    assert!(cabinet.keys().is_used());
}

#[test]
fn key_is_its_bytes_and_all_zero_is_none() {
    let bytes: [u8; 16] = core::array::from_fn(|index| u8::try_from(index).unwrap());
    let id = KeyId::from_bytes(&bytes).unwrap();
    assert_eq!(id.to_bytes(), bytes);
    assert_eq!(id.to_string(), "000102030405060708090a0b0c0d0e0f");
    assert_eq!(KeyId::from_words(id.words()), Some(id));
    assert_eq!(KeyId::from_bytes(&[0; 16]), None);
    assert_eq!(KeyId::from_words([0, 0]), None);
}
