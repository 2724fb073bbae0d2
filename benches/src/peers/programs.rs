//! The work of many short programs: `/bin/true`, two at a time.

use std::io::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use qtf_benches::Failure;

use super::goals::{BARE_PROGRAMS, OWN};
use super::own;
use super::server::installed;

/// At the same time.
const SLOTS: usize = 2;

/// Starts so many tasks of one cluster in this process and waits for them; prints the seconds that took. It binds all interfaces,
/// so it runs in a network of its own that has only the loopback.
const HYPERQUEUE: &str = r#"
import fcntl, socket, struct, sys, tempfile, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    name = struct.pack("16sh", b"lo", 0)
    flags = struct.unpack("16sh", fcntl.ioctl(s, 0x8913, name))[1]
    fcntl.ioctl(s, 0x8914, struct.pack("16sh", b"lo", flags | 1))
from hyperqueue import Job
from hyperqueue.cluster import LocalCluster, WorkerConfig
count, slots = int(sys.argv[1]), int(sys.argv[2])
with tempfile.TemporaryDirectory() as folder, LocalCluster(server_dir=folder) as cluster:
    cluster.start_worker(WorkerConfig(cores=slots))
    client = cluster.client()
    def run(count):
        job = Job(default_workdir=folder)
        for number in range(count):
            job.program(["/bin/true", str(number)], stdout=None, stderr=None)
        client.wait_for_jobs([client.submit(job)])
    run(10)
    began = time.monotonic()
    run(count)
    print(time.monotonic() - began)
"#;

/// Who runs programs.
#[derive(Clone, Debug)]
pub(crate) enum Runner {
    Qtf,
    /// Starts and waits, with nothing between.
    Bare,
    Xargs(PathBuf),
    Parallel(PathBuf),
    /// A Python that has it.
    HyperQueue(PathBuf),
}

impl Runner {
    /// Those that are installed, and what is said of the others.
    pub(crate) fn all() -> (Vec<Self>, Vec<String>) {
        let mut runners = vec![Self::Qtf, Self::Bare];
        let mut missing = Vec::new();
        for (name, of) in [
            ("xargs", Self::Xargs as fn(PathBuf) -> Self),
            ("parallel", Self::Parallel),
        ] {
            match installed(name) {
                Some(program) => runners.push(of(program)),
                None => missing.push(format!("{name}: not installed")),
            }
        }
        match python() {
            Ok(python) => runners.push(Self::HyperQueue(python)),
            Err(why) => missing.push(why),
        }
        (runners, missing)
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Qtf => OWN,
            Self::Bare => BARE_PROGRAMS,
            Self::Xargs(_) => "xargs",
            Self::Parallel(_) => "GNU parallel",
            Self::HyperQueue(_) => "HyperQueue",
        }
    }

    pub(crate) fn command(&self) -> &'static str {
        match self {
            Self::Qtf => "`qtf map -j 2 -q /bin/true`, numbers on stdin",
            Self::Bare => "two threads, `Command::status`, the number as its argument",
            Self::Xargs(_) => "`xargs -P 2 -n 1 /bin/true`, the same stdin",
            Self::Parallel(_) => "`parallel -j 2 /bin/true`, the same stdin",
            Self::HyperQueue(_) => {
                "its Python package, one worker with 2 cores, one job; the start of the cluster does not count"
            }
        }
    }

    /// Programs a second.
    pub(crate) fn measure(&self, count: u64) -> Result<f64, Failure> {
        let began = Instant::now();
        match self {
            Self::Bare => bare(count)?,
            Self::Qtf => {
                let mut command = Command::new(own::program("qtf", None)?);
                command.args(["map", "-q", "--no-progress", "-j", "2", "/bin/true"]);
                fed(command.env_remove("QTF_ADDR"), count)?;
            }
            Self::Xargs(program) => {
                let mut command = Command::new(program);
                fed(command.args(["-P", "2", "-n", "1", "/bin/true"]), count)?;
            }
            Self::Parallel(program) => {
                let mut command = Command::new(program);
                fed(command.args(["-j", "2", "/bin/true"]), count)?;
            }
            Self::HyperQueue(python) => {
                let mut command = in_own_network(python);
                let words = ["-c", HYPERQUEUE, &count.to_string(), &SLOTS.to_string()];
                let done = command.args(words).output()?;
                if !done.status.success() {
                    return Err(
                        format!("hyperqueue: {}", String::from_utf8_lossy(&done.stderr)).into(),
                    );
                }
                let text = String::from_utf8(done.stdout)?;
                let seconds = text.lines().last().unwrap_or_default().parse::<f64>()?;
                return Ok(count as f64 / seconds);
            }
        }
        Ok(count as f64 / began.elapsed().as_secs_f64())
    }
}

fn bare(count: u64) -> Result<(), Failure> {
    // With a number as the others: given one, `true` of GNU reads the locale, which is a quarter of its time.
    let part = |numbers: Range<u64>| {
        for number in numbers {
            let mut program = Command::new("/bin/true");
            let status = program
                .arg(number.to_string())
                .stdin(Stdio::null())
                .status()?;
            if !status.success() {
                return Err(std::io::Error::other("/bin/true failed"));
            }
        }
        Ok(())
    };
    let other = std::thread::spawn(move || part(0..count / 2));
    part(count / 2..count)?;
    other.join().map_err(|_| "a thread failed")??;
    Ok(())
}

/// Runs a command with so many numbers on stdin, one a line.
fn fed(command: &mut Command, count: u64) -> Result<(), Failure> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    let mut stdin = child.stdin.take().ok_or("no stdin")?;
    let numbers: String = (0..count).map(|number| format!("{number}\n")).collect();
    stdin.write_all(numbers.as_bytes())?;
    drop(stdin);
    let status = child.wait()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{command:?}: {status}").into())
    }
}

fn in_own_network(python: &Path) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["--map-root-user", "--net", "--kill-child"])
        .arg(python);
    command
}

/// A Python that has the package, and a network of its own; else why not.
fn python() -> Result<PathBuf, String> {
    let told = std::env::var_os("QTF_BENCH_PYTHON").map(PathBuf::from);
    let python = told.or_else(|| installed("python3"));
    let python = python.ok_or("HyperQueue: no python3")?;
    let runs = |command: &mut Command| {
        let done = command.args(["-c", "import hyperqueue"]).output();
        done.is_ok_and(|done| done.status.success())
    };
    if !runs(&mut Command::new(&python)) {
        return Err(
            "HyperQueue: the Python package hyperqueue is not installed; QTF_BENCH_PYTHON names a Python that has it".to_owned(),
        );
    }
    if !runs(&mut in_own_network(&python)) {
        return Err("HyperQueue: it binds all interfaces, and `unshare --net` gives it no network of its own here".to_owned());
    }
    Ok(python)
}
