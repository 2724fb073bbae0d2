//! A segment with something in it, and the program run on it.

use qtf_shm::layout::Geometry;
use qtf_shm::segment::{Segment, SegmentSpec, TaskFields};
use qtf_shm::tree::Key;
use qtf_shm::worker::{WorkerEvent, WorkerFields};
use qtf_shm::{AttachIndex, Event, KindSet, TaskId, WorkerIndex};
use serde_json::Value;
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

/// A private segment with four tasks: three ready, one with the worker `one`.
#[derive(Debug)]
pub(crate) struct Filled {
    pub(crate) segment: Segment,
    /// In the order in which they would be assigned.
    pub(crate) ready: Vec<TaskId>,
    pub(crate) assigned: TaskId,
    pub(crate) dir: tempfile::TempDir,
}

impl Filled {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let spec = SegmentSpec {
            geometry: small(),
            ..SegmentSpec::new("inspected", dir.path().join("spill"))
        };
        let segment = Segment::create_private(&spec).unwrap();
        let assigned = submit(&segment, 255, 1, "\n\x04true");
        let worker = register(&segment);
        assign(&segment, assigned, worker);
        let late = submit(&segment, 7, 30, "\n\x04echo\n\x05la te");
        let early = submit(&segment, 7, 20, &"\n\x7flong argument".repeat(40));
        let urgent = submit(&segment, 200, 40, "");
        Self {
            segment,
            ready: vec![urgent, early, late],
            assigned,
            dir,
        }
    }

    /// The arguments that name this segment.
    pub(crate) fn id(&self) -> [String; 2] {
        [
            "--id".to_owned(),
            self.segment.shm_id().unwrap().to_string(),
        ]
    }

    /// Runs the program on this segment.
    pub(crate) fn inspect(&self, arguments: &[&str]) -> Output {
        let id = self.id();
        let all = id
            .iter()
            .map(String::as_str)
            .chain(arguments.iter().copied());
        inspect(all)
    }

    /// The JSON answer of a command that must end well.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let id = self.id();
        json(
            id.iter()
                .map(String::as_str)
                .chain(["--json"])
                .chain(arguments.iter().copied()),
        )
    }

    /// Writes an image of this segment.
    pub(crate) fn image(&self) -> std::path::PathBuf {
        let file = self.dir.path().join("segment.image");
        let output = self.inspect(&["snapshot", "-o", file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        file
    }
}

/// Small enough to be damaged word by word.
pub(crate) fn small() -> Geometry {
    Geometry::for_counts(64, 4).unwrap()
}

fn submit(segment: &Segment, priority: u8, stamp: u64, payload: &str) -> TaskId {
    let mut claimed = segment.claim_task(AttachIndex::DAEMON).unwrap();
    claimed.set_payload(payload.as_bytes()).unwrap();
    let fields = TaskFields {
        kind: segment.kinds().find("exec"),
        priority,
        max_attempts: 3,
        ..TaskFields::default()
    };
    claimed.write(&fields).unwrap();
    claimed.publish(Event::Admit, stamp).unwrap()
}

/// A task that is to wait until then: DELAYED, or HELD.
pub(crate) fn submit_later(segment: &Segment, due_in: Duration, event: Event) -> TaskId {
    let mut claimed = segment.claim_task(AttachIndex::DAEMON).unwrap();
    let now = segment.view().now();
    let fields = TaskFields {
        kind: segment.kinds().find("exec"),
        max_attempts: 1,
        due: now.plus_ns(due_in.as_nanos().try_into().unwrap()).stamp(),
        ..TaskFields::default()
    };
    claimed.write(&fields).unwrap();
    claimed.publish(event, now.stamp()).unwrap()
}

fn register(segment: &Segment) -> WorkerIndex {
    let index = segment.worker_index(2).unwrap();
    let slot = segment.worker(index);
    let right = segment.plm_right().unwrap();
    segment.write_worker(right, index).fill(&WorkerFields {
        name: "one\x1b[2J",
        host: "node-7",
        pid: 42,
        uid: 1000,
        token: 4711,
        kinds: KindSet::from_words([0b10, 0, 0, 0]),
        registered: 1,
    });
    slot.apply(slot.state(), WorkerEvent::Register { capacity: 2 })
        .unwrap();
    index
}

fn assign(segment: &Segment, task: TaskId, worker: WorkerIndex) {
    let slot = task.slot();
    let key = segment.task(slot).key();
    segment
        .apply(slot, segment.task(slot).state(), Event::Assign { worker })
        .unwrap();
    assert!(segment.ready().remove(slot.get(), key));
    let record = segment.worker(worker);
    record.apply(record.state(), WorkerEvent::Take).unwrap();
    let load = Key::load(500, 1, worker.get());
    let right = segment.plm_right().unwrap();
    segment.write_worker(right, worker).set_key(load);
    segment.worker_heap().set(u32::from(worker.get()), load);
}

/// Runs the program.
pub(crate) fn inspect(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
    Command::new(env!("CARGO_BIN_EXE_shm-inspect"))
        .args(arguments)
        .output()
        .unwrap()
}

/// Runs the program on an image.
pub(crate) fn inspect_image(image: &Path, arguments: &[&str]) -> Output {
    let image = [OsStr::new("--image"), image.as_os_str()];
    inspect(image.into_iter().chain(arguments.iter().map(OsStr::new)))
}

/// The JSON answer of a command that must end well.
pub(crate) fn json(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Value {
    let output = inspect(arguments);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}
