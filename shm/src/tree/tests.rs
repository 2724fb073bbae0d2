//! The tree against a naive model, with operations cut after each of their writes, with nonsense in
//! its words, and with threads.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{Key, MinTree, TreeShape};
use crate::sync::kill::{Killed, killed_after};
use crate::sync::{AtomicU64, Ordering, zeroed_words};

/// A tree with its memory.
struct Grove<const FANOUT: usize> {
    shape: TreeShape<FANOUT>,
    words: Box<[AtomicU64]>,
}

impl<const FANOUT: usize> Grove<FANOUT> {
    fn new(capacity: u32) -> Self {
        let shape = TreeShape::new(capacity);
        let words = zeroed_words(shape.words());
        Self { shape, words }
    }

    fn tree(&self) -> MinTree<'_, FANOUT> {
        MinTree::new(&self.words, &self.shape)
    }
}

fn violations<const FANOUT: usize>(tree: MinTree<'_, FANOUT>) -> Vec<String> {
    tree.check()
        .map(|violation| violation.to_string())
        .collect()
}

/// What the tree should hand out, in order: best key first, lowest leaf first among equals.
fn in_order(model: &BTreeMap<u32, u64>) -> Vec<(u32, Key)> {
    let sorted: BTreeSet<(u64, u32)> = model.iter().map(|(&leaf, &key)| (key, leaf)).collect();
    sorted
        .into_iter()
        .map(|(key, leaf)| (leaf, Key::from_raw(key)))
        .collect()
}

#[derive(Debug, Clone)]
enum Command {
    Insert(u32, u64),
    Remove(u32, u64),
    RemovePresent(u32),
    Rekey(u32, u64),
    Set(u32, Option<u64>),
    Restore(u32, u64),
    Pop,
    Scrub(u32, u32),
}

fn command(capacity: u32) -> impl Strategy<Value = Command> {
    let leaf = 0..capacity;
    let key = prop_oneof![
        0..20_u64,
        any::<u64>().prop_map(|key| key.min(u64::MAX - 1))
    ];
    prop_oneof![
        6 => (leaf.clone(), key.clone()).prop_map(|(leaf, key)| Command::Insert(leaf, key)),
        1 => (leaf.clone(), key.clone()).prop_map(|(leaf, key)| Command::Remove(leaf, key)),
        2 => leaf.clone().prop_map(Command::RemovePresent),
        2 => (leaf.clone(), key.clone()).prop_map(|(leaf, key)| Command::Rekey(leaf, key)),
        2 => (leaf.clone(), prop::option::of(key.clone()))
            .prop_map(|(leaf, key)| Command::Set(leaf, key)),
        1 => (leaf.clone(), key).prop_map(|(leaf, key)| Command::Restore(leaf, key)),
        4 => Just(Command::Pop),
        1 => (leaf.clone(), leaf).prop_map(|(from, to)| Command::Scrub(from, to)),
    ]
}

fn run<const FANOUT: usize>(
    tree: MinTree<'_, FANOUT>,
    model: &mut BTreeMap<u32, u64>,
    command: &Command,
) {
    match *command {
        Command::Insert(leaf, key) => {
            let inserted = tree.insert(leaf, Key::from_raw(key));
            assert_eq!(
                inserted.map_err(|found| found.0.as_raw()),
                match model.get(&leaf) {
                    Some(&present) => Err(present),
                    None => Ok(()),
                }
            );
            model.entry(leaf).or_insert(key);
        }
        Command::Remove(leaf, key) => {
            let present = model.get(&leaf) == Some(&key);
            assert_eq!(tree.remove(leaf, Key::from_raw(key)), present);
            if present {
                model.remove(&leaf);
            }
        }
        Command::RemovePresent(leaf) => {
            let key = model.remove(&leaf);
            assert_eq!(tree.leaf(leaf).map(Key::as_raw), key);
            assert!(key.is_none_or(|key| tree.remove(leaf, Key::from_raw(key))));
        }
        Command::Rekey(leaf, to) => {
            let from = model.get(&leaf).copied().unwrap_or(3);
            let present = model.contains_key(&leaf);
            assert_eq!(
                tree.rekey(leaf, Key::from_raw(from), Key::from_raw(to)),
                present
            );
            model.entry(leaf).and_modify(|key| *key = to);
        }
        Command::Set(leaf, key) => {
            tree.set(leaf, key.map_or(Key::EMPTY, Key::from_raw));
            match key {
                Some(key) => model.insert(leaf, key),
                None => model.remove(&leaf),
            };
        }
        Command::Restore(leaf, key) => {
            let fits = model.get(&leaf).is_none_or(|&present| present == key);
            assert_eq!(tree.restore(leaf, Key::from_raw(key)).is_ok(), fits);
            model.entry(leaf).or_insert(key);
        }
        Command::Pop => {
            let best = in_order(model).first().copied();
            assert_eq!(tree.locate(), best);
            if let Some((leaf, key)) = best {
                assert!(tree.remove(leaf, key));
                model.remove(&leaf);
            }
        }
        Command::Scrub(from, to) => assert_eq!(tree.scrub_leaves(from..to), 0),
    }
}

