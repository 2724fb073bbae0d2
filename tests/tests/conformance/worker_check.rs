//! `qtf worker check`: workers that keep to the protocol pass each check, one with a fault fails the check that is about it.

use std::path::Path;
use std::process::Command;

use qtf_tests::programs::program;
use qtf_tests::{Finished, Place};
use serde_json::Value;

/// All checks that there are.
const CHECKS: usize = 15;

fn check(
    place: &Place,
    arguments: &[&str],
    worker: &[&str],
    environment: &[(&str, &Path)],
) -> Finished {
    let mut command: Command = place.command("qtf");
    command.args(["worker", "check", "--json"]).args(arguments);
    command.arg("--").args(worker);
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    for (name, value) in environment {
        command.env(name, value);
    }
    place.finish(command, Vec::new())
}

/// The checks that failed, each with its reason.
fn failed(done: &Finished) -> Vec<(String, String)> {
    let document = done.json();
    let checks = document["checks"].as_array().expect("it is a list");
    let failed = checks
        .iter()
        .filter(|check| check["passed"] == Value::Bool(false));
    failed
        .map(|check| {
            let text = |field: &str| check[field].as_str().unwrap_or_default().to_owned();
            assert!(text("rule").starts_with("The life of a worker"), "{check}");
            (
                text("check"),
                format!("{}; {}", text("expected"), text("found")),
            )
        })
        .collect()
}

#[test]
fn worker_of_this_project_passes_every_check() {
    let place = Place::new();
    let worker = program("qtf-worker");
    let worker = worker.to_str().expect("a readable path");
    let done = check(
        &place,
        &[],
        &[worker, "--connect", "{}", "--slots", "2"],
        &[],
    );
    assert_eq!(failed(&done), [], "{}", done.stderr);
    assert_eq!(
        done.json()["checks"].as_array().expect("a list").len(),
        CHECKS
    );
    assert_eq!(done.code, 0, "{}", done.stderr);
}

#[test]
fn worker_in_python_passes_every_check_over_tcp_and_over_a_unix_socket() {
    crate::with_each_contract(|python, contract, place| {
        let modules = crate::modules(python, contract, place);
        let tcp = place.free_tcp_address();
        for listen in [&[][..], &["--listen", &tcp]] {
            let python = python.to_str().expect("a readable path");
            let worker = crate::programs().join("worker.py");
            let worker = worker.to_str().expect("a readable path");
            let environment = [("PYTHONPATH", modules.as_path())];
            let done = check(place, listen, &[python, worker, "{}"], &environment);
            assert_eq!(failed(&done), [], "{}", done.stderr);
            assert_eq!(done.code, 0, "{}", done.stderr);
        }
    });
}

#[test]
fn each_fault_of_a_worker_fails_the_check_that_is_about_it() {
    let faults = [
        ("never-says-started", "cancellation"),
        ("grants-too-much", "credits"),
        ("ignores-cancellation", "cancellation"),
        ("ignores-time-limits", "time-limit"),
        ("drops-what-is-refused", "refused-result"),
        ("forgets-what-it-holds", "reconnect"),
    ];
    crate::with_each_contract(|python, contract, place| {
        let modules = crate::modules(python, contract, place);
        let worker = crate::programs().join("faulty_worker.py");
        let words = [python, worker.as_path(), Path::new("{}")];
        let words = words.map(|word| word.to_str().expect("a readable path"));
        for (fault, about) in faults {
            let environment = [
                ("PYTHONPATH", modules.as_path()),
                ("FAULT", Path::new(fault)),
            ];
            let done = check(place, &["--only", about], &words, &environment);
            let failed = failed(&done);
            assert_eq!(done.code, 1, "{fault}: {failed:?}: {}", done.stderr);
            assert!(
                failed.iter().any(|(name, _)| name == about),
                "{fault}: {failed:?}: {}",
                done.stderr
            );
        }
    });
}

#[test]
fn eviction_that_is_lost_on_its_way_once_is_no_fault_and_one_fault_fails_no_later_check() {
    crate::with_each_contract(|python, contract, place| {
        let modules = crate::modules(python, contract, place);
        let words = [
            python,
            &crate::programs().join("faulty_worker.py"),
            Path::new("{}"),
        ];
        let words = words.map(|word| word.to_str().expect("a readable path"));
        let only = ["--only", "eviction", "--only", "drain"];
        for (fault, faults) in [
            ("loses-evicted-once", &[][..]),
            ("never-hears-evicted", &["eviction"]),
        ] {
            let environment = [
                ("PYTHONPATH", modules.as_path()),
                ("FAULT", Path::new(fault)),
            ];
            let done = check(place, &only, &words, &environment);
            let failed = failed(&done);
            let names: Vec<&str> = failed.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, faults, "{fault}: {failed:?}: {}", done.stderr);
        }
    });
}

#[test]
fn worker_whose_program_has_ended_is_not_waited_for() {
    let place = Place::new();
    for (program, how) in [("false", "exit status: 1"), ("true", "exit status: 0")] {
        // Longer than the test may take.
        let done = check(&place, &["--wait", "1h"], &[program], &[]);
        assert_eq!(done.code, 1, "{}", done.stderr);
        let told = failed(&done);
        assert_eq!((told.len(), told[0].0.as_str()), (1, "hello"), "{told:?}");
        assert!(told[0].1.ends_with(how), "{told:?}");
    }
}

#[test]
fn worker_that_does_not_come_and_a_check_that_is_none_are_told() {
    let place = Place::new();
    let done = check(&place, &["--wait", "200ms"], &["sleep", "1000"], &[]);
    assert_eq!(done.code, 1, "{}", done.stderr);
    let told = failed(&done);
    assert_eq!((told.len(), told[0].0.as_str()), (1, "hello"), "{told:?}");
    let done = check(&place, &["--only", "luck"], &["true"], &[]);
    assert_eq!(done.code, 2);
    assert!(
        done.stderr.contains("there are hello, credits"),
        "{}",
        done.stderr
    );
}
