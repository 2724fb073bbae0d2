//! Exit codes and messages that need no daemon, or the lack of one.

use std::os::unix::net::UnixListener;

use qtf_tests::Place;

const ID: &str = "0000000400001";

#[test]
fn without_a_daemon_commands_end_with_5_and_say_how_to_start_one() {
    let place = Place::new();
    let address = place.default_address();
    for line in [
        &["ps"][..],
        &["wait", ID],
        &["result", ID],
        &["cancel", ID],
        &["forget", ID],
        &["update", ID, "-p", "1"],
        &["task", ID],
        &["submit", "--", "true"],
        &["worker", "ls"],
        &["client", "ls"],
    ] {
        let line = [&["--addr", address.as_str()], line].concat();
        let done = place.qtf(&line).expect_code(5);
        assert!(done.stderr.contains("qtf dev"), "{line:?}: {}", done.stderr);
        assert_eq!(done.text(), "");
    }
}

#[test]
fn a_default_socket_that_is_not_there_is_told_as_any_other_missing_file() {
    let place = Place::new();
    let done = place.qtf(["ps"]).expect_code(5);
    assert!(
        done.stderr
            .contains("default.sock: No such file or directory"),
        "{}",
        done.stderr
    );
}

#[test]
fn map_does_not_start_its_own_daemon_when_another_was_named() {
    let place = Place::new();
    let address = place.default_address();
    place
        .qtf(["--addr", &address, "map", "echo", ":::", "a"])
        .expect_code(5);
    let mut command = place.command("qtf");
    command
        .env("QTF_ADDR", &address)
        .args(["map", "echo", ":::", "a"]);
    place.finish(command, Vec::new()).expect_code(5);
}

#[test]
fn map_does_not_start_its_own_daemon_when_the_default_socket_is_something_else() {
    let place = Place::new();
    let socket = place.default_address();
    let path = std::path::Path::new(socket.trim_start_matches("unix:"));
    qtf_proto::folder::OwnFolder::make(path.parent().unwrap(), 0o700).unwrap();
    let listener = UnixListener::bind(path).unwrap();
    // It takes the connection and closes it, which no daemon does.
    std::thread::spawn(move || while listener.accept().is_ok() {});
    let done = place.qtf(["map", "echo", ":::", "a"]).expect_code(5);
    assert_eq!(done.text(), "");
}

#[test]
fn wrong_command_lines_end_with_2_and_name_the_fix() {
    let place = Place::new();
    for (line, text) in [
        (&["sumbit"][..], "similar subcommand exists: 'submit'"),
        (&["explain", ID], "unrecognized subcommand"),
        (&["list"], "`qtf ps` lists tasks"),
        (&["status", ID], "`qtf task ID`"),
        (&["logs", ID], "`qtf result ID`"),
        (&["log"], "`qtf result ID`"),
        (&["kill", ID], "`qtf cancel ID`"),
        (&["rm", ID], "`qtf forget ID`"),
        (&["top"], "`qtf ps`"),
        (&["map", "echo {.}", ":::", "a"], "write \\{.} in quotes"),
        (
            &["submit", "--array", "1-3", "--", "echo", "%{idx}"],
            "%{index}",
        ),
        (
            &["submit", "--array", "1-3", "--env", "A={#}", "--", "echo"],
            "{#} in --env",
        ),
        (
            &["submit", "--payload", "x", "--", "true"],
            "cannot be used",
        ),
        (&["submit", "--payload", "x"], "--kind"),
        (&["submit", "--kind", "exec"], "without --kind"),
        (&["submit", "--kind", "k", "--", "true"], "cannot be used"),
        (
            &["submit", "--kind", "k", "--payload", "gone"],
            "--payload gone",
        ),
        (&["wait"], "SEL"),
        (&["wait", "77"], "13 letters"),
        (&["wait", "last[1"], "not closed"),
        (&["wait", "last", "--timeout", "soon"], "10s"),
        (&["ps", "--state", "runing"], "running"),
        (&["ps", "--addr", "nonsense"], "needs a port"),
        (&["ps", "--addr", "shm:"], "write shm:NAME"),
        (&["submit"], "PROG"),
        (&["submit", "--array", "5-1", "--", "x"], "1-5"),
        (&["submit", "--", "x", "%{index}"], "--array"),
        (
            &["submit", "--array", "1-99999999999999", "--", "x"],
            "at most 16777216",
        ),
        (&["dev", "--workers", "60000"], "4095"),
        (&["submit", "--timeout", "60 days", "--", "x"], "49 days"),
        (&["submit", "--key", "", "--", "x"], "a value is required"),
        (&["submit", "--stdin", "missing", "--", "x"], "missing"),
        (&["update", "last"], "--priority"),
        (&["size", "--tasks", "5"], "--workers"),
        (&["completions", "tcsh"], "possible values"),
    ] {
        let done = place.qtf(line).expect_code(2);
        assert!(done.stderr.contains(text), "{line:?}: {}", done.stderr);
        assert_eq!(done.text(), "");
    }
}

