//! The commands of the README, run as a new user would paste them.
//!
//! The programs are those of this build, and not built again: a stand-in for `cargo` knows where they are. Other stand-ins give
//! daemon and inspector the name of this test, since there may be a daemon of the default name on this machine. Paths below `/tmp` and the
//! port are the test's own; all else is as it stands there. A block that this file does not know fails it.
#![expect(clippy::unwrap_used, reason = "what cannot be set up is a failed test")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use qtf_tests::programs::program;
use qtf_tests::{Finished, Place, Process};

/// The blocks in their order, each by its first line.
const BLOCKS: [&str; 10] = [
    "cargo run --release --bin qtf -- map 'sha256sum {}' ::: Cargo.toml README.md",
    "cargo test --workspace",
    "cargo build --release --workspace",
    "qtf dev --workers 2",
    "qtf submit -p 200 -- sh -c 'echo hello; sleep 1'      # prints the id of the task",
    "qtfd --listen unix:/tmp/qtf.sock --listen 127.0.0.1:7878 &",
    "qtf-worker --addr shm:default --slots 8 &",
    "shm-inspect list                        # segments on this machine, and whether their owner lives",
    "cargo run --release --package qtf-examples --bin word-count-worker &",
    "qtfd --data-dir /tmp/qtf-data --listen unix:/tmp/qtf.sock &",
];

/// The stand-in: what it is asked to build is there.
const CARGO: &str = r#"#!/bin/sh
[ "$1" = build ] && exit
while [ $# -gt 0 ]; do
    case $1 in
        --bin) program=$2; shift ;;
        --) shift; break ;;
    esac
    shift
done
exec "$PROGRAMS/$program" "$@"
"#;

const QTFD: &str = r#"#!/bin/sh
exec "$PROGRAMS/qtfd" --instance "$QTF_TEST_MARK" --core none "$@"
"#;

const SHM_INSPECT: &str = r#"#!/bin/sh
case "$*" in
    --image*|list*) exec "$PROGRAMS/shm-inspect" "$@" ;;
    *) exec "$PROGRAMS/shm-inspect" --instance "$QTF_TEST_MARK" "$@" ;;
esac
"#;

/// A clone, as far as the commands look at it, in a place of its own.
struct Clone {
    place: Place,
    blocks: Vec<String>,
    port: String,
}

impl Clone {
    fn new() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
        let place = Place::new();
        for file in ["README.md", "Cargo.toml"] {
            place.file(file, std::fs::read(root.join(file)).unwrap());
        }
        std::fs::create_dir_all(place.work().join("docs")).unwrap();
        place.file("docs/GLOSSARY.md", "a word and its meaning\n");
        std::fs::create_dir_all(place.work().join("stand-ins")).unwrap();
        for (name, text) in [
            ("cargo", CARGO),
            ("qtfd", QTFD),
            ("shm-inspect", SHM_INSPECT),
        ] {
            let path = place.file(format!("stand-ins/{name}"), text);
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let blocks = blocks_of(&readme);
        let first_lines: Vec<&str> = blocks.iter().filter_map(|b| b.lines().next()).collect();
        assert_eq!(first_lines, BLOCKS);
        let port = place.free_tcp_address();
        let port = port.rsplit(':').next().unwrap().to_owned();
        Clone {
            place,
            blocks,
            port,
        }
    }

    /// The block that begins with these words, with this test's paths and port.
    fn block(&self, begin: &str) -> String {
        let block = self.blocks.iter().find(|block| block.starts_with(begin));
        let here = self.place.work().join("qtf").display().to_string();
        block
            .unwrap()
            .replace("/tmp/qtf", &here)
            .replace("7878", &self.port)
            .replace("shm:default", &format!("shm:{}", self.place.instance()))
    }

    /// A shell that finds the programs, stops at the first line that fails, and says which it is.
    fn shell(&self, script: &str) -> Command {
        let programs = program("qtf").parent().unwrap().to_owned();
        let stand_ins = self.place.work().join("stand-ins");
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{}:{path}", stand_ins.display(), programs.display());
        let mut shell = self.place.command_of(Path::new("/bin/bash"));
        shell
            .args(["-eEx", "-o", "pipefail", "-c", script])
            .env("PATH", path)
            .env("PROGRAMS", programs);
        shell
    }

    /// Runs the lines of a terminal to their end. What runs in the background is ended with them, also when a line has failed.
    fn paste(&self, script: &str) -> Finished {
        let script = format!("trap 'kill $(jobs -p) || true' EXIT\n{script}");
        self.place.finish(self.shell(&script), Vec::new())
    }
}

