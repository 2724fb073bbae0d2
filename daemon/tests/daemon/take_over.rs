//! A second daemon of a name: refused, or it takes over from one that runs or is stopped.

use nix::sys::signal::Signal;
use qtf_proto::v1::TaskState;

use crate::process::{Home, Qtfd, refused};
use crate::support::{noop, run, until};

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
fn daemon_started_right_after_the_kill_of_another_waits_for_its_end_and_serves() {
    let home = Home::new("at-once");
    // The larger it is the longer the kernel takes.
    home.configure("segment_bytes = 268435456\njournal_file_bytes = 524288\n");
    let data = home.data().to_str().unwrap().to_owned();
    let folder = ["--data-dir", &data];
    let mut daemon = home.serving(&folder);
    for _ in 0..10 {
        daemon.signal(Signal::SIGKILL);
        let next = home.serving(&folder);
        daemon.kill();
        daemon = next;
    }
    assert_eq!(daemon.stop(), Some(0));
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

const SMALL: &str = "segment_bytes = 8388608\njournal_file_bytes = 524288\n";

/// A daemon with a journal task, and what shows that it goes on.
struct Running {
    home: Home,
    daemon: Qtfd,
    data: String,
    task: u64,
}

impl Running {
    fn start(test: &str) -> Self {
        Self::listening_also(test, None)
    }

    /// At the default socket, and at another address.
    fn listening_also(test: &str, address: Option<&str>) -> Self {
        let home = Home::new(test);
        home.configure(SMALL);
        let socket = format!("unix:{}", home.socket().display());
        let mut options = vec!["--listen", &socket];
        if let Some(address) = address {
            options.extend(["--listen", address]);
        }
        let data = home.data().to_str().unwrap().to_owned();
        let daemon = home.serving(&[&["--data-dir", &data], &options[..]].concat());
        let task = run(async {
            let mut peer = home.connect().await;
            peer.submit(noop(b"kept")).await.unwrap()
        });
        Self {
            home,
            daemon,
            data,
            task,
        }
    }

    /// A successor with these options is refused with this code and these words; the first daemon serves on.
    fn refuses(&mut self, options: &[&str], code: i32, words: &[&str]) {
        let (found, said) = refused(&self.home, &[&["--take-over"], options].concat());
        assert_eq!(found, Some(code), "{options:?}: {said}");
        for word in words {
            assert!(said.contains(word), "{options:?}: {word}: {said}");
        }
        self.goes_on();
    }

    fn goes_on(&mut self) {
        assert_eq!(self.daemon.has_ended(), None, "{:#?}", self.daemon.said);
        run(async {
            let mut peer = self.home.connect().await;
            assert_eq!(peer.state(self.task).await, TaskState::Ready);
            // A daemon that has just started may still make the files that it keeps in reserve.
            until(|| {
                let mut peer = peer.clone();
                async move {
                    match peer.submit(noop(b"more")).await {
                        Ok(_) => true,
                        Err(status) => {
                            assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status}");
                            false
                        }
                    }
                }
            })
            .await;
        });
    }
}

