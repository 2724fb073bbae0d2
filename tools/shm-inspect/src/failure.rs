//! Why a command could not do what it was asked, and the exit code for it.

use std::fmt;

/// The exit codes, as `--help` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// An invariant is broken.
    Broken = 1,
    /// Wrong arguments, or the output cannot be written.
    Usage = 2,
    /// No segment, or no such record in it.
    NotFound = 3,
    /// Another layout version, or a damaged header.
    Unreadable = 4,
    /// A record kept changing while it was read.
    Torn = 6,
}

/// One line for people and a code for programs.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(Code::Usage, format!("cannot write the output: {error}"))
    }
}
