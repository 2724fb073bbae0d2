//! The side record: 64 or 128 bytes in the arena for what few tasks need.
//!
//! ```text
//! offset  field             writer: the submitter, before the task is published
//!      0  array_id          raw task id of the array's first member, its own in the first; 0 = none
//!      8  array_index
//!     16  estimate_ms       is short 1 | result is kept for so many seconds 31, 0 = as long as others | expected run time 32; 0 = unknown
//!     24  submitted_unix_ms wall clock
//!     32  finish_by         stamp; 0 = none
//!     40  key_expiry        stamp at which the idempotency key may be forgotten
//!     48  key               16 bytes; 0 = none
//!     64  trace             16 bytes of trace id
//!     80  more              reference to facts
//!     88  start_by          stamp 48; 0 = none
//!     96  edges             unmet dependencies 32 | edges out 32                              from here on the PLM
//!    104  chains            unit of the first chunk of edges out 32 | of a gang's or cron's record 32, plus one each
//!    112  checkpoint        unit of its record plus one 32 | moves 16 | displaced 16
//!    120  target            worker 16 | place in the line of a retry 16 | not handed to again 16 | 0 16
//! ```
//! A record whose second half says nothing is cut to the first, and says so: a million of these fit into the default segment. Words without a user yet, from 80 on, are zero.
//! The key of a task that has no side record lies in the table of keys only, at the place that its slot names.
//! Tested at the end of this file.

use crate::layout::shared::shared_layout;
use crate::sync::AtomicU64;

/// Bytes of a whole side record: one arena chunk.
pub const SIDE_BYTES: usize = 128;
/// Bytes of one without its second half: the smallest chunk.
pub(crate) const SIDE_BYTES_SHORT: usize = 64;
/// In `estimate_ms`: the second half was left out.
const IS_SHORT: u64 = 1 << 63;

shared_layout! {
    /// A side record as it lies in the arena; see the drawing in this file's head.
    pub struct SideLayout: 128 bytes, align 64 {
        0 => array_id: AtomicU64,
        8 => array_index: AtomicU64,
        16 => estimate_ms: AtomicU64,
        24 => submitted_unix_ms: AtomicU64,
        32 => finish_by: AtomicU64,
        40 => key_expiry: AtomicU64,
        48 => key: [AtomicU64; 2],
        64 => trace: [AtomicU64; 2],
        80 => more: AtomicU64,
        88 => start_by: AtomicU64,
        96 => edges: AtomicU64,
        104 => chains: AtomicU64,
        112 => checkpoint: AtomicU64,
        120 => target: AtomicU64,
    }
}

/// What few tasks need, copied out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SideRecord {
    /// Raw id of the array's first member, which names itself; 0 = not in an array.
    pub array_id: u64,
    /// Index within the array.
    pub array_index: u64,
    /// Expected run time; 0 = unknown.
    pub estimate_ms: u32,
    /// How long its result is kept, in seconds, cut to 31 bits; 0 = as long as others.
    pub keep_s: u32,
    /// Wall clock of the submission, for display.
    pub submitted_unix_ms: u64,
    /// Stamp by which the task must have finished; 0 = none.
    pub finish_by: u64,
    /// Stamp at which the idempotency key may be forgotten.
    pub key_expiry: u64,
    /// Idempotency key; 0 = none.
    pub key: [u64; 2],
    /// Trace id of the submitter; 0 = none.
    pub trace: [u64; 2],
}

impl SideRecord {
    /// The bytes of the chunk, and how many of them are to be stored.
    pub(crate) fn encode(&self) -> ([u8; SIDE_BYTES], usize) {
        let is_short = self.trace == [0, 0];
        let form = if is_short { IS_SHORT } else { 0 };
        let numbers = [
            self.array_id,
            self.array_index,
            form | ((u64::from(self.keep_s) << 32) & !IS_SHORT) | u64::from(self.estimate_ms),
            self.submitted_unix_ms,
            self.finish_by,
            self.key_expiry,
            self.key[0],
            self.key[1],
            self.trace[0],
            self.trace[1],
        ];
        let mut bytes = [0; SIDE_BYTES];
        for (chunk, number) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(numbers) {
            *chunk = number.to_le_bytes();
        }
        let count = if is_short {
            SIDE_BYTES_SHORT
        } else {
            SIDE_BYTES
        };
        (bytes, count)
    }

    /// Says whether a chunk that begins so has no second half.
    pub(crate) fn is_short(first: &[u8; SIDE_BYTES_SHORT]) -> bool {
        let (words, _) = first.as_chunks::<8>();
        words
            .get(2)
            .is_some_and(|word| u64::from_le_bytes(*word) & IS_SHORT != 0)
    }

    /// Reads the bytes of a chunk, without a second half zeros in its place; every content is some record.
    pub(crate) fn decode(bytes: &[u8; SIDE_BYTES]) -> Self {
        let (words, _) = bytes.as_chunks::<8>();
        let word = |index: usize| words.get(index).map_or(0, |word| u64::from_le_bytes(*word));
        Self {
            array_id: word(0),
            array_index: word(1),
            estimate_ms: u32::try_from(word(2) & u64::from(u32::MAX)).unwrap_or(u32::MAX),
            keep_s: u32::try_from((word(2) & !IS_SHORT) >> 32).unwrap_or(u32::MAX),
            submitted_unix_ms: word(3),
            finish_by: word(4),
            key_expiry: word(5),
            key: [word(6), word(7)],
            trace: [word(8), word(9)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn side_record_comes_back_as_it_was_stored() {
        let record = SideRecord {
            array_id: 1 << 24,
            array_index: 999,
            estimate_ms: 1500,
            keep_s: (1 << 31) - 1,
            submitted_unix_ms: 1_700_000_000_000,
            finish_by: 5,
            key_expiry: 6,
            key: [7, 8],
            trace: [9, 10],
        };
        let (bytes, count) = record.encode();
        assert_eq!((SideRecord::decode(&bytes), count), (record, SIDE_BYTES));
        assert_eq!(SideRecord::decode(&[0; SIDE_BYTES]), SideRecord::default());
    }

    #[test]
    fn record_without_a_second_half_takes_the_smallest_chunk() {
        let record = SideRecord {
            array_id: 1 << 24,
            array_index: u64::MAX,
            estimate_ms: u32::MAX,
            keep_s: 86_400,
            submitted_unix_ms: 1_700_000_000_000,
            finish_by: 5,
            key_expiry: 6,
            key: [7, 8],
            ..SideRecord::default()
        };
        let (bytes, count) = record.encode();
        assert_eq!(count, SIDE_BYTES_SHORT);
        assert!(bytes[count..].iter().all(|&byte| byte == 0));
        assert!(SideRecord::is_short(bytes.first_chunk().unwrap()));
        assert_eq!(SideRecord::decode(&bytes), record);
        let record = SideRecord {
            trace: [0, 1],
            ..record
        };
        let (bytes, count) = record.encode();
        assert_eq!(count, SIDE_BYTES);
        assert!(!SideRecord::is_short(bytes.first_chunk().unwrap()));
        assert_eq!(SideRecord::decode(&bytes), record);
    }

    #[test]
    fn any_bytes_read_as_some_record() {
        fastrand::seed(6);
        for _ in 0..1000 {
            let mut bytes = [0; SIDE_BYTES];
            fastrand::fill(&mut bytes);
            let _ = SideRecord::decode(&bytes);
        }
    }
}
