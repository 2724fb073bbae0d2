//! Bytes in shared words, copied in and out: never a `&[u8]` into memory that others write.
//!
//! Words are relaxed atomics. A peer that writes where it must not can tear what is read, no more; who
//! may read what is decided by the words that guard the bytes (chunk words, state words).

use crate::sync::{AtomicU64, Ordering};

const WORD: usize = 8;

/// Copies `bytes` into `words`, starting `offset` bytes in. False, and nothing written, when they do
/// not fit. Only one process at a time may write to these words.
pub fn copy_in(words: &[AtomicU64], offset: usize, bytes: &[u8]) -> bool {
    let Some(words) = covering(words, offset, bytes.len()) else {
        return false;
    };
    let (head, rest) = bytes.split_at(head_len(offset).min(bytes.len()));
    let (first, words) = words.split_at(usize::from(!head.is_empty()));
    let (body, tail) = rest.as_chunks::<WORD>();
    for (bytes, word) in body.iter().zip(words) {
        // ORDERING: published by the release of the word that guards these bytes.
        word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
    }
    merge(first.first(), offset % WORD, head);
    merge(words.get(body.len()), 0, tail);
    true
}

/// Fills `out` from `words`, starting `offset` bytes in. False, and nothing read, when there are not
/// so many.
#[must_use]
pub fn copy_out(words: &[AtomicU64], offset: usize, out: &mut [u8]) -> bool {
    let Some(words) = covering(words, offset, out.len()) else {
        return false;
    };
    let (head, rest) = out.split_at_mut(head_len(offset).min(out.len()));
    let (first, words) = words.split_at(usize::from(!head.is_empty()));
    let (body, tail) = rest.as_chunks_mut::<WORD>();
    for (out, word) in body.iter_mut().zip(words) {
        // ORDERING: acquired by the look at the word that guards these bytes.
        *out = word.load(Ordering::Relaxed).to_ne_bytes();
    }
    extract(first.first(), offset % WORD, head);
    extract(words.get(body.len()), 0, tail);
    true
}

/// Bytes before the first whole word.
const fn head_len(offset: usize) -> usize {
    (WORD - offset % WORD) % WORD
}

/// The words that hold `len` bytes from `offset` on.
fn covering(words: &[AtomicU64], offset: usize, len: usize) -> Option<&[AtomicU64]> {
    let end = offset.checked_add(len)?;
    words.get(offset / WORD..end.div_ceil(WORD).max(offset / WORD))
}

/// Writes a part of a word.
fn merge(word: Option<&AtomicU64>, at: usize, bytes: &[u8]) {
    let Some(word) = word.filter(|_| !bytes.is_empty()) else {
        return;
    };
    // In a register: bytes written to memory one by one and read as a word would have to wait for each other.
    let (mut written, mut mask) = (0, 0);
    for (place, byte) in (at..WORD).zip(bytes) {
        written |= u64::from(*byte) << (8 * place);
        mask |= 0xFF << (8 * place);
    }
    // ORDERING: nobody else writes this word.
    let before = u64::from_le(word.load(Ordering::Relaxed));
    let merged = (before & !mask | written).to_le();
    // ORDERING: published by the release of the word that guards these bytes.
    word.store(merged, Ordering::Relaxed);
}

/// Reads a part of a word.
fn extract(word: Option<&AtomicU64>, at: usize, out: &mut [u8]) {
    if let Some(word) = word.filter(|_| !out.is_empty()) {
        // ORDERING: acquired by the look at the word that guards these bytes.
        let bytes = word.load(Ordering::Relaxed).to_ne_bytes();
        out.copy_from_slice(&bytes[at..at + out.len()]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{copy_in, copy_out};
    use crate::sync::zeroed_words;

    proptest! {
        #[test]
        fn bytes_come_out_as_they_went_in(
            writes in prop::collection::vec((0_usize..90, prop::collection::vec(any::<u8>(), 0..70)), 1..8),
            (from, len) in (0_usize..90, 0_usize..90),
        ) {
            let words = zeroed_words(10);
            let mut model = [0_u8; 80];
            for (offset, bytes) in writes {
                let fits = offset + bytes.len() <= 80;
                prop_assert_eq!(copy_in(&words, offset, &bytes), fits);
                if fits {
                    model[offset..offset + bytes.len()].copy_from_slice(&bytes);
                }
            }
            let mut out = vec![0; len];
            let fits = from + len <= 80;
            prop_assert_eq!(copy_out(&words, from, &mut out), fits);
            if fits {
                prop_assert_eq!(&out, &model[from..from + len]);
            }
        }
    }

    #[test]
    fn offsets_that_overflow_are_refused() {
        let words = zeroed_words(2);
        assert!(!copy_in(&words, usize::MAX, &[1, 2]));
        assert!(!copy_out(&words, usize::MAX - 1, &mut [0; 9]));
    }
}
