//! What belongs to an attempt ends with it, in each way of containment that this machine has.

use std::path::Path;

use qtf_needs::{Need, lacks};

use super::*;

/// Which of its processes end with an attempt.
const WHOLE: [(Containment, Option<Need>); 3] = [
    (Containment::Cgroup, Some(Need::Cgroup)),
    (Containment::Namespace, Some(Need::PidNamespace)),
    (Containment::Supervisor, None),
];

/// The ways that hold all processes, as far as they are here.
#[track_caller]
fn whole_ways() -> Vec<Containment> {
    let here = WHOLE
        .into_iter()
        .filter(|(_, need)| need.is_none_or(|need| !lacks(need)));
    let ways: Vec<Containment> = here.map(|(way, _)| way).collect();
    for way in &ways {
        let tried = crate::contain::way(*way);
        assert!(tried.is_ok(), "{tried:?}");
    }
    ways
}

#[track_caller]
fn every_way() -> Vec<Containment> {
    let mut ways = whole_ways();
    ways.push(Containment::Group);
    ways
}

fn policy(way: Containment) -> ExecPolicy {
    ExecPolicy::default().containment(way)
}

/// Living processes with this variable in their environment.
fn carriers(mark: &str) -> Vec<String> {
    let wanted = format!("MARK={mark}");
    let has_mark = |folder: &Path| {
        let environment = std::fs::read(folder.join("environ")).unwrap_or_default();
        environment
            .split(|byte| *byte == 0)
            .any(|variable| variable == wanted.as_bytes())
    };
    let folders = std::fs::read_dir("/proc").unwrap().flatten();
    folders
        .map(|entry| entry.path())
        .filter(|folder| has_mark(folder))
        .map(|folder| {
            let command = std::fs::read(folder.join("cmdline")).unwrap_or_default();
            format!("{}: {}", folder.display(), text(&command.into()))
        })
        .collect()
}

fn marked(script: &str, mark: &str) -> ExecSpec {
    let mut spec = shell(script);
    spec.environment = vec![EnvironmentVariable {
        name: Bytes::from_static(b"MARK"),
        value: Bytes::copy_from_slice(mark.as_bytes()),
    }];
    spec
}

/// Starts a process in a session of its own, whose parent ends, and one below that.
const STRAYS: &str = "setsid sh -c 'setsid sleep 1000 & sleep 1000' >/dev/null 2>&1 & \
     setsid setsid sleep 1000 >/dev/null 2>&1 & ";

#[tokio::test]
async fn processes_in_sessions_of_their_own_are_gone_when_the_attempt_has_ended() {
    for way in whole_ways() {
        let mark = format!("strays-{way}-{}", std::process::id());
        let script = format!("{STRAYS} sleep 0.05; exit 3");
        let ending = run_with(marked(&script, &mark), policy(way), 0).await;
        assert_ended(&ending, OutcomeKind::Exited, 3);
        assert_eq!(carriers(&mark), Vec::<String>::new(), "{way}");
    }
}

#[tokio::test]
async fn processes_in_sessions_of_their_own_are_gone_when_the_attempt_was_stopped() {
    for way in whole_ways() {
        let mark = format!("stopped-{way}-{}", std::process::id());
        let script = format!("{STRAYS} sleep 1000");
        let ending = run_with(marked(&script, &mark), policy(way), 150).await;
        assert_eq!(ending.outcome.kind(), OutcomeKind::TimedOut, "{way}");
        assert_eq!(carriers(&mark), Vec::<String>::new(), "{way}");
    }
}

#[tokio::test]
async fn ends_are_the_program_s_own_in_every_way() {
    for way in every_way() {
        for code in [0, 1, 255] {
            let ending = run_with(shell(&format!("exit {code}")), policy(way), 0).await;
            assert_ended(&ending, OutcomeKind::Exited, code);
        }
        for signal in [6, 9, 15] {
            let script = format!("kill -{signal} $$; sleep 1000");
            let ending = run_with(shell(&script), policy(way), 0).await;
            assert_ended(&ending, OutcomeKind::Signalled, signal);
        }
        let ending = run_with(spec(["no-such-program"]), policy(way), 0).await;
        let missing = u32::try_from(libc::ENOENT).unwrap();
        assert_ended(&ending, OutcomeKind::SpawnFailed, missing);
    }
}

/// A program that is pid 1 of its namespace would not hear it: the kernel keeps from it what it has no handler for.
#[tokio::test]
async fn program_without_a_handler_is_ended_by_the_first_signal_in_every_way() {
    for way in every_way() {
        let policy = policy(way).stop_grace(WATCHDOG);
        let ending = run_with(spec(["sleep", "1000"]), policy, 100).await;
        assert_ended(&ending, OutcomeKind::TimedOut, 15);
    }
}

