//! The place of a torture: a real segment, a lock file, a log, and the children.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::VARIABLE;
use super::child::Errand;
use crate::layout::Geometry;
use crate::layout::attach::AttachRole;
use crate::segment::{
    Attachment, AttachmentSpec, LockFile, OpenError, PidFd, ProcessIdentity, Segment, SegmentSpec,
};

/// A child that has not ended by then hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// What all processes of a torture share.
pub(super) struct Ground {
    /// Keeps the segment, which has no name, from vanishing. Nothing is written through it.
    pub(super) segment: Segment,
    folder: tempfile::TempDir,
}

impl Ground {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.lock"), "").unwrap();
        std::fs::write(folder.path().join("log"), "").unwrap();
        // Few slots, so that all of them are fought for; records for all that die while a daemon is stopped.
        let geometry = Geometry::for_counts(64, 1_280).unwrap();
        let spec = SegmentSpec {
            geometry: geometry.with_arena_bytes(1 << 20).unwrap(),
            ..SegmentSpec::new("torture", folder.path())
        };
        let segment = Segment::create_private(&spec).unwrap();
        let ground = Self { segment, folder };
        // This process made the segment and is not its daemon: it does not hold byte 0.
        ground.segment.set_lock_file(ground.lock().identity());
        ground
    }

    pub(super) fn shm_id(&self) -> i32 {
        self.segment.shm_id().unwrap()
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn lock(&self) -> LockFile {
        LockFile::open(&self.folder().join("a.lock")).unwrap()
    }

    pub(super) fn log(&self) -> Log {
        Log::open(self.folder())
    }

    /// This process attaches, too: the living one.
    pub(super) fn attach(&self, role: AttachRole) -> Attachment {
        attach(self.shm_id(), self.folder(), role)
    }

    /// Starts a child.
    pub(super) fn spawn(&self, errand: &Errand) -> Victim {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "segment::tests::torture::child"])
            .args(["--nocapture", "--test-threads=1"])
            .env(VARIABLE, errand.text(self.shm_id(), self.folder()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Victim::of(child)
    }

    /// Starts a child and waits for its end.
    pub(super) fn run(&self, errand: &Errand) -> ExitStatus {
        self.spawn(errand).wait(errand)
    }
}

pub(super) fn attach(shm_id: i32, folder: &Path, role: AttachRole) -> Attachment {
    let spec = AttachmentSpec::new(role, "torture", folder).with_lock_file(folder.join("a.lock"));
    let begun = Instant::now();
    loop {
        match Attachment::open_id(shm_id, &spec) {
            Ok(attachment) => return attachment,
            // For the milliseconds of a daemon's start that finds nobody else there.
            Err(OpenError::Rebuilding) if begun.elapsed() < PATIENCE => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

/// A child process.
pub(super) struct Victim {
    child: Child,
    pidfd: Option<PidFd>,
}

impl Victim {
    fn of(child: Child) -> Self {
        let pid = child.id();
        let start_time = 0;
        let pidfd = PidFd::open(ProcessIdentity { pid, start_time }).unwrap();
        Self { child, pidfd }
    }

    pub(super) fn signal(&self, signal: nix::sys::signal::Signal) {
        if let Some(pidfd) = &self.pidfd {
            pidfd.signal(signal).unwrap();
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.pidfd
            .as_ref()
            .is_none_or(|pidfd| pidfd.wait(0).unwrap())
    }

    /// Waits for the end; a child that reports that it was harmed fails the test.
    pub(super) fn wait(self, errand: &Errand) -> ExitStatus {
        let begun = Instant::now();
        while let Some(pidfd) = &self.pidfd
            && !pidfd.wait(1_000).unwrap()
        {
            if begun.elapsed() > PATIENCE {
                let state = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
                self.signal(nix::sys::signal::Signal::SIGKILL);
                panic!("{errand:?} is blocked: {}", state.unwrap_or_default());
            }
        }
        let output = self.child.wait_with_output().unwrap();
        let status = output.status;
        assert!(
            status.success() || status.signal() == Some(9),
            "{errand:?} ended with {status}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        status
    }
}

/// The log: lines of what processes have done, which a kill does not take back.
pub(super) struct Log {
    file: File,
    path: PathBuf,
}

impl Log {
    pub(super) fn open(folder: &Path) -> Self {
        let path = folder.join("log");
        let file = OpenOptions::new()
            .append(true)
            .read(true)
            .open(&path)
            .unwrap();
        Self { file, path }
    }

    /// One line, by one call of the kernel: it is there as a whole, or not at all.
    pub(super) fn say(&self, line: &str) {
        let line = format!("{line}\n");
        assert_eq!((&self.file).write(line.as_bytes()).unwrap(), line.len());
    }

    /// All lines so far; the log is empty afterwards. Only while nobody writes.
    pub(super) fn take(&self) -> String {
        let text = std::fs::read_to_string(&self.path).unwrap();
        self.file.set_len(0).unwrap();
        text
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> u64 {
        self.file.metadata().unwrap().len()
    }
}
