//! A link that carries nothing and says so to nobody: who is at its ends notices within a few leases, says why, and goes on when it heals.

use std::time::Duration;

use nix::sys::signal::Signal;
use qtf_client::{Client, Task};
use qtf_tests::{Link, Place, Process};

/// Longer than a client waits for a sign of life.
const STOPPED: Duration = Duration::from_secs(11);

/// A daemon on TCP, and a link to it that is held and mended.
struct Wire {
    place: Place,
    _daemon: Process,
    address: String,
    link: Link,
}

impl Wire {
    fn new() -> Self {
        Self::with("")
    }

    fn with(config: &str) -> Self {
        let place = Place::new();
        let address = place.free_tcp_address();
        let config = place.file("config.toml", config);
        let config = config.to_str().expect("a readable path");
        let daemon = place.daemon(&["--listen", &address, "--config", config]);
        let link = Link::to(&address);
        Self {
            place,
            _daemon: daemon,
            address,
            link,
        }
    }
}

#[test]
fn worker_behind_a_black_hole_says_for_how_long_it_heard_nothing_and_comes_back() {
    worker_behind_a_black_hole(&Wire::new(), "no answer for 10 s");
}

#[test]
fn worker_notices_a_black_hole_at_the_pace_of_its_lease_on_its_first_link_and_on_later_ones() {
    let wire = Wire::with("heartbeat_ms = 250\nlease_ms = 1000\n");
    worker_behind_a_black_hole(&wire, "no answer for 2 s");
}

/// Twice: over the link that was its first, and over the one after it.
fn worker_behind_a_black_hole(wire: &Wire, words: &str) {
    let mut worker = wire.place.worker(&wire.link.address(), "far", 1);
    let run = || {
        for line in [&["submit", "--", "echo", "a"][..], &["wait", "last"]] {
            let line = [&["--addr", wire.address.as_str()], line].concat();
            wire.place.qtf(line).expect_code(0);
        }
    };
    // All its streams are open then.
    run();
    for _ in 0..2 {
        wire.link.hold();
        let said = worker.line_with("no link to the daemon");
        assert!(said.contains(words), "{said}");
        wire.link.mend();
        worker.line_with("registered");
        run();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "time that passes while somebody does not run is what is tested"
)]
fn gap() {
    std::thread::sleep(STOPPED);
}

#[test]
fn process_that_was_stopped_for_longer_than_it_waits_for_a_sign_goes_on_over_the_same_connection() {
    let wire = Wire::new();
    let _worker = wire.place.worker(&wire.address, "near", 1);
    let (started, mut gate) = (wire.place.fifo("started"), wire.place.gate("gate"));
    let script = format!(
        "echo > {}; read line < {}; echo through",
        started.path().display(),
        gate.path().display()
    );
    let mut command = wire.place.command("qtf");
    command.args(["--addr", &wire.address, "map", "sh", "-c", &script, "x"]);
    command.args([":::", "a", "b"]);
    let mut map = Process::start(command);
    let _runs = started.line();
    map.signal(Signal::SIGSTOP);
    gap();
    map.signal(Signal::SIGCONT);
    gate.let_pass(1);
    map.line_with("through");
    gate.let_pass(1);
    let said = map.lines_to_the_end();
    assert!(
        !said.iter().any(|line| line.contains("daemon gone")),
        "it was there all the time: {said:?}"
    );
    assert_eq!(map.wait().code(), Some(0));
}

#[test]
fn commands_behind_a_black_hole_say_for_how_long_they_heard_nothing_and_go_on() {
    let wire = Wire::new();
    let _worker = wire.place.worker(&wire.address, "near", 2);
    let (started, mut gate) = (wire.place.fifo("started"), wire.place.gate("gate"));
    let script = format!(
        "echo > {}; read line < {}; echo through",
        started.path().display(),
        gate.path().display()
    );
    let far = wire.link.address();
    let submit = ["--addr", &far, "submit", "--", "sh", "-c", &script];
    wire.place.qtf(submit).expect_code(0);
    let start = |arguments: &[&str]| {
        let mut command = wire.place.command("qtf");
        command.args(["--addr", &far]).args(arguments);
        Process::start(command)
    };
    let mut commands = [
        start(&["wait", "last"]),
        start(&["map", "sh", "-c", &script, "x", ":::", "a"]),
    ];
    let _both_run = [started.line(), started.line()];
    // Both are known, also to the one that only waits.
    let clients = ["--addr", &wire.address, "client", "ls", "--json"];
    loop {
        let listed = wire.place.qtf(clients).expect_code(0).json();
        let connections = listed["clients"].as_array().and_then(|clients| {
            let each = clients.iter().map(|client| client["connections"].as_u64());
            each.sum::<Option<u64>>()
        });
        // And this one.
        if connections >= Some(3) {
            break;
        }
    }
    wire.link.hold();
    for command in &mut commands {
        let said = command.line_with("daemon gone, waiting");
        assert!(said.contains("no answer for 10 s"), "{said}");
    }
    gate.let_pass(2);
    wire.link.mend();
    for command in &mut commands {
        command.line_with("daemon back after");
        assert_eq!(command.wait().code(), Some(0));
    }
}

#[test]
fn client_whose_program_holds_up_the_runtime_goes_on_over_the_same_connection() {
    let wire = Wire::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made");
    runtime.block_on(async {
        let client = Client::builder(wire.address.parse().expect("an address"));
        // It says so when it has to connect anew.
        let client = client.reconnect_for(Duration::ZERO).connect().await;
        let client = client.expect("a daemon listens");
        let task = || Task::handler("none", Vec::new());
        client.submit(task()).await.expect("accepted");
        gap();
        client.submit(task()).await.expect("accepted");
    });
}
