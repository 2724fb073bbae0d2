//! Commands that outlive their daemon: a real `qtfd` that is killed and started again, with the segment it
//! left (hot) and without (cold).
#![expect(clippy::unwrap_used, reason = "what cannot be set up is a failed test")]

use qtf_tests::{Place, Process};

/// A daemon with a journal, and a worker of four slots.
struct System {
    place: Place,
    daemon: Process,
    _worker: Process,
}

/// How a daemon ends.
#[derive(Clone, Copy, PartialEq)]
enum End {
    /// In order, as before an upgrade.
    Stopped,
    Killed,
    /// Killed, and its segment is gone.
    Rebooted,
}

fn start_daemon(place: &Place) -> Process {
    let data = place.work().join("data");
    place.daemon(&["--data-dir", data.to_str().unwrap()])
}

impl System {
    fn start() -> Self {
        let place = Place::new();
        let daemon = start_daemon(&place);
        let worker = place.worker(&place.address(), "steady", 4);
        System {
            place,
            daemon,
            _worker: worker,
        }
    }

    /// A command that goes on in the background.
    fn qtf(&self, arguments: &[&str]) -> Process {
        let mut command = self.place.command("qtf");
        command
            .args(["--addr", &self.place.address()])
            .args(arguments);
        Process::start(command)
    }

    /// Ends the daemon, waits until a command says that it noticed, and starts another.
    fn restart(&mut self, waiting: &mut Process, end: End) {
        match end {
            End::Stopped => assert_eq!(self.daemon.terminate(), Some(0)),
            End::Killed | End::Rebooted => self.daemon.kill(),
        }
        // It may also have come only after the kill, and found the socket that was left.
        waiting.line_with("waiting up to 30 s");
        if end == End::Rebooted {
            self.place.remove_segments();
        }
        self.daemon = start_daemon(&self.place);
    }
}

fn map_goes_on(end: End) {
    let mut system = System::start();
    let started = system.place.fifo("started");
    let mut gate = system.place.gate("gate");
    let script = format!(
        "echo {{}} > {}; read line < {}; echo out {{}}",
        started.path().display(),
        gate.path().display()
    );
    let inputs: Vec<String> = (1..=4).map(|n| n.to_string()).collect();
    let mut line = vec!["map", "sh", "-c", &script, ":::"];
    line.extend(inputs.iter().map(String::as_str));
    let mut map = system.qtf(&line);
    for _ in &inputs {
        let _running = started.line();
    }
    system.restart(&mut map, end);
    map.line_with("daemon back after");
    if end == End::Rebooted {
        // Handed out anew; a slot is free only when the attempt of before is gone.
        for _ in &inputs {
            let _running = started.line();
        }
    }
    gate.let_pass(inputs.len());
    for input in &inputs {
        assert_eq!(map.line_with("out"), format!("out {input}"));
    }
    assert_eq!(map.wait().code(), Some(0));
}

#[test]
fn map_goes_on_over_a_hot_restart_and_prints_each_output_once_in_order() {
    map_goes_on(End::Killed);
}

#[test]
fn map_goes_on_over_a_cold_start_and_prints_each_output_once_in_order() {
    map_goes_on(End::Rebooted);
}

#[test]
fn map_goes_on_over_a_planned_stop_and_prints_each_output_once_in_order() {
    map_goes_on(End::Stopped);
}

#[test]
fn commands_that_begin_after_a_planned_stop_wait_for_the_next_daemon() {
    let mut system = System::start();
    assert_eq!(system.daemon.terminate(), Some(0));
    let mut waiting = [
        system.qtf(&["map", "echo", ":::", "out"]),
        system.qtf(&["submit", "--", "echo", "out"]),
    ];
    for command in &mut waiting {
        let line = command.line_with("waiting up to");
        assert!(line.contains("one was stopped"), "{line}");
    }
    system.daemon = start_daemon(&system.place);
    for command in &mut waiting {
        assert_eq!(command.wait().code(), Some(0));
    }
}

/// The daemon of [`System`], at a socket that has no lock file beside it.
fn start_elsewhere(place: &Place, more: &[&str]) -> (Process, String) {
    let data = place.work().join("data");
    let address = format!("unix:{}", place.work().join("other.sock").display());
    let mut line = vec!["--data-dir", data.to_str().unwrap(), "--listen", &address];
    line.extend_from_slice(more);
    (place.daemon(&line), address)
}

#[test]
fn commands_wait_for_the_next_daemon_at_a_socket_of_any_place_after_a_planned_stop_and_not_for_ever()
 {
    let place = Place::new();
    let (mut daemon, address) = start_elsewhere(&place, &[]);
    let _worker = place.worker(&address, "steady", 2);
    assert_eq!(daemon.terminate(), Some(0));
    let qtf = |arguments: &[&str]| {
        let mut command = place.command("qtf");
        command.args(["--addr", &address]).args(arguments);
        Process::start(command)
    };
    let mut waiting = [
        qtf(&["map", "echo", ":::", "out"]),
        qtf(&["submit", "--", "echo", "out"]),
    ];
    for command in &mut waiting {
        let line = command.line_with("waiting up to");
        assert!(line.contains("one was stopped"), "{line}");
    }
    let (mut next, _) = start_elsewhere(&place, &[]);
    for command in &mut waiting {
        assert_eq!(command.wait().code(), Some(0));
    }
    assert_eq!(next.terminate(), Some(0));
    // It was stopped for good.
    let socket = place.work().join("other.sock");
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
    let touched = std::process::Command::new("touch")
        .args(["-h", "-d"])
        .arg(format!("@{}", seconds(long_ago)))
        .arg(&socket)
        .status();
    assert!(touched.unwrap().success());
    let done = place
        .qtf(["--addr", &address, "submit", "--", "echo", "out"])
        .expect_code(5);
    assert!(!done.stderr.contains("waiting"), "{}", done.stderr);
}

