//! Taking a body apart: nothing is believed, lengths must add up.
//!
//! Tested in `journal/tests/journal/records.rs`.

use core::str;

use qtf_shm::id::GENERATION_MAX;
use qtf_shm::{KeyId, TaskId};

use super::decode::BadRecord;

/// Takes parts off the front of a body.
pub(super) struct Parts<'a> {
    pub(super) rest: &'a [u8],
}

impl<'a> Parts<'a> {
    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8], BadRecord> {
        let (part, rest) = self.rest.split_at_checked(count).ok_or(BadRecord::Length)?;
        self.rest = rest;
        Ok(part)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], BadRecord> {
        let (part, rest) = self.rest.split_first_chunk().ok_or(BadRecord::Length)?;
        self.rest = rest;
        Ok(*part)
    }

    pub(super) fn u8(&mut self) -> Result<u8, BadRecord> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, BadRecord> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, BadRecord> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, BadRecord> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn zeros(&mut self, count: usize) -> Result<(), BadRecord> {
        let zeros = self.bytes(count)?;
        if zeros.iter().all(|&byte| byte == 0) {
            Ok(())
        } else {
            Err(BadRecord::Field)
        }
    }

    pub(super) fn task(&mut self) -> Result<TaskId, BadRecord> {
        let raw = self.u64()?;
        TaskId::from_raw(raw).ok_or(BadRecord::TaskId(raw))
    }

    /// Up to which generation ids are reserved.
    pub(super) fn gen_limit(&mut self) -> Result<u64, BadRecord> {
        let limit = self.u64()?;
        if limit > GENERATION_MAX {
            return Err(BadRecord::OfGrid(limit));
        }
        Ok(limit)
    }

    pub(super) fn key(&mut self) -> Result<KeyId, BadRecord> {
        KeyId::from_bytes(&self.array()?).ok_or(BadRecord::Field)
    }

    /// All that is left.
    pub(super) const fn rest_as_bytes(&mut self) -> &'a [u8] {
        let rest = self.rest;
        self.rest = &[];
        rest
    }

    pub(super) fn rest_as_text(&mut self) -> Result<&'a str, BadRecord> {
        str::from_utf8(self.rest_as_bytes()).map_err(|_| BadRecord::Text)
    }

    pub(super) fn text(&mut self, count: u8) -> Result<&'a str, BadRecord> {
        str::from_utf8(self.bytes(usize::from(count))?).map_err(|_| BadRecord::Text)
    }

    pub(super) const fn end(&self) -> Result<(), BadRecord> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(BadRecord::Length)
        }
    }
}
