//! The runs. A failing one prints the command that replays it.

#![expect(
    clippy::disallowed_methods,
    reason = "which seeds to run is said from outside, to the tests and to nothing else"
)]

use super::{Kind, World};

/// Of each kind.
const SEEDS: u64 = 110;
const STEPS: u32 = 700;
/// `KIND:SEED`, for example `cold:17`.
const SEED_VARIABLE: &str = "QTF_SIM_SEED";
/// The first seed, for long runs.
const FIRST_VARIABLE: &str = "QTF_SEED";
/// How many seeds of each kind to run instead of the usual number, for long runs.
const COUNT_VARIABLE: &str = "QTF_SIM_SEEDS";

/// Says how to run this seed again, if it fails.
struct Replay(Kind, u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self(kind, seed) = self;
            eprintln!(
                "to replay: {SEED_VARIABLE}={}:{seed} cargo test -p qtf-engine --test simulation -- replay",
                kind.name()
            );
        }
    }
}

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
    }
}

fn live(kind: Kind, seed: u64) -> World {
    let _replay = Replay(kind, seed);
    let mut world = World::new(seed, kind);
    for _ in 0..STEPS {
        world.step();
    }
    world.come_to_rest();
    world
}

fn run(kind: Kind) -> Totals {
    let count = std::env::var(COUNT_VARIABLE).map_or(SEEDS, |count| count.parse().unwrap());
    let first: u64 = std::env::var(FIRST_VARIABLE).map_or(0, |first| first.parse().unwrap());
    let mut totals = Totals::default();
    for seed in first..first + count {
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
    run(Kind::Hot);
}

#[test]
fn what_was_told_holds_when_the_segment_is_lost_and_the_machine_stops() {
    let totals = run(Kind::Cold);
    assert!(totals.cold_starts > totals.hot_starts / 8, "{totals:?}");
}

#[test]
fn same_seed_gives_the_same_history_with_a_journal() {
    let history = |seed| live(Kind::Cold, seed).history();
    assert_eq!(history(7), history(7));
    assert_ne!(history(7), history(8));
}

#[test]
fn replay() {
    let asked = std::env::var(SEED_VARIABLE).unwrap_or_else(|_| "cold:0".to_owned());
    let (kind, seed) = asked.split_once(':').expect("KIND:SEED");
    let kind = [Kind::Hot, Kind::Cold]
        .into_iter()
        .find(|one| one.name() == kind);
    live(kind.expect("hot or cold"), seed.parse().expect("a number"));
}
