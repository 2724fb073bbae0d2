//! Model checks of the min-tree: fan-out 2, four leaves, all interleavings up to a number of preemptions
//! (`LOOM_MAX_PREEMPTIONS`, else 4), with the reorderings that the memory model permits.
//!
//! Every model ends in quiescence, where each inner word must be the minimum of its children: a lost
//! entry, a phantom and a missed repair all show there. Mutants: `loom_mutants.txt`.
#![cfg(loom)]

use std::sync::Arc;

use loom::thread;
use qtf_shm::sync::kill::killed_after;
use qtf_shm::sync::{AtomicU64, zeroed_words};
use qtf_shm::tree::{Key, MinTree, TreeShape};

struct Grove {
    shape: TreeShape<2>,
    words: Box<[AtomicU64]>,
}

impl Grove {
    fn planted(entries: &[(u32, u64)]) -> Arc<Self> {
        let shape = TreeShape::new(4);
        let words = zeroed_words(shape.words());
        let grove = Arc::new(Self { shape, words });
        for &(leaf, raw) in entries {
            grove.tree().insert(leaf, key(raw)).unwrap();
        }
        grove
    }

    fn tree(&self) -> MinTree<'_, 2> {
        MinTree::new(&self.words, &self.shape)
    }

    /// In quiescence: the tree is right, and its leaves hold these.
    fn assert_holds(&self, expected: &[(u32, u64)]) {
        let violations: Vec<String> = self.tree().check().map(|v| v.to_string()).collect();
        assert_eq!(violations, Vec::<String>::new());
        let leaves: Vec<(u32, u64)> = (0..4)
            .filter_map(|leaf| Some((leaf, self.tree().leaf(leaf)?.as_raw())))
            .collect();
        assert_eq!(leaves, expected);
    }
}

fn key(raw: u64) -> Key {
    Key::from_raw(raw)
}

fn model(check: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(4);
    builder.check(check);
}

/// Runs an operation on another thread.
fn spawn<T: 'static>(
    grove: &Arc<Grove>,
    operation: impl FnOnce(MinTree<'_, 2>) -> T + 'static,
) -> thread::JoinHandle<T> {
    let grove = Arc::clone(grove);
    thread::spawn(move || operation(grove.tree()))
}

/// Takes the best entry, as if winning the leaf were winning the state word.
fn pop(tree: MinTree<'_, 2>) -> Option<(u32, u64)> {
    let (leaf, best) = tree.locate()?;
    tree.remove(leaf, best).then(|| (leaf, best.as_raw()))
}

fn without(entries: &[(u32, u64)], taken: &[Option<(u32, u64)>]) -> Vec<(u32, u64)> {
    entries
        .iter()
        .copied()
        .filter(|entry| !taken.contains(&Some(*entry)))
        .collect()
}

#[test]
fn an_insert_of_a_better_entry_beside_a_pop_is_seen() {
    model(|| {
        let grove = Grove::planted(&[(0, 5)]);
        let taken = spawn(&grove, pop);
        grove.tree().insert(1, key(3)).unwrap();
        let taken = taken.join().unwrap();
        assert!(taken.is_some());
        grove.assert_holds(&without(&[(0, 5), (1, 3)], &[taken]));
    });
}

#[test]
fn an_insert_of_a_worse_entry_that_stops_early_is_not_lost_to_a_pop() {
    model(|| {
        let grove = Grove::planted(&[(0, 5)]);
        let taken = spawn(&grove, pop);
        grove.tree().insert(1, key(7)).unwrap();
        assert_eq!(taken.join().unwrap(), Some((0, 5)));
        grove.assert_holds(&[(1, 7)]);
    });
}

#[test]
fn two_pops_take_different_entries() {
    model(|| {
        let entries = [(0, 5), (1, 6), (2, 7)];
        let grove = Grove::planted(&entries);
        let other = spawn(&grove, pop);
        let taken = [pop(grove.tree()), other.join().unwrap()];
        assert!(taken[0].is_none() || taken[0] != taken[1]);
        assert!(taken.contains(&Some((0, 5))));
        grove.assert_holds(&without(&entries, &taken));
    });
}

#[test]
fn two_inserts_into_one_group_are_both_seen() {
    model(|| {
        let grove = Grove::planted(&[(2, 4)]);
        let other = spawn(&grove, |tree| tree.insert(0, key(3)).unwrap());
        grove.tree().insert(1, key(2)).unwrap();
        other.join().unwrap();
        grove.assert_holds(&[(0, 3), (1, 2), (2, 4)]);
    });
}

#[test]
fn better_entry_that_another_insert_has_carried_up_one_level_is_carried_on() {
    model(|| {
        let grove = Grove::planted(&[(2, 5)]);
        // It is the worst of all, and carries up what it finds beside it.
        let other = spawn(&grove, |tree| tree.insert(0, key(7)).unwrap());
        grove.tree().insert(1, key(3)).unwrap();
        other.join().unwrap();
        grove.assert_holds(&[(0, 7), (1, 3), (2, 5)]);
    });
}

