//! Each promise of `exec`, with real programs.

use core::time::Duration;
use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use bytes::Bytes;
use qtf_proto::v1::{EnvironmentVariable, ExecSpec, OutcomeKind};
use qtf_shm::TaskId;
use tokio::time::Instant;

use super::{Containment, ExecPolicy, Identity, run};
use crate::attempt::{Ending, Finish};
use crate::stop::{StopCause, StopOrder, StopSignal, StopSwitch, stop_pair};

#[path = "tree_tests.rs"]
mod tree_tests;

/// A test that takes longer hangs.
const WATCHDOG: Duration = Duration::from_secs(60);

fn spec<A: AsRef<[u8]>>(argv: impl IntoIterator<Item = A>) -> ExecSpec {
    ExecSpec {
        argv: argv
            .into_iter()
            .map(|arg| Bytes::copy_from_slice(arg.as_ref()))
            .collect(),
        ..ExecSpec::default()
    }
}

fn shell(script: &str) -> ExecSpec {
    spec(["sh", "-c", script])
}

fn identity() -> Identity {
    let task = TaskId::from_raw((1 << 24) | 5).unwrap();
    Identity {
        task,
        attempt: 3,
        array: None,
    }
}

async fn ended(spec: ExecSpec, policy: &ExecPolicy, signal: &StopSignal) -> Ending {
    match run(spec, identity(), (policy, signal), || {}).await {
        Finish::Ended(ending) => ending,
        Finish::NotBegun(why) => panic!("{why}"),
    }
}

async fn run_with(spec: ExecSpec, policy: ExecPolicy, timeout_ms: u32) -> Ending {
    let (_switch, signal) = stop_pair(timeout_ms);
    let running = ended(spec, &policy, &signal);
    tokio::time::timeout(WATCHDOG, running).await.unwrap()
}

/// Runs a script into its time limit, one that is long enough here and now for what it does first: it prints a line that ends with
/// `ready` then. Returns the end and the rest of that line.
async fn run_into_its_limit(script: &str, policy: &ExecPolicy) -> (Ending, String) {
    for timeout_ms in (0..10).map(|doubled| 100 << doubled) {
        let ending = run_with(shell(script), policy.clone(), timeout_ms).await;
        assert_eq!(ending.outcome.kind(), OutcomeKind::TimedOut);
        let said = text(&ending.output.stdout);
        let first = said.lines().next();
        if let Some(rest) = first.and_then(|line| line.strip_suffix("ready")) {
            let rest = rest.trim().to_owned();
            return (ending, rest);
        }
    }
    panic!("it is never ready: {script}");
}

async fn run_to_end(spec: ExecSpec) -> Ending {
    run_with(spec, ExecPolicy::default(), 0).await
}

