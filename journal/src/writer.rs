//! Says where groups go. Passive: it does no I/O; a driver executes its [`Write`]s and tells how they went.
//!
//! ```text
//!        begin(group)                     written(whole)
//! idle ---------------> Step::Write(..) ------------------> Step::Durable(lsn), idle again
//!                        |      ^  |
//!              written(short)   |  | no room in this file, none prepared
//!                        |      |  v
//!                        +------+  Step::NeedFile --add_file--> Step::Write(..)
//!                        |
//!                        +--written(error)--> Step::Failed, for ever
//! ```
//! Invariants:
//! - I1: one write is under way at a time, so a file is whole when the next one gets its first record.
//! - I2: a record lies in one file; a group may lie in several, in as many writes.
//! - I3: `durable` rises only after a write that includes its sync (`RWF_DSYNC`, or a write and `fdatasync`) was reported as done.
//! - I4: a failed write or sync is never tried again, since what is on the disk is then unknown. A short write is continued; one
//!   that was interrupted before it wrote anything is done again.
//!
//! Tested in `journal/tests/writer.rs`, and with a disk that tears writes in `journal/tests/crashes.rs`.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};

use crate::appender::Group;
use crate::file::{FileKey, HEADER_BYTES, Header, JournalConfig, VERSION, epoch_of};
use crate::record::frame::{self, Seal};
use crate::spare::SpareFile;
use crate::write::Write;
use crate::{Lsn, WriteFailed};

/// LIMIT: of one daemon that writes alone; the replicated log counts on from here.
const TERM: u64 = 1;

/// What comes next.
#[derive(Debug)]
#[must_use]
pub enum Step {
    /// Execute this, then call [`Writer::written`].
    Write(Write),
    /// No file has room: make one ([`Writer::file_plan`], [`crate::make_spare`]), then call [`Writer::add_file`].
    NeedFile,
    /// The group is on stable storage up to this lsn; [`Writer::take_buffer`] has its buffer.
    Durable(Lsn),
    /// Nothing will be written any more; [`Writer::failure`] says why.
    Failed,
}

/// What a file that is to be made must say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePlan {
    pub(crate) header: Header,
    /// A log without records that the new file makes superfluous.
    pub(crate) replaces: Option<FileKey>,
}

impl FilePlan {
    /// Which file.
    #[must_use]
    pub const fn key(&self) -> FileKey {
        FileKey(self.header.number)
    }

    /// Its size.
    #[must_use]
    pub const fn file_bytes(&self) -> u64 {
        self.header.file_bytes
    }
}

/// The file that is being written.
#[derive(Debug)]
struct Current {
    key: FileKey,
    epoch: u32,
    offset: u64,
    end: u64,
}

impl Current {
    /// None yet: no room in the file before the first one of this writer.
    const fn before(header: &Header) -> Self {
        Self {
            key: FileKey(header.number.saturating_sub(1)),
            epoch: 0,
            offset: 0,
            end: 0,
        }
    }

    const fn of(file: &SpareFile) -> Self {
        Self {
            key: FileKey(file.header.number),
            epoch: file.header.epoch,
            offset: HEADER_BYTES as u64,
            end: file.header.file_bytes,
        }
    }
}

/// A group on its way.
#[derive(Debug)]
struct Under {
    /// What has been written, and what is being written now.
    done: usize,
    until: usize,
    /// Last record before `until`.
    until_lsn: Lsn,
    last: Lsn,
}

#[derive(Debug)]
enum State {
    Idle,
    /// The driver has the buffer.
    Writing(Under),
    /// For a file.
    Waiting(Under, Vec<u8>),
    Failed(WriteFailed),
}

/// The writing end of a journal.
#[derive(Debug)]
pub struct Writer {
    config: JournalConfig,
    lineage: u64,
    current: Current,
    /// The file to begin with, while it could not be made.
    first: Option<FilePlan>,
    prepared: VecDeque<SpareFile>,
    /// The chain: checksum of the record sealed last, and its lsn.
    last_crc: u32,
    last: Lsn,
    durable: Lsn,
    state: State,
    buffer: Option<Vec<u8>>,
}

