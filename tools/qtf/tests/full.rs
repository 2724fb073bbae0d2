//! A segment without room: what is submitted is known, and what a person can do is said.
#![expect(clippy::unwrap_used, reason = "what cannot be set up is a failed test")]

use nix::sys::signal::Signal;
use qtf_tests::{Finished, Place, Process};

/// Task slots of the daemon, and what one user can have of them.
const SLOTS: u64 = 64;
const MOST: u64 = 62;

struct System {
    place: Place,
    _daemon: Process,
    _worker: Process,
}

impl System {
    fn start() -> Self {
        let place = Place::new();
        let config = place.file(
            "small.toml",
            format!("segment_tasks = {SLOTS}\nsegment_workers = 2\n"),
        );
        let daemon = place.daemon(&["--config", config.to_str().unwrap()]);
        let worker = place.worker(&place.address(), "w", 2);
        System {
            place,
            _daemon: daemon,
            _worker: worker,
        }
    }

    fn qtf(&self, arguments: &[&str]) -> Finished {
        let address = self.place.address();
        let at = ["--addr", address.as_str()];
        self.place.qtf(at.iter().chain(arguments))
    }

    fn kept(&self) -> usize {
        let listed = self.qtf(&["ps", "--all", "--output", "jsonl"]);
        listed.expect_code(0).text().lines().count()
    }
}

#[test]
fn array_that_can_never_fit_is_refused_at_once_with_the_numbers_of_the_daemon() {
    let system = System::start();
    let refused = system
        .qtf(&["submit", "--array", "1-1000", "--", "true"])
        .expect_code(4);
    assert_eq!(refused.text(), "");
    let said = &refused.stderr;
    for part in [
        "1000 members",
        "64 task slots",
        "can have 62",
        "--no-result",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(system.kept(), 0, "nothing was submitted");
    let most = format!("1-{MOST}");
    system
        .qtf(&["submit", "--array", &most, "--", "true"])
        .expect_code(0);
    system.qtf(&["wait", "last"]).expect_code(0);
    system.qtf(&["forget", "last"]).expect_code(0);
    // These make room for one another.
    let through = system
        .qtf(&["submit", "--no-result", "--array", "1-200", "--", "true"])
        .expect_code(0);
    assert_eq!(through.text().lines().count(), 200);
    system.qtf(&["wait", "last"]).expect_code(0);
}

#[test]
fn kept_results_that_stall_a_submission_are_named_and_what_was_accepted_is_printed_and_remembered()
{
    let system = System::start();
    system
        .qtf(&["submit", "--array", "1-50", "--", "true"])
        .expect_code(0);
    system.qtf(&["wait", "last"]).expect_code(0);
    let mut command = system.place.command("qtf");
    command.args(["--addr", &system.place.address(), "submit"]);
    command.args(["--array", "1-40", "--output", "json", "--", "true"]);
    let mut stalled = Process::start(command);
    let said = stalled.line_with("waiting for room");
    for part in ["results that are kept", "qtf forget", "Ctrl-C"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    stalled.signal(Signal::SIGINT);
    let accepted = system.kept() - 50;
    assert!(accepted > 0);
    // One on stdout, one on stderr, in any order.
    let told = [stalled.line_with("accepted"), stalled.line_with("accepted")];
    let with = |text: &str| told.iter().find(|line| line.contains(text));
    let count = format!("{accepted} of 40 members accepted");
    assert!(with(&count).is_some(), "{told:?}");
    let printed = with("qtf.submission/1").unwrap_or_else(|| panic!("{told:?}"));
    let printed: serde_json::Value = serde_json::from_str(printed).unwrap();
    assert_eq!(stalled.wait().code(), Some(130));
    assert_eq!(printed["ids"].as_array().unwrap().len(), accepted);
    let ends = system
        .qtf(&["wait", "last", "--output", "jsonl"])
        .expect_code(0);
    assert_eq!(ends.text().lines().count(), accepted);
    let refused = system.qtf(&["submit", "--", "true"]).expect_code(4);
    assert!(
        refused
            .stderr
            .contains("62 of its 64 task slots hold results"),
        "{}",
        refused.stderr
    );
}

#[test]
fn wait_from_anywhere_takes_a_task_that_kept_no_result_for_what_it_became() {
    let system = System::start();
    let submit = |program: &str| {
        let done = system.qtf(&["submit", "--no-result", "--", program]);
        done.expect_code(0).text().trim().to_owned()
    };
    let ids: Vec<String> = (0..20).map(|_| submit("true")).collect();
    let failed = submit("false");
    // Somebody who submitted none of them.
    let wait = |id: &str| {
        let mut command = system.place.command("qtf");
        command.env("XDG_STATE_HOME", system.place.work());
        command.args(["--addr", &system.place.address(), "wait", id]);
        system.place.finish(command, Vec::new())
    };
    for id in &ids {
        wait(id).expect_code(0);
    }
    wait(&failed).expect_code(1);
    system.qtf(&["forget", &failed]).expect_code(0);
    wait(&failed).expect_code(3);
    let later = system.qtf(&["submit", "--", "true"]).expect_code(0);
    let later = later.text().trim().to_owned();
    wait(&later).expect_code(0);
    system.qtf(&["forget", &later]).expect_code(0);
    wait(&later).expect_code(3);
}
