//! The journal's driver on a disk in memory: writes in flight, files made ahead, snapshots; or a whole group at once.

use std::sync::Arc;

use qtf_engine::snapshot::{Unreadable, WholeTasks};
use qtf_engine::{Engine, Lsn, WallTime};
use qtf_journal::{
    FILE_BYTES_MIN, Group, JournalConfig, JournalError, Opened, SimDisk, SnapshotWriter, Step,
    Storage, Write, Writer, make_spare, open_tail, reclaim, write_group,
};

/// Submissions leave so much alone.
const RESERVE_BYTES: u64 = FILE_BYTES_MIN + 50_000;
/// Slots that a snapshot reads between two steps of the world.
const SLOTS_AT_ONCE: u32 = 60;

/// Settings of a journal of small files. The nonce is another one at each start.
#[must_use]
pub fn journal_config(nonce: u64) -> JournalConfig {
    JournalConfig {
        file_bytes: FILE_BYTES_MIN,
        ..JournalConfig::new("simulation", nonce)
    }
}

/// The end of the journal that lies on a disk.
#[must_use]
pub fn reopened(disk: &SimDisk, nonce: u64) -> Opened {
    let opened = open_tail(disk, &journal_config(nonce));
    opened.unwrap_or_else(|error| panic!("{error}"))
}

/// What the helper thread does about a snapshot.
struct Snapshot {
    writer: SnapshotWriter,
    whole_tasks: WholeTasks,
    next: u32,
    is_read: bool,
}

/// A disk, and what brings the groups of one daemon to it.
pub struct Disk {
    /// What outlives the daemon.
    pub disk: SimDisk,
    /// The same, as the journal sees it.
    pub storage: Arc<dyn Storage>,
    /// Of this daemon.
    pub writer: Writer,
    config: JournalConfig,
    /// Handed to the disk, not done yet.
    pub in_flight: Option<Write>,
    waits_for_file: bool,
    snapshot: Option<Snapshot>,
    /// How many snapshots were published.
    pub snapshots: u64,
}

/// A snapshot could not be written; the next one may.
enum Unfinished {
    Unreadable(Unreadable),
    Journal(JournalError),
}

impl From<Unreadable> for Unfinished {
    fn from(error: Unreadable) -> Self {
        Self::Unreadable(error)
    }
}

impl From<JournalError> for Unfinished {
    fn from(error: JournalError) -> Self {
        Self::Journal(error)
    }
}

impl Disk {
    /// A daemon begins after the end of what was found on the disk.
    #[must_use]
    pub fn after(opened: &Opened, disk: SimDisk, nonce: u64) -> Self {
        let config = journal_config(nonce);
        let writer = opened.start(&disk, &config);
        Self {
            storage: Arc::new(disk.clone()),
            disk,
            writer: writer.unwrap_or_else(|error| panic!("{error}")),
            config,
            in_flight: None,
            waits_for_file: false,
            snapshot: None,
            snapshots: 0,
        }
    }

    /// Brings a group to the disk, which has room. The engine is told by who calls this.
    pub fn bring(&mut self, group: Group) -> Lsn {
        let mut step = self.writer.begin(group);
        loop {
            step = match step {
                Step::Write(write) => {
                    let (buffer, result) = write_group(&*self.storage, write);
                    self.writer.written(buffer, result)
                }
                Step::NeedFile => {
                    let file = make_spare(&*self.storage, self.writer.file_plan());
                    let step = self.writer.add_file(file.expect("the disk has room"));
                    step.expect("the group waited for it")
                }
                Step::Durable(lsn) => return lsn,
                Step::Failed => panic!("{:?}", self.writer.failure()),
            };
        }
    }

    /// One look of the driver: what is to be written is handed to the disk, and what the disk has done is told. The lsn that
    /// has become durable, if one has.
    pub fn turn(&mut self, engine: &mut Engine, is_done: bool) -> Option<Lsn> {
        let step = if is_done && let Some(write) = self.in_flight.take() {
            let (buffer, result) = write_group(&*self.storage, write);
            self.writer.written(buffer, result)
        } else if self.waits_for_file {
            self.waits_for_file = false;
            Step::NeedFile
        } else if self.writer.is_idle()
            && let Some(group) = engine.take_journal_group()
        {
            self.writer.begin(group)
        } else {
            return None;
        };
        self.take(engine, step)
    }

