//! Commands with holes: splits `CMD` into words as a shell would, and fills `{}` and `%{index}`.
//!
//! Everything is bytes: neither the command nor an input need be UTF-8. Splitting comes before
//! filling, so an input with spaces or quotes stays inside its one argument.
//! Tested at the end of this file.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

/// An argument, byte for byte.
pub(crate) type Argument = Vec<u8>;

/// Where `qtf map` puts the input.
const INPUT_HOLE: &[u8] = b"{}";
/// Where `qtf submit --array` puts the index.
const INDEX_HOLE: &[u8] = b"%{index}";

/// The command of `qtf map`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    words: Vec<Argument>,
    has_hole: bool,
}

/// Why a command cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TemplateError {
    /// There is no command.
    #[error(
        "no command given; write it before the inputs, as in qtf map 'sha256sum {{}}' ::: FILES"
    )]
    Empty,
    /// A quote is not closed.
    #[error("a quote is not closed in the command `{command}`")]
    OpenQuote { command: String },
    /// What follows would be left out.
    #[error(
        "a # begins a word of the command `{command}`, and to a shell a comment: write \\# or quote the word; or leave the comment out"
    )]
    Comment { command: String },
    /// It would be handed over as it is, which nobody who writes it means.
    #[error(
        "{hole} is nothing that is filled in: {{}} is the input, and for a part of it have a shell run the command, as in \
         qtf map sh -c 'convert \"$1\" \"${{1%.*}}.png\"' sh {{}} ::: FILES; for the text itself write \\{hole} in quotes"
    )]
    Hole { hole: String },
    /// A shell would make more than one command of it, or redirect; as an argument it would be taken for nothing of the kind.
    #[error(
        "no shell runs, and an unquoted {operator} of the command `{command}` is a shell's: quote it if it is part of a word, or have \
         the commands run by a shell, as in qtf map sh -c 'gzip -c \"$1\" > \"$1.gz\"' sh {{}} ::: FILES"
    )]
    Operator { operator: char, command: String },
}

/// What GNU parallel fills in besides `{}`.
const PARALLEL: [&[u8]; 6] = [b"{.}", b"{/}", b"{//}", b"{/.}", b"{#}", b"{%}"];
/// Names that mean the index where they stand for one.
const NEAR_INDEX: [&[u8]; 5] = [b"index", b"idx", b"ind", b"i", b"n"];

impl Template {
    /// Makes a template of one string, which is split as a shell would, or of several words, which
    /// are taken as they are. Without `{}` the input becomes the last argument.
    pub(crate) fn new(mut words: Vec<OsString>) -> Result<Self, TemplateError> {
        let words = match (words.pop(), words.is_empty()) {
            (None, _) => return Err(TemplateError::Empty),
            (Some(command), true) => split(&command.into_vec())?,
            (Some(last), false) => {
                words.push(last);
                words.into_iter().map(OsString::into_vec).collect()
            }
        };
        if words.first().is_none_or(Vec::is_empty) {
            return Err(TemplateError::Empty);
        }
        if let Some(hole) = words
            .iter()
            .flat_map(|word| holes_of_others(word, false))
            .next()
        {
            return Err(TemplateError::Hole { hole });
        }
        let has_hole = words.iter().any(|word| find(word, INPUT_HOLE).is_some());
        Ok(Template { words, has_hole })
    }

    /// The argument vector for one input.
    pub(crate) fn fill(&self, input: &[u8]) -> Vec<Argument> {
        let filled = self
            .words
            .iter()
            .map(|word| replace(word, INPUT_HOLE, input));
        let appended = (!self.has_hole).then(|| input.to_vec());
        filled.chain(appended).collect()
    }
}

/// Fills `%{index}` in a text: an argument, the value of a variable, the name of a file.
pub(crate) fn fill_index(text: &[u8], index: u64) -> Vec<u8> {
    replace(text, INDEX_HOLE, index.to_string().as_bytes())
}

/// Whether `%{index}` stands in a text.
pub(crate) fn names_index(text: &[u8]) -> bool {
    find(text, INDEX_HOLE).is_some()
}

/// What looks as if it would be filled in and is not: placeholders of GNU parallel, and `%{name}`: any in a member of an `array`, else those
/// that are near to `%{index}` (`%{http_code}` is curl's). Behind a backslash, or where a shell or a template of another program has
/// brackets of its own (`${#}`, `{{.}}`), they are meant as they stand.
pub(crate) fn holes_of_others(text: &[u8], is_array: bool) -> impl Iterator<Item = String> {
    let at = (0..text.len()).filter_map(move |at| {
        let is_kept = at > 0 && matches!(text[at - 1], b'\\' | b'$' | b'{' | b'%');
        let length = other_hole(&text[at..]).filter(|_| !is_kept)?;
        let hole = &text[at..at + length];
        let is_near = || {
            let name = hole
                .strip_prefix(b"%{")
                .and_then(|rest| rest.strip_suffix(b"}"));
            name.is_none_or(|name| NEAR_INDEX.contains(&name.to_ascii_lowercase().as_slice()))
        };
        (is_array && hole != INDEX_HOLE || !is_array && is_near()).then_some(hole)
    });
    at.map(|hole| String::from_utf8_lossy(hole).into_owned())
}

