//! A kernel that refuses the ring, or a part of it, as a system-call filter does: the daemon does not need it, and where it is demanded
//! the refusal says what to allow.
//!
//! With `strace -e inject`; where there is none the tests are skipped.

use qtf_needs::Need;
use qtf_proto::v1::TaskState;

use crate::process::{Home, Qtfd};
use crate::support::{noop, run};
use crate::system_calls::Traced;

/// What is refused, from the first call on unless it says otherwise, and what the daemon says to that where it is to have a ring.
const REFUSED: &[(&str, &str)] = &[
    (
        "io_uring_setup:error=EPERM",
        "io_uring_setup, io_uring_enter and io_uring_register",
    ),
    (
        "io_uring_setup:error=ENOSYS",
        "lacks io_uring or a part of it (io_uring_setup)",
    ),
    ("io_uring_setup:error=ENOMEM", "ulimit -l"),
    (
        "io_uring_register:error=EACCES",
        "io_uring_setup, io_uring_enter and io_uring_register",
    ),
    (
        "io_uring_enter:error=EPERM",
        "io_uring_setup, io_uring_enter and io_uring_register",
    ),
    (
        "io_uring_enter:error=ENOSYS",
        "lacks io_uring or a part of it",
    ),
    (
        "epoll_ctl:error=EPERM:when=1",
        "cannot be waited for with epoll",
    ),
];

#[test]
fn daemon_makes_no_ring_unless_it_is_told_to_and_serves_where_none_can_be_had_without_a_warning() {
    if qtf_needs::lacks(Need::Strace) {
        return;
    }
    let home = Home::new("no-ring");
    home.configure("segment_bytes = 8388608\njournal_file_bytes = 524288\n");
    let log = home.folder.path().join("calls");
    let calls = "io_uring_setup,io_uring_register,io_uring_enter";
    let (trace, inject) = (
        format!("trace={calls}"),
        format!("inject={calls}:error=ENOSYS"),
    );
    let options = ["-o", log.to_str().unwrap(), "-e", &trace, "-e", &inject];
    let mut traced = Traced::start(&home, &options);
    let line = traced.strace.wait_for_line("serving");
    assert!(line.contains("network=\"tokio\""), "{line}");
    let said = &traced.strace.said;
    assert!(
        said.iter().any(|line| line.contains("backend=\"thread\"")),
        "{said:#?}"
    );
    assert!(!said.iter().any(|line| line.contains("WARN")), "{said:#?}");
    run(async {
        let mut peer = home.connect().await;
        let id = peer.submit(noop(b"kept")).await.unwrap();
        assert_eq!(peer.state(id).await, TaskState::Ready);
    });
    drop(traced);
    let calls = std::fs::read_to_string(&log).unwrap();
    assert!(!calls.contains("io_uring"), "{calls}");
}

#[test]
fn ring_that_is_demanded_and_refused_is_an_error_that_says_what_to_allow() {
    if qtf_needs::lacks(Need::Strace) || qtf_needs::lacks(Need::IoUring) {
        return;
    }
    for (refused, words) in REFUSED {
        for demand in ["--network", "--journal"] {
            let home = Home::new("ring-demanded");
            let (call, _) = refused.split_once(':').unwrap();
            let (trace, inject) = (format!("trace={call}"), format!("inject={refused}"));
            let wrapper = [
                "strace",
                "-f",
                "--seccomp-bpf",
                "-o",
                "/dev/null",
                "-e",
                &trace,
                "-e",
                &inject,
            ];
            let data = home.data();
            let arguments = ["--data-dir", data.to_str().unwrap(), demand, "io_uring"];
            let mut command = home.command_under(&wrapper, &arguments);
            let mut daemon = Qtfd::of(command.spawn().unwrap());
            assert_eq!(
                daemon.wait().code(),
                Some(1),
                "{refused}: {:#?}",
                daemon.said
            );
            assert!(
                daemon.has_said("no io_uring") && daemon.has_said(words),
                "{refused}: {:#?}",
                daemon.said
            );
        }
    }
}
