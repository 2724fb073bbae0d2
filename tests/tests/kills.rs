//! Any process of a whole system is killed every 50 to 500 ms and started again: each accepted task is delivered once,
//! none is lost, none twice.
//!
//! `QTF_SEED` chooses victims and pauses, `QTF_TASKS` the number of tasks; `cargo xtask soak system` sets both.

use std::path::PathBuf;
use std::time::Duration;

use qtf_tests::system::{Plan, System};

/// Tasks of both clients in an ordinary run.
const TASKS: u64 = 2_000;

fn number(name: &str, otherwise: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => otherwise,
    }
}

/// Returns what it did, in the words that `cargo xtask soak` counts.
fn torment(cold: bool) -> String {
    let (seed, tasks) = (number("QTF_SEED", 1), number("QTF_TASKS", TASKS));
    let mut system = System::start(Plan {
        tasks: tasks / 2,
        cold,
        config: "lease_ms = 2000\nheartbeat_ms = 200\nprobe_ms = 500\n".to_owned(),
        client: PathBuf::from(env!("CARGO_BIN_EXE_system-client")),
        within: Duration::from_secs(120 + tasks / 20),
    });
    let mut random = fastrand::Rng::with_seed(seed);
    let mut kills = 0_u32;
    while !system.go_on(Duration::from_millis(random.u64(50..=500))) {
        let victim = random.usize(..system.count());
        kills += u32::from(system.kill(victim));
    }
    assert!(kills > 0, "nothing was killed: raise QTF_TASKS");
    system.check();
    format!("soak: {kills} kills, {tasks} tasks, seed {seed}, cold {cold}")
}

#[test]
fn every_task_is_delivered_once_while_any_process_is_killed() {
    println!("{}", torment(false));
}

#[test]
fn every_task_is_delivered_once_when_the_segment_goes_with_the_daemon() {
    println!("{}", torment(true));
}
