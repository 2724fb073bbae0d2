//! The head of each record, and its checksum.
//!
//! ```text
//! offset  field         filled in
//!      0  crc32c u32    when the group is written: of everything behind it, padding included, seeded with the file's epoch
//!      4  bytes u32     head and body, without padding
//!      8  kind u8       see `Kind`
//!      9  format u8     2; 1 in files of version 1
//!     10  0 u16
//!     12  prev_crc u32  when the group is written: crc32c of the record before it, across files
//!     16  lsn u64       when it is appended
//!     24  durable u64   when the group is written: highest lsn that was on stable storage then
//!     32  term u64      when the group is written; 1 as long as one daemon writes alone
//!     40  index u64     the place in the replicated log; equals the lsn as long as nothing was ever truncated
//!     48  lineage u64   when the group is written: which journal this is
//!     56  body, see `encode.rs`, then zeros up to a multiple of 8
//! ```
//! Invariants: a record's CRC holds only in the file it was written for (old records of a recycled file never validate), and a
//! single flipped bit anywhere in a record, padding included, breaks it. Tested in `journal/tests/records.rs`.

use crate::Lsn;

/// Bytes of the head.
pub(crate) const HEAD_BYTES: usize = 56;
/// Records start at multiples of this.
pub(crate) const ALIGN: usize = 8;
/// LIMIT: a payload and a result of 64 KiB each in one record, and its names; larger blobs are spilled.
pub const RECORD_BYTES_MAX: usize = 160 * 1024;
/// Format of the bodies of version 1, see `earlier.rs`.
pub(crate) const FORMAT_1: u8 = 1;
/// Format of those that are written.
pub(crate) const FORMAT: u8 = 2;
/// From this number on a kind is one that may be passed over.
const PASSABLE_FROM: u8 = 128;

pub(crate) const AT_BYTES: usize = 4;
const AT_KIND: usize = 8;
pub(crate) const AT_FORMAT: usize = 9;
const AT_ZERO: usize = 10;
pub(crate) const AT_PREV: usize = 12;
pub(crate) const AT_LSN: usize = 16;
const AT_DURABLE: usize = 24;
const AT_TERM: usize = 32;
const AT_INDEX: usize = 40;
const AT_LINEAGE: usize = 48;

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Task = 1,
    Attempt = 2,
    Requeue = 3,
    Outcome = 4,
    Cancel = 5,
    Acknowledged = 6,
    Purge = 7,
    Reserve = 8,
    Update = 9,
    Key = 10,
    /// The last record of a snapshot.
    End = 11,
    /// Kept for the replicated log: a reader of this version says that a later one wrote it.
    Truncate = 12,
    Vote = 13,
    Membership = 14,
    /// Any number from here on: it says nothing that this version would miss.
    Passable = PASSABLE_FROM,
}

impl Kind {
    pub(crate) const ALL: [Self; 14] = [
        Self::Task,
        Self::Attempt,
        Self::Requeue,
        Self::Outcome,
        Self::Cancel,
        Self::Acknowledged,
        Self::Purge,
        Self::Reserve,
        Self::Update,
        Self::Key,
        Self::End,
        Self::Truncate,
        Self::Vote,
        Self::Membership,
    ];

    fn from_number(number: u8, format: u8) -> Option<Self> {
        if format != FORMAT_1 && number >= PASSABLE_FROM {
            return Some(Self::Passable);
        }
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// A record whose head and checksum are right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: Kind,
    pub(crate) format: u8,
    pub(crate) crc: u32,
    pub(crate) prev_crc: u32,
    pub(crate) lsn: Lsn,
    pub(crate) durable: Lsn,
    pub(crate) term: u64,
    pub(crate) index: u64,
    pub(crate) lineage: u64,
    pub(crate) body: &'a [u8],
    /// Bytes up to the next record.
    pub(crate) span: usize,
}

/// Why bytes are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadFrame {
    /// Nothing but zeros where its head would be.
    #[error("no record")]
    Nothing,
    /// The file ends within it.
    #[error("the file ends within the record")]
    Short,
    /// Its length cannot be.
    #[error("a length of {0} bytes cannot be")]
    Length(u32),
    /// It carries another ordinal.
    #[error("it says lsn {0}")]
    Ordinal(u64),
    /// Its checksum does not fit its bytes.
    #[error("the checksum does not fit")]
    Checksum,
    /// It was written after another record than the one before it.
    #[error("it does not follow the record before it")]
    Chain,
    /// Its kind or format is not known.
    #[error("kind {kind} in format {format} was written by a later version")]
    Later {
        /// Number of the kind.
        kind: u8,
        /// Number of the format.
        format: u8,
    },
}

