//! Processes killed with SIGKILL on a real segment: at every shared write of every operation, and at random.
//!
//! | file | what |
//! |---|---|
//! | `ground` | the segment, the log that outlives every process, child processes |
//! | `child` | what a child does: the roles and the single operations |
//! | `plm` | the part of a daemon that matters here: epoch, adoption, judgement, delivery, freeing |
//! | `ledger` | the model outside of the segment: what each process has said in the log, and what must be true of it |
//! | `points` | kills after the n-th shared write, for every n of every operation |
//! | `random` | many processes at once, killed and stopped at random moments |
//!
//! Children are this test binary, run again for one test (`child`), which does nothing unless the variable is set.
//! A failure prints the command that repeats it. More kills: `QTF_KILLS=200000 cargo test -p qtf-shm --lib torture_soak -- --ignored --nocapture`
//! (`QTF_SEED=n` chooses the seeds).

mod child;
mod ground;
mod ledger;
mod plm;
mod points;
mod random;

use std::collections::BTreeSet;

/// What a child is to do; see `child::Errand`.
const VARIABLE: &str = "QTF_TORTURE";

/// A number from the environment.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn child() {
    if let Ok(order) = std::env::var(VARIABLE) {
        child::run(&order);
    }
}

#[test]
fn kill_after_any_shared_write_of_any_operation_loses_nothing_and_harms_nobody() {
    let report = points::run(number("QTF_SEED", 1), 1);
    println!("{report}");
    assert!(report.kills >= 300, "{report}");
    let missed: Vec<_> = report.places.difference(&report.killed_at).collect();
    assert!(
        missed.is_empty(),
        "written there, but never killed: {missed:?}"
    );
}

#[test]
fn processes_killed_and_stopped_at_random_lose_nothing_and_harm_nobody() {
    let report = random::run(number("QTF_SEED", 1), number("QTF_KILLS", 1_200));
    println!("{report}");
}

/// The long one: `QTF_KILLS` kills, half of them at chosen writes.
#[test]
#[ignore = "takes long: for soaks"]
fn torture_soak() {
    let kills = number("QTF_KILLS", 200_000);
    let first = number("QTF_SEED", 1);
    let (mut done, mut tasks, mut verified) = (0, 0, 0);
    let (mut places, mut killed_at) = (BTreeSet::new(), BTreeSet::new());
    // Runs whose first seeds follow each other have none in common.
    for seed in (0..).map(|count| first.wrapping_mul(1_000).wrapping_add(count)) {
        let points = points::run(seed, seed);
        let random = random::run(seed, points.kills.max(1_000));
        done += points.kills + random.kills;
        tasks += points.accepted + random.accepted;
        verified += points.verified + random.verified;
        println!("seed {seed}: {points}; {random}");
        places.extend(points.places);
        killed_at.extend(points.killed_at);
        if done >= kills {
            break;
        }
    }
    // A place that one seed has met only by chance is reached in another.
    let missed: Vec<_> = places.difference(&killed_at).collect();
    assert!(
        missed.is_empty(),
        "written there, but never killed: {missed:?}"
    );
    println!("soak: {done} kills, {tasks} tasks, {verified} recoveries verified, seed {first}");
}
