//! However `qtf map` ends, nothing is left: no process, no segment, no file, no task at the daemon.

use std::collections::HashSet;
use std::io::Read as _;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use qtf_tests::{Fifo, Place, Process, leaks};

/// Each task says that it runs, and then stays.
const STAY: &str = "echo started > $1; exec sleep 1000";

fn start_map(place: &Place, started: &Fifo, address: Option<&str>) -> Process {
    let mut command = place.command("qtf");
    if let Some(address) = address {
        command.args(["--addr", address]);
    }
    command
        .args(["map", "-j", "2", "sh", "-c", STAY, "x"])
        .arg(started.path());
    command.args(["{}", ":::", "a", "b", "c", "d", "e"]);
    Process::start(command)
}

fn assert_nothing_is_left(place: &Place, creators: &[u32]) {
    assert_eq!(place.processes(), []);
    let creators: HashSet<u32> = creators.iter().copied().collect();
    assert_eq!(leaks::segments(&creators), []);
    let left = place.runtime_files();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn ctrl_c_and_sigterm_leave_nothing_behind() {
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let place = Place::new();
        let started = place.fifo("started");
        let mut map = start_map(&place, &started, None);
        assert_eq!([started.line(), started.line()], ["started", "started"]);
        map.signal(signal);
        assert_eq!(map.wait().code(), Some(code));
        assert_nothing_is_left(&place, &[map.pid()]);
    }
}

#[test]
fn a_second_ctrl_c_does_not_wait_for_tasks_that_ignore_the_first() {
    let place = Place::new();
    let started = place.fifo("started");
    let mut command = place.command("qtf");
    // TERM ends the sleep, and the shell starts another one. It waits for what says "round": a shell that is told just before it starts a
    // program runs its trap when that has ended.
    let script =
        "trap 'echo told > $1' TERM; while :; do sh -c \"echo round > $1; exec sleep 1000\"; done";
    command.args(["map", "-j1", "sh", "-c", script, "x"]);
    command.arg(started.path()).args([":::", "a"]);
    let mut map = Process::start(command);
    assert_eq!(started.line(), "round");
    map.signal(Signal::SIGINT);
    // The task has been told, and goes on.
    while started.line() != "told" {}
    map.signal(Signal::SIGINT);
    assert_eq!(map.wait().code(), Some(130));
    assert_nothing_is_left(&place, &[map.pid()]);
}

#[test]
fn a_run_that_completes_leaves_nothing_behind() {
    let place = Place::new();
    let mut command = place.command("qtf");
    command.args(["map", "echo", ":::", "a", "b"]);
    let mut map = Process::start(command);
    assert_eq!(map.wait().code(), Some(0));
    assert_nothing_is_left(&place, &[map.pid()]);
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let place = Place::new();
    let mut command = place.command("qtf");
    command
        .args([
            "map",
            "-q",
            "sh",
            "-c",
            "echo $1; head -c 1000000 /dev/zero",
            "x",
        ])
        .arg(":::");
    command.args((0..1000).map(|number| number.to_string()));
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut map = command.spawn().unwrap();
    let mut first = [0; 2];
    map.stdout.take().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(&first, b"0\n");
    let done = map.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&done.stderr), "");
    assert_eq!(done.status.code(), Some(141), "as if by SIGPIPE");
    assert_nothing_is_left(&place, &[]);
}

#[test]
fn ctrl_c_at_another_daemon_cancels_and_forgets_its_tasks_there() {
    let place = Place::new();
    let mut dev = place.dev(&["--slots", "2"]);
    let started = place.fifo("started");
    let mut map = start_map(&place, &started, Some(&place.default_address()));
    assert_eq!([started.line(), started.line()], ["started", "started"]);
    map.signal(Signal::SIGINT);
    assert_eq!(map.wait().code(), Some(130));
    let tasks = place.qtf(["ps", "--all", "--json"]).expect_code(0).json();
    assert_eq!(tasks["tasks"], serde_json::json!([]));
    assert_eq!(dev.terminate(), Some(143));
    assert_nothing_is_left(&place, &[dev.pid()]);
}

#[test]
fn two_kinds_of_signals_at_once_are_one_wish_and_the_tasks_are_cancelled_before_the_end() {
    let place = Place::new();
    let mut dev = place.dev(&["--slots", "2"]);
    let started = place.fifo("started");
    let mut map = start_map(&place, &started, Some(&place.default_address()));
    assert_eq!([started.line(), started.line()], ["started", "started"]);
    // It finds both when it goes on.
    map.signal(Signal::SIGSTOP);
    map.signal(Signal::SIGINT);
    map.signal(Signal::SIGTERM);
    map.signal(Signal::SIGCONT);
    assert!(matches!(map.wait().code(), Some(130 | 143)));
    let tasks = place.qtf(["ps", "--all", "--json"]).expect_code(0).json();
    assert_eq!(tasks["tasks"], serde_json::json!([]));
    assert_eq!(dev.terminate(), Some(143));
    assert_nothing_is_left(&place, &[dev.pid()]);
}

#[test]
fn results_at_another_daemon_are_acknowledged() {
    let place = Place::new();
    let _dev = place.dev(&["--slots", "2"]);
    // Without --addr: the daemon on the default socket is found.
    let done = place
        .qtf(["map", "echo", ":::", "a", "b", "c"])
        .expect_code(0);
    assert_eq!(done.text(), "a\nb\nc\n");
    let workers = place.qtf(["worker", "ls", "--json"]).expect_code(0).json();
    assert_eq!(workers["workers"][0]["tasks_done"], 3, "{workers}");
    let tasks = place.qtf(["ps", "--all", "--json"]).expect_code(0).json();
    assert_eq!(tasks["tasks"], serde_json::json!([]));
}

#[test]
fn a_daemon_that_dies_in_the_middle_ends_it_with_5() {
    let place = Place::new();
    let mut dev = place.dev(&["--slots", "2"]);
    let started = place.fifo("started");
    let mut map = start_map(&place, &started, Some(&place.default_address()));
    assert_eq!(started.line(), "started");
    dev.kill();
    assert_eq!(map.wait().code(), Some(5));
}

#[test]
fn a_smaller_segment_than_usual_is_taken_and_told_when_the_system_gives_no_more() {
    if qtf_needs::lacks(qtf_needs::Need::IpcLimits) {
        return;
    }
    let place = Place::new();
    let mut command = Command::new("unshare");
    command.args([
        "--ipc",
        "--map-root-user",
        "sh",
        "-c",
        "echo 50000000 > /proc/sys/kernel/shmmax && exec \"$0\" map -q echo {} ::: a",
    ]);
    let qtf = place.command("qtf");
    command.arg(qtf.get_program());
    command.envs(
        qtf.get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    let done = place.finish(command, Vec::new()).expect_code(0);
    assert_eq!(done.text(), "a\n");
    for part in ["going on with", "134217728", "kernel.shmmax"] {
        assert!(done.stderr.contains(part), "{part}: {}", done.stderr);
    }
    assert_eq!(done.stderr.lines().count(), 1, "{}", done.stderr);
}