#[tokio::test]
async fn pids_of_programs_that_run_at_once_differ_in_every_way() {
    for way in every_way() {
        let one = || run_with(shell("echo $$; sleep 0.1"), policy(way), 0);
        let (first, second) = tokio::join!(one(), one());
        assert_ne!(first.output.stdout, second.output.stdout, "{way}");
    }
}

/// Where the cgroups of version 2 are.
fn cgroups() -> String {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "));
    mount.unwrap().split(' ').nth(4).unwrap().to_owned()
}

#[tokio::test]
async fn cgroup_that_a_program_has_looked_into_is_removed_with_its_attempt() {
    if lacks(Need::Cgroup) {
        return;
    }
    let own = format!("own={}$(sed -n s/^0:://p /proc/self/cgroup)", cgroups());
    let script = format!("{own}; cat $own/cgroup.max.depth >/dev/null && echo $own");
    let ending = run_with(shell(&script), policy(Containment::Cgroup), 0).await;
    let path = text(&ending.output.stdout);
    assert!(path.contains("/qtf-"), "{path}");
    assert!(!Path::new(path.trim()).exists(), "{path}");
}

#[tokio::test]
async fn cgroup_of_an_attempt_has_the_attempt_s_processes_alone() {
    if lacks(Need::Cgroup) {
        return;
    }
    let script = format!(
        "echo $$; cat {}$(sed -n s/^0:://p /proc/self/cgroup)/cgroup.procs",
        cgroups()
    );
    for _ in 0..20 {
        let ending = run_with(shell(&script), policy(Containment::Cgroup), 0).await;
        let said = text(&ending.output.stdout);
        let pids: Vec<&str> = said.lines().collect();
        // The shell twice, and the one that reads.
        assert_eq!(pids.len(), 3, "{said}");
        assert!(pids[1..].contains(&pids[0]), "{said}");
    }
}

#[tokio::test]
async fn stopped_program_hears_that_it_is_to_end_in_every_way() {
    for way in every_way() {
        let policy = policy(way).stop_grace(WATCHDOG);
        let ending = run_with(shell("kill -STOP $$; sleep 1000"), policy, 200).await;
        assert_ended(&ending, OutcomeKind::TimedOut, 15);
    }
}

#[tokio::test]
async fn program_leads_a_session_of_its_own_without_a_terminal_in_every_way() {
    for way in every_way() {
        // Field 6 is the session, 7 the terminal, of which 0 is none; as seen from outside.
        let script =
            "read -r stat < /proc/self/stat; set -- ${stat##*) }; test $4 = $3; echo $? $5";
        let ending = run_with(shell(script), policy(way), 0).await;
        assert_eq!(ending.output.stdout, "0 0\n", "{way}");
    }
}

/// A mask of the kernel's: `SigBlk`, `SigIgn`.
fn mask(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let digits = line.and_then(|line| line.strip_prefix(':')).unwrap();
    u64::from_str_radix(digits.trim(), 16).unwrap()
}

#[tokio::test]
async fn program_begins_with_no_signal_blocked_and_none_ignored_but_by_whoever_started_the_worker_in_every_way()
 {
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let pipe = 1 << (libc::SIGPIPE - 1);
    assert_ne!(mask(&own, "SigIgn") & pipe, 0, "it is ignored here");
    let ignored = mask(&own, "SigIgn") & !pipe;
    for way in every_way() {
        let status = run_with(spec(["cat", "/proc/self/status"]), policy(way), 0).await;
        let status = text(&status.output.stdout);
        assert_eq!(mask(&status, "SigBlk"), 0, "{way}");
        assert_eq!(mask(&status, "SigIgn"), ignored, "{way}");
    }
}

/// Pages of this thread that were copied, or had to be looked up, when they were written to.
fn faults() -> i64 {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_THREAD);
    usage.unwrap().minor_page_faults()
}

/// After a fork each page that is written to is copied. Other tests fork this process at any moment, so one start without is enough:
/// there is none where each start is a fork.
#[cfg(target_arch = "x86_64")]
#[tokio::test]
async fn start_of_a_program_copies_no_page_of_the_worker() {
    const PAGES: usize = 4_096;
    let ways = [
        (Containment::Group, None),
        (Containment::Cgroup, Some(Need::Cgroup)),
    ];
    let ways = ways
        .into_iter()
        .filter(|(_, need)| need.is_none_or(|need| !lacks(need)));
    let mut memory = vec![0_u8; PAGES << 12];
    let mut written = |value| {
        let before = faults();
        memory
            .iter_mut()
            .step_by(1 << 12)
            .for_each(|byte| *byte = value);
        core::hint::black_box(&memory);
        faults() - before
    };
    written(1);
    for (way, _) in ways {
        let mut least = i64::MAX;
        for round in 0..200 {
            written(2);
            run_with(spec(["true"]), policy(way), 0).await;
            least = least.min(written(round));
        }
        let pages = i64::try_from(PAGES).unwrap();
        assert!(least < pages / 4, "{way}: {least} of {pages} pages");
    }
}
