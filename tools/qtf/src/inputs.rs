//! The inputs of `qtf map`: words after `:::`, lines of files after `::::`, or lines on stdin.
//!
//! Inputs are bytes. A reader thread turns them into a bounded stream, so that any number of inputs
//! takes little memory. Invariant: no input holds a NUL byte or more bytes than an argument may have.
//! Tested at the end of this file.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use tokio::sync::mpsc;

/// LIMIT: Linux takes no single argument of 128 KiB or more (`MAX_ARG_STRLEN`), counted with its NUL.
pub(crate) const INPUT_BYTES_MAX: usize = 128 * 1024 - 1;

/// LIMIT: inputs read ahead of their submission.
const READ_AHEAD: usize = 256;

/// Where inputs come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The words after `:::`.
    Words(Vec<OsString>),
    /// The lines of the files after `::::`, one file after the other; `-` is stdin.
    Files(Vec<PathBuf>),
    /// Lines on stdin.
    Stdin,
}

/// Why inputs cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    /// `::::` without a file.
    #[error("`::::` needs the name of a file, or `-` for stdin")]
    NoFile,
    /// A second separator, which other programs take for a product of lists.
    #[error(
        "`{0}` stands a second time; give all inputs after one `:::`, or files after one `::::`"
    )]
    SecondSeparator(&'static str),
    /// A separator that other programs have.
    #[error(
        "`{0}`, with which GNU parallel links lists of inputs, is not there: give pairs of words as one input each, or write a loop"
    )]
    Link(&'static str),
    /// A file of inputs cannot be opened or read.
    #[error("cannot read the inputs from {path}: {source}")]
    Unreadable {
        /// The file, or `stdin`.
        path: String,
        /// What the system says.
        source: io::Error,
    },
    /// An input that can never be an argument.
    #[error(
        "input {number} from {path} is longer than the {INPUT_BYTES_MAX} bytes an argument may have"
    )]
    TooLong {
        /// The file, `stdin` or `the command line`.
        path: String,
        /// Counted from 1 within that file.
        number: u64,
    },
    /// An input that can never be an argument.
    #[error(
        "input {number} from {path} holds a NUL byte, which no argument can; use -0 when NUL separates the inputs"
    )]
    HoldsNul {
        /// The file or `stdin`.
        path: String,
        /// Counted from 1 within that file.
        number: u64,
    },
}

/// Splits the words of `qtf map` at the first `:::` or `::::` into the command and the inputs.
pub(crate) fn split_words(mut words: Vec<OsString>) -> Result<(Vec<OsString>, Source), InputError> {
    if let Some(link) = words
        .iter()
        .find_map(|word| one_of([":::+", "::::+"], word))
    {
        return Err(InputError::Link(link));
    }
    let Some(at) = words.iter().position(|word| separator(word).is_some()) else {
        return Ok((words, Source::Stdin));
    };
    let inputs = words.split_off(at + 1);
    let files = words.pop().as_deref() == Some(OsStr::new("::::"));
    if let Some(second) = inputs.iter().find_map(|word| separator(word)) {
        return Err(InputError::SecondSeparator(second));
    }
    if !files {
        return Ok((words, Source::Words(inputs)));
    }
    if inputs.is_empty() {
        return Err(InputError::NoFile);
    }
    Ok((
        words,
        Source::Files(inputs.into_iter().map(PathBuf::from).collect()),
    ))
}

fn separator(word: &OsStr) -> Option<&'static str> {
    one_of([":::", "::::"], word)
}