impl Drop for Clone {
    /// The segment that a daemon has left on purpose.
    fn drop(&mut self) {
        let mut list = self.place.command("shm-inspect");
        list.args(["list", "--json"]);
        let listed = self.place.finish(list, Vec::new());
        let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap_or_default();
        for segment in listed["segments"].as_array().into_iter().flatten() {
            if segment["instance"] == self.place.instance() {
                let id = segment["shm_id"].to_string();
                let _gone = Command::new("ipcrm").args(["-m", &id]).status();
            }
        }
    }
}

/// What stands between "```sh" and "```".
fn blocks_of(text: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while lines.any(|line| line == "```sh") {
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        blocks.push(block.join("\n") + "\n");
    }
    blocks
}

#[test]
fn the_first_command_prints_the_sums_of_two_files() {
    let clone = Clone::new();
    let done = clone
        .paste(&clone.block("cargo run --release --bin qtf"))
        .expect_code(0);
    let files: Vec<&str> = done
        .text()
        .lines()
        .filter_map(|l| l.split_whitespace().nth(1))
        .collect();
    assert_eq!(files, ["Cargo.toml", "README.md"]);
}

#[test]
fn ci_runs_the_tests_by_the_command_that_the_readme_has() {
    let clone = Clone::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let ci = std::fs::read_to_string(root.join(".ci/run")).unwrap();
    let command = clone.block("cargo test");
    assert!(ci.ends_with(&command), "{command} is not the end of {ci}");
}

#[test]
fn the_tour_with_daemon_and_workers_in_one_process() {
    let clone = Clone::new();
    let mut dev = Process::start(clone.shell(&format!("exec {}", clone.block("qtf dev"))));
    dev.line_with("shm-inspect --id");
    let tour = clone.block("cargo build") + &clone.block("qtf submit");
    let done = clone.paste(&tour).expect_code(0);
    for part in ["\nhello\n", "docs/GLOSSARY.md"] {
        assert!(done.text().contains(part), "{}", done.text());
    }
    let done = clone
        .paste(&clone.block("cargo run --release --package"))
        .expect_code(0);
    assert!(
        done.text().ends_with("300 texts, 0 failed\n"),
        "{}",
        done.text()
    );
    dev.signal(Signal::SIGINT);
    dev.wait();
}

#[test]
fn the_tour_with_daemon_and_workers_of_their_own() {
    let clone = Clone::new();
    let ask = format!("qtf --addr 127.0.0.1:{} worker ls\n", clone.port);
    // Who types waits until what runs in the background says that it is there.
    let typed = format!(
        "until {} | grep rack2; do sleep 0.05; done\n{ask}",
        ask.trim_end()
    );
    let block = clone.block("qtfd --listen");
    assert!(block.ends_with(&ask), "{block}");
    let daemon = block.replace(&ask, &typed);
    // A debug build takes long for as many tasks as a bench has by default.
    let segment = clone.block("qtf-worker --addr shm:");
    assert!(segment.ends_with("bench --in-flight 256\n"), "{segment}");
    let segment = segment.trim_end().to_owned() + " --tasks 2000\n";
    let tour = daemon + &segment + &clone.block("shm-inspect list") + "wait\n";
    let done = clone.paste(&tour).expect_code(0);
    let instance = clone.place.instance();
    for part in ["rack2", "tasks/s", instance, "qtf.shm-inspect.info/1"] {
        assert!(
            done.text().contains(part),
            "{part} is not in {}",
            done.text()
        );
    }
}

#[test]
fn a_task_survives_the_daemon_as_the_readme_shows() {
    let clone = Clone::new();
    // Who types waits until the daemon that takes over says that it is there.
    let successor =
        "until qtf info --json | grep -E \"\\\"pid\\\": ?$!\\b\"; do sleep 0.05; done\nqtf dead ls";
    let block = clone.block("qtfd --data-dir");
    assert!(block.contains("\nqtf dead ls"), "{block}");
    let block = block.replacen("qtf dead ls", successor, 1);
    let done = clone
        .paste(&format!("{block}kill $(jobs -p)\nwait\n"))
        .expect_code(0);
    let first = done.text().lines().next().unwrap_or_default();
    let ids = done.text().lines().filter(|line| *line == first);
    assert_eq!(ids.count(), 2, "{}", done.text());
    assert!(done.text().contains("\ndone\n"), "{}", done.text());
}
