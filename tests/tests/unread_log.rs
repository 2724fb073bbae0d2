//! A log that nobody reads holds up neither daemon nor worker; what was lost of it is counted, and told when it is read.

use std::io::{Read, Write as _};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::channel;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use qtf_client::{Address, Client, Task};
use qtf_tests::Place;
use qtf_tests::process::WATCHDOG;

/// A program whose log is read up to a line, and then no further until that is asked for.
struct Unread {
    child: Child,
    log: ChildStderr,
}

impl Unread {
    fn start(mut command: Command, up_to: &str) -> Self {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let mut log = child.stderr.take().expect("its log is a pipe");
        read_up_to(&mut log, up_to);
        Self { child, log }
    }

    /// Sends SIGTERM and gives the exit code, if it ends in time.
    fn terminate(self) -> Option<i32> {
        let Self { mut child, log } = self;
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("pids are small"));
        kill(pid, Signal::SIGTERM).expect("it runs");
        let (send, ended) = channel();
        std::thread::spawn(move || send.send(child.wait()));
        let status = match ended.recv_timeout(WATCHDOG) {
            Ok(status) => status.expect("a child can be awaited"),
            Err(_) => {
                kill(pid, Signal::SIGKILL).expect("it runs");
                panic!("SIGTERM was not heard")
            }
        };
        // Only now: until here nobody has read on.
        drop(log);
        status.code()
    }
}

fn read_up_to(log: &mut impl Read, wanted: &str) -> String {
    let mut text = Vec::new();
    let mut byte = [0];
    loop {
        assert_eq!(
            log.read(&mut byte).expect("a pipe can be read"),
            1,
            "{}",
            String::from_utf8_lossy(&text)
        );
        text.push(byte[0]);
        if text.ends_with(wanted.as_bytes()) {
            return String::from_utf8_lossy(&text).into_owned();
        }
    }
}

fn counter(place: &Place, name: &str) -> u64 {
    let info = place.qtf(["--addr", &place.address(), "info", "--json"]);
    info.expect_code(0).json()["counters"][name]
        .as_u64()
        .unwrap_or_else(|| panic!("no counter {name}"))
}

/// More than pipe, writer and queue hold, by lines that somebody has asked for.
fn flood(place: &Place) -> u64 {
    loop {
        let lost = counter(place, "log_lines_lost");
        if lost > 0 {
            return lost;
        }
    }
}

#[test]
fn daemon_whose_log_nobody_reads_answers_and_ends_on_sigterm() {
    let place = Place::new();
    let mut command = place.command("qtfd");
    command.args([
        "--instance",
        place.instance(),
        "--core",
        "none",
        "--log",
        "trace",
    ]);
    let mut daemon = Unread::start(command, "serving");
    place.remember_maker(daemon.child.id());
    let lost = flood(&place);
    let line = ["--addr", &place.address(), "submit", "--", "true"].map(str::to_owned);
    place.qtf(&line).expect_code(0);
    let told = read_up_to(&mut daemon.log, "lines of the log were lost");
    let count = told
        .rsplit_once("WARN ")
        .and_then(|(_, rest)| rest.split(' ').next()?.parse::<u64>().ok());
    assert!(count.is_some_and(|count| count >= lost), "{count:?} {lost}");
    // It is read once, and then no more.
    flood(&place);
    assert_eq!(daemon.terminate(), Some(0));
}

#[test]
fn worker_whose_log_nobody_reads_works_and_ends_on_sigterm() {
    let place = Place::new();
    let mut daemon = place.daemon(&[]);
    let mut command = place.command("qtf-worker");
    command.args([
        "--connect",
        &place.address(),
        "--slots",
        "2",
        "--log",
        "trace",
    ]);
    let mut worker = Unread::start(command, "registered");
    let mut map = place.command("qtf");
    map.args(["--addr", &place.address(), "map", "echo"]);
    // 16 kB of trace a task: ten times what pipe, writer and queue hold.
    let inputs: Vec<String> = (0..400).map(|n| n.to_string()).collect();
    let done = place
        .finish(map, inputs.join("\n").into_bytes())
        .expect_code(0);
    assert_eq!(done.text().lines().count(), 400);
    read_up_to(&mut worker.log, "lines of the log were lost");
    assert_eq!(worker.terminate(), Some(0));
    assert_eq!(daemon.terminate(), Some(0));
}

#[test]
fn lines_that_a_peer_can_cause_at_will_are_left_out_and_counted() {
    let place = Place::new();
    let mut daemon = place.daemon(&[]);
    let address: Address = place.address().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let client = Client::connect(&address).await.unwrap();
        let task = client.submit(Task::handler("none", "")).await.unwrap();
        for _ in 0..400 {
            client.cancel(&[task.id], &"why ".repeat(40)).await.unwrap();
        }
    });
    assert!(counter(&place, "log_lines_left_out") > 0);
    daemon.line_with("lines of the log were left out");
    assert_eq!(daemon.terminate(), Some(0));
}

#[test]
fn daemon_that_cannot_start_says_why_and_ends_though_nobody_reads() {
    let place = Place::new();
    let (reader, writer) = std::io::pipe().unwrap();
    let mut full = writer.try_clone().unwrap();
    // As full as a pipe can be: a write of one byte would wait.
    let flags = nix::fcntl::OFlag::O_NONBLOCK;
    nix::fcntl::fcntl(&full, nix::fcntl::FcntlArg::F_SETFL(flags)).unwrap();
    while full.write(&[b'x'; 4096]).is_ok() {}
    while full.write(b"x").is_ok() {}
    nix::fcntl::fcntl(
        &full,
        nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::empty()),
    )
    .unwrap();
    let mut command = place.command("qtfd");
    command
        .args(["--instance", place.instance(), "--core", "none"])
        .args([
            "--listen",
            &format!("unix:{}/none/qtf.sock", place.work().display()),
        ])
        .stdin(Stdio::null())
        .stderr(writer);
    let mut child = command.spawn().unwrap();
    let (send, ended) = channel();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    std::thread::spawn(move || send.send(child.wait()));
    let status = ended.recv_timeout(WATCHDOG);
    if status.is_err() {
        kill(pid, Signal::SIGKILL).unwrap();
    }
    assert_eq!(status.unwrap().unwrap().code(), Some(1));
    drop(reader);
}
