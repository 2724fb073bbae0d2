//! Commands as they can be read and pasted into a shell.
//!
//! An argument is any bytes. A word is quoted where a shell would not take it as it is. For people hidden characters and
//! bytes that are no UTF-8 become the shell's own escapes, `$'\n'`; for programs only the latter do, since JSON escapes
//! what is hidden itself. Tested at the end of this file.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::text::{is_hidden, visible};

/// What is shown of a command. `Display` is for people, `Serialize` for programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandLine {
    /// Program and arguments.
    Words {
        /// As far as they are known.
        words: Vec<Vec<u8>>,
        /// What is said of the rest; empty when there is none.
        mark: &'static str,
    },
    /// Text in place of a command, for what has none.
    Text(String),
}

impl CommandLine {
    fn joined(&self, is_escaped: fn(char) -> bool) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Words { words, mark } => {
                let words = words.iter().map(|word| quoted_but(word, is_escaped));
                let mark = (!mark.is_empty()).then(|| (*mark).to_owned());
                words.chain(mark).collect::<Vec<_>>().join(" ")
            }
        }
    }
}

impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&visible(&self.joined(is_hidden)))
    }
}

impl Serialize for CommandLine {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.joined(|_| false))
    }
}

/// One argument, for people, in the form in which a shell would read it back.
#[must_use]
pub fn quoted(word: &[u8]) -> String {
    quoted_but(word, is_hidden)
}

fn quoted_but(word: &[u8], is_escaped: fn(char) -> bool) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_@%+=:,./-".contains(byte);
    match std::str::from_utf8(word) {
        Ok(text) if !word.is_empty() && word.iter().all(is_plain) => text.to_owned(),
        Ok(text) if !text.contains(is_escaped) => format!("'{}'", text.replace('\'', r"'\''")),
        _ => ansi_quoted(word, is_escaped),
    }
}

/// In the quotes in which a shell knows escapes of bytes.
fn ansi_quoted(word: &[u8], is_escaped: fn(char) -> bool) -> String {
    let mut text = "$'".to_owned();
    let escape = |text: &mut String, bytes: &[u8]| {
        for byte in bytes {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    };
    for chunk in word.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\'' | '\\' => text.extend(['\\', c]),
                '\n' if is_escaped(c) => text.push_str("\\n"),
                '\t' if is_escaped(c) => text.push_str("\\t"),
                '\r' if is_escaped(c) => text.push_str("\\r"),
                _ if is_escaped(c) => escape(&mut text, c.encode_utf8(&mut [0; 4]).as_bytes()),
                _ => text.push(c),
            }
        }
        escape(&mut text, chunk.invalid());
    }
    text.push('\'');
    text
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt as _;
    use std::process::Command;

    use super::*;
    use proptest::prelude::*;

    fn command(words: &[&[u8]], mark: &'static str) -> CommandLine {
        let words = words.iter().map(|word| word.to_vec()).collect();
        CommandLine::Words { words, mark }
    }

    fn json(command: &CommandLine) -> String {
        let value = serde_json::to_value(command).unwrap();
        value.as_str().unwrap().to_owned()
    }

    #[test]
    fn arguments_are_quoted_as_a_shell_reads_them() {
        let whole = command(&[b"ls", b"-l", b"a b", b"it's", b""], "");
        assert_eq!(whole.to_string(), r"ls -l 'a b' 'it'\''s' ''");
        let cut = command(&[b"x", b"a\nb", b"\xff"], "...");
        assert_eq!(cut.to_string(), r"x $'a\nb' $'\xff' ...");
        let turned = command(&["\u{e4}\u{202e}\u{9b}\u{7f}'".as_bytes()], "");
        assert_eq!(
            turned.to_string(),
            "$'\u{e4}\\xe2\\x80\\xae\\xc2\\x9b\\x7f\\''"
        );
    }

    #[test]
    fn programs_get_hidden_characters_as_they_are() {
        let odd = command(&[b"x", "a\n\u{202e}\\".as_bytes(), b"\xff\n\\"], "...");
        assert_eq!(json(&odd), "x 'a\n\u{202e}\\' $'\\xff\n\\\\' ...");
    }

    #[test]
    fn text_in_place_of_a_command_is_made_visible_for_people_only() {
        let text = CommandLine::Text("a\u{202e} (5 bytes)".to_owned());
        assert_eq!(text.to_string(), r"a\u{202e} (5 bytes)");
        assert_eq!(json(&text), "a\u{202e} (5 bytes)");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        /// Both forms, through a real shell.
        #[test]
        fn a_shell_reads_back_the_arguments(words in proptest::collection::vec(any_word(), 1..8)) {
            let command = CommandLine::Words { words: words.clone(), mark: "" };
            prop_assert!(!command.to_string().contains(is_hidden));
            for line in [command.to_string(), json(&command)] {
                let script = format!("printf '%s\\0' {line}");
                let output = Command::new("bash").arg("-c")
                    .arg(OsString::from_vec(script.into_bytes())).output().unwrap();
                let mut expected = words.join(&0);
                expected.push(0);
                prop_assert_eq!(output.stdout, expected, "{}", line);
            }
        }
    }

    /// What an argument can hold: anything but NUL; text, bytes, and what is special to a shell, often.
    fn any_word() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            prop::char::range('\u{1}', '\u{a0}').prop_map(|c| c.to_string().into_bytes()),
            prop::char::range('\u{2000}', '\u{2070}').prop_map(|c| c.to_string().into_bytes()),
            (1_u8..=255).prop_map(|byte| vec![byte]),
            "[a-f0-9'\"\\\\$`!#*~ ]{1,3}".prop_map(String::into_bytes),
        ];
        proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
    }
}
