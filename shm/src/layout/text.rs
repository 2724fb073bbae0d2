//! Short texts in words of the segment: one byte of length, then UTF-8, padded with zeros.
//!
//! A text that another process is writing reads as some mixture; it is always a valid `String`, because what is not UTF-8
//! is replaced. Tested at the end of this file.

use crate::sync::{AtomicU64, Ordering};

/// LIMIT: the length is one byte.
const FIELD_BYTES_MAX: usize = 256;

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
    for (word, chunk) in words.iter().zip(bytes.as_chunks_mut::<8>().0) {
        // ORDERING: a torn text is legal, see the head of this file.
        *chunk = word.load(Ordering::Relaxed).to_le_bytes();
    }
    let [length, rest @ ..] = &bytes;
    let length = usize::from(*length).min(text_bytes_max(words.len()));
    String::from_utf8_lossy(&rest[..length]).into_owned()
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
}