#[test]
fn options_beyond_their_limits_and_such_as_contradict_each_other_end_with_2_and_name_the_fix() {
    let place = Place::new();
    for (line, text) in [
        (
            &["map", "echo", ":::", "a", ":::+", "b"][..],
            "`:::+`, with which GNU parallel links",
        ),
        (&["bench", "--workers", "257"], "a number from 1 to 256"),
        (
            &[
                "submit",
                "--again-exit",
                "75",
                "--again-after",
                "31d",
                "--",
                "true",
            ],
            "limit of 30 days",
        ),
        (
            &[
                "map",
                "--final-exit",
                "9,65",
                "--again-exit",
                "65",
                "true",
                ":::",
                "a",
            ],
            "65 stands in --final-exit and in --again-exit",
        ),
    ] {
        let done = place.qtf(line).expect_code(2);
        assert!(done.stderr.contains(text), "{line:?}: {}", done.stderr);
        assert_eq!(done.text(), "");
    }
}

#[test]
fn help_goes_to_stdout_and_ends_with_0() {
    let place = Place::new();
    for line in [
        &["--help"][..],
        &["help", "map"],
        &["submit", "--help"],
        &["--version"],
    ] {
        let done = place.qtf(line).expect_code(0);
        assert!(!done.text().is_empty());
    }
    place.qtf::<&str>([]).expect_code(2);
}

#[test]
fn completions_are_there_for_five_shells() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let done = place.qtf(["completions", shell]).expect_code(0);
        assert!(done.text().contains("worker"), "{shell}");
    }
}

#[test]
fn size_prints_the_formula_and_its_sum() {
    let place = Place::new();
    let size = place
        .qtf(["size", "--tasks", "10000", "--workers", "1000", "--json"])
        .expect_code(0)
        .json();
    assert_eq!(size["schema"], "qtf.size/1");
    let total = size["total_bytes"].as_u64().unwrap();
    assert!(total <= 4 << 20, "{total}");
    let sum: u64 = size["regions"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|region| region["bytes"].as_u64())
        .sum();
    assert_eq!(sum, total);
    let default = place.qtf(["size", "--json"]).expect_code(0).json();
    assert_eq!(default["total_bytes"], 256 << 20);
    assert_eq!(default["tasks"], 1 << 20);
    place.qtf(["size", "--bytes", "1"]).expect_code(2);
}

#[test]
fn last_without_a_submission_ends_with_3() {
    let place = Place::new();
    let _dev = place.dev(&["--workers", "0"]);
    let done = place.qtf(["wait", "last"]).expect_code(3);
    assert!(done.stderr.contains("no submission"), "{}", done.stderr);
}

#[test]
fn a_daemon_that_does_not_answer_is_given_up_with_a_word() {
    let place = Place::new();
    let socket = place.default_address();
    let path = std::path::Path::new(socket.trim_start_matches("unix:"));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    // The kernel takes the connection; nobody ever reads from it.
    let _silent = UnixListener::bind(path).unwrap();
    let done = place.qtf(["ps"]).expect_code(5);
    assert!(done.stderr.contains("may be stopped"), "{}", done.stderr);
    let first = done.stderr.lines().next().unwrap_or_default();
    assert!(first.contains("no answer from the daemon at"), "{first}");
}

#[test]
fn the_other_programs_end_with_2_too_and_name_the_fix() {
    let place = Place::new();
    for (program, line, text) in [
        ("qtf-worker", ["--slots", "0"], "0 slots"),
        ("qtf-worker", ["--log", "nonsense=x=y"], "--log"),
        ("qtfd", ["--segment-bytes", "1G"], "1073741824 for 1G"),
        ("qtfd", ["--segment-bytes", "much"], "as 268435456"),
    ] {
        let mut command = place.command(program);
        command.args(line);
        let done = place.finish(command, Vec::new()).expect_code(2);
        assert!(done.stderr.contains(text), "{line:?}: {}", done.stderr);
    }
}