impl Writer {
    /// Goes on after `end` (its lsn and checksum), in the file that `first` plans: it is to be added before anything else.
    pub(crate) fn new(config: JournalConfig, end: (Lsn, u32), first: FilePlan) -> Self {
        Self {
            lineage: first.header.lineage,
            config,
            current: Current::before(&first.header),
            first: Some(first),
            prepared: VecDeque::new(),
            last_crc: end.1,
            last: end.0,
            durable: end.0,
            state: State::Idle,
            buffer: None,
        }
    }

    /// Whether it has the file to begin with. Until then it takes a group and waits with [`Step::NeedFile`].
    #[must_use]
    pub const fn has_begun(&self) -> bool {
        self.first.is_none()
    }

    /// Whether a group waits for a file.
    #[must_use]
    pub const fn waits_for_file(&self) -> bool {
        matches!(self.state, State::Waiting(..))
    }

    /// Nothing is under way: [`Writer::begin`] may be called.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    /// What is on stable storage.
    #[must_use]
    pub const fn durable(&self) -> Lsn {
        self.durable
    }

    /// Why nothing is written any more.
    #[must_use]
    pub const fn failure(&self) -> Option<&WriteFailed> {
        match &self.state {
            State::Failed(failure) => Some(failure),
            State::Idle | State::Writing(_) | State::Waiting(..) => None,
        }
    }

    /// Which journal this is; for [`crate::SnapshotWriter::create`].
    #[must_use]
    pub const fn lineage(&self) -> u64 {
        self.lineage
    }

    /// The file that is being written.
    #[must_use]
    pub const fn file(&self) -> FileKey {
        self.current.key
    }

    /// Bytes that the current file and those that were added still take.
    #[must_use]
    pub fn room_bytes(&self) -> u64 {
        let current = self.current.end.saturating_sub(self.current.offset);
        let prepared = self.prepared.iter().map(SpareFile::room_bytes);
        prepared.fold(current, u64::saturating_add)
    }

    /// Files that were added and not begun.
    #[must_use]
    pub fn files_prepared(&self) -> usize {
        self.prepared.len()
    }

    /// The file that is to be made next. The same until it is added.
    #[must_use]
    pub fn file_plan(&self) -> FilePlan {
        if let Some(first) = &self.first {
            return first.clone();
        }
        let newest = self.prepared.back();
        let newest = newest.map_or(self.current.key.0, |file| file.header.number);
        let number = newest.saturating_add(1);
        FilePlan {
            header: Header {
                version: VERSION,
                is_snapshot: false,
                number,
                file_bytes: self.config.file_bytes,
                epoch: epoch_of(self.config.nonce, number),
                follows: None,
                lineage: self.lineage,
                instance: self.config.instance_text().to_owned(),
            },
            replaces: None,
        }
    }

    /// Takes a file that was made after [`Writer::file_plan`]. A group that waited for it goes on.
    ///
    /// # Panics
    /// It is another file than was planned.
    pub fn add_file(&mut self, file: SpareFile) -> Option<Step> {
        // The first one may be smaller than was planned.
        let planned = Header {
            file_bytes: file.header.file_bytes,
            ..self.file_plan().header
        };
        assert_eq!(file.header, planned, "the file that was planned");
        if self.first.take().is_some() {
            self.current = Current::of(&file);
        } else {
            self.prepared.push_back(file);
        }
        match core::mem::replace(&mut self.state, State::Idle) {
            State::Waiting(under, buffer) => Some(self.next_write(under, buffer)),
            other @ (State::Idle | State::Writing(_) | State::Failed(_)) => {
                self.state = other;
                None
            }
        }
    }

