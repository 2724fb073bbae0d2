//! Reading records one after the other, and the tail rule.
//!
//! **Tail rule.** Where reading stops before the file does, the record that should be there has lsn x. If any valid record behind
//! that place (in this file or a later one, each with its own epoch) says that x or more was on stable storage when it was
//! written, then x had been there: that is damage, and an error. Otherwise x was never acknowledged: it and what follows is cut
//! off. A header that follows x or a later record is proof as well. Tested in `journal/tests/damage.rs` and `crashes.rs`.

use crate::Lsn;
use crate::file::HEADER_BYTES;
use crate::record::frame::{self, ALIGN, BadFrame, Frame, HEAD_BYTES};

/// Reads a file's records in order.
#[derive(Debug, Clone)]
pub(crate) struct Scanner<'a> {
    bytes: &'a [u8],
    epoch: u32,
    pub(crate) offset: usize,
    /// Lsn of the record that comes next, if it is known.
    pub(crate) expected: Option<Lsn>,
    /// Checksum of the record before, if it is known.
    pub(crate) chain: Option<u32>,
}

impl<'a> Scanner<'a> {
    /// Starts behind the header.
    pub(crate) const fn new(bytes: &'a [u8], epoch: u32) -> Self {
        Self {
            bytes,
            epoch,
            offset: HEADER_BYTES,
            expected: None,
            chain: None,
        }
    }

    pub(crate) const fn after(mut self, expected: Option<Lsn>, chain: Option<u32>) -> Self {
        self.expected = expected;
        self.chain = chain;
        self
    }

    /// The next record; after an error the place is unchanged.
    pub(crate) fn next(&mut self) -> Result<Frame<'a>, BadFrame> {
        let rest = self.bytes.get(self.offset..).unwrap_or_default();
        let frame = frame::parse(rest, self.epoch, self.expected)?;
        if self.chain.is_some_and(|chain| chain != frame.prev_crc) {
            return Err(BadFrame::Chain);
        }
        self.offset = self.offset.saturating_add(frame.span);
        self.expected = Some(frame.lsn.next());
        self.chain = Some(frame.crc);
        Ok(frame)
    }
}

/// A valid record beyond a place where reading stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Later {
    pub(crate) offset: usize,
    pub(crate) lsn: Lsn,
    pub(crate) durable: Lsn,
}

/// Looks from `from` on for a valid record that proves `wanted` to have been stable; else for the last valid record at all with
/// at least that lsn.
pub(crate) fn proof_of(bytes: &[u8], epoch: u32, from: usize, wanted: Lsn) -> Proof {
    let mut proof = Proof::default();
    // No file holds more records than that.
    let highest = wanted
        .get()
        .saturating_add((bytes.len() / HEAD_BYTES) as u64);
    let mut at = from.next_multiple_of(ALIGN);
    while let Some(rest) = bytes.get(at..).filter(|rest| rest.len() >= HEAD_BYTES) {
        let mut step = ALIGN;
        let lsn = frame::read_u64(rest, frame::AT_LSN);
        if (wanted.get()..=highest).contains(&lsn) {
            if let Ok(frame) = frame::parse(rest, epoch, None) {
                let later = Later {
                    offset: at,
                    lsn: frame.lsn,
                    durable: frame.durable,
                };
                proof.valid = proof.valid.max(Some(frame.lsn));
                if frame.durable >= wanted {
                    proof.stable = Some(later);
                    return proof;
                }
                step = frame.span;
            }
        } else if lsn == 0
            && rest
                .first_chunk()
                .is_some_and(|chunk| *chunk == [0; EMPTY_BYTES])
        {
            // A record that begins in here has its lsn behind the zeros.
            step = EMPTY_BYTES - frame::AT_LSN;
        }
        at = at.saturating_add(step);
    }
    proof
}

/// The first valid record from `from` on, whichever it is.
pub(crate) fn first_valid(bytes: &[u8], epoch: u32, from: usize) -> Option<Later> {
    let mut at = from.next_multiple_of(ALIGN);
    while let Some(rest) = bytes.get(at..).filter(|rest| rest.len() >= HEAD_BYTES) {
        if let Ok(frame) = frame::parse(rest, epoch, None) {
            return Some(Later {
                offset: at,
                lsn: frame.lsn,
                durable: frame.durable,
            });
        }
        let is_empty = rest
            .first_chunk()
            .is_some_and(|chunk| *chunk == [0; EMPTY_BYTES]);
        // A record that begins in here has its lsn behind the zeros.
        let step = if is_empty {
            EMPTY_BYTES - frame::AT_LSN
        } else {
            ALIGN
        };
        at = at.saturating_add(step);
    }
    None
}

/// Looked at together where a file was never written.
const EMPTY_BYTES: usize = 512;

/// What was found behind a place where reading stopped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Proof {
    /// A record that says that the missing one was on stable storage.
    pub(crate) stable: Option<Later>,
    /// The highest valid record, which does not.
    pub(crate) valid: Option<Lsn>,
}
