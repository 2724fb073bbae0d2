//! The start of `qtfd`: what goes wrong says what to do, with its own exit code; what goes right stops in
//! order on a signal.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn qtfd(runtime: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qtfd"));
    command
        .env("XDG_RUNTIME_DIR", runtime)
        .env_remove("QTF_LOG")
        .args(arguments);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn output(runtime: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = qtfd(runtime, arguments).output().unwrap();
    let text = String::from_utf8_lossy(&stderr).into_owned() + &String::from_utf8_lossy(&stdout);
    (status.code(), text)
}

/// Starts a daemon and waits until it serves; gives what it said so far too.
fn serving(runtime: &Path, arguments: &[&str]) -> (Child, Vec<String>) {
    let mut child = qtfd(runtime, arguments).spawn().unwrap();
    let mut lines = Vec::new();
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        lines.push(line.unwrap());
        if lines.last().unwrap().contains("serving") {
            return (child, lines);
        }
    }
    panic!("{:?}: {lines:?}", child.wait());
}

fn stop(mut child: Child, signal: Signal) -> Option<i32> {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
    child.wait().unwrap().code()
}

fn name(test: &str) -> String {
    format!("test-{test}-{}", std::process::id())
}

#[test]
fn second_daemon_of_a_name_says_who_has_it() {
    let runtime = tempfile::tempdir().unwrap();
    let name = name("twice");
    let arguments = [
        "--instance",
        &name,
        "--segment-bytes",
        "8388608",
        "--core",
        "none",
    ];
    let (first, lines) = serving(runtime.path(), &arguments);
    let (code, text) = output(runtime.path(), &arguments);
    assert_eq!(code, Some(3), "{text}");
    assert!(
        text.contains("already running") && text.contains(&first.id().to_string()),
        "{text}"
    );
    assert_eq!(stop(first, Signal::SIGTERM), Some(0));
    assert!(!runtime.path().join(format!("qtf/{name}.sock")).exists());
    remove_segment(&lines);
}

#[test]
fn killed_daemon_leaves_nothing_that_stops_the_next() {
    let runtime = tempfile::tempdir().unwrap();
    let name = name("killed");
    let arguments = [
        "--instance",
        &name,
        "--segment-bytes",
        "8388608",
        "--core",
        "none",
    ];
    let (first, _) = serving(runtime.path(), &arguments);
    assert_eq!(stop(first, Signal::SIGKILL), None);
    let (second, lines) = serving(runtime.path(), &arguments);
    assert!(
        lines.iter().any(|line| line.contains("replaced")),
        "{lines:?}"
    );
    assert_eq!(stop(second, Signal::SIGINT), Some(0));
    remove_segment(&lines);
}

/// The daemon's segment outlives it by design; it shall not outlive the test.
fn remove_segment(lines: &[String]) {
    let id = lines.iter().find_map(|line| {
        let rest = line.split("shm_id=").nth(1)?;
        rest.split_whitespace().next()?.parse::<i32>().ok()
    });
    let id = id.expect("the log names the segment").to_string();
    assert!(
        Command::new("ipcrm")
            .args(["-m", &id])
            .status()
            .unwrap()
            .success()
    );
}

#[test]
fn address_in_use_has_its_own_exit_code() {
    let runtime = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, text) = output(
        runtime.path(),
        &["--instance", &name("addr"), "--listen", &address],
    );
    assert_eq!(code, Some(3), "{text}");
    assert!(
        text.contains(&address) && text.contains("--listen"),
        "{text}"
    );
}

#[test]
fn address_that_other_machines_can_reach_is_served_only_when_that_is_accepted() {
    let runtime = tempfile::tempdir().unwrap();
    let name = name("remote");
    let arguments = [
        "--instance",
        &name,
        "--segment-bytes",
        "8388608",
        "--core",
        "none",
        "--listen",
    ];
    for address in ["0.0.0.0:47831", "[::]:47831"] {
        let (code, text) = output(runtime.path(), &[&arguments[..], &[address]].concat());
        assert_eq!(code, Some(2), "{text}");
        assert!(
            text.contains(&format!("address {address}"))
                && text.contains("--allow-unauthenticated-remote")
                && text.contains("allow_unauthenticated_remote = true"),
            "{text}"
        );
    }
    let accepted = ["0.0.0.0:47831", "--allow-unauthenticated-remote"];
    let (daemon, lines) = serving(runtime.path(), &[&arguments[..], &accepted].concat());
    assert!(
        lines.iter().any(|line| line.contains("authenticated")),
        "{lines:?}"
    );
    assert_eq!(stop(daemon, Signal::SIGTERM), Some(0));
    let (daemon, _) = serving(
        runtime.path(),
        &[&arguments[..], &["localhost:47831"]].concat(),
    );
    assert_eq!(stop(daemon, Signal::SIGTERM), Some(0));
    remove_segment(&lines);
}

#[test]
fn configuration_errors_name_file_and_key() {
    let runtime = tempfile::tempdir().unwrap();
    let file = runtime.path().join("qtfd.toml");
    std::fs::write(&file, "lease_millis = 5\n").unwrap();
    let path = file.to_str().unwrap();
    let (code, text) = output(runtime.path(), &["--config", path]);
    assert_eq!(code, Some(2), "{text}");
    assert!(
        text.contains(path) && text.contains("did you mean `lease_ms`"),
        "{text}"
    );
    std::fs::write(&file, "idle = \"nap\"\n").unwrap();
    let (code, text) = output(runtime.path(), &["--config", path]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("idle = \"nap\""), "{text}");
    let (code, text) = output(
        runtime.path(),
        &["--config", path, "--idle", "spin", "--check-config"],
    );
    assert_eq!(
        (code, text.as_str()),
        (Some(0), ""),
        "flags stand over the file"
    );
    for idle in ["adaptive", "sleep", "spin"] {
        let (code, text) = output(
            runtime.path(),
            &["--config", path, "--idle", idle, "--print-config"],
        );
        assert_eq!(code, Some(0));
        assert!(text.contains(&format!("idle = \"{idle}\"")), "{text}");
    }
}

#[test]
fn help_names_every_flag_and_the_exit_codes() {
    let runtime = tempfile::tempdir().unwrap();
    let (code, text) = output(runtime.path(), &["--help"]);
    assert_eq!(code, Some(0));
    for word in [
        "--config",
        "--instance",
        "--listen",
        "--allow-unauthenticated-remote",
        "--data-dir",
        "--core",
        "Exit codes",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
}
