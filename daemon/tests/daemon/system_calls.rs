//! Every system call of a start fails once, on ordinary sockets and on the ring: the daemon serves all the same, or ends with a word
//! about it; it never hangs, and no accepted task is lost. With `strace -e inject`; where there is none the test is skipped.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use qtf_needs::Need;
use qtf_proto::address::Address;
use qtf_proto::v1::TaskState;

use crate::process::{Home, Qtfd, remove_segment};
use crate::support::{Peer, noop, run};

/// LIMIT: a start that takes longer hangs.
const START_MAX: Duration = Duration::from_secs(120);

/// How each call fails. What is not here needs no file, no device and no other process (memory, signals, threads'
/// bookkeeping; `write` goes to the log and to descriptors that wake threads only), or cannot fail (the standard library takes a `close` that fails for a bug of its caller).
const ERRORS: &[(&str, &str)] = &[
    ("bind", "EADDRNOTAVAIL"),
    ("clone3", "EAGAIN"),
    ("epoll_create1", "EMFILE"),
    ("epoll_ctl", "ENOSPC"),
    ("epoll_wait", "EINTR"),
    ("eventfd2", "EMFILE"),
    ("fcntl", "ENOLCK"),
    ("fdatasync", "EIO"),
    ("fsync", "EIO"),
    ("getdents64", "EIO"),
    ("getrandom", "EINTR"),
    ("io_uring_enter", "EINTR"),
    ("io_uring_register", "EINVAL"),
    ("io_uring_setup", "ENOMEM"),
    ("ioctl", "EINVAL"),
    ("listen", "EADDRINUSE"),
    ("lseek", "EIO"),
    ("mkdir", "ENOSPC"),
    ("newfstatat", "EIO"),
    ("openat", "EMFILE"),
    ("poll", "EINTR"),
    ("pread64", "EIO"),
    ("pwrite64", "ENOSPC"),
    ("pwritev2", "EIO"),
    ("read", "EIO"),
    ("readlink", "EACCES"),
    ("rename", "EIO"),
    ("renameat2", "EIO"),
    ("sched_getaffinity", "EPERM"),
    ("shmat", "ENOMEM"),
    ("shmctl", "EPERM"),
    ("shmget", "ENOSPC"),
    ("socket", "EMFILE"),
    ("statx", "EIO"),
    ("unlink", "EIO"),
];

/// A `qtfd` under `strace`.
pub(crate) struct Traced {
    pub(crate) strace: Qtfd,
}

impl Traced {
    /// Starts one as it is configured; `options` are strace's.
    pub(crate) fn start(home: &Home, options: &[&str]) -> Self {
        let data = home.data();
        let wrapper = [&["strace", "-f", "--seccomp-bpf"], options].concat();
        let mut command = home.command_under(&wrapper, &["--data-dir", data.to_str().unwrap()]);
        Self {
            strace: Qtfd::of(command.spawn().unwrap()),
        }
    }

    /// The daemon's own process.
    fn daemon(&self) -> Option<Pid> {
        let strace = self.strace.pid();
        let children = format!("/proc/{strace}/task/{strace}/children");
        let text = std::fs::read_to_string(children).ok()?;
        let pid = text.split_whitespace().next()?.parse().ok()?;
        Some(Pid::from_raw(pid))
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        // strace ends with what it traces, which it would leave running if it was killed itself. The next start must
        // not meet this one.
        if let Some(daemon) = self.daemon() {
            let _ = kill(daemon, Signal::SIGKILL);
            self.strace.wait();
        }
    }
}

/// What each call was of a start, from the first of the program's own on: name, and the number of each.
fn calls_of_a_start(home: &Home) -> BTreeMap<String, Vec<u64>> {
    let log = home.folder.path().join("calls");
    let mut traced = Traced::start(home, &["-o", log.to_str().unwrap()]);
    traced.strace.wait_for_line("serving");
    drop(traced);
    let text = std::fs::read_to_string(&log).unwrap();
    let mut counts = BTreeMap::<String, u64>::new();
    let mut calls = BTreeMap::<String, Vec<u64>>::new();
    let mut is_own = false;
    for line in text.lines() {
        let call = line.split_whitespace().nth(1).unwrap_or_default();
        let Some((name, _)) = call.split_once('(') else {
            continue;
        };
        // The loader is done when the program sets up its first thread.
        is_own |= name == "sigaltstack";
        let count = counts.entry(name.to_owned()).or_default();
        *count += 1;
        if is_own {
            calls.entry(name.to_owned()).or_default().push(*count);
        }
    }
    calls
}

