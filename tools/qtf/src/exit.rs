//! How a command ends: the one table of exit codes, and the failure that carries one of them.
//!
//! Invariant: every way out of the program ends in an [`Exit`]; nothing else chooses a number.
//! Tested at the end of this file and, against the real binary, in `tests/exit_codes.rs`.

use std::fmt;

/// The exit codes, the same for all commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Exit {
    /// Did what was asked.
    Ok,
    /// A task failed, was cancelled, or is in the dead-letter set.
    TaskFailed,
    /// The command line is wrong, or a file it names cannot be used.
    Usage,
    /// No such task, worker, or last submission.
    NotFound,
    /// The daemon refused.
    Refused,
    /// No daemon answers, or none could be started.
    Unreachable,
    /// The time is over, or the task has not ended.
    TimedOut,
    /// Ctrl-C.
    Interrupted,
    /// SIGTERM.
    Terminated,
    /// `qtf map` has nobody any more who reads what its tasks print: as if by SIGPIPE.
    ReaderGone,
}

impl Exit {
    /// The number that the shell sees.
    pub(crate) fn code(self) -> u8 {
        match self {
            Exit::Ok => 0,
            Exit::TaskFailed => 1,
            Exit::Usage => 2,
            Exit::NotFound => 3,
            Exit::Refused => 4,
            Exit::Unreachable => 5,
            Exit::TimedOut => 6,
            Exit::Interrupted => 130,
            Exit::Terminated => 143,
            Exit::ReaderGone => 141,
        }
    }

    /// The end that a person must know of first, when several things went differently: not found
    /// before refused before out of time before failed.
    pub(crate) fn worse(self, other: Exit) -> Exit {
        fn rank(exit: Exit) -> u8 {
            match exit {
                Exit::Ok => 0,
                Exit::TaskFailed => 1,
                Exit::TimedOut => 2,
                Exit::Refused => 3,
                Exit::NotFound => 4,
                Exit::Usage => 5,
                Exit::Unreachable => 6,
                Exit::Terminated => 7,
                Exit::Interrupted => 8,
                Exit::ReaderGone => 9,
            }
        }
        if rank(other) > rank(self) {
            other
        } else {
            self
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        std::process::ExitCode::from(exit.code())
    }
}

/// Why a command could not do what was asked; printed as one line on stderr.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    message: String,
    quiet: bool,
}

/// What a command returns.
pub(crate) type Ending = Result<Exit, Failure>;

impl Failure {
    /// A failure with the line that is shown for it.
    pub(crate) fn new(exit: Exit, message: impl fmt::Display) -> Self {
        let message = message.to_string();
        Failure {
            exit,
            message,
            quiet: false,
        }
    }

    /// The command line is wrong.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Failure::new(Exit::Usage, message)
    }

    /// The reader of our output has gone, as in `qtf ps | head`: nothing to say, nothing failed.
    pub(crate) fn reader_gone() -> Self {
        Failure {
            exit: Exit::Ok,
            message: String::new(),
            quiet: true,
        }
    }

    /// The code to end with.
    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// The line to show, when there is one.
    pub(crate) fn message(&self) -> Option<&str> {
        (!self.quiet).then_some(self.message.as_str())
    }
}

/// Writing our own output failed: a closed pipe is a quiet end, anything else is told.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            Failure::reader_gone()
        } else {
            Failure::new(Exit::Usage, format!("cannot write the output: {error}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_that_the_manual_promises() {
        let table = [
            (Exit::Ok, 0),
            (Exit::TaskFailed, 1),
            (Exit::Usage, 2),
            (Exit::NotFound, 3),
            (Exit::Refused, 4),
            (Exit::Unreachable, 5),
            (Exit::TimedOut, 6),
            (Exit::Interrupted, 130),
            (Exit::Terminated, 143),
            (Exit::ReaderGone, 141),
        ];
        for (exit, code) in table {
            assert_eq!(exit.code(), code, "{exit:?}");
        }
    }

    #[test]
    fn a_missing_task_outweighs_a_failed_one() {
        assert_eq!(Exit::TaskFailed.worse(Exit::NotFound), Exit::NotFound);
        assert_eq!(Exit::NotFound.worse(Exit::TaskFailed), Exit::NotFound);
        assert_eq!(Exit::Ok.worse(Exit::TimedOut), Exit::TimedOut);
    }

    #[test]
    fn a_closed_pipe_ends_without_a_word() {
        let failure = Failure::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        assert_eq!((failure.exit(), failure.message()), (Exit::Ok, None));
        let failure = Failure::from(std::io::Error::from(std::io::ErrorKind::StorageFull));
        assert_eq!(failure.exit(), Exit::Usage);
        assert!(failure.message().is_some());
    }
}