#[test]
fn successor_with_settings_that_cannot_serve_leaves_the_first_daemon_alone() {
    let mut first = Running::start("preflight");
    let data = first.data.clone();
    let with = |options: &[&'static str]| {
        let mut all = vec!["--data-dir".to_owned(), data.clone()];
        all.extend(options.iter().map(|&option| option.to_owned()));
        all
    };
    let left = "was left alone";
    let cases: &[(&[&'static str], i32, &[&str])] = &[
        (&["--segment-bytes", "100"], 2, &["segment_bytes = 100"]),
        (
            &["--listen", "192.0.2.1:7878"],
            1,
            &["192.0.2.1", "--listen", left],
        ),
        (
            &["--listen", "0.0.0.0:47833"],
            2,
            &["--allow-unauthenticated-remote", left],
        ),
        (
            &["--listen", "unix:/no/such/folder/s"],
            1,
            &["/no/such/folder", left],
        ),
        (
            &["--listen", "unix:/etc/passwd"],
            1,
            &["not a socket", left],
        ),
        (
            &["--network", "tokio", "--journal", "io_uring"],
            2,
            &["journal = \"io_uring\" excludes network = \"tokio\""],
        ),
    ];
    for (options, code, words) in cases {
        let all = with(options);
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        first.refuses(&all, *code, words);
    }
    let mut second = first
        .home
        .serving(&["--take-over", "--data-dir", &first.data]);
    assert!(second.has_said("taken over from"), "{:#?}", second.said);
    assert_eq!(first.daemon.wait().code(), None, "killed");
    assert_eq!(second.stop(), Some(0));
}

#[test]
fn successor_with_another_data_folder_is_refused_by_name() {
    let mut first = Running::start("folders");
    let other = first.home.folder.path().join("other");
    let other = other.to_str().unwrap().to_owned();
    let data = first.data.clone();
    first.refuses(
        &["--data-dir", &other],
        2,
        &[&data, &other, "data_dir", "left alone"],
    );
    assert!(!std::path::Path::new(&other).exists(), "nothing was made");
    first.refuses(&[], 2, &[&data, "would have none"]);
    let mut without = Running {
        home: Home::new("folderless"),
        ..first
    };
    without.home.configure(SMALL);
    without.daemon = without.home.serving(&[]);
    without.task = run(async {
        let mut peer = without.home.connect().await;
        peer.submit(noop(b"memory")).await.unwrap()
    });
    without.refuses(&["--data-dir", &other], 2, &["has no data folder", &other]);
}

#[test]
fn successor_whose_address_somebody_else_serves_leaves_the_first_daemon_alone() {
    let ours = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = ours.local_addr().unwrap().to_string();
    drop(ours);
    // The first daemon's own address is no obstacle; one of another process is.
    let mut first = Running::listening_also("addresses", Some(&taken));
    let theirs = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let foreign = theirs.local_addr().unwrap().to_string();
    let socket = format!("unix:{}", first.home.socket().display());
    let data = first.data.clone();
    first.refuses(
        &[
            "--data-dir",
            &data,
            "--listen",
            &socket,
            "--listen",
            &foreign,
        ],
        3,
        &[&foreign, "somebody listens", "left alone"],
    );
    let second = first.home.serving(&[
        "--take-over",
        "--data-dir",
        &data,
        "--listen",
        &socket,
        "--listen",
        &taken,
    ]);
    assert_eq!(first.daemon.wait().code(), None, "killed");
    assert_eq!(second.stop(), Some(0));
}

#[test]
fn successor_that_cannot_read_or_write_the_journal_leaves_the_first_daemon_alone() {
    let mut first = Running::start("unreadable");
    let data = first.data.clone();
    let journal = first.home.data().join("journal");
    let stray = journal.join("log-00000000000000ff.qtj");
    std::fs::write(&stray, [0_u8; 8192]).unwrap();
    first.refuses(
        &["--data-dir", &data],
        65,
        &["log-00000000000000ff.qtj", "left alone"],
    );
    std::fs::remove_file(&stray).unwrap();
    set_mode(&first.home.data(), 0o777);
    first.refuses(
        &["--data-dir", &data],
        4,
        &[&data, "written by everybody", "left alone"],
    );
    set_mode(&first.home.data(), 0o700);
    let second = first.home.serving(&["--take-over", "--data-dir", &data]);
    assert_eq!(first.daemon.wait().code(), None, "killed");
    assert_eq!(second.stop(), Some(0));
}

fn set_mode(folder: &std::path::Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn daemon_whose_lock_file_was_removed_is_known_by_its_segment_and_can_be_taken_over() {
    let mut first = Running::start("lost-lock");
    let data = first.data.clone();
    let runtime = first.home.folder.path().join("qtf");
    std::fs::remove_dir_all(&runtime).unwrap();
    let (code, said) = refused(&first.home, &["--data-dir", &data]);
    assert_eq!(code, Some(3), "{said}");
    let pid = format!("pid {}", first.daemon.pid());
    assert!(
        said.contains("already running") && said.contains(&pid),
        "{said}"
    );
    let (code, said) = refused(&first.home, &["--take-over"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("left alone"), "{said}");
    assert_eq!(first.daemon.has_ended(), None);
    let mut second = first.home.serving(&["--take-over", "--data-dir", &data]);
    assert!(second.has_said("taken over from"), "{:#?}", second.said);
    assert_eq!(first.daemon.wait().code(), None, "killed");
    first.daemon = second;
    first.goes_on();
}