/// The length of what another program would fill in, or `%{index}`, that a text begins with.
fn other_hole(text: &[u8]) -> Option<usize> {
    if let Some(hole) = PARALLEL.iter().find(|hole| text.starts_with(hole)) {
        return Some(hole.len());
    }
    let name = text.strip_prefix(b"%{")?;
    let length = name
        .iter()
        .position(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_')?;
    (length > 0 && name[length] == b'}').then_some(length + 3)
}

/// Splits as a shell would. The splitter works on characters; each byte becomes the character of the
/// same number and back, which is lossless because only ASCII characters have a meaning to it.
fn split(command: &[u8]) -> Result<Vec<Argument>, TemplateError> {
    match first_for_a_shell(command) {
        Some(b'#') => {
            return Err(TemplateError::Comment {
                command: String::from_utf8_lossy(command).into_owned(),
            });
        }
        Some(operator) => {
            return Err(TemplateError::Operator {
                operator: char::from(operator),
                command: String::from_utf8_lossy(command).into_owned(),
            });
        }
        None => {}
    }
    let characters: String = command.iter().copied().map(char::from).collect();
    let words = shell_words::split(&characters).map_err(|_| TemplateError::OpenQuote {
        command: String::from_utf8_lossy(command).into_owned(),
    })?;
    let to_bytes = |word: String| word.chars().filter_map(|c| u8::try_from(c).ok()).collect();
    Ok(words.into_iter().map(to_bytes).collect())
}

/// The first byte that is not quoted and begins a comment or is an operator to a shell.
fn first_for_a_shell(command: &[u8]) -> Option<u8> {
    let mut quote = None;
    let mut begins_word = true;
    let mut bytes = command.iter().copied();
    while let Some(byte) = bytes.next() {
        match (quote, byte) {
            (None, b'#') if begins_word => return Some(byte),
            (None, b';' | b'|' | b'&' | b'<' | b'>') => return Some(byte),
            (None | Some(b'"'), b'\\') => {
                // Whatever it is, it means nothing.
                bytes.next();
            }
            (None, b'\'' | b'"') => quote = Some(byte),
            (Some(open), _) if open == byte => quote = None,
            _ => {}
        }
        begins_word = quote.is_none() && matches!(byte, b' ' | b'\t' | b'\n');
    }
    None
}

fn find(text: &[u8], needle: &[u8]) -> Option<usize> {
    text.windows(needle.len())
        .position(|window| window == needle)
}

/// Fills the hole; a backslash goes that keeps what looks like a hole from being taken for one.
fn replace(text: &[u8], hole: &[u8], with: &[u8]) -> Vec<u8> {
    let mut filled = Vec::with_capacity(text.len().saturating_add(with.len()));
    let mut rest = text;
    while let Some((&first, behind)) = rest.split_first() {
        let kept = Some(behind).filter(|_| first == b'\\').and_then(other_hole);
        if let Some(length) = kept {
            filled.extend_from_slice(&behind[..length]);
            rest = &behind[length..];
        } else if let Some(behind) = rest.strip_prefix(hole) {
            filled.extend_from_slice(with);
            rest = behind;
        } else {
            filled.push(first);
            rest = behind;
        }
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(words: &[&[u8]]) -> Result<Template, TemplateError> {
        Template::new(
            words
                .iter()
                .map(|word| OsString::from_vec(word.to_vec()))
                .collect(),
        )
    }

    fn filled(words: &[&[u8]], input: &[u8]) -> Vec<Vec<u8>> {
        template(words).unwrap().fill(input)
    }

    #[test]
    fn one_string_is_split_as_a_shell_would() {
        let words = filled(&[br#"sh -c 'echo "$1"' x "{} b" c\ d"#], b"A");
        assert_eq!(
            words,
            [&b"sh"[..], b"-c", br#"echo "$1""#, b"x", b"A b", b"c d"]
        );
    }

    #[test]
    fn several_words_are_taken_as_they_are() {
        assert_eq!(
            filled(&[b"my prog", b"a b", b"{}"], b"x"),
            [&b"my prog"[..], b"a b", b"x"]
        );
    }

    #[test]
    fn an_input_stays_one_argument_byte_for_byte() {
        for input in [
            &b"a b"[..],
            b"it's",
            b"\"",
            b"a\nb",
            b"$(rm x)",
            b"\xff\xfe",
            b"{}",
            b"",
        ] {
            assert_eq!(filled(&[b"cat {}"], input), [b"cat", input]);
            assert_eq!(filled(&[b"cat"], input), [b"cat", input]);
        }
    }

    #[test]
    fn holes_may_be_many_and_anywhere() {
        let words = filled(&[b"{}/bin/x -o={}.{} {}"], b"Q");
        assert_eq!(words, [&b"Q/bin/x"[..], b"-o=Q.Q", b"Q"]);
    }

    #[test]
    fn a_command_that_is_not_utf8_survives_the_splitting() {
        assert_eq!(
            filled(&[b"caf\xe9 '\xff \xc3\xa9' {}"], b"x"),
            [&b"caf\xe9"[..], b"\xff \xc3\xa9", b"x"]
        );
        // A no-break space (0xA0) and the like are not separators.
        assert_eq!(filled(&[b"a\xa0b\x85c"], b"x"), [&b"a\xa0b\x85c"[..], b"x"]);
    }

    #[test]
    fn no_command_is_an_error() {
        assert_eq!(template(&[]), Err(TemplateError::Empty));
        for command in [&b""[..], b"  ", b"''"] {
            assert_eq!(template(&[command]), Err(TemplateError::Empty));
        }
        assert!(matches!(
            template(&[b"echo 'a"]),
            Err(TemplateError::OpenQuote { .. })
        ));
    }

    #[test]
    fn nothing_is_taken_for_a_comment_without_a_word() {
        for command in [
            &b"echo 'task' #{} of all"[..],
            b"# comment",
            b"a\t#b",
            b"a\n#b",
            br#"a "b\" c" #d"#,
        ] {
            let error = template(&[command]).unwrap_err();
            assert!(matches!(error, TemplateError::Comment { .. }), "{error}");
            assert!(error.to_string().contains(r"write \# or quote"), "{error}");
        }
        assert_eq!(
            filled(
                &[br##"echo task \#{} '#{}' "a #{}" x#y a\ #z '' "\"" '"'#"##],
                b"7"
            ),
            [
                &b"echo"[..],
                b"task",
                b"#7",
                b"#7",
                b"a #7",
                b"x#y",
                b"a #z",
                b"",
                b"\"",
                b"\"#"
            ]
        );
        // Several words are no shell's business.
        assert_eq!(filled(&[b"echo", b"#{}"], b"7"), [&b"echo"[..], b"#7"]);
    }

    #[test]
    fn what_only_a_shell_could_do_is_refused_and_not_handed_over_as_words() {
        for (command, operator) in [
            (&b"sleep 1; echo {}"[..], ';'),
            (b"cat {} | wc -l", '|'),
            (b"sort {} >{}.sorted", '>'),
            (b"tr a b <{}", '<'),
            (b"true && echo {}", '&'),
            (br#"echo "a\";b" 'c|d';"#, ';'),
        ] {
            let error = template(&[command]).unwrap_err();
            assert!(
                matches!(error, TemplateError::Operator { operator: found, .. } if found == operator),
                "{error}"
            );
            assert!(error.to_string().contains("qtf map sh -c"), "{error}");
        }
        assert_eq!(
            filled(&[br#"echo \; 'a|b' "c&d" \>{}"#], b"7"),
            [&b"echo"[..], b";", b"a|b", b"c&d", b">7"]
        );
        // Several words are no shell's business.
        assert_eq!(
            filled(&[b"echo", b"a;b", b"{}"], b"7"),
            [&b"echo"[..], b"a;b", b"7"]
        );
    }

    #[test]
    fn placeholders_that_are_not_ours_are_refused_unless_a_backslash_keeps_them() {
        for hole in [
            "{.}", "{/}", "{//}", "{/.}", "{#}", "{%}", "%{idx}", "%{INDEX}",
        ] {
            for words in [vec!["echo", "a", hole], vec!["echo 'x{}' ", hole]] {
                let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
                let text = template(&words).unwrap_err().to_string();
                assert!(
                    text.contains(&format!("write \\{hole} in quotes")),
                    "{text}"
                );
            }
            let kept = format!("a\\{hole}b");
            assert_eq!(
                filled(&[b"echo", kept.as_bytes(), b"{}"], b"7")[1],
                format!("a{hole}b").into_bytes()
            );
        }
        // Those of shells and other programs.
        for word in ["${#}", "{{.}}", "%{http_code}", "a{1}", "{", "%{", "\\"] {
            assert_eq!(
                filled(&[b"echo", word.as_bytes(), b"{}"], b"7")[1],
                word.as_bytes()
            );
        }
        // What an input holds is nobody's placeholder.
        assert_eq!(filled(&[b"echo", b"{}"], br"\{.}")[1], br"\{.}");
    }

    #[test]
    fn members_of_an_array_have_the_index_and_nothing_else_to_be_filled_in() {
        let others = |text: &str| holes_of_others(text.as_bytes(), true).collect::<Vec<_>>();
        assert_eq!(others("%{index} %{task} {#}"), ["%{task}", "{#}"]);
        assert_eq!(others(r"\%{task} ${#} {}"), Vec::<String>::new());
        assert_eq!(
            fill_index(br"\%{task}-%{index}-\%{index}", 4),
            b"%{task}-4-%{index}"
        );
    }

    #[test]
    fn the_index_is_filled_in_wherever_it_is_named() {
        for (text, filled) in [
            (&b"--part=%{index}"[..], &b"--part=42"[..]),
            (b"%{index}-%{index}", b"42-42"),
        ] {
            assert!(names_index(text));
            assert_eq!(fill_index(text, 42), filled);
        }
        for text in [&b"%index"[..], b"{}"] {
            assert!(!names_index(text));
            assert_eq!(fill_index(text, 42), text);
        }
    }
}
