//! `qtf map` means the same at an own daemon and at another one, and says which it is.

use std::time::{Duration, SystemTime};

use qtf_tests::{Finished, Place, Process};

/// Runs it with a variable in its environment.
fn map_with_greeting(place: &Place, arguments: &[&str]) -> Finished {
    let mut command = place.command("qtf");
    command.args(arguments).env("GREETING", "good morning");
    place.finish(command, Vec::new()).expect_code(0)
}

const GREET: [&str; 6] = ["sh", "-c", "echo $GREETING, $1", "x", ":::", "a"];

#[test]
fn no_more_tasks_run_at_the_same_time_than_asked_for_at_any_daemon() {
    for is_own in [true, false] {
        let place = Place::new();
        let _dev = (!is_own).then(|| place.dev(&["--slots", "4"]));
        let (started, mut gate) = (place.fifo("started"), place.gate("gate"));
        let script = format!(
            "echo $1 > {}; read line < {}",
            started.path().display(),
            gate.path().display()
        );
        let mut command = place.command("qtf");
        command.args(["map", "-j2", "sh", "-c", &script, "x", ":::"]);
        command.args(["1", "2", "3", "4", "5", "6"]);
        let mut map = Process::start(command);
        for _ in 0..3 {
            let _two_run = [started.line(), started.line()];
            if !is_own {
                let tasks = place.qtf(["ps", "--json"]).expect_code(0).json();
                assert_eq!(tasks["tasks"].as_array().unwrap().len(), 2, "{tasks}");
            }
            assert_eq!(started.lines_so_far(), Vec::<String>::new());
            gate.let_pass(2);
        }
        assert_eq!(map.wait().code(), Some(0));
    }
}

#[test]
fn tasks_have_the_environment_of_the_caller_at_any_daemon_of_its_own() {
    let place = Place::new();
    let own = map_with_greeting(&place, &[&["map"][..], &GREET].concat());
    assert_eq!(own.text(), "good morning, a\n");
    let _dev = place.dev(&["--slots", "1"]);
    for address in [None, Some(place.default_address())] {
        let mut line = Vec::new();
        if let Some(address) = &address {
            line.extend(["--addr", address]);
        }
        let there = map_with_greeting(&place, &[&line[..], &["map"], &GREET].concat());
        assert_eq!(there.text(), "good morning, a\n");
        assert!(!there.stderr.contains("environment"), "{}", there.stderr);
        let other = ["map", "--env", "GREETING=hi"];
        let over = map_with_greeting(&place, &[&line[..], &other, &GREET].concat());
        assert_eq!(over.text(), "hi, a\n");
    }
}

#[test]
fn environment_does_not_go_over_tcp_and_the_line_that_names_the_daemon_says_so() {
    let place = Place::new();
    let address = place.free_tcp_address();
    let _dev = place.dev(&["--slots", "1", "--listen", &address]);
    let there = map_with_greeting(&place, &[&["--addr", &address, "map"][..], &GREET].concat());
    assert_eq!(there.text(), ", a\n");
    assert!(
        there.stderr.contains(&format!("the daemon at {address}"))
            && there.stderr.contains("not of this shell: --env"),
        "{}",
        there.stderr
    );
}

#[test]
fn one_line_says_which_daemon_it_is_and_which_options_it_leaves_to_others() {
    let place = Place::new();
    let own = place.qtf(["map", "-j3", "echo", ":::", "a"]).expect_code(0);
    assert_eq!(
        own.stderr,
        "qtf: a daemon of its own runs the tasks, 3 at a time\n"
    );
    let quiet = place.qtf(["map", "-q", "echo", ":::", "a"]).expect_code(0);
    assert_eq!(quiet.stderr, "");
    let _dev = place.dev(&["--slots", "1"]);
    let address = place.default_address();
    let other = place
        .qtf(["map", "-j3", "--linger", "1s", "echo", ":::", "a"])
        .expect_code(0);
    assert_eq!(
        other.stderr,
        format!(
            "qtf: the daemon at {address} runs the tasks, 3 at a time; --linger is left to its workers\n"
        )
    );
}

#[test]
fn daemon_that_was_stopped_a_moment_ago_is_waited_for_before_an_own_one_is_started() {
    let place = Place::new();
    std::fs::create_dir(place.runtime()).unwrap();
    std::fs::set_permissions(
        place.runtime(),
        std::os::unix::fs::PermissionsExt::from_mode(0o700),
    )
    .unwrap();
    let lock = std::fs::File::create(place.runtime().join("default.lock")).unwrap();
    let map = || {
        let mut command = place.command("qtf");
        command.args(["map", "echo", ":::", "a"]);
        Process::start(command)
    };
    let mut waiting = map();
    waiting.line_with("one was stopped");
    let dev = place.dev(&["--slots", "1"]);
    waiting.line_with(&format!("the daemon at {}", place.default_address()));
    assert_eq!(waiting.wait().code(), Some(0));
    drop(dev);
    // It was killed, so its socket is there.
    let mut waiting = map();
    waiting.line_with("the socket of one that was killed");
    drop(waiting);
    std::fs::remove_file(place.runtime().join("default.sock")).unwrap();
    let almost = Duration::from_secs(29);
    lock.set_modified(SystemTime::now() - almost).unwrap();
    let mut alone = map();
    alone.line_with("waiting up to 1 s");
    alone.line_with("a daemon of its own runs the tasks");
    assert_eq!(alone.wait().code(), Some(0));
}
