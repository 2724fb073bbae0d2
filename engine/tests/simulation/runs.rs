//! Which worlds to run, and how to run one of them again.

#![expect(
    clippy::disallowed_methods,
    reason = "which seeds to run is said from outside, to the tests and to nothing else"
)]

use std::ops::Range;
use std::sync::OnceLock;

use crate::durable;
use crate::world::{Faults, World};

/// `KIND:SEED`, for example `cold:17`.
const SEED_VARIABLE: &str = "QTF_SIM_SEED";
/// The first seed, for long runs.
const FIRST_VARIABLE: &str = "QTF_SEED";
/// How many seeds of each kind to run instead of the usual number.
const COUNT_VARIABLE: &str = "QTF_SIM_SEEDS";
/// Set where one failure is all that is wanted: then the other tests stop, too.
const FIRST_FAILURE_VARIABLE: &str = "QTF_SIM_FIRST_FAILURE";

const STEPS: u32 = 3_000;

static HAS_FAILED: OnceLock<()> = OnceLock::new();

/// Says how to run this seed again, if it fails.
pub(crate) struct Replay(pub(crate) &'static str, pub(crate) u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self(kind, seed) = self;
            eprintln!(
                "to replay: {SEED_VARIABLE}={kind}:{seed} cargo test -p qtf-engine --test simulation -- replay"
            );
            // Said before, or for the first time.
            let _ = HAS_FAILED.set(());
        }
    }
}

/// Ends a run when another one has shown what there is to show.
pub(crate) fn assert_still_wanted() {
    let is_over = HAS_FAILED.get().is_some() && std::env::var(FIRST_FAILURE_VARIABLE).is_ok();
    assert!(!is_over, "another run has failed");
}

/// The seeds of one kind of world: so many, unless something else is asked for.
pub(crate) fn seeds(usual: u64) -> Range<u64> {
    let number = |name| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse().expect("a number"))
    };
    let first = number(FIRST_VARIABLE).unwrap_or(0);
    first..first + number(COUNT_VARIABLE).unwrap_or(usual)
}

/// One world without a journal, from its beginning to its end.
pub(crate) fn live(faults: Faults, seed: u64) -> World {
    let _replay = Replay(faults.name(), seed);
    let mut world = World::new(seed, faults);
    for _ in 0..STEPS {
        world.step();
    }
    world.come_to_rest();
    world
}

#[test]
fn replay() {
    let asked = std::env::var(SEED_VARIABLE).unwrap_or_else(|_| "cold:0".to_owned());
    let (kind, seed) = asked.split_once(':').expect("KIND:SEED");
    let seed = seed.parse().expect("a number");
    if let Some(faults) = Faults::ALL.into_iter().find(|one| one.name() == kind) {
        tell(&asked, live(faults, seed).history());
        return;
    }
    if kind == "lanes" {
        crate::lanes::live(seed);
        return;
    }
    let kind = durable::Kind::ALL
        .into_iter()
        .find(|one| one.name() == kind);
    let world = durable::live(kind.expect("friendly, workers, daemons, hot, cold"), seed);
    tell(&asked, world.history());
}

/// Two builds that tell the same of a seed have lived the same life.
fn tell(asked: &str, history: u64) {
    println!("history of {asked}: {history:016x}");
}
