//! The files of a journal: names, headers, settings.
//!
//! ```text
//! log-<sequence, 16 hex digits>.qtj   in use; header page, then records
//! spare-<number>.qtj                  zero-filled or used before; becomes a log by rename
//! snapshot-<lsn, 16 hex digits>.qts   everything up to that lsn, and perhaps more; `.tmp` while it is written
//!
//! header page, 4,096 bytes
//! offset  field
//!      0  magic             `QTFJRNL\0` or `QTFSNAP\0`
//!      8  version u32 (2; 1 is read), bytes of the header u32
//!     16  sequence u64      of a log; lsn at which replay starts, of a snapshot
//!     24  file bytes u64    of a log, header included; 0 of a snapshot
//!     32  epoch u32         seed of the records' checksums
//!     36  flags u32         1: a new daemon began this file, `follows` says after which record
//!     40  follows u64       lsn
//!     48  lineage u64       which journal this is
//!     56  follows_crc u32   checksum of that record, 0 u32
//!     64  instance          64 bytes of UTF-8, filled up with zeros
//!   4092  crc32c u32        of everything before it
//! ```
//! Invariants: a header is on stable storage before the file is called `log-`, and is never written again under that name, so a
//! bad header of a log is damage, never a torn write. Without flag 1 a file goes on where the one before it ended.
//! Tested at the end of this file and in `journal/tests/`.

use crate::progress::Progress;
use crate::record::frame::{RECORD_BYTES_MAX, read_u32, read_u64};
use crate::{JournalError, Lsn};

/// Bytes of the header page.
pub const HEADER_BYTES: usize = 4096;
/// Version of the format that is written.
pub(crate) const VERSION: u32 = 2;
/// The one before, which is read.
pub(crate) const VERSION_BEFORE: u32 = 1;
/// LIMIT: room for the header and three of the largest records.
pub const FILE_BYTES_MIN: u64 = 512 * 1024;
/// LIMIT: replay addresses records with 48 bits; larger files only make recycling coarse.
pub const FILE_BYTES_MAX: u64 = 1 << 40;
/// 64 MiB.
pub const FILE_BYTES_DEFAULT: u64 = 64 << 20;

const LOG_MAGIC: [u8; 8] = *b"QTFJRNL\0";
const SNAPSHOT_MAGIC: [u8; 8] = *b"QTFSNAP\0";
const FLAG_FOLLOWS: u32 = 1;
const INSTANCE_BYTES: usize = 64;
const AT_CRC: usize = HEADER_BYTES - 4;

const _: () = assert!(
    FILE_BYTES_MIN >= (HEADER_BYTES + 3 * RECORD_BYTES_MAX) as u64,
    "any record fits any file"
);

/// How a journal is written.
#[derive(Debug, Clone)]
pub struct JournalConfig {
    /// Bytes of each file that is made from now on.
    pub file_bytes: u64,
    /// Whose journal it is; at most 64 bytes count.
    pub instance: String,
    /// Random, another one at each start: file epochs come from it.
    pub nonce: u64,
    /// Counts what a cold start has come through.
    pub progress: Progress,
}

impl JournalConfig {
    /// The default size of files.
    #[must_use]
    pub fn new(instance: &str, nonce: u64) -> Self {
        Self {
            file_bytes: FILE_BYTES_DEFAULT,
            instance: instance.to_owned(),
            nonce,
            progress: Progress::default(),
        }
    }

    pub(crate) fn check(&self) -> Result<(), JournalError> {
        if (FILE_BYTES_MIN..=FILE_BYTES_MAX).contains(&self.file_bytes) {
            Ok(())
        } else {
            Err(JournalError::FileBytes {
                found: self.file_bytes,
                min: FILE_BYTES_MIN,
                max: FILE_BYTES_MAX,
            })
        }
    }

    /// The instance as it stands in a header.
    pub(crate) fn instance_text(&self) -> &str {
        let mut end = self.instance.len().min(INSTANCE_BYTES);
        while !self.instance.is_char_boundary(end) {
            end -= 1;
        }
        &self.instance[..end]
    }
}