/// Starts with one call failing; panics with what was said unless it serves with all its tasks or ends in order.
fn start_with(home: &Home, name: &str, error: &str, number: u64, ids: &[u64]) -> bool {
    let trace = format!("trace={name}");
    let inject = format!("inject={name}:error={error}:when={number}");
    let mut traced = Traced::start(home, &["-o", "/dev/null", "-e", &trace, "-e", &inject]);
    let began = Instant::now();
    while began.elapsed() < START_MAX {
        if let Some(status) = traced.strace.has_ended() {
            let said = traced.strace.said.join("\n");
            let in_order = status.code().is_some_and(|code| code != 0)
                && said.contains("qtfd: ")
                && !said.contains("panicked");
            // The ring's runtime cannot be asked to start more carefully; it aborts and says why.
            let in_the_ring = said.contains("tokio-uring") && said.contains("panicked");
            assert!(in_order || in_the_ring, "{inject}: {status}: {said}");
            assert!(!said.contains("already running"), "{inject}: {said}");
            return false;
        }
        if run(are_there(&home.socket(), ids)) {
            return true;
        }
    }
    panic!("{inject}: hangs; said {:#?}", traced.strace.said);
}

/// Whether a daemon serves there, and has all tasks. One that serves without them has lost some.
async fn are_there(socket: &Path, ids: &[u64]) -> bool {
    let address = Address::Unix(PathBuf::from(socket));
    let connected = tokio::time::timeout(
        Duration::from_millis(200),
        qtf_proto::channel::connect(&address),
    );
    let Ok(Ok(channel)) = connected.await else {
        tokio::time::sleep(Duration::from_millis(5)).await;
        return false;
    };
    let mut peer = Peer::over(channel);
    for id in ids {
        let request = qtf_proto::v1::GetTaskRequest { task_id: *id };
        match peer.plm.get_task(request).await {
            Ok(info) => assert_eq!(info.into_inner().state(), TaskState::Ready),
            Err(status) if status.code() == tonic::Code::NotFound => panic!("{id:#x} is lost"),
            // It listens and does not serve (any more).
            Err(_) => return false,
        }
    }
    true
}

/// Fails each call of a start once; `prepare` runs before each start, which has `journal` write. Says what came of it.
fn fail_each(test: &str, journal: &str, prepare: impl Fn(&Home)) -> String {
    let home = Home::new(test);
    home.configure(&format!(
        "segment_bytes = 8388608\njournal_file_bytes = 524288\njournal = \"{journal}\"\n"
    ));
    let data = home.data();
    let arguments = ["--data-dir", data.to_str().unwrap()];
    let first = home.serving(&arguments);
    let ids = run(async {
        let mut peer = home.connect().await;
        let mut ids = Vec::new();
        for _ in 0..10 {
            ids.push(peer.submit(noop(b"kept")).await.unwrap());
        }
        ids
    });
    first.kill();
    prepare(&home);
    let calls = calls_of_a_start(&home);
    let (mut served, mut ended) = (0, 0);
    for (name, error) in ERRORS {
        for number in sample(calls.get(*name).map_or(&[][..], Vec::as_slice)) {
            prepare(&home);
            if start_with(&home, name, error, number, &ids) {
                served += 1;
            } else {
                ended += 1;
            }
        }
    }
    assert!(served > 10 && ended > 10, "{served} {ended}");
    prepare(&home);
    let last = home.serving(&arguments);
    assert!(run(are_there(&home.socket(), &ids)));
    assert_eq!(last.stop(), Some(0));
    format!("{served} starts served in spite of a failure, {ended} ended with a word about it")
}

/// All of them if they are few, else the first, the last and some between.
fn sample(numbers: &[u64]) -> Vec<u64> {
    const MANY: usize = 8;
    let step = numbers.len().div_ceil(MANY).max(1);
    let last = numbers.last().copied();
    let mut chosen: Vec<u64> = numbers.iter().copied().step_by(step).chain(last).collect();
    chosen.dedup();
    chosen
}

fn hot(journal: &str) -> String {
    fail_each(&format!("calls-hot-{journal}"), journal, |_| {})
}

fn cold(journal: &str) -> String {
    fail_each(&format!("calls-cold-{journal}"), journal, |home| {
        // The one before may have ended before it made one.
        remove_segment(&home.name);
    })
}

#[test]
fn each_system_call_of_a_hot_restart_fails_once() {
    if !qtf_needs::lacks(Need::Strace) {
        eprintln!("{}", hot("auto"));
    }
}

#[test]
fn each_system_call_of_a_cold_start_fails_once() {
    if !qtf_needs::lacks(Need::Strace) {
        eprintln!("{}", cold("auto"));
    }
}

#[test]
fn each_system_call_of_a_hot_restart_on_the_ring_fails_once() {
    if !qtf_needs::lacks(Need::Strace) && !qtf_needs::lacks(Need::IoUring) {
        eprintln!("{}", hot("io_uring"));
    }
}

#[test]
fn each_system_call_of_a_cold_start_on_the_ring_fails_once() {
    if !qtf_needs::lacks(Need::Strace) && !qtf_needs::lacks(Need::IoUring) {
        eprintln!("{}", cold("io_uring"));
    }
}
