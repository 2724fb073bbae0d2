//! Processes that are stopped and continued: a stopped process is alive, and nothing of its is lost or doubled.

use std::path::PathBuf;
use std::time::Duration;

use qtf_tests::system::{Plan, System};

/// Longer than lease and probe together.
const STOPPED: Duration = Duration::from_millis(1_200);

fn system() -> System {
    System::start(Plan {
        seed: 1,
        tasks: 150,
        cold: false,
        config: "lease_ms = 400\nheartbeat_ms = 100\nprobe_ms = 200\n".to_owned(),
        client: PathBuf::from(env!("CARGO_BIN_EXE_system-client")),
        local: PathBuf::from(env!("CARGO_BIN_EXE_system-local")),
        within: Duration::from_secs(240),
        again: "cargo test -p qtf-tests --test stops".to_owned(),
    })
}

#[test]
fn a_daemon_stopped_longer_than_every_lease_loses_and_doubles_nothing() {
    let mut system = system();
    assert!(
        !system.go_on(Duration::from_millis(300)),
        "there is work left"
    );
    assert!(system.freeze(0, STOPPED));
    assert!(system.freeze(0, STOPPED));
    system.finish();
    system.check();
}

#[test]
fn every_process_can_be_stopped_in_turn() {
    let mut system = system();
    let mut stopped = 0;
    for member in 0..system.count() {
        stopped += u32::from(system.freeze(member, STOPPED));
    }
    assert!(stopped > 1);
    system.finish();
    system.check();
}
