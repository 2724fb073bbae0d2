//! Another user of the machine in the place of one's own daemon: commands of his are not run, tasks are not handed to him,
//! and nothing is written where his links lead.
//!
//! Needs root, to be two users.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use qtf_tests::programs::program;
use qtf_tests::{Finished, Place, Process};
use tempfile::TempDir;

/// `nobody` wherever there is one; that the number has no name does not matter.
const STRANGER: u32 = 65_534;

/// A folder that everybody may use, like `/tmp`, in which the stranger was first.
struct Shared {
    place: Place,
    folder: TempDir,
}

impl Shared {
    /// `None` when this is not root.
    fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            return None;
        }
        let folder = tempfile::Builder::new()
            .prefix("qtf-s")
            .tempdir()
            .expect("root may");
        mode(folder.path(), 0o1777);
        let place = Place::new();
        Some(Self { place, folder })
    }

    fn runtime_folder(&self) -> PathBuf {
        self.folder.path().join("qtf")
    }

    /// Where a user's own daemon is looked for here.
    fn socket(&self) -> String {
        format!(
            "unix:{}",
            self.runtime_folder().join("default.sock").display()
        )
    }

    fn command(&self, name: &str) -> Command {
        let mut command = self.place.command(name);
        command.env("XDG_RUNTIME_DIR", self.folder.path());
        command
    }

    fn run(&self, line: &[&str]) -> Finished {
        let mut command = self.command(line[0]);
        command.args(&line[1..]);
        self.place.finish(command, Vec::new())
    }

    /// A daemon of the stranger's, at the socket where a user's own is looked for.
    fn strangers_daemon(&self) -> Process {
        let copy = self.folder.path().join("qtfd");
        // By a process of its own: were the copy written here, a program that another test
        // starts at that moment would inherit the open file for an instant, and no file can be
        // run while somebody has it open for writing.
        let copied = Command::new("install")
            .args(["-m", "755"])
            .args([&program("qtfd"), &copy])
            .status()
            .expect("install is there");
        assert!(copied.success(), "{copied}");
        std::fs::create_dir(self.runtime_folder()).expect("root may");
        chown(self.runtime_folder(), Some(STRANGER), Some(STRANGER)).expect("root may");
        let mut command = self.place.command_of(&copy);
        command
            .current_dir(self.folder.path())
            .env("XDG_RUNTIME_DIR", self.folder.path())
            // The socket is what is looked for; the name is one that no other test has.
            .args([
                "--instance",
                self.place.instance(),
                "--listen",
                &self.socket(),
            ])
            .args(["--core", "none", "--segment-bytes", "8388608"])
            .uid(STRANGER)
            .gid(STRANGER);
        let mut daemon = Process::start(command);
        self.place.remember_maker(daemon.pid());
        daemon.line_with("serving");
        daemon
    }
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("root may");
}

const COMMANDS: [&[&str]; 4] = [
    &["qtf", "ps"],
    &["qtf", "submit", "--", "true"],
    &["qtf", "map", "echo", ":::", "a"],
    &["qtf", "wait", "last"],
];

#[test]
fn default_folder_of_another_user_is_refused_by_all_programs_with_its_owner() {
    let Some(shared) = Shared::new() else {
        eprintln!(
            "skipped: default_folder_of_another_user_is_refused_by_all_programs_with_its_owner: needs root, to be two users"
        );
        return;
    };
    let _strangers = shared.strangers_daemon();
    let names_it = |text: &str| {
        text.contains(&shared.runtime_folder().display().to_string())
            && text.contains("belongs to user 65534, not to 0")
    };
    for line in COMMANDS {
        let done = shared.run(line).expect_code(5);
        assert!(names_it(&done.stderr), "{line:?}: {}", done.stderr);
        assert!(done.stderr.contains("XDG_RUNTIME_DIR"), "{}", done.stderr);
        assert_eq!(done.text(), "");
    }
    let worker = shared.run(&["qtf-worker"]).expect_code(1);
    assert!(names_it(&worker.stderr), "{}", worker.stderr);
    let daemon = shared.run(&["qtfd", "--core", "none"]).expect_code(4);
    assert!(names_it(&daemon.stderr), "{}", daemon.stderr);
    let dev = shared.run(&["qtf", "dev"]).expect_code(5);
    assert!(names_it(&dev.stderr), "{}", dev.stderr);
}

#[test]
fn listener_of_another_user_at_the_default_socket_is_refused_unless_it_was_asked_for() {
    let Some(shared) = Shared::new() else {
        eprintln!(
            "skipped: listener_of_another_user_at_the_default_socket_is_refused_unless_it_was_asked_for: needs root, to be two users"
        );
        return;
    };
    let _strangers = shared.strangers_daemon();
    // The folder is given back to its user; the socket in it stays the stranger's.
    chown(shared.runtime_folder(), Some(0), Some(0)).unwrap();
    mode(&shared.runtime_folder(), 0o755);
    for line in COMMANDS {
        let done = shared.run(line).expect_code(5);
        assert!(
            done.stderr.contains("user 65534 listens there"),
            "{}",
            done.stderr
        );
        assert_eq!(done.text(), "");
    }
    let worker = shared.run(&["qtf-worker"]).expect_code(1);
    assert!(
        worker.stderr.contains("user 65534 listens there"),
        "{}",
        worker.stderr
    );
    let address = shared.socket();
    shared
        .run(&["qtf", "--addr", &address, "ps"])
        .expect_code(0);
}

#[test]
fn what_was_submitted_last_is_not_written_where_a_strangers_link_leads() {
    let Some(shared) = Shared::new() else {
        eprintln!(
            "skipped: what_was_submitted_last_is_not_written_where_a_strangers_link_leads: needs root, to be two users"
        );
        return;
    };
    let place = &shared.place;
    let mut daemon = place.daemon(&[]);
    let victim = place.file("victim", "mine");
    let state = shared.folder.path().join("qtf");
    let submit = |what: &str| {
        let mut command = place.command("qtf");
        command.env("XDG_STATE_HOME", shared.folder.path()).args([
            "--addr",
            &place.address(),
            "submit",
            "--",
            "true",
        ]);
        let done = place.finish(command, Vec::new()).expect_code(0);
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "mine", "{what}");
        done.stderr
    };
    submit("the file's name is learnt");
    let names: Vec<PathBuf> = std::fs::read_dir(&state)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let [last] = names.as_slice() else {
        panic!("one file: {names:?}")
    };
    std::fs::remove_file(last).unwrap();
    symlink(&victim, last).unwrap();
    submit("a link under the file's name");
    assert!(std::fs::symlink_metadata(last).unwrap().is_file());
    chown(&state, Some(STRANGER), Some(STRANGER)).unwrap();
    let told = submit("a folder of the stranger's");
    assert!(told.contains("belongs to user 65534"), "{told}");
    assert_eq!(daemon.terminate(), Some(0));
}

#[test]
fn without_a_daemon_nobody_is_asked_at_a_port() {
    const TEST: &str = "without_a_daemon_nobody_is_asked_at_a_port";
    let listener = match TcpListener::bind("127.0.0.1:7878") {
        Ok(listener) => listener,
        Err(error) => return eprintln!("skipped: {TEST}: 127.0.0.1:7878: {error}"),
    };
    listener.set_nonblocking(true).unwrap();
    let place = Place::new();
    for line in [&["ps"][..], &["submit", "--", "true"], &["wait", "last"]] {
        let done = place.qtf(line).expect_code(5);
        assert!(
            done.stderr.contains("no daemon at unix:"),
            "{}",
            done.stderr
        );
    }
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}