pub(crate) const fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGN)
}

pub(crate) fn read_u32(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

pub(crate) fn read_u64(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

pub(crate) fn put<const N: usize>(record: &mut [u8], at: usize, value: [u8; N]) {
    if let Some(place) = record.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        *place = value;
    }
}

/// The head as far as it is known when a record is appended.
pub(crate) fn head(kind: Kind, bytes: u32, lsn: Lsn) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    put(&mut head, AT_BYTES, bytes.to_le_bytes());
    put(&mut head, AT_KIND, [kind as u8, FORMAT]);
    put(&mut head, AT_LSN, lsn.get().to_le_bytes());
    put(&mut head, AT_INDEX, lsn.get().to_le_bytes());
    head
}

/// What is known only when a group is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seal {
    pub(crate) epoch: u32,
    pub(crate) durable: Lsn,
    pub(crate) term: u64,
    pub(crate) lineage: u64,
}

/// Completes a record (with its padding) and returns its checksum.
pub(crate) fn seal(record: &mut [u8], seal: &Seal, prev_crc: u32) -> u32 {
    put(record, AT_PREV, prev_crc.to_le_bytes());
    put(record, AT_DURABLE, seal.durable.get().to_le_bytes());
    put(record, AT_TERM, seal.term.to_le_bytes());
    put(record, AT_LINEAGE, seal.lineage.to_le_bytes());
    let crc = checksum(record, seal.epoch);
    put(record, 0, crc.to_le_bytes());
    crc
}

fn checksum(record: &[u8], epoch: u32) -> u32 {
    crc32c::crc32c_append(epoch, record.get(AT_BYTES..).unwrap_or_default())
}

/// Bytes of the record that starts here, with its padding; only for records of our own making.
pub(crate) fn span_of_own(group: &[u8]) -> usize {
    padded(read_u32(group, AT_BYTES) as usize).max(HEAD_BYTES)
}

/// Reads the record at the start of `bytes`. `expected`, if given, must be its lsn; that is looked at before the checksum is
/// computed.
pub(crate) fn parse(
    bytes: &[u8],
    epoch: u32,
    expected: Option<Lsn>,
) -> Result<Frame<'_>, BadFrame> {
    let Some(head) = bytes.get(..HEAD_BYTES) else {
        return Err(if bytes.iter().all(|&byte| byte == 0) {
            BadFrame::Nothing
        } else {
            BadFrame::Short
        });
    };
    let length = read_u32(head, AT_BYTES);
    if length == 0 && head.iter().all(|&byte| byte == 0) {
        return Err(BadFrame::Nothing);
    }
    let span = padded(length as usize);
    if (length as usize) < HEAD_BYTES || span > RECORD_BYTES_MAX {
        return Err(BadFrame::Length(length));
    }
    let record = bytes.get(..span).ok_or(BadFrame::Short)?;
    let raw_lsn = read_u64(head, AT_LSN);
    if expected.is_some_and(|expected| expected.get() != raw_lsn)
        || Lsn::new(raw_lsn).get() != raw_lsn
    {
        return Err(BadFrame::Ordinal(raw_lsn));
    }
    let crc = read_u32(head, 0);
    if crc != checksum(record, epoch) {
        return Err(BadFrame::Checksum);
    }
    let (number, format) = (head[AT_KIND], head[AT_FORMAT]);
    let later = BadFrame::Later {
        kind: number,
        format,
    };
    let kind = Kind::from_number(number, format)
        .filter(|_| matches!(format, FORMAT_1 | FORMAT) && read_u32(head, AT_KIND) >> 16 == 0)
        .ok_or(later)?;
    debug_assert_eq!(AT_ZERO, AT_KIND + 2, "the two bytes behind kind and format");
    Ok(Frame {
        kind,
        format,
        crc,
        prev_crc: read_u32(head, AT_PREV),
        lsn: Lsn::new(raw_lsn),
        durable: Lsn::new(read_u64(head, AT_DURABLE)),
        term: read_u64(head, AT_TERM),
        index: read_u64(head, AT_INDEX),
        lineage: read_u64(head, AT_LINEAGE),
        body: record.get(HEAD_BYTES..length as usize).unwrap_or_default(),
        span,
    })
}
