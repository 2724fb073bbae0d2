//! A worker and a client in Python, made from each contract that was given out, against the daemon of today, over TCP and over a
//! Unix socket: what an author of either in any language relies on.
//!
//! The programs are `tests/conformance`; their packages come from the registry of Python, in the versions named there, into an
//! environment below `target`. A machine without Python or without a way to the registry says so with `QTF_LACKS=python`.

mod twenty_lines;
mod worker_check;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use qtf_needs::{Need, lacks, skip};
use qtf_tests::{Finished, Place, Process};

/// Above what fits into a message, and into the arena of a small segment: it lies in a file.
const LARGE_BYTES: usize = 3_000_000;
const SMALL_SEGMENT: &str = "8388608";

fn programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance")
}

fn contracts_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/descriptors")
}

/// The environment with the packages, made once; or why it could not be.
fn python() -> Option<PathBuf> {
    static MADE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    if lacks(Need::Python) {
        return None;
    }
    match MADE.get_or_init(make_environment) {
        Ok(python) => Some(python.clone()),
        Err(why) => {
            skip(Need::Python, why);
            None
        }
    }
}

fn make_environment() -> Result<PathBuf, String> {
    let requirements = programs().join("requirements.txt");
    let wanted = std::fs::read(&requirements).expect("it is tracked");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("conformance-python");
    let marker = folder.join("installed");
    std::fs::create_dir_all(&folder).expect("target can be written");
    // Another run of this test may make it at this moment.
    let lock = std::fs::File::create(folder.join("lock")).expect("target can be written");
    lock.lock().expect("target can be locked");
    let python = folder.join("venv/bin/python");
    if std::fs::read(&marker).is_ok_and(|installed| installed == wanted) && python.exists() {
        return Ok(python);
    }
    let mut venv = Command::new("python3");
    run(venv
        .args(["-m", "venv", "--clear"])
        .arg(folder.join("venv")))?;
    let mut install = Command::new(&python);
    install
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ])
        .arg("--requirement")
        .arg(&requirements);
    run(&mut install)?;
    std::fs::write(&marker, wanted).expect("target can be written");
    Ok(python)
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().next_back().unwrap_or_default();
    Err(format!("{command:?}: {}: {last}", output.status))
}

/// One contract, one way to the daemon, and a daemon there.
struct Trial {
    place: Place,
    python: PathBuf,
    /// The Python modules that were made from the contract.
    modules: PathBuf,
    address: String,
    daemon: Process,
}

impl Trial {
    fn start(python: &Path, contract: &Path, over_tcp: bool) -> Self {
        let place = Place::new();
        let modules = modules(python, contract, &place);
        let address = match over_tcp {
            true => place.free_tcp_address(),
            false => place.address(),
        };
        let daemon = serve(&place, &address);
        Self {
            place,
            python: python.to_owned(),
            modules,
            address,
            daemon,
        }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = self.place.command_of(&self.python);
        command
            .arg("-u")
            .arg(programs().join(program))
            .arg(&self.address)
            .env("PYTHONPATH", &self.modules)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("no_grpc_proxy", "127.0.0.1");
        command
    }

    /// Starts a worker and waits until it is registered.
    fn worker(&self, name: &str) -> Process {
        let mut command = self.command("worker.py");
        command.args(["--name", name]);
        let mut worker = Process::start(command);
        worker.line_with("registered");
        worker
    }

    fn client(&self, arguments: &[&str]) -> Finished {
        let mut command = self.command("client.py");
        command.args(arguments);
        let done = self.place.finish(command, Vec::new());
        assert_eq!(done.code, 0, "{arguments:?}: {}", done.stderr);
        done
    }

    /// Submits, and gives the ids.
    fn submit(&self, arguments: &[&str]) -> Vec<String> {
        let all = [&["submit"], arguments].concat();
        let ids = self.client(&all);
        ids.text().lines().map(str::to_owned).collect()
    }

