//! Where bytes of a task lie: nowhere, in the slot, in the arena, or in a spill file.
//!
//! ```text
//!  63  62 61                          32 31                              0
//! +------+------------------------------+---------------------------------+
//! | kind |        length (30)           |  arena unit or spill number     |
//! +------+------------------------------+---------------------------------+
//! kind: 0 none, 1 inline, 2 arena (units of 64 bytes), 3 spill file
//! ```
//! Every bit pattern reads as some reference; whoever follows one checks unit and length against the arena, and the file's
//! length. Tested at the end of this file.

/// Longest blob a reference can name.
pub const BLOB_BYTES_MAX: u64 = (1 << 30) - 1;

/// A reference to the bytes of a payload or a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BlobRef {
    /// No bytes.
    #[default]
    None,
    /// In the slot.
    Inline {
        /// Bytes.
        len: u32,
    },
    /// In the arena.
    Arena {
        /// First unit of 64 bytes.
        unit: u32,
        /// Bytes.
        len: u32,
    },
    /// In a spill file.
    Spill {
        /// Number of the file.
        number: u32,
        /// Bytes.
        len: u32,
    },
}

impl BlobRef {
    /// Reads a word; every bit pattern is a reference, though perhaps to nothing.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "30 and 32 bits are cut out"
    )]
    pub const fn from_raw(raw: u64) -> Self {
        let len = ((raw >> 32) & BLOB_BYTES_MAX) as u32;
        let number = raw as u32;
        match raw >> 62 {
            1 => Self::Inline { len },
            2 => Self::Arena { unit: number, len },
            3 => Self::Spill { number, len },
            _ => Self::None,
        }
    }

    /// The word for the slot; a length above [`BLOB_BYTES_MAX`] is cut to it.
    #[must_use]
    pub const fn as_raw(self) -> u64 {
        let (kind, len, number) = match self {
            Self::None => return 0,
            Self::Inline { len } => (1, len, 0),
            Self::Arena { unit, len } => (2, len, unit),
            Self::Spill { number, len } => (3, len, number),
        };
        let len = if len as u64 > BLOB_BYTES_MAX {
            BLOB_BYTES_MAX
        } else {
            len as u64
        };
        (kind << 62) | (len << 32) | number as u64
    }

    /// Length in bytes.
    #[must_use]
    pub const fn len(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Inline { len } | Self::Arena { len, .. } | Self::Spill { len, .. } => len as u64,
        }
    }

    /// There are no bytes.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Where the bytes lie, as a word for people.
    #[must_use]
    pub const fn place(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Inline { .. } => "inline",
            Self::Arena { .. } => "arena",
            Self::Spill { .. } => "spill",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_survive_their_word() {
        for blob in [
            BlobRef::None,
            BlobRef::Inline { len: 64 },
            BlobRef::Arena {
                unit: u32::MAX,
                len: 65_536,
            },
            BlobRef::Spill {
                number: 1,
                len: (1 << 30) - 1,
            },
        ] {
            assert_eq!(BlobRef::from_raw(blob.as_raw()), blob);
        }
        assert_eq!(BlobRef::from_raw(0), BlobRef::None);
    }

    #[test]
    fn any_word_reads_as_some_reference() {
        fastrand::seed(5);
        for _ in 0..1000 {
            let blob = BlobRef::from_raw(fastrand::u64(..));
            assert!(blob.len() <= BLOB_BYTES_MAX);
            assert_eq!(BlobRef::from_raw(blob.as_raw()), blob);
        }
    }

    #[test]
    fn overlong_blob_is_cut_in_its_word() {
        let raw = BlobRef::Inline { len: u32::MAX }.as_raw();
        assert_eq!(BlobRef::from_raw(raw).len(), BLOB_BYTES_MAX);
    }
}
