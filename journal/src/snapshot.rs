//! Snapshots: every live task as one record, so that older files are no longer needed.
//!
//! A snapshot is a header page (with the lsn at which replay starts), records of kinds `submit` and `key` numbered from 1 and
//! chained by their checksums, and one last record with counts. It is written beside the running journal by a helper thread,
//! from whole tasks that are read while others write. So it may show more than its start says: up to lsn `shown`.
//!
//! Invariants:
//! - I1: it gets its name only when it is whole and on stable storage.
//! - I2: it is published only when everything it shows is durable in the journal. Otherwise a crash could give lsns below
//!   `shown` away a second time, and replay would take their records for known ones. A journal that ends below `shown` has
//!   therefore lost records that were stable.
//!
//! Tested in `journal/tests/snapshots.rs` and `damage.rs`.

use std::sync::Arc;

use qtf_shm::{KeyId, TaskId};

use crate::error::{JournalError, Why};
use crate::file::{Header, JournalConfig, VERSION, epoch_of, snapshot_name};
use crate::record::encode::{self, TooLarge};
use crate::record::frame::{self, Frame, Kind, Seal};
use crate::record::{Record, WholeTask, decode};
use crate::scan::Scanner;
use crate::storage::{Storage, StorageFile, write_all};
use crate::{Lsn, PushError};

/// Written at once.
const CHUNK_BYTES: usize = 1 << 20;
/// Synced at once: the journal's own syncs must not wait behind hundreds of megabytes.
const SYNC_BYTES: u64 = 8 << 20;

/// Writes a snapshot. Blocks; for a helper thread.
#[derive(Debug)]
pub struct SnapshotWriter {
    storage: Arc<dyn Storage>,
    file: Box<dyn StorageFile>,
    unfinished: String,
    start: Lsn,
    epoch: u32,
    lineage: u64,
    buffer: Vec<u8>,
    offset: u64,
    synced: u64,
    last_crc: u32,
    last: Lsn,
    tasks: u64,
    gen_limit: u64,
    shown: Lsn,
    is_ended: bool,
}

impl SnapshotWriter {
    /// Begins a snapshot. `start` is the lsn appended last before the first whole task was read; `lineage` is the writer's.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn create(
        storage: Arc<dyn Storage>,
        config: &JournalConfig,
        lineage: u64,
        start: Lsn,
    ) -> Result<Self, JournalError> {
        let unfinished = format!("{}.tmp", snapshot_name(start));
        crate::spare::remove_if_there(&*storage, &unfinished)?;
        let file = storage
            .create(&unfinished)
            .map_err(JournalError::io("create", &unfinished))?;
        let epoch = epoch_of(!config.nonce, start.get());
        let header = Header {
            version: VERSION,
            is_snapshot: true,
            number: start.get(),
            file_bytes: 0,
            epoch,
            follows: None,
            lineage,
            instance: config.instance_text().to_owned(),
        };
        let mut buffer = Vec::with_capacity(CHUNK_BYTES + frame::RECORD_BYTES_MAX);
        buffer.extend_from_slice(&header.encode());
        Ok(Self {
            storage,
            file,
            unfinished,
            start,
            epoch,
            lineage,
            buffer,
            offset: 0,
            synced: 0,
            last_crc: 0,
            last: Lsn::NONE,
            tasks: 0,
            gen_limit: 0,
            shown: start,
            is_ended: false,
        })
    }

    /// Adds a task.
    ///
    /// # Errors
    /// It is too large, or cannot be written.
    pub fn push(&mut self, whole: &WholeTask<'_>) -> Result<(), JournalError> {
        self.shown = self.shown.max(whole.lsn);
        self.tasks = self.tasks.saturating_add(1);
        // A copy of numbers and references, no bytes.
        self.append(&Record::Task(whole.clone()))
    }

    /// Adds a key that is alive though its task is gone.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn push_key(
        &mut self,
        key: KeyId,
        task: TaskId,
        expires_unix_ms: u64,
    ) -> Result<(), JournalError> {
        self.append(&Record::Key {
            key,
            task,
            expires_unix_ms,
        })
    }

    /// Adds a key whose task was acknowledged. It stands there twice, which a reader that does not know of this takes as once.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn push_spent_key(
        &mut self,
        key: KeyId,
        task: TaskId,
        expires_unix_ms: u64,
    ) -> Result<(), JournalError> {
        self.push_key(key, task, expires_unix_ms)?;
        self.push_key(key, task, expires_unix_ms)
    }

    /// Says up to which generation ids may be given.
    pub fn reserve(&mut self, gen_limit: u64) {
        self.gen_limit = self.gen_limit.max(gen_limit);
    }

    /// The highest lsn that is shown: [`SnapshotWriter::publish`] needs it to be durable.
    #[must_use]
    pub const fn shown(&self) -> Lsn {
        self.shown
    }

    fn append(&mut self, record: &Record<'_>) -> Result<(), JournalError> {
        let from = self.buffer.len();
        let lsn = self.last.next();
        encode::append(&mut self.buffer, record, lsn).map_err(|TooLarge { bytes }| {
            let source = std::io::Error::other(PushError::TooLarge { bytes });
            JournalError::io("write a record to", &self.unfinished)(source)
        })?;
        self.seal_from(from, lsn);
        if self.buffer.len() >= CHUNK_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn seal_from(&mut self, from: usize, lsn: Lsn) {
        let seal = Seal {
            epoch: self.epoch,
            durable: Lsn::NONE,
            term: 0,
            lineage: self.lineage,
        };
        let record = self.buffer.get_mut(from..).unwrap_or_default();
        self.last_crc = frame::seal(record, &seal, self.last_crc);
        self.last = lsn;
    }

    fn flush(&mut self) -> Result<(), JournalError> {
        let name = &self.unfinished;
        write_all(&*self.file, self.offset, &self.buffer)
            .map_err(JournalError::io("write", name))?;
        self.offset = self.offset.saturating_add(self.buffer.len() as u64);
        self.buffer.clear();
        if self.offset.saturating_sub(self.synced) >= SYNC_BYTES {
            self.file
                .sync_data()
                .map_err(JournalError::io("sync", name))?;
            self.synced = self.offset;
        }
        Ok(())
    }

    /// Gives the snapshot its name. Then older files can go: [`crate::reclaim`] with its start.
    ///
    /// # Errors
    /// [`JournalError::NotYetDurable`]: again, when [`SnapshotWriter::shown`] is durable. Anything else: it is given up.
    pub fn publish(&mut self, durable: Lsn) -> Result<Lsn, JournalError> {
        if !self.is_ended {
            let from = self.buffer.len();
            let lsn = self.last.next();
            let numbers = [self.tasks, self.gen_limit, self.shown.get()];
            encode::append_end(&mut self.buffer, lsn, numbers);
            self.seal_from(from, lsn);
            self.flush()?;
            self.file
                .sync_data()
                .map_err(JournalError::io("sync", &self.unfinished))?;
            self.is_ended = true;
        }
        if durable < self.shown && !cfg!(qtf_mutant = "sim_snapshot_is_published_too_early") {
            return Err(JournalError::NotYetDurable {
                shown: self.shown,
                durable,
            });
        }
        let name = snapshot_name(self.start);
        self.storage
            .rename(&self.unfinished, &name)
            .map_err(JournalError::io("rename", &self.unfinished))?;
        self.storage
            .sync_dir()
            .map_err(JournalError::io("sync the directory of", &name))?;
        Ok(self.start)
    }
}

