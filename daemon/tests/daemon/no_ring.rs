//! A kernel that refuses the ring, or a part of it, as a system-call filter does: ordinary sockets serve, with one warning.
//!
//! With `strace -e inject`; where there is none the tests are skipped.

use qtf_needs::Need;
use qtf_proto::v1::TaskState;

use crate::process::Home;
use crate::support::{noop, run};
use crate::system_calls::Traced;

/// What is refused, from the first call on unless it says otherwise.
const REFUSED: &[&str] = &[
    "io_uring_setup:error=EPERM",
    "io_uring_setup:error=ENOSYS",
    "io_uring_setup:error=ENOMEM",
    "io_uring_register:error=EACCES",
    "io_uring_enter:error=EPERM",
    "io_uring_enter:error=ENOSYS",
    "epoll_ctl:error=EPERM:when=1",
];

#[test]
fn daemon_serves_on_ordinary_sockets_where_the_ring_or_a_part_of_it_is_refused() {
    if qtf_needs::lacks(Need::Strace) {
        return;
    }
    for refused in REFUSED {
        let home = Home::new("no-ring");
        home.configure("segment_bytes = 8388608\njournal_file_bytes = 524288\n");
        let (call, _) = refused.split_once(':').unwrap();
        let (trace, inject) = (format!("trace={call}"), format!("inject={refused}"));
        let options = ["-o", "/dev/null", "-e", &trace, "-e", &inject];
        let mut traced = Traced::start(&home, &options);
        let line = traced.strace.wait_for_line("serving");
        assert!(line.contains("network=\"tokio\""), "{refused}: {line}");
        let warnings = traced.strace.said.iter();
        let warnings: Vec<_> = warnings.filter(|line| line.contains("WARN")).collect();
        assert_eq!(warnings.len(), 1, "{refused}: {warnings:#?}");
        assert!(
            warnings[0].contains("no io_uring"),
            "{refused}: {warnings:#?}"
        );
        run(async {
            let mut peer = home.connect().await;
            let id = peer.submit(noop(b"kept")).await.unwrap();
            assert_eq!(peer.state(id).await, TaskState::Ready);
        });
    }
}

#[test]
fn ring_that_is_demanded_and_refused_is_an_error_that_says_what_to_allow() {
    if qtf_needs::lacks(Need::Strace) {
        return;
    }
    let home = Home::new("ring-demanded");
    let wrapper = [
        "strace",
        "-f",
        "--seccomp-bpf",
        "-o",
        "/dev/null",
        "-e",
        "trace=io_uring_enter",
        "-e",
        "inject=io_uring_enter:error=EPERM",
    ];
    let mut command = home.command_under(&wrapper, &["--network", "io_uring"]);
    let mut daemon = crate::process::Qtfd::of(command.spawn().unwrap());
    assert_eq!(daemon.wait().code(), Some(1), "{:#?}", daemon.said);
    assert!(
        daemon.has_said("no io_uring") && daemon.has_said("io_uring_enter"),
        "{:#?}",
        daemon.said
    );
}