proptest! {
    #[test]
    fn behaves_as_a_sorted_map_of_leaves(
        capacity in 1_u32..200,
        commands in prop::collection::vec(command(200), 1..200),
    ) {
        let (eight, two) = (Grove::<8>::new(capacity), Grove::<2>::new(capacity));
        for grove in [0, 1] {
            let mut model = BTreeMap::new();
            for command in &commands {
                let command = within(capacity, command);
                if grove == 0 {
                    run(eight.tree(), &mut model, &command);
                } else {
                    run(two.tree(), &mut model, &command);
                }
            }
            let order = in_order(&model);
            if grove == 0 {
                prop_assert_eq!(eight.tree().entries_in_order().collect::<Vec<_>>(), order);
                prop_assert_eq!(violations(eight.tree()), Vec::<String>::new());
            } else {
                prop_assert_eq!(two.tree().entries_in_order().collect::<Vec<_>>(), order);
                prop_assert_eq!(violations(two.tree()), Vec::<String>::new());
            }
        }
    }

    #[test]
    fn rebuild_replaces_everything(
        old in prop::collection::btree_map(0_u32..300, 0_u64..50, 0..100),
        new in prop::collection::btree_map(0_u32..400, 0_u64..50, 0..100),
    ) {
        let grove = Grove::<8>::new(300);
        let tree = grove.tree();
        tree.rebuild(old.into_iter().map(|(leaf, key)| (leaf, Key::from_raw(key))));
        prop_assert_eq!(violations(tree), Vec::<String>::new());
        tree.rebuild(new.iter().map(|(&leaf, &key)| (leaf, Key::from_raw(key))));
        prop_assert_eq!(violations(tree), Vec::<String>::new());
        let kept = new.into_iter().filter(|&(leaf, _)| leaf < 300).collect();
        prop_assert_eq!(tree.entries_in_order().collect::<Vec<_>>(), in_order(&kept));
    }

    #[test]
    fn nonsense_in_the_words_costs_order_but_neither_panics_nor_hangs(
        capacity in 1_u32..300,
        nonsense in prop::collection::vec((any::<prop::sample::Index>(), any::<u64>()), 0..40),
        commands in prop::collection::vec(command(300), 1..40),
    ) {
        let grove = Grove::<8>::new(capacity);
        let tree = grove.tree();
        for (at, word) in nonsense {
            grove.words[at.index(grove.words.len())].store(word, Ordering::Relaxed);
        }
        let _ = (violations(tree), tree.entries_in_order().count());
        for command in commands {
            run_unchecked(tree, &within(capacity, &command));
        }
        // After a scrub every leaf can be had, in order, and the padding is clean.
        tree.scrub();
        let mut leaves: BTreeMap<u32, u64> = BTreeMap::new();
        leaves.extend((0..capacity).filter_map(|leaf| Some((leaf, tree.leaf(leaf)?.as_raw()))));
        let mut order = Vec::new();
        while let Some((leaf, key)) = tree.locate() {
            prop_assert!(tree.remove(leaf, key));
            order.push((leaf, key));
        }
        prop_assert_eq!(order, in_order(&leaves));
        prop_assert_eq!(violations(tree), Vec::<String>::new());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, ..ProptestConfig::default() })]

    #[test]
    fn an_operation_cut_at_any_write_loses_nothing_and_leaves_no_phantom(
        capacity in prop_oneof![Just(8_u32), Just(64), Just(65), Just(512)],
        fill in prop::collection::btree_map(0_u32..512, 0_u64..1_000, 0..150),
        cut in command(512),
    ) {
        let fill: BTreeMap<u32, u64> =
            fill.into_iter().filter(|&(leaf, _)| leaf < capacity).collect();
        let cut = within(capacity, &cut);
        for writes in 0.. {
            let grove = Grove::<8>::new(capacity);
            let tree = grove.tree();
            tree.rebuild(fill.iter().map(|(&leaf, &key)| (leaf, Key::from_raw(key))));
            let outcome = killed_after(writes, || run_unchecked(tree, &cut));
            others_are_still_found(tree, &fill, &cut);
            // The truth is in the leaves; the scrub must bring everything else in line with them.
            tree.scrub();
            prop_assert_eq!(violations(tree), Vec::<String>::new());
            let leaves = (0..capacity).filter_map(|leaf| Some((leaf, tree.leaf(leaf)?.as_raw())));
            let leaves: BTreeMap<u32, u64> = leaves.collect();
            for (leaf, key) in &fill {
                prop_assert!(leaves.get(leaf) == Some(key) || touches(&cut, *leaf, &fill));
            }
            prop_assert_eq!(tree.entries_in_order().collect::<Vec<_>>(), in_order(&leaves));
            if outcome != Err(Killed) {
                break;
            }
        }
    }
}