#[tokio::test]
async fn exit_codes_mean_to_a_task_what_it_says_and_nothing_to_others() {
    let ended = async |script: &str| {
        let spec = ExecSpec {
            final_exit_codes: vec![65, 0],
            again_exit_codes: vec![75, 65, 0],
            again_after_ms: u64::MAX,
            ..shell(script)
        };
        run_to_end(spec).await
    };
    let outcome = async |script: &str| ended(script).await.outcome;
    assert_eq!(outcome("exit 65").await.kind(), OutcomeKind::FailedForGood);
    assert_eq!(outcome("exit 65").await.code, 65);
    assert_eq!(outcome("exit 1").await.kind(), OutcomeKind::Exited);
    assert_eq!(outcome("exit 0").await.kind(), OutcomeKind::Exited);
    let again = ended("echo first >&2; echo ' no licence ' >&2; echo >&2; exit 75").await;
    assert_eq!(again.outcome.kind(), OutcomeKind::Again);
    assert_eq!(
        (again.outcome.code, again.outcome.again_after_ms),
        (75, 2_592_000_000)
    );
    assert_eq!(again.output.message, "exit code 75: no licence");
    assert_eq!(ended("exit 75").await.output.message, "exit code 75");
    let plain = run_to_end(shell("exit 75")).await;
    assert_eq!(
        (plain.outcome.kind(), plain.outcome.code),
        (OutcomeKind::Exited, 75)
    );
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn assert_ended(ending: &Ending, kind: OutcomeKind, code: u32) {
    assert_eq!(
        (ending.outcome.kind(), ending.outcome.code),
        (kind, code),
        "{:?}",
        ending.output
    );
}

/// Processes of a group that are not zombies.
fn members_of(group: i32) -> usize {
    let is_member = |stat: &str| {
        let fields: Vec<&str> = stat.rsplit(") ").next()?.split(' ').collect();
        let is_alive = *fields.first()? != "Z";
        Some(is_alive && fields.get(2)?.parse::<i32>().ok()? == group)
    };
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let stats =
        processes.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    stats.filter(|stat| is_member(stat) == Some(true)).count()
}

async fn assert_group_empties(group: i32) {
    let over = Instant::now() + WATCHDOG;
    while members_of(group) > 0 {
        assert!(Instant::now() < over, "group {group} still has members");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn zombies_of_this_process() -> Vec<String> {
    let me = std::process::id().to_string();
    let is_ours = |stat: &String| {
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or("").split(' ').collect();
        fields.first() == Some(&"Z") && fields.get(1) == Some(&me.as_str())
    };
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let stats =
        processes.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    stats.filter(is_ours).collect()
}

#[tokio::test]
async fn exit_codes_are_reported() {
    for code in [0, 1, 42, 255] {
        let ending = run_to_end(shell(&format!("exit {code}"))).await;
        assert_ended(&ending, OutcomeKind::Exited, code);
    }
}

#[tokio::test]
async fn signals_are_reported() {
    for signal in [6, 9, 11, 15] {
        let ending = run_to_end(shell(&format!("kill -{signal} $$"))).await;
        assert_ended(&ending, OutcomeKind::Signalled, signal);
    }
}

#[tokio::test]
async fn arguments_arrive_byte_for_byte() {
    let odd: [&[u8]; 5] = [b"", b"a b", b"'\"\\$HOME`", b"line\nbreak", b"\xff\xfe\x80"];
    let argv: [&[u8]; 2] = [b"printf", b"%s|"];
    let ending = run_to_end(spec(argv.iter().chain(&odd))).await;
    let mut wanted = odd.join(&b'|');
    wanted.push(b'|');
    assert_eq!(ending.output.stdout, wanted);
}

#[tokio::test]
async fn outputs_are_kept_apart() {
    let ending = run_to_end(shell("echo out; echo err >&2; exit 3")).await;
    assert_ended(&ending, OutcomeKind::Exited, 3);
    assert_eq!(ending.output.stdout, "out\n");
    assert_eq!(ending.output.stderr, "err\n");
    assert_eq!(ending.output.message, "");
}

#[tokio::test]
async fn environment_is_the_base_and_what_the_task_says() {
    let mut spec = spec(["env"]);
    let variable = |name: &'static str, value: &'static [u8]| EnvironmentVariable {
        name: Bytes::from_static(name.as_bytes()),
        value: Bytes::from_static(value),
    };
    spec.environment = vec![variable("GREETING", b"a=b c\xff"), variable("EMPTY", b"")];
    let ending = run_to_end(spec).await;
    let lines = ending.output.stdout.split(|byte| *byte == b'\n');
    let seen: HashMap<&[u8], &[u8]> = lines
        .filter_map(|line| {
            let at = line.iter().position(|byte| *byte == b'=')?;
            Some((&line[..at], &line[at + 1..]))
        })
        .collect();
    assert_eq!(seen[&b"GREETING"[..]], b"a=b c\xff");
    assert_eq!(seen[&b"EMPTY"[..]], b"");
    assert_eq!(
        seen[&b"QTF_TASK_ID"[..]],
        identity().task.to_string().as_bytes()
    );
    assert_eq!(seen[&b"QTF_ATTEMPT"[..]], b"3");
    assert_eq!(
        seen[&b"PATH"[..]],
        std::env::var_os("PATH").unwrap().as_bytes()
    );
    let not_base = |name: &String| !super::environment::BASE.contains(&name.as_str());
    let others: Vec<String> = std::env::vars()
        .map(|(name, _)| name)
        .filter(not_base)
        .collect();
    for name in &others {
        assert!(!seen.contains_key(name.as_bytes()), "{name} is inherited");
    }

    let policy = ExecPolicy::default().inherit_environment(true);
    let ending = run_with(super::tests::spec(["env"]), policy, 0).await;
    let all = text(&ending.output.stdout);
    for name in &others {
        assert!(all.contains(&format!("{name}=")), "{name} is not inherited");
    }
}

#[tokio::test]
async fn member_of_an_array_is_told_its_index_and_its_array_and_others_are_told_of_none() {
    let told = async |array| {
        let identity = Identity {
            array,
            ..identity()
        };
        let spec = shell("echo \"$QTF_ARRAY_ID $QTF_ARRAY_INDEX\"; env | grep -c QTF_ARRAY");
        // The worker may run in a member of an array itself.
        let policy = ExecPolicy::default();
        let (_switch, signal) = stop_pair(0);
        match run(spec, identity, (&policy, &signal), || {}).await {
            Finish::Ended(ending) => text(&ending.output.stdout),
            Finish::NotBegun(why) => panic!("{why}"),
        }
    };
    let first = TaskId::from_raw((1 << 24) | 4).unwrap();
    assert_eq!(told(Some((first, 7))).await, format!("{first} 7\n2\n"));
    assert_eq!(told(None).await, " \n0\n");
}

#[tokio::test]
async fn working_directory_is_used() {
    let directory = tempfile::tempdir().unwrap();
    let mut spec = spec(["pwd", "-P"]);
    spec.working_directory = Bytes::copy_from_slice(directory.path().as_os_str().as_bytes());
    let ending = run_to_end(spec).await;
    let seen = text(&ending.output.stdout);
    assert_eq!(
        Path::new(seen.trim_end()),
        directory.path().canonicalize().unwrap()
    );
}

#[tokio::test]
async fn standard_input_arrives_whole_and_empty_is_at_its_end() {
    let mut cat = spec(["sha256sum"]);
    let input: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    cat.stdin = input.clone().into();
    let ending = run_to_end(cat).await;
    assert_ended(&ending, OutcomeKind::Exited, 0);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &input).unwrap();
    let plain = std::process::Command::new("sha256sum")
        .arg(file.path())
        .output()
        .unwrap();
    assert_eq!(ending.output.stdout[..64], plain.stdout[..64]);

    let ending = run_to_end(spec(["cat"])).await;
    assert_ended(&ending, OutcomeKind::Exited, 0);
    assert!(ending.output.stdout.is_empty());
}

#[tokio::test]
async fn program_that_does_not_read_its_input_ends_all_the_same() {
    let mut spec = shell("exit 7");
    spec.stdin = vec![b'x'; 1 << 20].into();
    let ending = run_to_end(spec).await;
    assert_ended(&ending, OutcomeKind::Exited, 7);
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_ascii_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap()
}

#[tokio::test]
async fn hundred_megabytes_of_output_are_counted_and_the_head_is_kept() {
    let bytes = 100_000_000_u64;
    let limit = 1 << 20;
    let policy = ExecPolicy::default().output_limit_bytes(limit);
    let before = resident_kib();
    let script = format!("printf head; head -c {bytes} /dev/zero; printf tail >&2");
    let ending = run_with(shell(&script), policy, 0).await;
    assert_ended(&ending, OutcomeKind::Exited, 0);
    assert_eq!(u64::try_from(ending.output.stdout.len()).unwrap(), limit);
    assert!(ending.output.stdout.starts_with(b"head\0\0"));
    assert_eq!(ending.output.stdout_dropped_bytes, bytes + 4 - limit);
    assert_eq!(ending.output.stderr, "tail");
    assert_eq!(ending.output.stderr_dropped_bytes, 0);
    let growth = resident_kib().saturating_sub(before);
    assert!(growth < 40_000, "memory grew by {growth} KiB");
}

#[tokio::test]
async fn output_limit_of_zero_keeps_nothing() {
    let policy = ExecPolicy::default().output_limit_bytes(0);
    let ending = run_with(shell("echo 123"), policy, 0).await;
    assert!(ending.output.stdout.is_empty());
    assert_eq!(ending.output.stdout_dropped_bytes, 4);
}

#[tokio::test]
async fn timeout_ends_the_whole_group() {
    let script = "sh -c 'sleep 1000 & sleep 1000' & echo $$ ready; sleep 1000";
    let (ending, group) = run_into_its_limit(script, &ExecPolicy::default()).await;
    assert!(
        ending.output.message.contains("timeout"),
        "{}",
        ending.output.message
    );
    assert_group_empties(group.parse().unwrap()).await;
}

#[tokio::test]
async fn group_that_ignores_sigterm_is_killed_after_the_grace() {
    let grace = Duration::from_millis(150);
    let policy = ExecPolicy::default().stop_grace(grace);
    let script = "trap '' TERM; sh -c 'while :; do sleep 0.05; done' & \
                  echo $$ ready; while :; do sleep 0.05; done";
    let begin = Instant::now();
    let (ending, group) = run_into_its_limit(script, &policy).await;
    assert!(begin.elapsed() >= Duration::from_millis(250));
    assert_ended(&ending, OutcomeKind::TimedOut, 9);
    assert_group_empties(group.parse().unwrap()).await;
}

#[tokio::test]
async fn program_may_clean_up_after_sigterm() {
    let script = "trap 'echo cleaned; exit 0' TERM; echo ready; while :; do sleep 0.02; done";
    let policy = ExecPolicy::default().stop_grace(WATCHDOG);
    let (ending, _) = run_into_its_limit(script, &policy).await;
    assert_ended(&ending, OutcomeKind::TimedOut, 0);
    assert_eq!(ending.output.stdout, "ready\ncleaned\n");
}

/// Starts a program that says when it is there by making a file, and orders a stop then.
async fn stopped(script: &str, at_once: bool, cause: StopCause) -> Ending {
    stopped_under(&ExecPolicy::default(), script, at_once, cause).await
}

async fn stopped_under(
    policy: &ExecPolicy,
    script: &str,
    at_once: bool,
    cause: StopCause,
) -> Ending {
    let directory = tempfile::tempdir().unwrap();
    let ready = directory.path().join("ready");
    let script = format!("echo $$; {script}\n : > '{}'; wait", ready.display());
    let (switch, signal) = stop_pair(0);
    let running = ended(shell(&script), policy, &signal);
    let order = |switch: StopSwitch| async move {
        while !ready.exists() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        switch.stop(StopOrder { cause, at_once });
        core::future::pending::<()>().await;
    };
    tokio::select! {
        ending = running => ending,
        () = order(switch) => unreachable!(),
        () = tokio::time::sleep(WATCHDOG) => panic!("it hangs"),
    }
}

#[tokio::test]
async fn cancelled_program_ends_with_its_group() {
    let ending = stopped("sleep 1000 & sleep 1000 &", false, StopCause::Cancelled).await;
    assert_eq!(ending.outcome.kind(), OutcomeKind::Cancelled);
    assert_group_empties(text(&ending.output.stdout).trim().parse().unwrap()).await;
}

#[tokio::test]
async fn order_without_grace_kills_at_once() {
    // With the grace it would take longer than this test may.
    let policy = ExecPolicy::default().stop_grace(2 * WATCHDOG);
    let script = "trap '' TERM; sleep 1000 &";
    let ending = stopped_under(&policy, script, true, StopCause::Cancelled).await;
    assert_ended(&ending, OutcomeKind::Cancelled, 9);
}

#[tokio::test]
async fn dropped_run_kills_and_reaps() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pid");
    let script = format!(
        "echo $$ > '{}.new'; mv '{0}.new' '{0}'; sleep 1000",
        file.display()
    );
    let (_switch, signal) = stop_pair(0);
    let policy = ExecPolicy::default();
    let running = ended(shell(&script), &policy, &signal);
    let started = async {
        while !file.exists() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::select! {
        _ = running => panic!("it ended by itself"),
        () = started => {}
    }
    let group = std::fs::read_to_string(&file)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert_group_empties(group).await;
}

#[tokio::test]
async fn process_left_behind_with_the_output_open_does_not_hang_the_task() {
    let policy = ExecPolicy::default().linger(Duration::from_millis(200));
    let ending = run_with(shell("echo $$; sleep 1000 & exit 5"), policy, 0).await;
    assert_ended(&ending, OutcomeKind::Exited, 5);
    assert!(
        ending.output.message.contains("left behind"),
        "{}",
        ending.output.message
    );
    assert_group_empties(text(&ending.output.stdout).trim().parse().unwrap()).await;
}

#[tokio::test]
async fn process_left_behind_in_a_session_of_its_own_does_not_hang_the_task() {
    let policy = ExecPolicy::default().linger(Duration::from_millis(100));
    let ending = run_with(shell("setsid sleep 20 & exit 0"), policy, 0).await;
    assert_ended(&ending, OutcomeKind::Exited, 0);
    assert!(
        ending.output.message.contains("left behind"),
        "{}",
        ending.output.message
    );
}

#[tokio::test]
async fn late_output_of_a_background_process_is_waited_for() {
    let script = "(sleep 0.1; echo late) & echo early";
    let policy = ExecPolicy::default().linger(WATCHDOG);
    let ending = run_with(shell(script), policy, 0).await;
    assert_eq!(ending.output.stdout, "early\nlate\n");
    assert_eq!(ending.output.message, "");
}

#[tokio::test]
async fn silent_process_left_behind_is_killed() {
    let ending = run_to_end(shell("echo $$; sleep 1000 >/dev/null 2>&1 &")).await;
    assert_ended(&ending, OutcomeKind::Exited, 0);
    assert_group_empties(text(&ending.output.stdout).trim().parse().unwrap()).await;
}

#[tokio::test]
async fn program_that_closes_its_outputs_goes_on() {
    let mut spec = shell("exec >&- 2>&-; read line; test \"$line\" = go && exit 9");
    spec.stdin = Bytes::from_static(b"go\n");
    assert_ended(&run_to_end(spec).await, OutcomeKind::Exited, 9);
}

async fn message_of(spec: ExecSpec, errno: i32) -> String {
    let ending = run_to_end(spec).await;
    assert_ended(
        &ending,
        OutcomeKind::SpawnFailed,
        u32::try_from(errno).unwrap(),
    );
    ending.output.message
}

#[tokio::test]
async fn missing_program_is_named() {
    let message = message_of(spec(["no-such-program"]), libc::ENOENT).await;
    assert!(
        message.contains("\"no-such-program\"") && message.contains("PATH"),
        "{message}"
    );
    let message = message_of(spec(["/nonexistent/program"]), libc::ENOENT).await;
    assert!(message.contains("no such file"), "{message}");
    let message = message_of(spec([""]), libc::ENOENT).await;
    assert!(message.contains("name is empty"), "{message}");
}

#[tokio::test]
async fn file_that_is_no_program_is_named() {
    let message = message_of(spec(["/etc/passwd"]), libc::EACCES).await;
    assert!(message.contains("not executable"), "{message}");
    let message = message_of(spec(["/"]), libc::EACCES).await;
    assert!(message.contains("not executable"), "{message}");
}

#[tokio::test]
async fn missing_interpreter_is_told_apart_from_a_missing_program() {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("script");
    // By a process of its own: were the file written here, a program that another test starts at
    // that moment would hold it open for writing for an instant, and it could not be run.
    let written = std::process::Command::new("sh")
        .args([
            "-c",
            "echo '#!/nonexistent/interpreter' >\"$0\" && chmod 755 \"$0\"",
        ])
        .arg(&script)
        .status()
        .unwrap();
    assert!(written.success(), "{written}");
    let message = message_of(spec([script.as_os_str().as_bytes()]), libc::ENOENT).await;
    assert!(message.contains("interpreter"), "{message}");
}

#[tokio::test]
async fn bad_working_directory_is_named() {
    let mut missing = spec(["true"]);
    missing.working_directory = Bytes::from_static(b"/nonexistent/directory");
    let message = message_of(missing, libc::ENOENT).await;
    assert!(
        message.contains("working directory \"/nonexistent/directory\""),
        "{message}"
    );
    let mut file = spec(["true"]);
    file.working_directory = Bytes::from_static(b"/etc/passwd");
    let message = message_of(file, libc::ENOTDIR).await;
    assert!(message.contains("not a directory"), "{message}");
}

#[tokio::test]
async fn too_long_arguments_are_counted() {
    let long = vec![b'x'; 300_000];
    let message = message_of(spec([&b"true"[..], &long[..]]), libc::E2BIG).await;
    assert!(
        message.contains("2 arguments") && message.contains("standard input"),
        "{message}"
    );
}

#[tokio::test]
async fn bytes_that_no_program_can_get_are_refused() {
    let message = message_of(spec(["echo", "a\0b"]), libc::EINVAL).await;
    assert!(message.contains("argument 1"), "{message}");
    let mut bad_name = spec(["true"]);
    bad_name.environment = vec![EnvironmentVariable {
        name: Bytes::from_static(b"A=B"),
        value: Bytes::new(),
    }];
    let message = message_of(bad_name, libc::EINVAL).await;
    assert!(message.contains("A=B"), "{message}");
    let ending = run_to_end(ExecSpec::default()).await;
    assert_eq!(ending.outcome.kind(), OutcomeKind::Refused);
}

#[tokio::test]
async fn no_descriptor_leaks_into_programs() {
    let mut others = Vec::new();
    for _ in 0..4 {
        let (_switch, signal) = stop_pair(300);
        others.push(tokio::spawn(async move {
            ended(shell("sleep 1000"), &ExecPolicy::default(), &signal).await
        }));
    }
    tokio::task::yield_now().await;
    // The directory's own descriptor is the fourth.
    let ending = run_to_end(spec(["ls", "/proc/self/fd"])).await;
    assert_eq!(ending.output.stdout, "0\n1\n2\n3\n");
    for other in others {
        assert_eq!(other.await.unwrap().outcome.kind(), OutcomeKind::TimedOut);
    }
}

#[tokio::test]
async fn hundreds_of_programs_run_at_once_on_one_thread_and_leave_no_zombie() {
    let count = 200_u32;
    let runs = (0..count).map(|index| async move {
        let ending = run_to_end(shell(&format!("sleep 0.3; echo {index}"))).await;
        assert_eq!(ending.output.stdout, format!("{index}\n"));
    });
    futures_util::future::join_all(runs).await;
    // Other tests run their own children meanwhile, which are zombies only for a moment.
    let over = Instant::now() + WATCHDOG;
    while !zombies_of_this_process().is_empty() {
        assert!(Instant::now() < over, "{:?}", zombies_of_this_process());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn program_gets_the_limit_of_open_files_that_the_worker_was_given() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(400), hard).unwrap();
    assert_eq!(crate::raise_descriptor_limit(200, 0), 200);
    let (raised, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert_eq!(raised, hard.min(1128));
    let ending = run_to_end(shell("ulimit -n")).await;
    assert_ended(&ending, OutcomeKind::Exited, 0);
    assert_eq!(
        text(&ending.output.stdout).trim(),
        hard.min(400).to_string()
    );
}

#[tokio::test]
async fn start_is_told_while_a_program_runs_and_with_its_end_where_it_ends_at_once() {
    let order = std::cell::RefCell::new(Vec::new());
    let at_once = async { order.borrow_mut().push("over") };
    super::told_when_it_lasts(at_once, || order.borrow_mut().push("begun")).await;
    assert_eq!(*order.borrow(), ["over", "begun"]);

    let (begun, told) = tokio::sync::oneshot::channel();
    let lasting = async { told.await.unwrap() };
    let watched = super::told_when_it_lasts(lasting, || begun.send(7).unwrap());
    let result = tokio::time::timeout(WATCHDOG, watched).await;
    assert_eq!(result, Ok(7), "it ends when its start was told");
}
