//! Short texts in words of the segment: one byte of length, then UTF-8, padded with zeros.
//!
//! A text that another process is writing reads as some mixture; it is always a valid `String`, because what is not UTF-8
//! is replaced. Tested at the end of this file.

use std::borrow::Cow;

use crate::sync::{AtomicU64, Ordering};

/// LIMIT: the length is one byte.
const FIELD_BYTES_MAX: usize = 256;
/// LIMIT: of a name; that of a kind is shorter.
const SHORT_BYTES_MAX: usize = 63;

/// A name that was copied out, without memory of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShortText {
    bytes: [u8; SHORT_BYTES_MAX],
    length: u8,
}

impl ShortText {
    /// These bytes, as many as there is room for.
    pub(crate) fn of(text: &[u8]) -> Self {
        let length = text.len().min(SHORT_BYTES_MAX);
        let mut bytes = [0; SHORT_BYTES_MAX];
        bytes[..length].copy_from_slice(&text[..length]);
        Self {
            bytes,
            // LIMIT: at most 63.
            length: u8::try_from(length).unwrap_or(0),
        }
    }

    /// The text; what is not UTF-8 in it is replaced.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        let bytes = &self.bytes[..usize::from(self.length)];
        // Mostly it is UTF-8, and this is the faster way to see that.
        core::str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed)
    }
}

/// Bytes of text that fit into `words` words.
#[must_use]
pub(crate) const fn text_bytes_max(words: usize) -> usize {
    let bytes = words * 8 - 1;
    if bytes > 255 { 255 } else { bytes }
}

/// Writes as much of `text` as fits, cut at a character.
pub(crate) fn store_text(words: &[AtomicU64], text: &str) {
    let mut length = text.len().min(text_bytes_max(words.len()));
    while !text.is_char_boundary(length) {
        length -= 1;
    }
    let mut bytes = [0_u8; FIELD_BYTES_MAX];
    // LIMIT: text_bytes_max is at most 255.
    bytes[0] = u8::try_from(length).unwrap_or(u8::MAX);
    bytes[1..=length].copy_from_slice(&text.as_bytes()[..length]);
    for (word, chunk) in words.iter().zip(bytes.as_chunks::<8>().0) {
        // ORDERING: published by the owner's state word ([task.state], [worker.state], [client.state]).
        word.store(u64::from_le_bytes(*chunk), Ordering::Relaxed);
    }
}

/// Reads a text.
pub(crate) fn load_text(words: &[AtomicU64]) -> String {
    let mut bytes = [0_u8; FIELD_BYTES_MAX];
    String::from_utf8_lossy(load(words, &mut bytes)).into_owned()
}

/// Reads a name.
pub(crate) fn load_short(words: &[AtomicU64; 8]) -> ShortText {
    let mut bytes = [0_u8; SHORT_BYTES_MAX + 1];
    ShortText::of(load(words, &mut bytes))
}

/// Copies a text out; what it gives is the part of `bytes` that is text.
fn load<'b>(words: &[AtomicU64], bytes: &'b mut [u8]) -> &'b [u8] {
    for (word, chunk) in words.iter().zip(bytes.as_chunks_mut::<8>().0) {
        // ORDERING: a torn text is legal, see the head of this file.
        *chunk = word.load(Ordering::Relaxed).to_le_bytes();
    }
    let [length, rest @ ..] = bytes else {
        return &[];
    };
    let length = usize::from(*length).min(text_bytes_max(words.len()));
    &rest[..length.min(rest.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words() -> [AtomicU64; 4] {
        Default::default()
    }

    #[test]
    fn zeroed_words_are_the_empty_text() {
        assert_eq!(load_text(&words()), "");
    }

    #[test]
    fn text_comes_back_and_long_text_is_cut_at_a_character() {
        let words = words();
        store_text(&words, "worker one");
        assert_eq!(load_text(&words), "worker one");
        store_text(&words, &"é".repeat(40));
        assert_eq!(load_text(&words), "é".repeat(15));
        store_text(&words, "");
        assert_eq!(load_text(&words), "");
    }

    #[test]
    fn any_words_read_as_some_text() {
        let words = words();
        fastrand::seed(3);
        for _ in 0..1000 {
            for word in &words {
                word.store(fastrand::u64(..), Ordering::Relaxed);
            }
            let _ = load_text(&words);
        }
    }

    #[test]
    fn name_reads_the_same_with_and_without_memory_of_its_own() {
        let words: [AtomicU64; 8] = Default::default();
        for name in ["", "worker one", &"é".repeat(40)] {
            store_text(&words, name);
            assert_eq!(load_short(&words).text(), load_text(&words));
        }
        fastrand::seed(5);
        for _ in 0..1000 {
            for word in &words {
                word.store(fastrand::u64(..), Ordering::Relaxed);
            }
            assert_eq!(load_short(&words).text(), load_text(&words));
        }
    }
}