/// Which file of the journal: its sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileKey(pub u64);

impl FileKey {
    /// The name in the journal's directory.
    #[must_use]
    pub fn name(self) -> String {
        format!("log-{:016x}.qtj", self.0)
    }

    pub(crate) fn of_name(name: &str) -> Option<Self> {
        hex(name.strip_prefix("log-")?.strip_suffix(".qtj")?).map(Self)
    }
}

fn hex(digits: &str) -> Option<u64> {
    let is_ours = digits.len() == 16
        && digits
            .bytes()
            .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    is_ours
        .then(|| u64::from_str_radix(digits, 16).ok())
        .flatten()
}

pub(crate) fn snapshot_name(start: Lsn) -> String {
    format!("snapshot-{:016x}.qts", start.get())
}

pub(crate) fn snapshot_of_name(name: &str) -> Option<Lsn> {
    let start = hex(name.strip_prefix("snapshot-")?.strip_suffix(".qts")?)?;
    (Lsn::new(start).get() == start).then_some(Lsn::new(start))
}

pub(crate) fn is_unfinished(name: &str) -> bool {
    name.ends_with(".tmp")
}

pub(crate) fn spare_name(number: u64) -> String {
    format!("spare-{number}.qtj")
}

pub(crate) fn spare_of_name(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("spare-")?.strip_suffix(".qtj")?;
    let number = digits.parse().ok()?;
    (spare_name(number) == name).then_some(number)
}

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    /// That of the records, too.
    pub(crate) version: u32,
    pub(crate) is_snapshot: bool,
    /// Sequence of a log, start of a snapshot.
    pub(crate) number: u64,
    pub(crate) file_bytes: u64,
    pub(crate) epoch: u32,
    /// The record after which a new daemon began this file, and its checksum.
    pub(crate) follows: Option<(Lsn, u32)>,
    pub(crate) lineage: u64,
    pub(crate) instance: String,
}

impl Header {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut page = vec![0; HEADER_BYTES];
        let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
        put(
            0,
            if self.is_snapshot {
                &SNAPSHOT_MAGIC
            } else {
                &LOG_MAGIC
            },
        );
        put(8, &self.version.to_le_bytes());
        put(12, &(HEADER_BYTES as u64).to_le_bytes()[..4]);
        put(16, &self.number.to_le_bytes());
        put(24, &self.file_bytes.to_le_bytes());
        put(32, &self.epoch.to_le_bytes());
        if let Some((follows, crc)) = self.follows {
            put(36, &FLAG_FOLLOWS.to_le_bytes());
            put(40, &follows.get().to_le_bytes());
            put(56, &crc.to_le_bytes());
        }
        put(48, &self.lineage.to_le_bytes());
        let instance = self.instance.as_bytes();
        put(64, &instance[..instance.len().min(INSTANCE_BYTES)]);
        let crc = crc32c::crc32c(&page[..AT_CRC]);
        page[AT_CRC..].copy_from_slice(&crc.to_le_bytes());
        page
    }

    pub(crate) fn decode(file: &str, bytes: &[u8]) -> Result<Self, JournalError> {
        let damaged = |why| JournalError::damaged(file, 0, Lsn::NONE, crate::Why::Header(why));
        if bytes.is_empty() {
            return Err(damaged("the file is empty"));
        }
        let page = bytes
            .get(..HEADER_BYTES)
            .ok_or_else(|| damaged("the file is shorter than a header"))?;
        if page.iter().all(|&byte| byte == 0) {
            return Err(damaged(
                "it is zeros: a file made ahead that never got a header",
            ));
        }
        let is_snapshot = page.starts_with(&SNAPSHOT_MAGIC);
        if !is_snapshot && !page.starts_with(&LOG_MAGIC) {
            return Err(damaged("it does not begin as a journal or snapshot does"));
        }
        if read_u32(page, AT_CRC) != crc32c::crc32c(page.get(..AT_CRC).unwrap_or_default()) {
            return Err(damaged("its checksum does not fit"));
        }
        let version = read_u32(page, 8);
        let is_known = matches!(version, VERSION | VERSION_BEFORE);
        if !is_known || read_u32(page, 12) as usize != HEADER_BYTES {
            return Err(JournalError::Version {
                file: file.to_owned(),
                found: version,
                known: VERSION,
            });
        }
        let flags = read_u32(page, 36);
        let raw_follows = read_u64(page, 40);
        if flags & !FLAG_FOLLOWS != 0 || Lsn::new(raw_follows).get() != raw_follows {
            return Err(damaged("it has fields that cannot be"));
        }
        let instance = page.get(64..64 + INSTANCE_BYTES).unwrap_or_default();
        let end = instance.iter().position(|&byte| byte == 0);
        let instance = instance
            .get(..end.unwrap_or(INSTANCE_BYTES))
            .unwrap_or_default();
        Ok(Self {
            version,
            is_snapshot,
            number: read_u64(page, 16),
            file_bytes: read_u64(page, 24),
            epoch: read_u32(page, 32),
            follows: (flags & FLAG_FOLLOWS != 0)
                .then(|| (Lsn::new(raw_follows), read_u32(page, 56))),
            lineage: read_u64(page, 48),
            instance: String::from_utf8_lossy(instance).into_owned(),
        })
    }
}

