//! One snapshot, on a thread of its own: reads the journal tasks beside the running core and writes them down.
//!
//! Order: the core notes where replay starts; the tasks are read, part by part; the core says when everything that had
//! been appended by the end of reading is stable; only then does the snapshot get its name. A snapshot that fails is
//! removed, and the next one begins anew. Tested in `tests/daemon/journal.rs`.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use qtf_engine::snapshot::{Unreadable, WholeTasks};
use qtf_journal::{JournalConfig, JournalError, Lsn, SnapshotWriter, Storage};
use tokio::sync::mpsc::UnboundedSender;

use super::chores::Event;

/// LIMIT: slots that are looked at between two looks at how many there are.
const SLOTS_AT_ONCE: u32 = 4096;
/// LIMIT: a daemon that ends is noticed after this time.
const LOOK_UP: Duration = Duration::from_millis(50);

/// What a snapshot is made of.
#[derive(Debug)]
pub(crate) struct SnapshotJob {
    pub(crate) whole_tasks: WholeTasks,
    pub(crate) config: JournalConfig,
    pub(crate) lineage: u64,
    /// Replay goes on behind this record.
    pub(crate) start: Lsn,
    pub(crate) gen_limit: u64,
}

/// A snapshot that is there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SnapshotReport {
    pub(crate) start: Lsn,
    pub(crate) tasks: u64,
    pub(crate) took: Duration,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error("the journal failed meanwhile, or the daemon stopped")]
    Stopped,
    #[error("its thread cannot be started: {0}")]
    Thread(#[from] std::io::Error),
}

impl SnapshotJob {
    /// Takes the snapshot. Blocks.
    pub(crate) fn take(
        self,
        storage: &Arc<dyn Storage>,
        events: &UnboundedSender<Event>,
    ) -> Result<SnapshotReport, SnapshotError> {
        let taken = self.write(storage, events);
        if taken.is_err() {
            remove_unfinished(&**storage);
        }
        taken
    }

    fn write(
        mut self,
        storage: &Arc<dyn Storage>,
        events: &UnboundedSender<Event>,
    ) -> Result<SnapshotReport, SnapshotError> {
        let begun = Instant::now();
        let storage = Arc::clone(storage);
        let mut writer = SnapshotWriter::create(storage, &self.config, self.lineage, self.start)?;
        let (mut slot, mut tasks) = (0_u32, 0_u64);
        while slot < self.whole_tasks.end() {
            let next = slot.saturating_add(SLOTS_AT_ONCE);
            let read = self
                .whole_tasks
                .read::<SnapshotError>(slot..next, |whole| Ok(writer.push(whole)?))?;
            tasks = tasks.saturating_add(read.into());
            slot = next;
            if events.is_closed() {
                return Err(SnapshotError::Stopped);
            }
        }
        for live in self.whole_tasks.keys() {
            live.write_to(&mut writer)?;
        }
        writer.reserve(self.gen_limit);
        let (reply, answer) = mpsc::channel();
        let asked = events.send(Event::SnapshotRead(reply));
        asked.map_err(|_| SnapshotError::Stopped)?;
        let durable = loop {
            match answer.recv_timeout(LOOK_UP) {
                Ok(durable) => break durable,
                Err(mpsc::RecvTimeoutError::Timeout) if !events.is_closed() => {}
                Err(_) => return Err(SnapshotError::Stopped),
            }
        };
        let start = writer.publish(durable)?;
        Ok(SnapshotReport {
            start,
            tasks,
            took: begun.elapsed(),
        })
    }
}

/// Only one snapshot is taken at a time, so whatever is unfinished is nobody's.
fn remove_unfinished(storage: &dyn Storage) {
    let Ok(names) = storage.list() else {
        return;
    };
    for name in names {
        if name.starts_with("snapshot-")
            && name.ends_with(".tmp")
            && let Err(error) = storage.remove(&name)
        {
            tracing::warn!(%error, name, "unfinished snapshot not removed");
        }
    }
}
