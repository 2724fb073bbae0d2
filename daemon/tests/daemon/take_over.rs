//! A second daemon of a name: refused, or it takes over from one that runs or is stopped.

use nix::sys::signal::Signal;
use qtf_proto::v1::TaskState;

use crate::process::{Home, refused};
use crate::support::{noop, run};

#[test]
fn second_daemon_is_refused_while_the_first_runs_or_is_stopped() {
    let home = Home::new("second");
    let first = home.serving(&[]);
    for state in [Signal::SIGCONT, Signal::SIGSTOP] {
        first.signal(state);
        let (code, said) = refused(&home, &[]);
        assert_eq!(code, Some(3), "{said}");
        let pid = format!("pid {}", first.pid());
        assert!(
            said.contains("already running") && said.contains(&pid) && said.contains("--take-over"),
            "{said}"
        );
    }
    first.signal(Signal::SIGCONT);
    assert_eq!(first.stop(), Some(0));
}

#[test]
fn daemon_that_runs_or_is_stopped_is_taken_over_with_its_tasks() {
    for (state, has_data) in [
        (Signal::SIGCONT, false),
        (Signal::SIGSTOP, false),
        (Signal::SIGSTOP, true),
    ] {
        let home = Home::new("taken");
        let data = home.data().to_str().unwrap().to_owned();
        let folder = if has_data {
            &["--data-dir", &data][..]
        } else {
            &[]
        };
        let mut first = home.serving(folder);
        let task = run(async {
            let mut peer = home.connect().await;
            peer.submit(noop(b"kept")).await.unwrap()
        });
        first.signal(state);
        let mut second = home.serving(&[&["--take-over"], folder].concat());
        assert_eq!(first.wait().code(), None, "killed");
        let pid = format!("pid={}", first.pid());
        assert!(
            second.has_said("taken over from") && second.has_said(&pid),
            "{:#?}",
            second.said
        );
        run(async {
            let mut peer = home.connect().await;
            assert_eq!(peer.state(task).await, TaskState::Ready);
        });
        assert_eq!(second.stop(), Some(0));
    }
}

#[test]
fn take_over_of_nobody_is_an_ordinary_start() {
    let home = Home::new("nobody");
    let mut daemon = home.serving(&["--take-over"]);
    assert!(!daemon.has_said("taken over from"));
    assert_eq!(daemon.stop(), Some(0));
}
