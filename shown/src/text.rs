//! Text for people.
//!
//! Tested at the end of this file.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Whether a character is not seen and changes what is seen: it drives a terminal (controls: C0, DEL, C1), ends a line, or
/// turns the direction of what follows (a command can be shown that is not the one that runs).
#[must_use]
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            // Line and paragraph separator.
            '\u{2028}' | '\u{2029}'
            // Direction marks, embeddings and overrides, isolates.
            | '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text on one line, with an escape such as `\n` or `\u{202e}` for each hidden character.
#[must_use]
pub fn visible(text: &str) -> Cow<'_, str> {
    visible_but(text, |_| false)
}

/// The same, but for hidden characters that the writer has put there itself.
#[must_use]
pub fn visible_but(text: &str, is_own: impl Fn(char) -> bool) -> Cow<'_, str> {
    let is_escaped = |c: char| is_hidden(c) && !is_own(c);
    if !text.contains(is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len().saturating_add(16));
    for c in text.chars() {
        if is_escaped(c) {
            push_escaped(&mut shown, c);
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

fn push_escaped(shown: &mut String, c: char) {
    // Into memory: cannot fail.
    let _written = write!(shown, "{}", c.escape_default());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hidden_are_controls_line_ends_and_direction_marks_and_nothing_else() {
        let hidden: Vec<u32> = (0..=0x0010_ffff_u32)
            .filter(|code| char::from_u32(*code).is_some_and(is_hidden))
            .collect();
        let expected: Vec<u32> = (0..=0x1f)
            .chain(0x7f..=0x9f)
            .chain([0x061c, 0x200e, 0x200f, 0x2028, 0x2029])
            .chain(0x202a..=0x202e)
            .chain(0x2066..=0x2069)
            .collect();
        assert_eq!(hidden, expected);
    }

    #[test]
    fn escapes_can_be_read_and_other_text_is_as_it_was() {
        assert_eq!(
            visible("a\x1b[2J\n\t\u{7f}\u{9b}\u{202e}z"),
            r"a\u{1b}[2J\n\t\u{7f}\u{9b}\u{202e}z"
        );
        for text in ["", "\u{e4}\u{4e2d} \\n 'x'", "\u{1f469}\u{200d}\u{1f52c}"] {
            assert!(matches!(visible(text), Cow::Borrowed(same) if same == text));
        }
    }

    #[test]
    fn what_the_writer_has_put_there_stays() {
        assert_eq!(visible_but("\u{202e}a\n", |c| c == '\n'), "\\u{202e}a\n");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_hidden_character_is_left_and_no_seen_one_is_lost(
            text in proptest::collection::vec(any_character(), 0..40)
        ) {
            let text: String = text.into_iter().collect();
            let shown = visible(&text);
            prop_assert!(!shown.contains(is_hidden), "{shown:?}");
            let seen: String = text.chars().filter(|c| !is_hidden(*c)).collect();
            let mut rest = shown.chars();
            prop_assert!(seen.chars().all(|c| rest.any(|shown| shown == c)));
        }
    }

    /// Hidden ones often.
    fn any_character() -> impl Strategy<Value = char> {
        prop_oneof![
            any::<char>(),
            prop::char::range('\0', '\u{a0}'),
            prop::char::range('\u{2000}', '\u{2070}'),
        ]
    }
}