    /// Waits for the ends of tasks: without their ids, in order of the ids.
    fn results(&self, ids: &[String]) -> Vec<String> {
        let mut all = vec!["results"];
        all.extend(ids.iter().map(String::as_str));
        let done = self.client(&all);
        let mut lines: Vec<&str> = done.text().lines().collect();
        lines.sort_unstable();
        lines
            .into_iter()
            .map(|line| line.split_once(' ').expect("an id is first").1.to_owned())
            .collect()
    }

    fn restart(&mut self) {
        self.daemon.kill();
        self.daemon = serve(&self.place, &self.address);
    }

    /// A path that is not there, until it is made.
    fn gate(&self, name: &str) -> PathBuf {
        self.place.work().join(name)
    }

    fn end(mut self) {
        self.place.verify();
        assert_eq!(self.daemon.terminate(), Some(0));
    }
}

fn serve(place: &Place, address: &str) -> Process {
    place.daemon(&["--segment-bytes", SMALL_SEGMENT, "--listen", address])
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the place has a readable name")
}

/// The Python modules that are made from a contract.
fn modules(python: &Path, contract: &Path, place: &Place) -> PathBuf {
    let modules = place.work().join("modules");
    std::fs::create_dir_all(&modules).expect("the place is new");
    let mut generate = Command::new(python);
    generate.args(["-m", "grpc_tools.protoc"]);
    generate.arg(format!("--descriptor_set_in={}", contract.display()));
    for kind in ["python_out", "grpc_python_out"] {
        generate.arg(format!("--{kind}={}", modules.display()));
    }
    for file in ["task", "plm", "register", "scheduler", "admin"] {
        generate.arg(format!("qtf/v1/{file}.proto"));
    }
    run(&mut generate).unwrap_or_else(|error| panic!("{error}"));
    modules
}

/// Tries something with each contract that was given out.
fn with_each_contract(trial: impl Fn(&Path, &Path, &Place)) {
    let Some(python) = python() else { return };
    let entries = std::fs::read_dir(contracts_folder()).expect("the folder is tracked");
    let mut contracts: Vec<PathBuf> = entries
        .map(|entry| entry.expect("it can be read").path())
        .collect();
    contracts.sort();
    assert!(!contracts.is_empty(), "no contract was given out");
    for contract in contracts {
        trial(&python, &contract, &Place::new());
    }
}

/// Tries something with each contract, each way.
fn with_each(trial: impl Fn(Trial)) {
    with_each_contract(|python, contract, _| {
        for over_tcp in [false, true] {
            trial(Trial::start(python, contract, over_tcp));
        }
    });
}

/// `sha256sum` of bytes, as the client prints it.
fn digest(place: &Place, path: &Path) -> String {
    let mut command = place.command_of(Path::new("sha256sum"));
    command.arg(path);
    let done = place.finish(command, Vec::new()).expect_code(0);
    done.text()
        .split(' ')
        .next()
        .expect("it has words")
        .to_owned()
}

#[test]
fn client_in_python_submits_to_a_worker_in_python_and_gets_each_result() {
    with_each(|trial| {
        let mut worker = trial.worker("first");
        let ids = trial.submit(&["echo", "hello", "--count", "20"]);
        assert_eq!(ids.len(), 20);
        let known = trial.place.file("known", "hello");
        let hello = digest(&trial.place, &known);
        for line in trial.results(&ids) {
            assert_eq!(line, format!("DONE EXITED 0 1 5 {hello}"));
        }
        let failed = trial.results(&trial.submit(&["fail", "no", "--retries", "1"]));
        assert!(
            failed[0].starts_with("FAILED HANDLER_FAILED 0 2 0"),
            "{failed:?}"
        );
        // What was acknowledged is gone, by the very ids that were printed.
        let address = ["--addr", trial.address.as_str()];
        let gone = trial.place.qtf([&address[..], &["task", &ids[0]]].concat());
        assert_eq!(gone.code, 3, "{}", gone.stderr);
        assert_eq!(worker.terminate(), Some(0));
        trial.end();
    });
}

