//! A seeded world of clients and workers against a naive model of what must come out.
//!
//! Clients submit, cancel, re-prioritise and forget; workers join, run, fail, fall silent, lose
//! their streams, come back, die, leave, and repeat old results; messages are late, lost or
//! doubled; the loop stalls; the daemon is killed and started again. Checked all the time:
//! - conservation: each accepted task ends exactly once, or is still there;
//! - attempts of a task are handed out one after the other, and no result counts twice;
//! - order: nothing is handed out while something better could be;
//! - no worker holds more than its capacity or than it granted;
//! - the counts of clients equal the model's; the segment's `verify` is clean.
//!
//! And at the end: all faults stop, everything is run, forgotten, and nothing remains. A failing
//! run prints its seed. Each test also asserts that the rare paths were really taken.

#[cfg(test)]
mod clients;
#[cfg(test)]
mod durable;
#[cfg(test)]
mod model;
#[cfg(test)]
mod workers;
#[cfg(test)]
mod world;

#[cfg(test)]
mod tests {
    use qtf_shm::{Counter, Phase};

    use crate::world::{Faults, World};

    const SEEDS: u64 = 10;
    const STEPS: u32 = 3_000;

    /// Runs some worlds; what was counted in all of them together.
    fn run(first_seed: u64, faults: Faults) -> impl Fn(Counter) -> u64 {
        let mut totals = vec![0; Counter::ALL.len()];
        let mut parked = 0;
        for seed in first_seed..first_seed + SEEDS {
            let mut world = World::new(seed, faults);
            for _ in 0..STEPS {
                world.step();
            }
            world.come_to_rest();
            let counters = world.counters();
            for (total, &counter) in totals.iter_mut().zip(Counter::ALL) {
                *total += counters.get(counter);
            }
            parked += counters.transitions(Phase::Ready, Phase::Blocked);
        }
        assert!(parked > 0);
        move |counter| totals[counter as usize]
    }

    fn assert_taken(total: impl Fn(Counter) -> u64, paths: &[Counter]) {
        for &path in paths {
            assert!(total(path) > 0, "{} was never taken", path.name());
        }
    }

    #[test]
    fn every_task_ends_exactly_once_in_a_friendly_world() {
        let total = run(0, Faults::None);
        assert_taken(
            total,
            &[
                Counter::ResultRecorded,
                Counter::ResultRepeated,
                Counter::ResultExpired,
                Counter::TaskStopped,
                Counter::TaskUpdated,
            ],
        );
    }

    #[test]
    fn every_task_ends_exactly_once_when_workers_die_lie_and_come_back() {
        let total = run(1_000, Faults::Workers);
        assert_taken(
            total,
            &[
                Counter::ResultStale,
                Counter::WorkerLost,
                Counter::WorkerLeft,
                Counter::WorkerReturned,
                Counter::WorkerSuspected,
                Counter::WorkerDraining,
                Counter::TaskRequeued,
                Counter::TaskTimedOut,
                Counter::AssignmentReconciled,
            ],
        );
    }

    #[test]
    fn every_task_ends_exactly_once_when_the_daemon_is_killed_as_well() {
        let total = run(2_000, Faults::WorkersAndDaemon);
        assert_taken(total, &[Counter::WorkerReturned, Counter::WorkerLost]);
    }

    #[test]
    fn same_seed_gives_the_same_history() {
        let history = |seed| {
            let mut world = World::new(seed, Faults::Workers);
            for _ in 0..STEPS {
                world.step();
            }
            world.history()
        };
        assert_eq!(history(77), history(77));
        assert_ne!(history(77), history(78));
    }
}
