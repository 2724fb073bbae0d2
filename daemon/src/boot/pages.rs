//! What the daemon asks of the kernel for the memory of its segment, and the thread that goes on asking: pages of 2 MiB, memory
//! that is not swapped, and a memory node beside the core of the daemon's thread.
//!
//! Making 2 MiB one page copies them, and who touches them meanwhile waits. So it is done on a thread of its own, one extent at a
//! time with a pause behind each, and never twice. What is not there yet (a new segment is empty) is looked at again, each second while
//! the segment fills and each minute else. The thread ends when there is nothing left to do, or the kernel says that it does not do such things; whether it does, only the
//! first try tells, since kernels differ in what they let settings of the administrator decide.
//!
//! What was got is said once in the log, in the kernel's words. Tested in `tests/daemon/memory.rs`.

use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use qtf_shm::region::node;
use qtf_shm::segment::Extent;
use qtf_shm::{HugePages, Segment};

use crate::config::settings::Settings;
use crate::core::info::StartKind;
use crate::sys::affinity;

/// LIMIT: between two extents; so the daemon's thread meets a copy at most once in so long.
const STEP_PAUSE: Duration = Duration::from_millis(1);
/// LIMIT: between two looks at what is not in pages of 2 MiB yet: the first when something was made, which is when a segment fills,
/// twice as much each time that nothing was, up to the last.
const LOOK_PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// LIMIT: half an extent: below that the memory that it costs is mostly zeros.
const GATHERED_FROM_BYTES: u64 = 1 << 20;

/// The node beside the core that the daemon's thread will be pinned to; `None` where there is nothing to choose.
pub(crate) fn node_for(settings: &Settings) -> Option<u32> {
    if node::nodes().len() < 2 {
        return None;
    }
    let core = affinity::choose(settings.core, &affinity::allowed_cores())?;
    node::node_of_core(core)
}

/// The thread, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct PageKeeper {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl PageKeeper {
    /// Asks for what costs no time, and starts the thread for the rest.
    pub(crate) fn start(
        settings: &Settings,
        segment: &Arc<Segment>,
        start: StartKind,
    ) -> io::Result<Self> {
        lock(segment, settings.memory.locked);
        let node = node_for(settings);
        if let Some(node) = node
            && let Err(error) = segment.prefer_node(node, None)
        {
            tracing::warn!(
                node, %error,
                "the segment lies on any memory node: the kernel, or the sandbox, does not let the daemon choose (mbind)"
            );
        }
        let work = Work {
            segment: Arc::clone(segment),
            huge_pages: settings.memory.huge_pages,
            // Of a new one nothing was touched before it was asked for.
            move_to: node.filter(|_| start == StartKind::Hot),
        };
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("qtfd-pages".to_owned())
            .spawn(move || work.run(&stopped))?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for PageKeeper {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that asks for large pages has panicked");
        }
    }
}

fn lock(segment: &Segment, wanted: bool) {
    if let Err(error) = segment.lock_in_memory(wanted) {
        let bytes = segment.geometry().total_bytes();
        tracing::info!(
            bytes, %error,
            "the segment may be swapped out: it is above the limit of locked memory (LimitMEMLOCK= of the unit, `ulimit -l`)"
        );
    }
}

/// The daemon stops.
struct Stopped;

/// What the thread does.
struct Work {
    segment: Arc<Segment>,
    huge_pages: HugePages,
    /// The node to which pages come that are there already.
    move_to: Option<u32>,
}

impl Work {
    fn run(&self, stop: &Receiver<()>) {
        // It ends early when the daemon stops.
        let _ = self.all(stop);
    }

