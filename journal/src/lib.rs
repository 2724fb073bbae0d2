//! The journal of Quantum Taskflow: what must outlive a reboot, on stable storage before it is acknowledged.
//!
//! | module | what |
//! |---|---|
//! | [`Record`], [`WholeTask`] | what is written down (`record/`) |
//! | [`Appender`] | collects records into groups; no I/O |
//! | [`Writer`] | says where groups go; no I/O: drivers execute its [`Write`]s |
//! | [`make_spare`], [`reclaim`] | files made ahead of need, and used again |
//! | [`open_tail`] | hot restart: where the journal ends |
//! | [`recover`] | cold start: newest snapshot and what came after it |
//! | [`SnapshotWriter`] | what makes old files superfluous |
//! | [`Dump`], [`verify`] | what people are shown |
//! | [`Storage`] | the directory; a real one, one with faults, and a simulated disk |
//!
//! The order of a life: [`open_tail`] or [`recover`] gives an [`Opened`]; [`Opened::start`] begins a new file and gives the
//! [`Writer`]; an [`Appender`] starts at `opened.end.next()`; groups go from one to the other. Formats and rules:
//! `docs/adr/0008-journal.md`.

mod appender;
mod error;
mod file;
mod inspect;
mod lsn;
mod open;
mod progress;
mod record;
mod recover;
mod room;
mod scan;
mod snapshot;
mod spare;
mod storage;
mod sys;
mod walk;
mod write;
mod writer;

pub use appender::{Appender, AppenderLimits, Group, PushError};
pub use error::{JournalError, Why, WriteFailed};
pub use file::{
    FILE_BYTES_DEFAULT, FILE_BYTES_MAX, FILE_BYTES_MIN, FileKey, HEADER_BYTES, JournalConfig,
};
pub use inspect::{Content, Dump, Entries, Entry, FileInfo, Report, Stop, verify};
pub use lsn::{LSN_MAX, Lsn};
pub use open::{Opened, open_tail};
pub use progress::Progress;
pub use record::frame::BadFrame;
pub use record::{BadRecord, Blob, ClientRef, RECORD_BYTES_MAX, Record, WholeTask};
pub use recover::{Recovered, recover};
pub use room::make_room_for_snapshot;
pub use snapshot::SnapshotWriter;
pub use spare::{Reclaimed, SpareFile, make_spare, reclaim};
pub use storage::{
    Fault, FaultyStorage, Mapped, Operation, SimDisk, StdStorage, Storage, StorageFile, write_group,
};
pub use walk::TornTail;
pub use write::Write;
pub use writer::{FilePlan, Step, Writer};
