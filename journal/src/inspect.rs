//! For people: what lies in a file, and whether a journal would open. Nothing is changed. For `qtf journal dump|verify`.
//!
//! Tested in `journal/tests/journal/inspect.rs`.

use std::path::Path;

use crate::error::JournalError;
use crate::file::{HEADER_BYTES, Header};
use crate::record::frame::{BadFrame, Kind};
use crate::record::{BadRecord, Record, decode};
use crate::scan::{Scanner, first_valid, proof_of};
use crate::storage::{Mapped, StdStorage, Storage};
use crate::walk::TornTail;
use crate::{FileKey, Lsn, recover};

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    /// The file's name.
    pub name: String,
    /// A snapshot, not a log.
    pub is_snapshot: bool,
    /// Sequence of a log, lsn at which replay starts of a snapshot.
    pub number: u64,
    /// The record after which a new daemon began a log.
    pub follows: Option<Lsn>,
    /// Whose it is.
    pub instance: String,
    /// Seed of its checksums.
    pub epoch: u32,
    /// Which journal it belongs to.
    pub lineage: u64,
}

/// One record of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry<'a> {
    /// Where it begins.
    pub offset: u64,
    /// Its bytes, with head and padding.
    pub bytes: u64,
    /// Its ordinal; in a snapshot, its number there.
    pub lsn: Lsn,
    /// What was on stable storage when its group was written.
    pub durable: Lsn,
    /// Its checksum.
    pub crc32c: u32,
    /// What it says.
    pub content: Content<'a>,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "shown one at a time, never stored"
)]
pub enum Content<'a> {
    /// About a task, mostly.
    Record(Record<'a>),
    /// The last record of a snapshot.
    End {
        /// Tasks in it.
        tasks: u64,
        /// Up to which generation ids may be given.
        gen_limit: u64,
        /// The highest lsn that it shows.
        shown: Lsn,
    },
    /// The checksum is right, and this program cannot read it.
    Unreadable(BadRecord),
}

/// Where the records of a file end, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// Where the next record would begin.
    pub offset: u64,
    /// Its ordinal, if the header or a record before it says that.
    pub lsn: Option<Lsn>,
    /// What lies there.
    pub why: BadFrame,
    /// A valid record of this file further on, with at least the lsn that is missing: a torn tail, or damage.
    pub beyond: Option<Lsn>,
    /// One further on proves that the missing record had been on stable storage: damage.
    pub is_damage: bool,
}

/// One file of a journal, opened for people.
#[derive(Debug)]
pub struct Dump {
    info: FileInfo,
    content: Mapped,
}

impl Dump {
    /// Opens a log or a snapshot.
    ///
    /// # Errors
    /// It cannot be read, or its header is damaged.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        let name = path
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        let content = StdStorage::existing(dir)
            .map(&name)
            .map_err(JournalError::io("read", &path.to_string_lossy()))?;
        let header = Header::decode(&name, &content)?;
        Ok(Self {
            info: FileInfo {
                name,
                is_snapshot: header.is_snapshot,
                number: header.number,
                follows: header.follows.map(|(lsn, _)| lsn),
                instance: header.instance,
                epoch: header.epoch,
                lineage: header.lineage,
            },
            content,
        })
    }

    /// What the header says.
    #[must_use]
    pub const fn info(&self) -> &FileInfo {
        &self.info
    }

    /// The records, in order, as far as they are valid; [`Entries::stop`] says what lies behind the last one.
    #[must_use]
    pub fn entries(&self) -> Entries<'_> {
        let follows = if self.info.is_snapshot {
            Some(Lsn::NONE)
        } else {
            self.info.follows
        };
        Entries {
            scanner: Scanner::new(&self.content, self.info.epoch)
                .after(follows.map(Lsn::next), None),
            dump: self,
        }
    }
}

/// The records of a file.
#[derive(Debug, Clone)]
pub struct Entries<'a> {
    scanner: Scanner<'a>,
    dump: &'a Dump,
}

impl Entries<'_> {
    /// What lies where the iteration has come to; `None` if that is a record.
    #[must_use]
    pub fn stop(&self) -> Option<Stop> {
        let why = self.scanner.clone().next().err()?;
        let offset = self.scanner.offset;
        let (bytes, epoch) = (&self.dump.content, self.dump.info.epoch);
        let lsn = self.scanner.expected;
        // Where nothing says which record should be here, it is at most the one before the next that is valid.
        let wanted = match lsn {
            Some(lsn) => lsn,
            None => match first_valid(bytes, epoch, offset) {
                Some(later) => Lsn::new(later.lsn.get().saturating_sub(1)),
                None => Lsn::new(1),
            },
        };
        let proof = proof_of(bytes, epoch, offset, wanted);
        Some(Stop {
            offset: offset as u64,
            lsn,
            why,
            beyond: proof.stable.map(|later| later.lsn).or(proof.valid),
            is_damage: proof.stable.is_some(),
        })
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        let offset = self.scanner.offset;
        let frame = self.scanner.next().ok()?;
        let content = if frame.kind == Kind::End {
            decode::end(&frame).map(|[tasks, gen_limit, shown]| Content::End {
                tasks,
                gen_limit,
                shown: Lsn::new(shown),
            })
        } else {
            decode::record(&frame).map(Content::Record)
        };
        let content = content.unwrap_or_else(Content::Unreadable);
        Some(Entry {
            offset: offset as u64,
            bytes: frame.span as u64,
            lsn: frame.lsn,
            durable: frame.durable,
            crc32c: frame.crc,
            content,
        })
    }
}

/// What a journal holds, and that it would open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Logs, by name.
    pub logs: Vec<String>,
    /// Where the snapshot that would be used starts.
    pub snapshot: Option<Lsn>,
    /// The last record.
    pub end: Lsn,
    /// Records behind the snapshot.
    pub records: u64,
    /// Live tasks.
    pub tasks: usize,
    /// Keys that are alive though their task is gone.
    pub keys: usize,
    /// What would be cut off: never acknowledged.
    pub cut: Option<TornTail>,
    /// What else a person should know.
    pub notes: Vec<String>,
}

impl Report {
    /// Nothing is there: neither a log nor a snapshot.
    #[must_use]
    pub const fn is_nothing(&self) -> bool {
        self.logs.is_empty() && self.snapshot.is_none()
    }
}

/// Opens the journal in a directory as a cold start would, of whichever instance it is, and changes nothing.
///
/// # Errors
/// What a cold start would say.
pub fn verify(dir: &Path) -> Result<Report, JournalError> {
    let storage = StdStorage::existing(dir);
    let recovered = recover::recover_any(&storage, None)?;
    let names = storage
        .list()
        .map_err(JournalError::io("list", &dir.to_string_lossy()))?;
    let mut logs: Vec<String> = names
        .into_iter()
        .filter(|name| FileKey::of_name(name).is_some())
        .collect();
    logs.sort_unstable();
    Ok(Report {
        logs,
        snapshot: recovered.snapshot,
        end: recovered.opened.end,
        records: recovered.records,
        tasks: recovered.tasks_count(),
        keys: recovered.keys().count(),
        cut: recovered.opened.cut.clone(),
        notes: recovered.notes,
    })
}

const _: () = assert!(HEADER_BYTES.is_multiple_of(8), "records are aligned");