#[test]
fn payloads_and_outputs_beyond_a_message_come_through_whole() {
    with_each(|trial| {
        let worker = trial.worker("first");
        let payload: Vec<u8> = (0..LARGE_BYTES)
            .map(|index| u8::try_from(index % 251).expect("below 251"))
            .collect();
        let file = trial.place.file("payload", &payload);
        let ids = trial.submit(&["echo", text(&file), "--file", "--count", "4"]);
        let digest = digest(&trial.place, &file);
        for line in trial.results(&ids) {
            assert_eq!(line, format!("DONE EXITED 0 1 {LARGE_BYTES} {digest}"));
        }
        drop(worker);
        trial.end();
    });
}

#[test]
fn both_in_python_go_on_with_the_same_task_when_the_daemon_is_killed_and_started_again() {
    with_each(|mut trial| {
        let mut worker = trial.worker("first");
        let gate = trial.gate("gate");
        let ids = trial.submit(&["hold", text(&gate)]);
        worker.line_with("started");
        let mut watching = trial.command("client.py");
        watching.args(["results", &ids[0]]);
        let mut watching = Process::start(watching);
        trial.restart();
        worker.line_with("registered");
        // The worker is back when the task may end: it is the same attempt.
        trial.place.file("gate", "");
        let line = watching.line_with("DONE");
        assert!(line.contains("DONE EXITED 0 1 "), "{line}");
        assert!(watching.wait().success());
        // One that ends while nobody is there is told to the next.
        let gate = trial.gate("second gate");
        let ids = trial.submit(&["hold", text(&gate)]);
        worker.line_with("started");
        trial.daemon.kill();
        trial.place.file("second gate", "");
        trial.daemon = serve(&trial.place, &trial.address);
        let ends = trial.results(&ids);
        assert!(ends[0].starts_with("DONE EXITED 0 1 "), "{ends:?}");
        drop(worker);
        trial.end();
    });
}

#[test]
fn task_of_a_killed_worker_in_python_is_run_by_the_next_one() {
    with_each(|trial| {
        let mut first = trial.worker("first");
        let gate = trial.gate("gate");
        let ids = trial.submit(&["hold", text(&gate)]);
        first.line_with("started");
        first.kill();
        let mut second = trial.worker("second");
        second.line_with("started");
        trial.place.file("gate", "");
        let ends = trial.results(&ids);
        assert!(ends[0].starts_with("DONE EXITED 0 2 "), "{ends:?}");
        drop(second);
        trial.end();
    });
}

#[test]
fn drained_worker_in_python_ends_what_it_has_takes_no_more_and_leaves() {
    with_each(|trial| {
        let mut worker = trial.worker("first");
        let gate = trial.gate("gate");
        let held = trial.submit(&["hold", text(&gate)]);
        worker.line_with("started");
        let address = ["--addr", trial.address.as_str()];
        let qtf = |arguments: &[&str]| trial.place.qtf([&address[..], arguments].concat());
        qtf(&["worker", "drain", "w0"]).expect_code(0);
        let waiting = trial.submit(&["echo", "later"]);
        trial.place.file("gate", "");
        assert!(trial.results(&held)[0].starts_with("DONE"));
        assert!(worker.wait().success());
        assert_eq!(qtf(&["worker", "ls", "--output", "jsonl"]).text(), "");
        let next = trial.worker("next");
        assert!(trial.results(&waiting)[0].starts_with("DONE EXITED 0 1 5 "));
        drop(next);
        trial.end();
    });
}

#[test]
fn worker_in_python_ends_what_is_cancelled_and_what_is_over_its_time_by_itself() {
    with_each(|trial| {
        let mut worker = trial.worker("first");
        let gate = trial.gate("gate");
        let ids = trial.submit(&["hold", text(&gate)]);
        worker.line_with("started");
        trial.client(&["cancel", &ids[0]]);
        let ends = trial.results(&ids);
        assert!(ends[0].starts_with("CANCELLED CANCELLED 0 1 "), "{ends:?}");
        // Code 0: the worker's own word, not the daemon's after its grace.
        let late = trial.results(&trial.submit(&["hold", text(&gate), "--timeout-ms", "200"]));
        assert!(late[0].starts_with("FAILED TIMED_OUT 0 1 "), "{late:?}");
        drop(worker);
        trial.end();
    });
}
