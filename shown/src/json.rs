//! JSON for programs: what is seen is written in UTF-8 as it is, what is hidden is escaped as JSON escapes.
//!
//! JSON demands that for the controls below U+0020 only; but a document may end up in a terminal, for which DEL and
//! U+009B are commands as well. A parser gets the very same string in either case. Tested at the end of this file.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};

use crate::text::is_hidden;

/// Writes one document, on one line, without a line end.
///
/// # Errors
/// What `out` says, or a value that JSON has no form for.
pub fn write(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    let mut serializer = Serializer::with_formatter(out, Visible(CompactFormatter));
    value.serialize(&mut serializer).map_err(io::Error::from)
}

/// Compact, with all that is hidden escaped.
#[derive(Debug)]
struct Visible(CompactFormatter);

impl Formatter for Visible {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| is_hidden(*c)) {
            let (seen, hidden) = rest.split_at(at);
            self.0.write_string_fragment(writer, seen)?;
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = hidden.get(c.len_utf8()..).unwrap_or_default();
        }
        self.0.write_string_fragment(writer, rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn written(value: &Value) -> String {
        let mut out = Vec::new();
        write(&mut out, value).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn real_characters_are_written_as_they_are_and_hidden_ones_escaped_once() {
        assert_eq!(
            written(&json!({"\u{e4}\u{202e}": "\u{4e2d}\\\"\n\u{1b}\u{7f}\u{9b}\u{2066}!"})),
            "{\"\u{e4}\\u202e\":\"\u{4e2d}\\\\\\\"\\n\\u001b\\u007f\\u009b\\u2066!\"}"
        );
    }

    #[test]
    fn what_cannot_be_written_is_an_error() {
        let full = write(&mut &mut [0_u8; 2][..], &"abc").unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::WriteZero);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn parser_gets_back_what_was_written_and_no_hidden_character_is_in_the_document(
            key in ".*", texts in proptest::collection::vec(any_text(), 0..4)
        ) {
            let value = json!({ key: texts });
            let text = written(&value);
            prop_assert!(!text.contains(is_hidden), "{text:?}");
            prop_assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        }

        #[test]
        fn seen_text_is_not_escaped(text in "[^\\pC\\p{Zl}\\p{Zp}\"\\\\]*") {
            prop_assert_eq!(written(&json!(text)), format!("\"{text}\""));
        }
    }

    fn any_text() -> impl Strategy<Value = String> {
        let character = prop_oneof![
            any::<char>(),
            prop::char::range('\0', '\u{a0}'),
            prop::char::range('\u{2000}', '\u{2070}'),
        ];
        proptest::collection::vec(character, 0..20).prop_map(String::from_iter)
    }
}