/// In a sequential run a cut operation may hide its own entry only: everyone else's is handed out by
/// locate and remove alone, before any scrub.
fn others_are_still_found(tree: MinTree<'_, 8>, fill: &BTreeMap<u32, u64>, cut: &Command) {
    let copy = Grove::<8>::new(tree.capacity());
    for (to, from) in copy.words.iter().zip(tree.words) {
        to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
    }
    let mut found = BTreeMap::new();
    while let Some((leaf, key)) = copy.tree().locate() {
        assert!(
            copy.tree().remove(leaf, key),
            "locate hands out what is in the leaf"
        );
        assert!(
            found.insert(leaf, key.as_raw()).is_none(),
            "leaf {leaf} handed out twice"
        );
    }
    for (leaf, key) in fill {
        assert!(
            found.get(leaf) == Some(key) || touches(cut, *leaf, fill),
            "leaf {leaf} is hidden after a cut {cut:?}"
        );
    }
}

/// May the command change this leaf?
fn touches(command: &Command, leaf: u32, fill: &BTreeMap<u32, u64>) -> bool {
    match *command {
        Command::Insert(own, _)
        | Command::Remove(own, _)
        | Command::RemovePresent(own)
        | Command::Rekey(own, _)
        | Command::Set(own, _)
        | Command::Restore(own, _) => own == leaf,
        Command::Pop => in_order(fill)
            .first()
            .is_some_and(|&(best, _)| best == leaf),
        Command::Scrub(..) => false,
    }
}

fn within(capacity: u32, command: &Command) -> Command {
    match *command {
        Command::Insert(leaf, key) => Command::Insert(leaf % capacity, key),
        Command::Remove(leaf, key) => Command::Remove(leaf % capacity, key),
        Command::RemovePresent(leaf) => Command::RemovePresent(leaf % capacity),
        Command::Rekey(leaf, key) => Command::Rekey(leaf % capacity, key),
        Command::Set(leaf, key) => Command::Set(leaf % capacity, key),
        Command::Restore(leaf, key) => Command::Restore(leaf % capacity, key),
        Command::Pop => Command::Pop,
        Command::Scrub(from, to) => Command::Scrub(from, to),
    }
}

/// Runs a command on a tree of unknown content.
fn run_unchecked(tree: MinTree<'_, 8>, command: &Command) {
    match *command {
        Command::Insert(leaf, key) => drop(tree.insert(leaf, Key::from_raw(key))),
        Command::Remove(leaf, key) => drop(tree.remove(leaf, Key::from_raw(key))),
        Command::RemovePresent(leaf) => {
            let _ = tree.leaf(leaf).map(|key| tree.remove(leaf, key));
        }
        Command::Rekey(leaf, to) => {
            let _ = tree
                .leaf(leaf)
                .map(|key| tree.rekey(leaf, key, Key::from_raw(to)));
        }
        Command::Set(leaf, key) => tree.set(leaf, key.map_or(Key::EMPTY, Key::from_raw)),
        Command::Restore(leaf, key) => drop(tree.restore(leaf, Key::from_raw(key))),
        Command::Pop => {
            let _ = tree.locate().map(|(leaf, key)| tree.remove(leaf, key));
        }
        Command::Scrub(from, to) => drop(tree.scrub_leaves(from..to)),
    }
}

#[test]
fn zeroed_memory_is_the_empty_tree() {
    let grove = Grove::<8>::new(4_096);
    assert_eq!(grove.tree().locate(), None);
    assert_eq!(grove.tree().first_key(), None);
    assert_eq!(violations(grove.tree()), Vec::<String>::new());
}