fn one_of(texts: [&'static str; 2], word: &OsStr) -> Option<&'static str> {
    texts.into_iter().find(|text| word == OsStr::new(text))
}

impl Source {
    /// How many inputs there are, when that is known before reading.
    pub(crate) fn count(&self) -> Option<u64> {
        match self {
            Source::Words(words) => u64::try_from(words.len()).ok(),
            Source::Files(_) | Source::Stdin => None,
        }
    }

    /// Whether stdin is read.
    pub(crate) fn reads_stdin(&self) -> bool {
        match self {
            Source::Words(_) => false,
            Source::Files(files) => files.iter().any(|file| file.as_os_str() == "-"),
            Source::Stdin => true,
        }
    }

    /// Reads the inputs on a thread of its own. The stream ends after the last input or the first
    /// error. The thread may sit in a read when the program ends; that holds nothing up.
    pub(crate) fn stream(
        self,
        delimiter: u8,
    ) -> io::Result<mpsc::Receiver<Result<Vec<u8>, InputError>>> {
        let (sender, receiver) = mpsc::channel(READ_AHEAD);
        let read = move || {
            let mut push = |input| sender.blocking_send(Ok(input)).is_ok();
            if let Err(error) = self.read(delimiter, &mut push) {
                // The receiver may be gone, then nobody asks any more.
                drop(sender.blocking_send(Err(error)));
            }
        };
        std::thread::Builder::new()
            .name("qtf-inputs".to_owned())
            .spawn(read)?;
        Ok(receiver)
    }

    /// Pushes each input until `push` wants no more.
    fn read(self, delimiter: u8, push: &mut dyn FnMut(Vec<u8>) -> bool) -> Result<(), InputError> {
        match self {
            Source::Words(words) => {
                let _wanted = words.into_iter().all(|word| push(word.into_vec()));
                Ok(())
            }
            Source::Files(paths) => paths
                .iter()
                .try_for_each(|path| read_file(path, delimiter, push)),
            Source::Stdin => {
                read_items(&mut io::stdin().lock(), "stdin", delimiter, push).map(drop)
            }
        }
    }
}

fn read_file(
    path: &Path,
    delimiter: u8,
    push: &mut dyn FnMut(Vec<u8>) -> bool,
) -> Result<(), InputError> {
    if path.as_os_str() == "-" {
        return read_items(&mut io::stdin().lock(), "stdin", delimiter, push).map(drop);
    }
    let name = path.display().to_string();
    let file = File::open(path).map_err(|source| InputError::Unreadable {
        path: name.clone(),
        source,
    })?;
    read_items(&mut BufReader::new(file), &name, delimiter, push).map(drop)
}

/// Reads items that end with `delimiter` (the last one may lack it); false when no more are wanted.
fn read_items(
    reader: &mut dyn BufRead,
    name: &str,
    delimiter: u8,
    push: &mut dyn FnMut(Vec<u8>) -> bool,
) -> Result<bool, InputError> {
    let path = || name.to_owned();
    let mut number: u64 = 0;
    loop {
        number = number.saturating_add(1);
        let mut item = Vec::new();
        // One byte for the delimiter and one to see that the item is too long.
        let limit = u64::try_from(INPUT_BYTES_MAX)
            .unwrap_or(u64::MAX)
            .saturating_add(1);
        let read = Read::take(&mut *reader, limit).read_until(delimiter, &mut item);
        read.map_err(|source| InputError::Unreadable {
            path: path(),
            source,
        })?;
        if item.is_empty() {
            return Ok(true);
        }
        if item.last() == Some(&delimiter) {
            item.pop();
        } else if item.len() > INPUT_BYTES_MAX {
            return Err(InputError::TooLong {
                path: path(),
                number,
            });
        }
        if item.contains(&0) {
            return Err(InputError::HoldsNul {
                path: path(),
                number,
            });
        }
        if !push(item) {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(texts: &[&str]) -> Vec<OsString> {
        texts.iter().map(OsString::from).collect()
    }

    fn items(mut bytes: &[u8], delimiter: u8) -> Result<Vec<Vec<u8>>, InputError> {
        let mut items = Vec::new();
        let mut push = |item| {
            items.push(item);
            true
        };
        read_items(&mut bytes, "test", delimiter, &mut push)?;
        Ok(items)
    }

    #[test]
    fn words_after_three_colons_are_inputs() {
        let (command, source) = split_words(words(&["cat", "{}", ":::", "a b", ""])).unwrap();
        assert_eq!(command, words(&["cat", "{}"]));
        assert_eq!(source, Source::Words(words(&["a b", ""])));
        assert_eq!(source.count(), Some(2));
    }

    #[test]
    fn no_words_after_three_colons_are_no_inputs() {
        let (_, source) = split_words(words(&["cat", ":::"])).unwrap();
        assert_eq!(source, Source::Words(Vec::new()));
    }

    #[test]
    fn words_after_four_colons_are_files() {
        let (_, source) = split_words(words(&["cat", "::::", "x", "-"])).unwrap();
        assert_eq!(source, Source::Files(vec!["x".into(), "-".into()]));
        assert!(source.reads_stdin());
        assert!(matches!(
            split_words(words(&["cat", "::::"])),
            Err(InputError::NoFile)
        ));
    }

    #[test]
    fn without_a_separator_stdin_is_read() {
        let (command, source) = split_words(words(&["cat", "-n"])).unwrap();
        assert_eq!((command, source), (words(&["cat", "-n"]), Source::Stdin));
    }

    #[test]
    fn a_second_separator_is_refused_and_named() {
        for (texts, second) in [
            (["c", ":::", "a", ":::"], ":::"),
            (["c", "::::", "a", ":::"], ":::"),
        ] {
            let error = split_words(words(&texts)).unwrap_err();
            assert!(matches!(error, InputError::SecondSeparator(name) if name == second));
        }
    }

    #[test]
    fn separator_that_links_lists_is_refused_and_named() {
        for (texts, link) in [
            (["c", ":::", "a", ":::+", "b"], ":::+"),
            (["c", "::::+", "a", ":::", "b"], "::::+"),
        ] {
            let error = split_words(words(&texts)).unwrap_err();
            assert!(matches!(error, InputError::Link(name) if name == link));
        }
    }

    #[test]
    fn lines_are_bytes_and_the_last_may_lack_its_end() {
        assert_eq!(
            items(b"a b\n\n\xff'\"\r\nlast", b'\n').unwrap(),
            [&b"a b"[..], b"", b"\xff'\"\r", b"last"]
        );
        assert!(items(b"", b'\n').unwrap().is_empty());
    }

    #[test]
    fn nul_separated_inputs_may_hold_newlines() {
        assert_eq!(items(b"a\nb\0c\0", 0).unwrap(), [&b"a\nb"[..], b"c"]);
    }

    #[test]
    fn a_nul_byte_in_a_line_is_told_with_its_number() {
        let error = items(b"ok\na\0b\n", b'\n').unwrap_err();
        assert!(
            matches!(error, InputError::HoldsNul { number: 2, .. }),
            "{error}"
        );
    }

    #[test]
    fn the_longest_argument_passes_and_one_byte_more_does_not() {
        let mut bytes = vec![b'x'; INPUT_BYTES_MAX];
        assert_eq!(items(&bytes, b'\n').unwrap().len(), 1);
        bytes.push(b'\n');
        assert_eq!(items(&bytes, b'\n').unwrap()[0].len(), INPUT_BYTES_MAX);
        bytes.insert(0, b'x');
        assert!(matches!(
            items(&bytes, b'\n'),
            Err(InputError::TooLong { number: 1, .. })
        ));
    }

    #[test]
    fn reading_stops_when_no_more_is_wanted() {
        let mut taken = 0;
        let mut push = |_| {
            taken += 1;
            taken < 2
        };
        assert!(!read_items(&mut &b"a\nb\nc\n"[..], "test", b'\n', &mut push).unwrap());
        assert_eq!(taken, 2);
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = read_file(Path::new("/nowhere/at/all"), b'\n', &mut |_| true).unwrap_err();
        assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
    }
}