/// What the last record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SnapshotEnd {
    pub(crate) start: Lsn,
    pub(crate) tasks: u64,
    pub(crate) gen_limit: u64,
    pub(crate) shown: Lsn,
    pub(crate) lineage: u64,
}

/// Reads a whole snapshot; `visit` gets each record with its place.
pub(crate) fn read<'a>(
    name: &str,
    bytes: &'a [u8],
    visit: &mut dyn FnMut(usize, &Frame<'a>) -> Result<(), Why>,
) -> Result<SnapshotEnd, JournalError> {
    let header = Header::decode(name, bytes)?;
    let start = Lsn::new(header.number);
    let damaged = |offset, lsn, why: Why| JournalError::damaged(name, offset, lsn, why);
    if !header.is_snapshot || snapshot_name(start) != name {
        let why = Why::Header("it belongs to another file");
        return Err(damaged(0, Lsn::NONE, why));
    }
    let mut scanner = Scanner::new(bytes, header.epoch).after(Some(Lsn::new(1)), Some(0));
    let mut tasks = 0_u64;
    loop {
        let offset = scanner.offset;
        let lsn = scanner.expected.unwrap_or(Lsn::NONE);
        let frame = scanner
            .next()
            .map_err(|bad| damaged(offset, lsn, bad.into()))?;
        match frame.kind {
            Kind::Task | Kind::Key => {
                tasks += u64::from(frame.kind == Kind::Task);
                visit(offset, &frame).map_err(|why| damaged(offset, lsn, why))?;
            }
            Kind::End => {
                let [said, gen_limit, shown] =
                    decode::end(&frame).map_err(|bad| damaged(offset, lsn, bad.into()))?;
                let end = SnapshotEnd {
                    start,
                    tasks: said,
                    gen_limit,
                    shown: Lsn::new(shown),
                    lineage: header.lineage,
                };
                if scanner.offset != bytes.len() || end.tasks != tasks || end.shown < start {
                    let why = Why::Record(decode::BadRecord::Length);
                    return Err(damaged(offset, lsn, why));
                }
                return Ok(end);
            }
            Kind::Passable => {}
            Kind::Attempt
            | Kind::Requeue
            | Kind::Outcome
            | Kind::Cancel
            | Kind::Acknowledged
            | Kind::Purge
            | Kind::Reserve
            | Kind::Update
            | Kind::Truncate
            | Kind::Vote
            | Kind::Membership => {
                let why = decode::BadRecord::Kind(frame.kind as u8);
                return Err(damaged(offset, lsn, why.into()));
            }
        }
    }
}
