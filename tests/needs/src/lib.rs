//! What some tests need of the machine, and the one way to say that it lacks it.
//!
//! A test that cannot run here calls [`lacks`] or [`skip`] and returns. The test runner would count it as passed and hide what it
//! prints; so it is also written to the file that `QTF_SKIPS` names, a line each: need, test, why, with tabs between.
//! `cargo xtask test` and `ci` set that variable, name the skipped tests in their last lines, and fail unless `QTF_LACKS` says
//! that the machine lacks the thing. See CONTRIBUTING.md. Tested at the end of this file, and in `tools/xtask/src/skips.rs`.

use std::fmt;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Names the file that skipped tests are written to.
pub const SKIPS_VARIABLE: &str = "QTF_SKIPS";
/// Names what the machine lacks, with commas between.
pub const LACKS_VARIABLE: &str = "QTF_LACKS";

/// Something that not every machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A kernel that gives an `io_uring`.
    IoUring,
    /// `strace` that can make system calls fail.
    Strace,
    /// The right to mount a small tmpfs in a namespace of its own.
    Mount,
    /// The right to an IPC namespace of one's own.
    IpcNamespace,
    /// The right to an IPC namespace of one's own and to its limits.
    IpcLimits,
    /// A cgroup of version 2 in which one may make others, and a kernel that kills one.
    Cgroup,
    /// The right to a pid namespace of one's own.
    PidNamespace,
    /// Python 3 with `venv`, and a way to the registry of its packages.
    Python,
    /// `systemd-analyze` that looks at units without a running systemd.
    Systemd,
    /// `systemd-nspawn` over an overlay of the root, as root.
    Nspawn,
}

impl Need {
    /// Each of them.
    pub const ALL: [Self; 10] = [
        Self::IoUring,
        Self::Strace,
        Self::Mount,
        Self::IpcNamespace,
        Self::IpcLimits,
        Self::Cgroup,
        Self::PidNamespace,
        Self::Python,
        Self::Systemd,
        Self::Nspawn,
    ];

    /// Its word in `QTF_LACKS`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::IoUring => "io_uring",
            Self::Strace => "strace",
            Self::Mount => "mount",
            Self::IpcNamespace => "ipc_namespace",
            Self::IpcLimits => "ipc_limits",
            Self::Cgroup => "cgroup",
            Self::PidNamespace => "pid_namespace",
            Self::Python => "python",
            Self::Systemd => "systemd",
            Self::Nspawn => "nspawn",
        }
    }

    /// Whether the machine has it, by trying.
    #[must_use]
    pub fn is_here(self) -> bool {
        match self {
            Self::IoUring => io_uring::IoUring::new(8).is_ok(),
            Self::Strace => succeeds(
                "strace",
                &[
                    "-f",
                    "--seccomp-bpf",
                    "-e",
                    "inject=read:error=EIO:when=999",
                    "true",
                ],
            ),
            Self::Mount => succeeds(
                "unshare",
                &[
                    "--mount",
                    "--propagation",
                    "private",
                    "sh",
                    "-c",
                    "mount -t tmpfs -o size=64k tmpfs /tmp",
                ],
            ),
            Self::IpcNamespace => succeeds("unshare", &["--ipc", "true"]),
            Self::IpcLimits => succeeds(
                "unshare",
                &[
                    "--ipc",
                    "--map-root-user",
                    "sh",
                    "-c",
                    "echo 50000000 > /proc/sys/kernel/shmmax",
                ],
            ),
            Self::Cgroup => succeeds("sh", &["-c", CGROUP]),
            Self::PidNamespace => succeeds("unshare", &["--pid", "--fork", "true"]),
            Self::Systemd => succeeds("systemd-analyze", &["--version"]),
            Self::Nspawn => succeeds("sh", &["-c", NSPAWN]),
            // The way to the registry shows when the packages are asked for.
            Self::Python => succeeds("python3", &["-c", "import ensurepip, venv"]),
        }
    }
}

/// Makes a cgroup in the one that the shell is in, looks whether it can be killed, and removes it. Its name is not like that of a
/// worker's: a worker that starts meanwhile would remove it as what another has left.
const CGROUP: &str = "set -e; \
    mount=$(awk '$0 ~ / - cgroup2 / {print $5; exit}' /proc/self/mountinfo); test -n \"$mount\"; \
    own=$(sed -n s/^0:://p /proc/self/cgroup); folder=$mount$own/need-qtf-$$; \
    mkdir $folder; trap 'rmdir $folder' EXIT; echo 1 > $folder/cgroup.kill";

/// Runs a program in a container over an overlay of the root, whose files are on a disk, and in which a package can be installed.
const NSPAWN: &str = "set -e; command -v dpkg-deb; folder=$(mktemp -d /var/tmp/need-XXXXXX); trap 'rm -rf $folder' EXIT; cd $folder; \
    mkdir upper work root; unshare --mount --propagation private sh -c \
    'mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root && \
    timeout 30 systemd-nspawn -q -D root --register=no --keep-unit --private-network --console=pipe -a true'";

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Whether the machine lacks it. If so, the running test is said to be skipped: it returns.
#[must_use]
#[track_caller]
pub fn lacks(need: Need) -> bool {
    let lacking = !need.is_here();
    if lacking {
        skip(need, "it was tried and does not work here");
    }
    lacking
}

/// Says that the running test, or a part of it, is skipped since the machine lacks something.
///
/// # Panics
/// When the file that collects it cannot be written: a skip that nobody hears of is none.
#[track_caller]
pub fn skip(need: Need, why: impl fmt::Display) {
    let thread = std::thread::current();
    // Where tests run one after the other, on the main thread, only the place is known.
    let place = std::panic::Location::caller();
    let test = match thread.name() {
        Some(name) if name != "main" => name.to_owned(),
        _ => format!("{}:{}", place.file(), place.line()),
    };
    let line = line_of(need, &test, &why.to_string());
    if let Some(file) = std::env::var_os(SKIPS_VARIABLE) {
        append(Path::new(&file), &line)
            .unwrap_or_else(|error| panic!("{}: {error}", Path::new(&file).display()));
    }
    say(&line);
}

/// One line, whatever is in the texts.
fn line_of(need: Need, test: &str, why: &str) -> String {
    let flat = |text: &str| text.replace(['\t', '\n', '\r'], " ");
    format!("{need}\t{}\t{}\n", flat(test), flat(why))
}

/// In one write, so that lines of several processes do not mix.
fn append(file: &Path, line: &str) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options
        .append(true)
        .create(true)
        .open(file)?
        .write_all(line.as_bytes())
}

#[expect(clippy::print_stderr, reason = "for who runs one test by hand")]
fn say(line: &str) {
    eprint!("skipped: {line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skip_is_one_line_whatever_it_says() {
        let line = line_of(Need::Strace, "module::test", "refused:\n\tnot permitted");
        assert_eq!(line, "strace\tmodule::test\trefused:  not permitted\n");
    }

    #[test]
    fn words_of_needs_differ_and_hold_no_separator() {
        let words = Need::ALL.map(Need::word);
        for (index, word) in words.iter().enumerate() {
            assert!(!word.contains([',', '\t', ' ']), "{word}");
            assert!(!words[index + 1..].contains(word), "{word}");
        }
    }

    #[test]
    fn program_that_is_not_there_is_lacking() {
        assert!(!succeeds("/no/such/program", &[]));
        assert!(succeeds("true", &[]));
    }
}
