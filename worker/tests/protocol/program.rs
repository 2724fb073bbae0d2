//! The program `qtf-worker`: its flags, its signals, its exit status.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::fake_daemon::{FakeDaemon, assignment, attempt, soon};
use bytes::Bytes;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use prost::Message as _;
use qtf_proto::v1::{ExecSpec, TaskOutput};

fn worker(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qtf-worker"));
    command.args(arguments).stderr(Stdio::piped());
    command
}

fn send(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
}

async fn end(child: Child) -> (ExitStatus, String) {
    let waiting = tokio::task::spawn_blocking(move || child.wait_with_output());
    let output = soon(waiting).await.unwrap().unwrap();
    (
        output.status,
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

fn shell(script: &str) -> Vec<u8> {
    let argv = ["sh", "-c", script].map(|arg| Bytes::copy_from_slice(arg.as_bytes()));
    ExecSpec {
        argv: argv.to_vec(),
        ..ExecSpec::default()
    }
    .encode_to_vec()
}

#[tokio::test]
async fn flags_say_who_it_is_and_sigterm_lets_it_finish_and_leave() {
    let mut daemon = FakeDaemon::start();
    let address = daemon.address.to_string();
    let flags = [
        "--connect",
        &address,
        "--name",
        "n1",
        "--slots",
        "300",
        "--prefetch",
        "7",
    ];
    let child = worker(&flags).spawn().unwrap();
    let (mut session, dispatch) = daemon.accept(9).await;
    assert_eq!(
        (session.hello.name.as_str(), session.hello.capacity),
        ("n1", 307)
    );
    let gate = tempfile::tempdir().unwrap();
    let open = gate.path().join("open");
    let script = format!(
        "while [ ! -e '{}' ]; do sleep 0.01; done; echo last",
        open.display()
    );
    dispatch
        .assign(vec![assignment(attempt(1, 1), "exec", shell(&script))])
        .await;
    session.news().await;
    send(&child, Signal::SIGTERM);
    while !session.report().await.unwrap().draining {}
    std::fs::write(&open, "").unwrap();
    let result = session.result().await;
    assert_eq!(
        TaskOutput::decode(result.output.clone()).unwrap().stdout,
        "last\n"
    );
    session.record(&result).await;
    assert!(session.news().await.goodbye);
    drop((session, dispatch));
    let (status, log) = end(child).await;
    assert!(status.success(), "{log}");
}

#[tokio::test]
async fn second_signal_kills_what_runs() {
    let mut daemon = FakeDaemon::start();
    let child = worker(&["--connect", &daemon.address.to_string()])
        .spawn()
        .unwrap();
    let (mut session, dispatch) = daemon.accept(9).await;
    let script = "trap '' TERM; while :; do sleep 0.05; done";
    dispatch
        .assign(vec![assignment(attempt(1, 1), "exec", shell(script))])
        .await;
    session.news().await;
    send(&child, Signal::SIGINT);
    while !session.report().await.unwrap().draining {}
    send(&child, Signal::SIGINT);
    assert!(session.news().await.goodbye);
    drop((session, dispatch));
    let (status, log) = end(child).await;
    assert!(status.success(), "{log}");
}

#[tokio::test]
async fn killed_worker_takes_its_programs_along() {
    let mut daemon = FakeDaemon::start();
    let child = worker(&["--connect", &daemon.address.to_string()])
        .spawn()
        .unwrap();
    let (mut session, dispatch) = daemon.accept(9).await;
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("pid");
    let script = format!(
        "echo $$ > '{0}.new'; mv '{0}.new' '{0}'; exec sleep 1000",
        file.display()
    );
    dispatch
        .assign(vec![assignment(attempt(1, 1), "exec", shell(&script))])
        .await;
    session.news().await;
    soon(async {
        while !file.exists() {
            tokio::time::sleep(core::time::Duration::from_millis(5)).await;
        }
    })
    .await;
    let pid: i32 = std::fs::read_to_string(&file)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    send(&child, Signal::SIGKILL);
    let (status, _) = end(child).await;
    assert_eq!(status.signal(), Some(9));
    let is_alive = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ")
            .next()
            .is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
    };
    soon(async {
        while is_alive() {
            tokio::time::sleep(core::time::Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn bad_usage_and_bad_values_are_told() {
    let (status, text) = end(worker(&["--connect", "shm:default"]).spawn().unwrap()).await;
    assert_eq!(status.code(), Some(2));
    assert!(text.contains("not in this version"), "{text}");
    let (status, text) = end(worker(&["--slots", "0"]).spawn().unwrap()).await;
    assert_eq!(status.code(), Some(1));
    assert!(text.contains("0 slots"), "{text}");
}
