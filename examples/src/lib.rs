//! What the example client and the example worker share: the form of their tasks and of their results.
//!
//! A task of kind `word_count` has a text as payload; its result says how often the most frequent word
//! stands in it. The two programs in `src/bin/` show the two libraries; `tests/` runs them against a real
//! daemon.

use std::collections::BTreeMap;

/// Kind of the tasks: the name under which the worker registers its handler.
pub const KIND: &str = "word_count";

/// The words of a text with their numbers, as lines `NUMBER WORD`, most frequent first, then by
/// alphabet.
#[must_use]
pub fn count_words(text: &str) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let words = text.split(|c: char| !c.is_alphanumeric());
    for word in words.filter(|word| !word.is_empty()) {
        *counts.entry(word.to_lowercase()).or_default() += 1;
    }
    let mut counts: Vec<(String, usize)> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| core::cmp::Reverse(*count));
    let lines = counts
        .iter()
        .map(|(word, count)| format!("{count} {word}\n"));
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::count_words;

    #[test]
    fn words_are_counted_without_regard_to_case_and_sorted() {
        assert_eq!(count_words("A b, a. C b A!"), "3 a\n2 b\n1 c\n");
        assert_eq!(count_words(" \n"), "");
    }
}

/// The Rust programs of the README are compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