    fn all(&self, stop: &Receiver<()>) -> Result<(), Stopped> {
        let mut open = self.extents();
        self.move_to_node(&open, stop)?;
        if self.huge_pages == HugePages::Never {
            open.clear();
        }
        if !open.is_empty() {
            self.ask_first(&mut open);
        }
        self.gather(&mut open, stop)?;
        self.tell();
        let (first, last) = LOOK_PAUSES;
        let mut until_next = first;
        while !open.is_empty() {
            pause(stop, until_next)?;
            let before = open.len();
            self.gather(&mut open, stop)?;
            until_next = match open.len() < before {
                true => first,
                false => last.min(until_next * 2),
            };
        }
        Ok(())
    }

    fn extents(&self) -> Vec<usize> {
        match self.segment.extents() {
            Ok(extents) => (0..extents).collect(),
            Err(error) => {
                tracing::info!(%error, "how large the pages of the segment are cannot be seen: none are asked for");
                Vec::new()
            }
        }
    }

    /// Brings what an adopted segment holds to the node of the daemon's core.
    fn move_to_node(&self, extents: &[usize], stop: &Receiver<()>) -> Result<(), Stopped> {
        let Some(node) = self.move_to else {
            return Ok(());
        };
        for &extent in extents {
            if let Err(error) = self.segment.prefer_node(node, Some(extent)) {
                tracing::info!(node, %error, "what the segment holds stays on the node where it is");
                break;
            }
            pause(stop, STEP_PAUSE)?;
        }
        Ok(())
    }

    /// Whether the kernel does it at all: the first extent, which every segment uses.
    fn ask_first(&self, open: &mut Vec<usize>) {
        if self.huge_pages == HugePages::Require {
            tracing::warn!(
                "huge_pages = \"require\", but the segment of an earlier daemon has pages of 4 KiB and keeps them: only a new segment is made of \
                 pages that were set aside"
            );
        }
        // An adopted one was not advised by this process. What comes of it the next line tells.
        let _ = self.segment.advise_huge_pages(true);
        if let Extent::Refused(error) = self.segment.make_huge(0, 0) {
            open.clear();
            tracing::info!(
                %error, shmem_enabled = shmem_enabled(),
                "the segment has pages of 4 KiB: this kernel, as it is set, gives no larger ones for shared memory (Linux before 6.1, or \
                 /sys/kernel/mm/transparent_hugepage/shmem_enabled says so)"
            );
        }
    }

    /// One look at each extent that is not a page yet.
    fn gather(&self, open: &mut Vec<usize>, stop: &Receiver<()>) -> Result<(), Stopped> {
        let mut left = Vec::new();
        for extent in std::mem::take(open) {
            match self.segment.make_huge(extent, GATHERED_FROM_BYTES) {
                // The first one was not refused, so this is one of its own kind: no use in asking again.
                Extent::Huge | Extent::Refused(_) => {}
                Extent::Sparse | Extent::Later(_) => left.push(extent),
            }
            pause(stop, STEP_PAUSE)?;
        }
        *open = left;
        Ok(())
    }

    fn tell(&self) {
        let mib = |bytes: Option<u64>| bytes.map(|bytes| bytes >> 20);
        match self.segment.memory() {
            Ok(facts) => tracing::info!(
                page_bytes = facts.page_bytes,
                resident_mib = mib(facts.resident_bytes),
                huge_mib = mib(facts.huge_bytes),
                locked = facts.locked,
                node = %facts.node,
                "memory of the segment"
            ),
            Err(error) => tracing::info!(%error, "what memory the segment has cannot be seen"),
        }
    }
}

/// Waits, or hears that the daemon stops.
fn pause(stop: &Receiver<()>, time: Duration) -> Result<(), Stopped> {
    match stop.recv_timeout(time) {
        Err(RecvTimeoutError::Timeout) => Ok(()),
        Ok(()) | Err(RecvTimeoutError::Disconnected) => Err(Stopped),
    }
}

/// The word that the administrator has set.
fn shmem_enabled() -> String {
    let file = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    let text = fs::read_to_string(file).unwrap_or_default();
    let word = text
        .split_ascii_whitespace()
        .find_map(|word| word.strip_prefix('[')?.strip_suffix(']'));
    word.unwrap_or("not there").to_owned()
}
