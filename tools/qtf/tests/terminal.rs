//! The terminal of `qtf map` is its own: its tasks cannot be stopped by it, and Ctrl-Z stops and continues them with it.

use std::os::unix::process::CommandExt as _;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use qtf_tests::{Place, Process};

const WATCHDOG: Duration = Duration::from_secs(300);

#[test]
fn task_that_reads_the_terminal_fails_instead_of_being_stopped_for_ever() {
    let place = Place::new();
    let qtf = place.command("qtf");
    let map = format!(
        "{} map sh -c 'head -n1 < /dev/tty' x ::: a",
        qtf.get_program().display()
    );
    let mut terminal = place.command_of("script".as_ref());
    terminal.args(["--quiet", "--return", "--command", &map, "/dev/null"]);
    let done = place.finish(terminal, Vec::new()).expect_code(1);
    assert!(done.text().contains("/dev/tty"), "{}", done.text());
}

#[test]
fn stopped_task_is_told_of() {
    let place = Place::new();
    for way in ["supervisor", "group"] {
        let mut command = place.command("qtf");
        command.args(["map", "-j1", "--contain", way, "sh", "-c"]);
        command.args(["kill -STOP $$", "x", ":::", "a"]);
        let mut map = Process::start(command);
        let told = map.line_with("is stopped");
        assert!(told.contains("SIGSTOP"), "{told}");
        assert_eq!(map.terminate(), Some(143));
    }
}

/// The letter of a process's state.
fn state(pid: u32) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.split(' ').next());
    state.unwrap_or("gone").to_owned()
}

#[track_caller]
fn await_state(pid: u32, wanted: &str) {
    let over = Instant::now() + WATCHDOG;
    while state(pid) != wanted {
        assert!(
            Instant::now() < over,
            "{pid} is {} and not {wanted}",
            state(pid)
        );
        std::thread::yield_now();
    }
}

#[test]
fn ctrl_z_stops_the_tasks_too_and_they_go_on_with_it() {
    for way in ["supervisor", "group"] {
        let place = Place::new();
        let started = place.fifo("started");
        let mut command = place.command("qtf");
        command.args(["map", "-j1", "--contain", way, "sh", "-c"]);
        command.args(["echo $$ > $1; exec sleep 1000", "x"]);
        command.arg(started.path()).args([":::", "a"]);
        // As a shell does with a job.
        command.process_group(0);
        let mut map = Process::start(command);
        let task = started.line().parse().unwrap();
        for _ in 0..3 {
            map.signal(Signal::SIGTSTP);
            await_state(map.pid(), "T");
            await_state(task, "T");
            map.signal(Signal::SIGCONT);
            await_state(task, "S");
        }
        assert_eq!(map.terminate(), Some(143));
    }
}
