//! In which form the log goes out, and whether standard error is the journal.
//!
//! Tested at the end.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::str::FromStr;

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// [`Form::Journal`] where standard error is the journal, else [`Form::Text`].
    #[default]
    Auto,
    /// Lines for people on standard error.
    Text,
    /// Lines that are JSON objects on standard error.
    Json,
    /// Entries of the journal of systemd, with fields.
    Journal,
}

/// What can be written for a form.
const WORDS: &str = "auto, text, json or journal";

impl Form {
    /// The word for it in configurations.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Text => "text",
            Self::Json => "json",
            Self::Journal => "journal",
        }
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The word is none of those that stand for a form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no form of a log: write {WORDS}")]
pub struct NoForm(String);

impl FromStr for Form {
    type Err = NoForm;

    fn from_str(text: &str) -> Result<Self, NoForm> {
        let all = [Self::Auto, Self::Text, Self::Json, Self::Journal];
        let found = all.into_iter().find(|form| form.word() == text);
        found.ok_or_else(|| NoForm(text.to_owned()))
    }
}

/// Whether the service manager says that this file is its journal: `JOURNAL_STREAM` holds device and inode of the stream that it has
/// put there. A standard error that was redirected since is another file.
pub(crate) fn is_journal(stream: Option<&OsStr>, file: &File) -> bool {
    let told = stream
        .and_then(OsStr::to_str)
        .and_then(|text| text.split_once(':'));
    let told = told.and_then(|(device, inode)| Some((device.parse().ok()?, inode.parse().ok()?)));
    let is = file.metadata().map(|is| (is.dev(), is.ino())).ok();
    told.is_some() && told == is
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn form_is_read_as_it_is_written_and_another_word_is_refused_with_the_known_ones() {
        for form in [Form::Auto, Form::Text, Form::Json, Form::Journal] {
            assert_eq!(form.to_string().parse(), Ok(form));
        }
        let error = "yaml".parse::<Form>().unwrap_err().to_string();
        assert!(error.contains("yaml") && error.contains(WORDS), "{error}");
    }

    #[test]
    fn file_is_the_journal_only_if_device_and_inode_are_those_that_were_told() {
        let file = File::open("/dev/null").unwrap();
        let is = file.metadata().unwrap();
        let told = format!("{}:{}", is.dev(), is.ino());
        assert!(is_journal(Some(OsStr::new(&told)), &file));
        for other in [
            format!("{}:{}", is.dev(), is.ino() + 1),
            "7".to_owned(),
            String::new(),
        ] {
            assert!(!is_journal(Some(OsStr::new(&other)), &file), "{other}");
        }
        assert!(!is_journal(None, &file));
    }
}