    fn take(&mut self, engine: &mut Engine, step: Step) -> Option<Lsn> {
        match step {
            Step::Write(write) => self.in_flight = Some(write),
            Step::NeedFile => match make_spare(&*self.storage, self.writer.file_plan()) {
                Ok(file) => {
                    if let Some(step) = self.writer.add_file(file) {
                        return self.take(engine, step);
                    }
                }
                Err(_) => self.waits_for_file = true,
            },
            Step::Durable(lsn) => {
                if let Some(buffer) = self.writer.take_buffer() {
                    engine.give_back_journal_buffer(buffer);
                }
                return Some(lsn);
            }
            Step::Failed => engine.journal_failed(),
        }
        None
    }

    /// The helper thread: a file ahead, room told, a part of a snapshot.
    pub fn help(&mut self, engine: &mut Engine, rng: &mut fastrand::Rng, wall: WallTime) {
        if self.writer.files_prepared() < 2
            && !self.waits_for_file
            && rng.u8(0..4) == 0
            && let Ok(file) = make_spare(&*self.storage, self.writer.file_plan())
            && let Some(step) = self.writer.add_file(file)
        {
            // A group that has waited for this file goes on with a write.
            let _ = self.take(engine, step);
        }
        let room = self.writer.room_bytes();
        engine.set_journal_room(room, RESERVE_BYTES);
        if self.snapshot.is_some() {
            self.go_on_with_snapshot(engine);
        } else if rng.u8(..) < 3 {
            self.begin_snapshot(engine, wall);
        }
    }

    fn begin_snapshot(&mut self, engine: &Engine, wall: WallTime) {
        if engine.is_adopting() {
            return;
        }
        let start = engine.snapshot_start();
        let storage = Arc::clone(&self.storage);
        let lineage = self.writer.lineage();
        if let Ok(writer) = SnapshotWriter::create(storage, &self.config, lineage, start) {
            self.snapshot = Some(Snapshot {
                writer,
                whole_tasks: WholeTasks::new(Arc::clone(engine.segment()), wall),
                next: 0,
                is_read: false,
            });
        }
    }

    fn go_on_with_snapshot(&mut self, engine: &Engine) {
        let Some(mut snapshot) = self.snapshot.take() else {
            return;
        };
        match self.part_of_snapshot(engine, &mut snapshot) {
            Ok(true) => self.snapshots += 1,
            Ok(false) => self.snapshot = Some(snapshot),
            Err(Unfinished::Unreadable(error)) => panic!("{error}"),
            Err(Unfinished::Journal(JournalError::Io { .. })) => {}
            Err(Unfinished::Journal(error)) => panic!("{error}"),
        }
    }

    /// Returns whether it is published.
    fn part_of_snapshot(
        &self,
        engine: &Engine,
        snapshot: &mut Snapshot,
    ) -> Result<bool, Unfinished> {
        if !snapshot.is_read {
            let end = snapshot.whole_tasks.end();
            let until = snapshot.next.saturating_add(SLOTS_AT_ONCE).min(end);
            let writer = &mut snapshot.writer;
            snapshot.whole_tasks.read(snapshot.next..until, |whole| {
                writer.push(whole).map_err(Unfinished::from)
            })?;
            snapshot.next = until;
            if until < end {
                return Ok(false);
            }
            let keys: Vec<_> = snapshot.whole_tasks.keys().collect();
            for live in keys {
                live.write_to(writer)?;
            }
            writer.reserve(engine.reserved_generations());
            snapshot.is_read = true;
        }
        match snapshot.writer.publish(self.writer.durable()) {
            Ok(start) => {
                reclaim(&*self.storage, start, 2)?;
                Ok(true)
            }
            Err(JournalError::NotYetDurable { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