    /// Starts to write a group.
    ///
    /// # Panics
    /// Another one is under way, or records between the last one and this are missing.
    pub fn begin(&mut self, group: Group) -> Step {
        if self.failure().is_some() {
            return Step::Failed;
        }
        assert!(self.is_idle(), "one group at a time");
        assert_eq!(group.first, self.last.next(), "no record is left out");
        let under = Under {
            done: 0,
            until: 0,
            until_lsn: self.last,
            last: group.last,
        };
        self.next_write(under, group.bytes)
    }

    /// Takes the driver's word on a write: bytes written and synced, or an error.
    ///
    /// # Panics
    /// No write was under way.
    pub fn written(&mut self, buffer: Vec<u8>, result: io::Result<usize>) -> Step {
        let mut under = match core::mem::replace(&mut self.state, State::Idle) {
            State::Writing(under) => under,
            State::Failed(failure) => {
                self.state = State::Failed(failure);
                return Step::Failed;
            }
            State::Idle | State::Waiting(..) => panic!("no write was under way"),
        };
        let asked = under.until.saturating_sub(under.done);
        match result {
            Ok(written) if (1..=asked).contains(&written) => {
                under.done = under.done.saturating_add(written);
                self.current.offset = self.current.offset.saturating_add(written as u64);
            }
            Err(error) if is_harmless(&error) => {}
            Ok(_) => return self.fail(&under, ErrorKind::WriteZero.into()),
            Err(error) => return self.fail(&under, error),
        }
        if under.done < under.until {
            return self.write_rest(under, buffer);
        }
        self.durable = under.until_lsn;
        if under.until < buffer.len() {
            return self.next_write(under, buffer);
        }
        debug_assert_eq!(under.last, self.durable);
        self.buffer = Some(buffer);
        Step::Durable(self.durable)
    }

    /// The buffer of the group that has become durable, for [`crate::Appender::give_back`].
    pub fn take_buffer(&mut self) -> Option<Vec<u8>> {
        self.buffer.take()
    }

    /// Seals as many records as the current file takes, or goes on to the next file.
    fn next_write(&mut self, mut under: Under, mut buffer: Vec<u8>) -> Step {
        let fitting = loop {
            let room = self.current.end.saturating_sub(self.current.offset);
            let fitting = fitting(&buffer, under.done, room);
            if fitting > under.done {
                break fitting;
            }
            let Some(file) = self.prepared.pop_front() else {
                self.state = State::Waiting(under, buffer);
                return Step::NeedFile;
            };
            self.current = Current::of(&file);
        };
        let seal = Seal {
            epoch: self.current.epoch,
            durable: self.durable,
            term: TERM,
            lineage: self.lineage,
        };
        let mut at = under.done;
        while at < fitting {
            let span = frame::span_of_own(buffer.get(at..).unwrap_or_default());
            let Some(record) = buffer.get_mut(at..at + span) else {
                break;
            };
            self.last_crc = frame::seal(record, &seal, self.last_crc);
            self.last = self.last.next();
            at += span;
        }
        under.until = fitting;
        under.until_lsn = self.last;
        self.write_rest(under, buffer)
    }

    fn write_rest(&mut self, under: Under, buffer: Vec<u8>) -> Step {
        let write = Write {
            file: self.current.key,
            offset: self.current.offset,
            buffer,
            range: under.done..under.until,
        };
        self.state = State::Writing(under);
        Step::Write(write)
    }

    fn fail(&mut self, under: &Under, source: io::Error) -> Step {
        self.state = State::Failed(WriteFailed {
            file: self.current.key.name(),
            offset: self.current.offset,
            lsn: self.durable.next(),
            source,
        });
        debug_assert!(self.durable < under.last);
        Step::Failed
    }
}

/// Nothing was written: the same again.
fn is_harmless(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock)
}

/// Where the last whole record ends that lies within `room` bytes from `from` on.
fn fitting(buffer: &[u8], from: usize, room: u64) -> usize {
    let mut at = from;
    while let Some(rest) = buffer.get(at..).filter(|rest| !rest.is_empty()) {
        let next = at + frame::span_of_own(rest);
        if (next - from) as u64 > room {
            break;
        }
        at = next;
    }
    at
}