#[test]
fn the_best_key_beside_a_leaf_is_that_of_all_others() {
    let grove = Grove::<8>::new(600);
    let tree = grove.tree();
    for (leaf, key) in [(3, 5), (4, 9), (77, 7), (512, 6)] {
        tree.insert(leaf, Key::from_raw(key)).unwrap();
    }
    let beside = |leaf| tree.best_beside(leaf).map(Key::as_raw);
    assert_eq!([3, 512, 77, 4, 5].map(beside), [6, 5, 5, 5, 5].map(Some));
    for leaf in [3, 512, 77, 4, 5] {
        let second = tree
            .second_beside(leaf)
            .and_then(|second| tree.leaf_of_second(second));
        assert_eq!(second, Some(if leaf == 3 { 512 } else { 3 }));
    }
    let alone = Grove::<8>::new(600);
    alone.tree().insert(9, Key::from_raw(1)).unwrap();
    assert_eq!(alone.tree().best_beside(9), None);
    assert_eq!(alone.tree().second_beside(9), None);
}

#[test]
fn a_late_remove_leaves_the_next_tenant_alone() {
    let grove = Grove::<8>::new(64);
    let tree = grove.tree();
    let (first, second) = (Key::ready(5, 100, 1), Key::ready(5, 100, 2));
    tree.insert(9, first).unwrap();
    assert!(tree.remove(9, first));
    tree.insert(9, second).unwrap();
    assert!(!tree.remove(9, first));
    assert_eq!(tree.locate(), Some((9, second)));
}

#[test]
fn an_insert_into_a_used_leaf_is_refused_with_what_is_there() {
    let grove = Grove::<8>::new(64);
    let tree = grove.tree();
    tree.insert(3, Key::from_raw(70)).unwrap();
    let refused = tree.insert(3, Key::from_raw(2)).unwrap_err();
    assert_eq!(refused.0, Key::from_raw(70));
    assert!(tree.restore(3, Key::from_raw(71)).is_err());
    assert_eq!(tree.locate(), Some((3, Key::from_raw(70))));
}

/// One entry of a stress run: odd while the leaf holds an entry of that generation, even while free.
fn claim(state: &AtomicU64, from: u64) -> bool {
    state
        .compare_exchange(from, from + 1, Ordering::AcqRel, Ordering::Acquire)
        .is_ok()
}

fn produce(tree: MinTree<'_, 8>, states: &[AtomicU64], seed: u64, entries: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut left = entries;
    while left > 0 {
        let leaf = random.u32(0..tree.capacity());
        let state = &states[leaf as usize];
        let now = state.load(Ordering::Acquire);
        if now % 2 == 1 || tree.leaf(leaf).is_some() || !claim(state, now) {
            std::thread::yield_now();
            continue;
        }
        let key = Key::ready(random.u8(..), random.u64(0..1_000), now + 1);
        while tree.insert(leaf, key).is_err() {
            std::thread::yield_now();
        }
        left -= 1;
    }
}

/// State before index, as everywhere: the CAS decides, then the leaf goes.
fn consume(tree: MinTree<'_, 8>, states: &[AtomicU64], taken: &AtomicU64, entries: u64) {
    while taken.load(Ordering::Relaxed) < entries {
        let Some((leaf, key)) = tree.locate() else {
            std::thread::yield_now();
            continue;
        };
        let state = &states[leaf as usize];
        let now = state.load(Ordering::Acquire);
        let ours = now % 2 == 1 && now & 0xFF == key.as_raw() & 0xFF;
        let won = ours && claim(state, now);
        tree.remove(leaf, key);
        taken.fetch_add(u64::from(won), Ordering::Relaxed);
    }
}

#[test]
fn threads_that_insert_and_take_neither_lose_nor_double() {
    const LEAVES: u32 = 256;
    const EACH: u64 = if cfg!(debug_assertions) {
        10_000
    } else {
        200_000
    };
    let grove = Grove::<8>::new(LEAVES);
    let states = zeroed_words(LEAVES as usize);
    let taken = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for seed in 0..2 {
            let (tree, states, taken) = (grove.tree(), &states, &taken);
            scope.spawn(move || produce(tree, states, seed, EACH));
            scope.spawn(move || consume(tree, states, taken, 2 * EACH));
        }
    });
    assert_eq!(taken.load(Ordering::Relaxed), 2 * EACH);
    assert_eq!(grove.tree().entries_in_order().count(), 0);
    assert!(
        states
            .iter()
            .all(|state| state.load(Ordering::Relaxed) % 2 == 0)
    );
    assert_eq!(violations(grove.tree()), Vec::<String>::new());
}
