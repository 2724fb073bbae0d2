//! The exit codes of `qtfd`: each start error has one, so that a service manager can tell them apart.
//!
//! Tested by `boot::error::tests::each_start_error_names_a_remedy_and_has_an_exit_code`.

use std::process::ExitCode;

/// How `qtfd` ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Stopped when asked to.
    Stopped,
    /// Something failed that no other code names.
    Failed,
    /// Wrong flag, configuration file or value (2, as for all commands here).
    Usage,
    /// Another daemon runs under this name, or the address is in use.
    InUse,
    /// The user may not do what is needed (socket, lock file, segment).
    NoPermission,
    /// No shared memory of the wanted size can be had.
    NoMemory,
    /// Journal or snapshot are damaged (65, `EX_DATAERR`): nothing was changed.
    Damaged,
    /// The journal cannot be read or written (74, `EX_IOERR`): nothing is acknowledged that is not on the disk.
    JournalFailed,
}

impl Exit {
    /// The number that the shell sees.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Stopped => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::InUse => 3,
            Self::NoPermission => 4,
            Self::NoMemory => 5,
            Self::Damaged => 65,
            Self::JournalFailed => 74,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
