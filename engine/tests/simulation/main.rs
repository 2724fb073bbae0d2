//! Seeded worlds of clients and workers against a naive model of what must come out.
//!
//! Clients submit, cancel, re-prioritise and forget; workers join, run, fail, fall silent, lose their connections or talk into black
//! holes, come back, die, leave, never begin what they take, and repeat old results; kinds come and go with them; local processes
//! take tasks from the segment themselves, are stopped and killed between any two of their shared writes; messages are late, lost or
//! doubled; the loop stalls; the daemon is killed and started again. Checked all the time:
//! - conservation: each accepted task ends exactly once, or is still there;
//! - attempts of a task are handed out one after the other, and no result counts twice;
//! - an end is what the last attempt's worker has reported, or the engine's own, and outcome and result never change;
//! - whoever holds an attempt that is cancelled, overdue or not its own any more is told so, and so is who is to drain;
//! - nobody waits while a worker is free that the task fits;
//! - order: nothing is handed out while something better could be;
//! - no worker holds more than its capacity or than it granted;
//! - the counts of clients equal the model's; the segment's `verify` is clean.
//!
//! And at the end: all faults stop, everything is run, forgotten, and nothing remains. A failing
//! run prints how to replay it. Each test also asserts that the rare paths were really taken.
//!
//! Engine, segment, clock, clients and the order of the queue are those of all tests of the engine: the crate `qtf-world`, whose head says what is
//! added here, and why. A build that lives the same lives as another tells the same histories (`replay` prints them).
//!
//! | file | what |
//! |---|---|
//! | `world.rs` | chance, effects, restarts, the end |
//! | `model.rs` | what is known of each task from what was asked and answered |
//! | `clients.rs`, `workers.rs`, `locals.rs` | what they do |
//! | `lanes.rs` | local clients that speak through lanes, in a world of their own |
//! | `links.rs` | connections, and what is lost with them |
//! | `process.rs` | a local process: a thread that runs while the world waits for it |
//! | `checks.rs` | what must hold at any time |
//! | `runs.rs` | which seeds to run, and how to replay one |
//! | `durable/` | the worlds with a journal |

#[cfg(test)]
mod checks;
#[cfg(test)]
mod clients;
#[cfg(test)]
mod durable;
#[cfg(test)]
mod lanes;
#[cfg(test)]
mod links;
#[cfg(test)]
mod locals;
#[cfg(test)]
mod model;
#[cfg(test)]
mod process;
#[cfg(test)]
mod runs;
#[cfg(test)]
mod workers;
#[cfg(test)]
mod world;

#[cfg(test)]
mod tests {
    use qtf_shm::{Counter, Phase};

    use crate::runs::{Replay, assert_still_wanted, live, seeds};
    use crate::world::Faults;

    /// Of each kind.
    const SEEDS: u64 = 14;

    /// What was counted in all worlds of a run together.
    struct Totals {
        counters: Vec<u64>,
        /// Local workers that took a task, stood still in the middle of something, were killed.
        takes: u64,
        stops: u64,
        kills: u64,
    }

    fn run(faults: Faults) -> Totals {
        let mut totals = Totals {
            counters: vec![0; Counter::ALL.len()],
            takes: 0,
            stops: 0,
            kills: 0,
        };
        let mut parked = 0;
        for seed in seeds(SEEDS) {
            assert_still_wanted();
            let world = live(faults, seed);
            let counters = world.counters();
            for (total, &counter) in totals.counters.iter_mut().zip(Counter::ALL) {
                *total += counters.get(counter);
            }
            totals.takes += world.local_takes;
            totals.stops += world.stops;
            totals.kills += world.local_kills;
            parked += counters.transitions(Phase::Ready, Phase::Blocked);
        }
        assert!(parked > 0);
        assert!(totals.takes > 0, "no local worker took anything");
        totals
    }

    fn assert_taken(totals: &Totals, paths: &[Counter]) {
        for &path in paths {
            let count = totals.counters[path as usize];
            assert!(count > 0, "{} was never taken", path.name());
        }
    }

    #[test]
    fn every_task_ends_exactly_once_in_a_friendly_world() {
        let totals = run(Faults::None);
        let paths = [
            Counter::ResultRecorded,
            Counter::ResultRepeated,
            Counter::ResultExpired,
            Counter::TaskStopped,
            Counter::TaskUpdated,
        ];
        assert_taken(&totals, &paths);
    }

    #[test]
    fn every_task_ends_exactly_once_when_workers_die_lie_and_come_back() {
        let totals = run(Faults::Workers);
        let paths = [
            Counter::ResultStale,
            Counter::WorkerLost,
            Counter::WorkerLeft,
            Counter::WorkerReturned,
            Counter::WorkerSuspected,
            Counter::WorkerDraining,
            Counter::TaskRequeued,
            Counter::TaskTimedOut,
            Counter::AssignmentReconciled,
        ];
        assert_taken(&totals, &paths);
        assert!(totals.stops > totals.kills && totals.kills > 0);
    }

    #[test]
    fn every_task_ends_exactly_once_when_the_daemon_is_killed_as_well() {
        let totals = run(Faults::WorkersAndDaemon);
        assert_taken(&totals, &[Counter::WorkerReturned, Counter::WorkerLost]);
        assert!(totals.stops > totals.kills && totals.kills > 0);
    }

    #[test]
    fn every_task_of_a_local_client_is_told_of_by_its_lane() {
        let mut totals = [0; 2];
        for seed in seeds(SEEDS) {
            assert_still_wanted();
            let _replay = Replay("lanes", seed);
            for (total, count) in totals.iter_mut().zip(crate::lanes::live(seed)) {
                *total += count;
            }
        }
        assert!(totals.iter().all(|&count| count > 0), "{totals:?}");
    }

    #[test]
    fn same_seed_gives_the_same_history() {
        let history = |seed| live(Faults::WorkersAndDaemon, seed).history();
        assert_eq!(history(77), history(77));
        assert_ne!(history(77), history(78));
    }
}
