//! The runs. A failing one prints the command that replays it.

use qtf_shm::Counter;

use super::{Kind, World};
use crate::runs::{Replay, assert_still_wanted, seeds};

/// Of each kind.
const SEEDS: u64 = 110;
const SEEDS_OF_AGES: u64 = 40;
const STEPS: u32 = 700;
/// What was taken in all worlds of a run together.
#[derive(Default, Debug)]
struct Totals {
    accepted: u64,
    hot_starts: u64,
    cold_starts: u64,
    cuts: u64,
    failures: u64,
    refusals: u64,
    snapshots: u64,
    revivals: u64,
    drains: u64,
    leaps: u64,
    moves: u64,
    times_up: u64,
    keys_given_back: u64,
    keys_ended: u64,
    keys_evicted: u64,
    keys_gone: u64,
    holds: u64,
}

impl Totals {
    fn add(&mut self, world: &World) {
        self.accepted += world.facts.accepted;
        self.hot_starts += world.hot_starts;
        self.cold_starts += world.cold_starts;
        self.cuts += world.cuts;
        self.failures += world.failures;
        self.refusals += world.refusals;
        self.snapshots += world.disk.snapshots;
        self.revivals += world.revivals;
        self.drains += world.drains;
        self.leaps += world.leaps;
        self.moves += world.moves;
        self.times_up += world.times_up;
        self.keys_given_back += world.keys_given_back;
        let counters = world.base.engine.segment().counters();
        self.keys_ended += counters.get(Counter::KeyEnded);
        self.keys_evicted += counters.get(Counter::KeyEvicted);
        self.keys_gone += world.keys_gone;
        self.holds += world.holds;
    }
}

pub(crate) fn live(kind: Kind, seed: u64) -> World {
    let _replay = Replay(kind.name(), seed);
    let mut world = World::new(seed, kind);
    for _ in 0..STEPS {
        world.step();
    }
    world.come_to_rest();
    world
}

fn run(kind: Kind, usual: u64) -> Totals {
    let seeds = seeds(usual);
    let (first, count) = (seeds.start, seeds.end - seeds.start);
    let mut totals = Totals::default();
    for seed in seeds {
        assert_still_wanted();
        totals.add(&live(kind, seed));
    }
    assert!(totals.accepted > count * 50, "{totals:?}");
    assert!(totals.hot_starts > count, "{totals:?}");
    assert!(totals.cuts > count, "{totals:?}");
    assert!(totals.failures > count / 10, "{totals:?}");
    assert!(totals.refusals > 0, "{totals:?}");
    assert!(totals.snapshots > count, "{totals:?}");
    assert!(totals.revivals > count / 2, "{totals:?}");
    assert!(totals.drains > count / 2, "{totals:?}");
    assert!(totals.keys_ended > count, "{totals:?}");
    assert!(
        totals.keys_evicted > count || kind == Kind::Ages,
        "{totals:?}"
    );
    assert!(totals.keys_gone > 0, "{totals:?}");
    assert!(totals.holds > count * 5, "{totals:?}");
    println!("{kind:?}: {totals:?}");
    println!(
        "soak: {count} seeds, {} starts, {} tasks, from seed {first}",
        totals.hot_starts + totals.cold_starts,
        totals.accepted
    );
    totals
}

#[test]
fn what_was_told_holds_when_daemons_die_and_the_wall_clock_jumps() {
    run(Kind::Hot, SEEDS);
}

#[test]
fn what_was_told_holds_when_the_segment_is_lost_and_the_machine_stops() {
    let totals = run(Kind::Cold, SEEDS);
    assert!(totals.cold_starts > totals.hot_starts / 8, "{totals:?}");
}

/// Of places in the order, leases, times of results and keys, and deaths at any moment, where the stamps of 833 days run out.
#[test]
fn what_was_told_holds_over_the_ages() {
    let totals = run(Kind::Ages, SEEDS_OF_AGES);
    assert!(totals.cold_starts > totals.hot_starts / 16, "{totals:?}");
    assert!(totals.leaps > 0 && totals.moves > 0, "{totals:?}");
    assert!(totals.times_up > 0, "{totals:?}");
    assert!(totals.keys_given_back > 0, "{totals:?}");
}

#[test]
fn same_seed_gives_the_same_history_with_a_journal() {
    let history = |seed| live(Kind::Cold, seed).history();
    assert_eq!(history(7), history(7));
    assert_ne!(history(7), history(8));
}