#[test]
fn two_inserts_into_two_groups_are_both_seen() {
    model(|| {
        let grove = Grove::planted(&[]);
        let other = spawn(&grove, |tree| tree.insert(0, key(3)).unwrap());
        grove.tree().insert(2, key(2)).unwrap();
        other.join().unwrap();
        grove.assert_holds(&[(0, 3), (2, 2)]);
    });
}

#[test]
fn an_insert_between_two_pops_is_seen() {
    model(|| {
        let entries = [(0, 5), (1, 6)];
        let grove = Grove::planted(&entries);
        let pops = [spawn(&grove, pop), spawn(&grove, pop)];
        grove.tree().insert(2, key(4)).unwrap();
        let taken = pops.map(|pop| pop.join().unwrap());
        assert!(taken[0].is_none() || taken[0] != taken[1]);
        grove.assert_holds(&without(&[(0, 5), (1, 6), (2, 4)], &taken));
    });
}

#[test]
fn a_late_remove_leaves_the_next_tenant_alone() {
    model(|| {
        let grove = Grove::planted(&[(0, 5), (1, 9)]);
        let late = spawn(&grove, |tree| tree.remove(0, key(5)));
        let removed = grove.tree().remove(0, key(5));
        let moved_in = grove.tree().insert(0, key(6));
        let late = late.join().unwrap();
        assert!(removed != late, "one of them removes the old entry");
        assert_eq!(moved_in, Ok(()));
        grove.assert_holds(&[(0, 6), (1, 9)]);
    });
}

#[test]
fn a_paused_submitter_does_not_overwrite_the_next_tenant() {
    model(|| {
        let grove = Grove::planted(&[(1, 9)]);
        let paused = spawn(&grove, |tree| tree.insert(0, key(5)).is_ok());
        let tenant = grove.tree().insert(0, key(6)).is_ok();
        let paused = paused.join().unwrap();
        assert!(paused != tenant, "one of them gets the leaf");
        grove.assert_holds(&[(0, if tenant { 6 } else { 5 }), (1, 9)]);
    });
}

#[test]
fn a_cancel_beside_the_insert_leaves_no_phantom() {
    model(|| {
        let grove = Grove::planted(&[(0, 5)]);
        let cancelled = spawn(&grove, |tree| tree.remove(1, key(3)));
        grove.tree().insert(1, key(3)).unwrap();
        if cancelled.join().unwrap() {
            grove.assert_holds(&[(0, 5)]);
        } else {
            grove.assert_holds(&[(0, 5), (1, 3)]);
        }
    });
}

#[test]
fn two_workers_that_change_their_keys_are_both_right() {
    model(|| {
        let grove = Grove::planted(&[(0, 5), (1, 6)]);
        let other = spawn(&grove, |tree| assert!(tree.rekey(0, key(5), key(8))));
        grove.tree().set(1, key(4));
        other.join().unwrap();
        grove.assert_holds(&[(0, 8), (1, 4)]);
    });
}

/// The second look is what a kill can take away: the scrub of the repairer puts it right.
fn killed_pop_beside_an_insert(writes: u32) {
    model(move || {
        let grove = Grove::planted(&[(0, 5)]);
        let killed = spawn(&grove, move |tree| {
            killed_after(writes, || pop(tree)).is_err()
        });
        grove.tree().insert(1, key(7)).unwrap();
        let _ = killed.join().unwrap();
        let left = grove.tree().leaf(0).map(|left| (0, left.as_raw()));
        // Another entry moves in while the repairer scrubs.
        let late = spawn(&grove, |tree| tree.insert(2, key(9)).unwrap());
        grove.tree().scrub();
        late.join().unwrap();
        let expected: Vec<_> = left.into_iter().chain([(1, 7), (2, 9)]).collect();
        grove.assert_holds(&expected);
    });
}

#[test]
fn a_pop_killed_after_the_leaf_loses_nothing_after_a_scrub() {
    killed_pop_beside_an_insert(1);
}

#[test]
fn a_pop_killed_before_its_second_look_loses_nothing_after_a_scrub() {
    killed_pop_beside_an_insert(2);
}

#[test]
fn a_pop_killed_at_the_root_loses_nothing_after_a_scrub() {
    killed_pop_beside_an_insert(3);
}

#[test]
fn an_insert_killed_on_its_way_up_is_found_after_a_scrub() {
    for writes in 1..3 {
        model(move || {
            let grove = Grove::planted(&[(0, 5)]);
            let killed = spawn(&grove, move |tree| {
                killed_after(writes, || tree.insert(1, key(3)).unwrap()).is_err()
            });
            let taken = pop(grove.tree());
            let _ = killed.join().unwrap();
            grove.tree().scrub();
            grove.assert_holds(&without(&[(0, 5), (1, 3)], &[taken]));
        });
    }
}