/// Spreads a number over all bits (the finalizer of splitmix64): epochs of neighbouring files have nothing in common.
pub(crate) const fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// The seed of a file's checksums.
pub(crate) fn epoch_of(nonce: u64, number: u64) -> u32 {
    let [a, b, c, d, ..] = mix(nonce ^ mix(number)).to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            version: VERSION,
            is_snapshot: false,
            number: 7,
            file_bytes: FILE_BYTES_DEFAULT,
            epoch: 0xABCD,
            follows: Some((Lsn::new(9), 0x1234)),
            lineage: u64::MAX,
            instance: "default".to_owned(),
        }
    }

    #[test]
    fn header_comes_back_as_it_was_written() {
        for follows in [None, Some((Lsn::new(9), 0x1234))] {
            let header = Header {
                follows,
                ..header()
            };
            assert_eq!(Header::decode("log", &header.encode()).unwrap(), header);
        }
    }

    #[test]
    fn header_of_the_version_before_is_read_and_one_of_a_later_version_refused() {
        for (version, is_known) in [(0, false), (1, true), (2, true), (3, false)] {
            let page = Header {
                version,
                ..header()
            }
            .encode();
            match Header::decode("log", &page) {
                Ok(header) => assert!(is_known && header.version == version),
                Err(error) => {
                    assert!(!is_known, "{error}");
                    let text = error.to_string();
                    assert!(text.contains(&format!("version {version}")), "{text}");
                    assert!(text.contains("version 2 and the one before"), "{text}");
                }
            }
        }
    }

    #[test]
    fn flipped_bit_anywhere_in_a_header_is_found() {
        let page = header().encode();
        for at in 0..page.len() {
            let mut page = page.clone();
            page[at] ^= 1 << (at % 8);
            assert!(Header::decode("log", &page).is_err(), "byte {at}");
        }
        assert!(Header::decode("log", &page[..4095]).is_err());
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        assert_eq!(FileKey::of_name(&FileKey(0xfe).name()), Some(FileKey(0xfe)));
        assert_eq!(
            snapshot_of_name(&snapshot_name(Lsn::new(5))),
            Some(Lsn::new(5))
        );
        assert_eq!(spare_of_name(&spare_name(12)), Some(12));
        for name in [
            "log-1.qtj",
            "log-00000000000000FE.qtj",
            "spare-01.qtj",
            "spare-.qtj",
        ] {
            assert_eq!(FileKey::of_name(name), None, "{name}");
            assert_eq!(spare_of_name(name), None, "{name}");
        }
    }

    #[test]
    fn files_that_hold_no_largest_record_are_refused() {
        let mut config = JournalConfig::new("default", 1);
        assert!(config.check().is_ok());
        config.file_bytes = FILE_BYTES_MIN - 1;
        assert!(config.check().unwrap_err().to_string().contains("524288"));
    }
}
