//! A link that carries nothing and says so to nobody: who is at its ends notices within a few leases, says why, and goes on when it heals.

use qtf_tests::{Link, Place, Process};

/// A daemon on TCP, and a link to it that is held and mended.
struct Wire {
    place: Place,
    _daemon: Process,
    address: String,
    link: Link,
}

impl Wire {
    fn new() -> Self {
        let place = Place::new();
        let address = place.free_tcp_address();
        let daemon = place.daemon(&["--listen", &address]);
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
    let wire = Wire::new();
    let mut worker = wire.place.worker(&wire.link.address(), "far", 1);
    let run = || {
        for line in [&["submit", "--", "echo", "a"][..], &["wait", "last"]] {
            let line = [&["--addr", wire.address.as_str()], line].concat();
            wire.place.qtf(line).expect_code(0);
        }
    };
    // All its streams are open then.
    run();
    wire.link.hold();
    let said = worker.line_with("no link to the daemon");
    assert!(said.contains("no answer for 10 s"), "{said}");
    wire.link.mend();
    worker.line_with("registered");
    run();
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