/// It has nothing to write at its end, and so ends at once.
#[test]
fn commands_wait_also_for_the_next_one_after_a_daemon_without_a_data_folder() {
    let place = Place::new();
    let address = format!("unix:{}", place.work().join("other.sock").display());
    let networks: &[&str] = if qtf_needs::lacks(qtf_needs::Need::IoUring) {
        &["auto"]
    } else {
        &["auto", "io_uring"]
    };
    for network in networks {
        let line = ["--listen", &address, "--network", network];
        let mut daemon = place.daemon(&line);
        assert_eq!(daemon.terminate(), Some(0));
        let mut command = place.command("qtf");
        command.args(["--addr", &address, "submit", "--", "true"]);
        let mut waiting = Process::start(command);
        let said = waiting.line_with("waiting up to");
        assert!(said.contains("one was stopped"), "{said}");
        let mut next = place.daemon(&line);
        assert_eq!(waiting.wait().code(), Some(0));
        assert_eq!(next.terminate(), Some(0));
    }
}

fn seconds(time: std::time::SystemTime) -> u64 {
    time.duration_since(std::time::SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

#[test]
fn commands_that_come_while_a_daemon_is_taken_over_at_a_socket_of_any_place_are_answered() {
    let place = Place::new();
    let (mut daemon, address) = start_elsewhere(&place, &[]);
    for _ in 0..3 {
        let commands = std::thread::scope(|threads| {
            let submitting = threads.spawn(|| {
                let submit = |_| place.qtf(["--addr", &address, "submit", "--", "true"]);
                (0..12).map(submit).collect::<Vec<_>>()
            });
            let (next, _) = start_elsewhere(&place, &["--take-over"]);
            daemon = next;
            submitting.join().unwrap()
        });
        for command in commands {
            let _submitted = command.expect_code(0);
        }
    }
    assert_eq!(daemon.terminate(), Some(0));
}

#[test]
fn wait_and_result_find_a_journal_task_after_a_cold_start() {
    let mut system = System::start();
    let mut gate = system.place.gate("gate");
    let started = system.place.fifo("started");
    let script = format!(
        "echo > {}; read line < {}; echo through",
        started.path().display(),
        gate.path().display()
    );
    let place = &system.place;
    let address = place.address();
    let submitted = place
        .qtf([
            "--addr", &address, "submit", "--key", "once", "--", "sh", "-c", &script,
        ])
        .expect_code(0);
    let id = submitted.text().trim_end().to_owned();
    let _running = started.line();
    let mut waiting = system.qtf(&["wait", &id]);
    // The heartbeats of its session are there when the daemon lists it.
    while !system
        .place
        .qtf(["--addr", &address, "client", "ls"])
        .expect_code(0)
        .text()
        .contains("qtf")
    {}
    system.restart(&mut waiting, End::Rebooted);
    let _again = started.line();
    gate.let_pass(1);
    assert_eq!(waiting.wait().code(), Some(0));
    let place = &system.place;
    let again = place
        .qtf(["--addr", &address, "submit", "--key", "once", "--", "false"])
        .expect_code(0);
    assert_eq!(again.text().trim_end(), id, "its key outlives the reboot");
    let info = place
        .qtf(["--addr", &address, "info", "--json"])
        .expect_code(0)
        .json();
    assert_eq!(
        (&info["start"], &info["default_durability"]),
        (&"cold".into(), &"journal".into())
    );
    assert_eq!(info["journal"]["state"], "open");
    let result = place
        .qtf(["--addr", &address, "result", &id])
        .expect_code(0);
    assert_eq!(result.text(), "through\n");
}

#[test]
fn commands_that_outlive_a_daemon_wait_for_the_next_where_one_was_killed() {
    let mut system = System::start();
    let address = system.place.address();
    let at = ["--addr", address.as_str()];
    let submit = [&at[..], &["submit", "--key", "k", "--", "echo", "out"]].concat();
    let first = system.place.qtf(&submit).expect_code(0);
    system.daemon.kill();
    // What only looks does not wait.
    system.place.qtf([&at[..], &["ps"]].concat()).expect_code(5);
    let short = [&at[..], &["wait", "last", "--timeout", "1"]].concat();
    let done = system.place.qtf(short).expect_code(5);
    assert!(done.stderr.contains("up to 1 s"), "{}", done.stderr);

    let mut waiting = system.qtf(&["wait", "last"]);
    let mut again = system.qtf(&["submit", "--key", "k", "--", "echo", "out"]);
    waiting.line_with("waiting up to 30 s for the next");
    again.line_with("waiting up to 30 s for the next");
    system.daemon = start_daemon(&system.place);
    again.line_with(first.text().trim());
    assert_eq!(again.wait().code(), Some(0));
    assert_eq!(waiting.wait().code(), Some(0));
}
