//! Large payloads and outputs over deaths of the daemon: what was uploaded to one daemon and not yet used is uploaded
//! again to the next, by the client and by the worker.

use std::path::Path;
use std::time::{Duration, Instant};

use qtf_tests::{Place, Process};

/// A watchdog: what does not happen within this time never does.
const WITHIN: Duration = Duration::from_secs(300);
/// Deaths of the daemon in one run; at each of them a transfer is under way or about to be used.
const ROUNDS: usize = 3;
/// Far above what fits into a message.
const PAYLOAD_BYTES: usize = 3_000_000;

fn start_daemon(place: &Place) -> Process {
    let data = place.work().join("data");
    let data = data.to_str().expect("the place has a readable name");
    place.daemon(&["--data-dir", data])
}

/// Spill files below a folder.
fn files(folder: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => files(&entry.path()),
            Ok(_) => usize::from(entry.path().extension().is_some_and(|end| end == "spill")),
            Err(_) => 0,
        })
        .sum()
}

/// Waits until there are more spill files than these: a transfer has just begun.
fn wait_for_files_beyond(place: &Place, count: usize) {
    let until = Instant::now() + WITHIN;
    while files(&place.work()) <= count {
        assert!(Instant::now() < until, "nothing is uploaded");
        // A look at the folder must not take the core from those who are watched.
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

fn every_byte_arrives(is_cold: bool) {
    let place = Place::new();
    let mut daemon = start_daemon(&place);
    let address = place.address();
    let _worker = place.worker(&address, "steady", 2);
    let payload: Vec<u8> = (0..PAYLOAD_BYTES)
        .map(|index| u8::try_from(index % 251).expect("below 251"))
        .collect();
    let file = place.file("payload", &payload);
    let file = file.to_str().expect("the place has a readable name");
    for round in 0..ROUNDS {
        let mut restart = || {
            daemon.kill();
            if is_cold {
                place.remove_segments();
            }
            daemon = start_daemon(&place);
        };
        let before = files(&place.work());
        let mut command = place.command("qtf");
        let key = format!("round-{round}");
        command.args(["--addr", &address, "submit", "--key", &key, "--stdin", file]);
        command.args(["--", "cat"]);
        let mut submitting = Process::start(command);
        wait_for_files_beyond(&place, before);
        restart();
        assert_eq!(submitting.wait().code(), Some(0), "round {round}");
        // Its payload lies there for good; the next file is the output.
        wait_for_files_beyond(&place, before + 1);
        restart();
        let again = place.qtf(["--addr", &address, "submit", "--key", &key, "--", "false"]);
        let id = again.expect_code(0).text().trim_end().to_owned();
        place.qtf(["--addr", &address, "wait", &id]).expect_code(0);
        let result = place
            .qtf(["--addr", &address, "result", &id])
            .expect_code(0);
        assert!(
            result.stdout == payload,
            "round {round}: {} bytes",
            result.stdout.len()
        );
    }
}

#[test]
fn large_payloads_and_outputs_survive_the_death_of_the_daemon_that_had_them() {
    every_byte_arrives(false);
}

#[test]
fn large_payloads_and_outputs_survive_the_loss_of_the_segment_too() {
    every_byte_arrives(true);
}
