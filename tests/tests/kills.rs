//! Any process of a whole system is killed every 50 to 500 ms and started again, or stopped for a while, and TCP links are
//! cut or turned into black holes, while tasks succeed, fail, are repeated, run out of time, are cancelled and print much:
//! each accepted task has one end that it can have, told once; and after each round, when nobody torments the system any
//! more, everything comes to its end within a bounded time, and nothing of an ended attempt is alive.
//!
//! `QTF_SEED` chooses the work, the victims and the pauses, `QTF_TASKS` the number of tasks, `QTF_PAUSE_MS` the longest
//! pause, `QTF_VICTIMS` how many are hit at the same time at most, `QTF_SYSTEMS` how many systems run side by side, with
//! seeds that count on; `cargo xtask soak system` sets them.

use std::path::PathBuf;
use std::time::Duration;

use qtf_tests::system::{Plan, System};
use qtf_tests::torment::{Pace, Torment};

/// Tasks of all clients in an ordinary run.
const TASKS: u64 = 630;
/// Tasks of all clients in one round.
const TASKS_IN_ROUND: u64 = 210;
/// How long a round is tormented; what is left of the work then is done in peace.
const TORMENT_MS: u64 = 6_000;
/// Longest pause between two blows in an ordinary run.
const PAUSE_MS: u64 = 500;

fn number(name: &str, otherwise: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => otherwise,
    }
}

/// What is tried out.
#[derive(Clone, Copy)]
struct Trial {
    test: &'static str,
    seed: u64,
    tasks: u64,
    pause_ms: u64,
    victims: usize,
    cold: bool,
}

impl Trial {
    /// Runs the systems that the environment asks for. Returns what each did, in the words that `cargo xtask soak` counts.
    fn run_all(test: &'static str, cold: bool) -> Vec<String> {
        let first = Self {
            test,
            seed: number("QTF_SEED", 1),
            tasks: number("QTF_TASKS", TASKS),
            pause_ms: number("QTF_PAUSE_MS", PAUSE_MS),
            victims: usize::try_from(number("QTF_VICTIMS", 1)).expect("a small number"),
            cold,
        };
        let systems = number("QTF_SYSTEMS", 1);
        std::thread::scope(|scope| {
            let seeds = (0..systems).map(|number| first.seed + number);
            let running: Vec<_> = seeds
                .map(|seed| scope.spawn(move || Self { seed, ..first }.run()))
                .collect();
            let said = running.into_iter().map(|system| system.join());
            said.map(|said| said.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        })
    }

    fn run(self) -> String {
        let mut system = System::start(Plan {
            seed: self.seed,
            tasks: TASKS_IN_ROUND / 3,
            cold: self.cold,
            config: "lease_ms = 1000\nheartbeat_ms = 150\nprobe_ms = 300\nstop_grace_ms = 500\n"
                .to_owned(),
            client: PathBuf::from(env!("CARGO_BIN_EXE_system-client")),
            local: PathBuf::from(env!("CARGO_BIN_EXE_system-local")),
            within: Duration::from_secs(180 + self.tasks),
            again: self.command(),
        });
        let pace = Pace {
            pause_ms: self.pause_ms / 10..=self.pause_ms,
            victims: self.victims,
            blows: u32::try_from(TORMENT_MS / self.pause_ms * 2).expect("a small number"),
        };
        let mut torment = Torment::new(self.seed, pace);
        torment.round(&mut system);
        let rounds = self.tasks.div_ceil(TASKS_IN_ROUND);
        for _ in 1..rounds {
            system.next_round();
            torment.round(&mut system);
        }
        let (blows, tasks) = (torment.blows(), rounds * TASKS_IN_ROUND);
        assert!(blows.kills > 0, "nothing was killed: raise QTF_TASKS");
        let ends = system.check();
        // Else the torment ends tasks, and not what they do.
        assert!(
            ends.of("dead_letter") < tasks / 4,
            "most tasks end by themselves: {ends:?}"
        );
        format!(
            "soak: {} kills, {} stops, {} cuts, {} black holes, {} tasks, {}, seed {}, cold {}",
            blows.kills,
            blows.stops,
            blows.cuts,
            blows.holes,
            tasks,
            ends.said(),
            self.seed,
            self.cold
        )
    }

    fn command(self) -> String {
        format!(
            "QTF_SEED={} QTF_TASKS={} QTF_PAUSE_MS={} QTF_VICTIMS={} cargo test -p qtf-tests --test kills {}",
            self.seed, self.tasks, self.pause_ms, self.victims, self.test
        )
    }
}

#[test]
fn every_task_has_one_end_told_once_while_any_process_is_killed() {
    let test = "every_task_has_one_end_told_once_while_any_process_is_killed";
    println!("{}", Trial::run_all(test, false).join("\n"));
}

#[test]
fn every_task_has_one_end_told_once_when_the_segment_goes_with_the_daemon() {
    let test = "every_task_has_one_end_told_once_when_the_segment_goes_with_the_daemon";
    println!("{}", Trial::run_all(test, true).join("\n"));
}
