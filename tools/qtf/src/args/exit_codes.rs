//! What an exit code of a task means besides success and failure; the same for `submit` and `map`. Tested in `tests/exit_codes.rs`.

use std::time::Duration;

use crate::durations::parse_duration;

/// LIMIT: the daemon takes no longer pause.
const PAUSE_MAX: Duration = Duration::from_secs(30 * 24 * 3_600);

fn parse_pause(text: &str) -> Result<Duration, String> {
    let pause = parse_duration(text)?;
    if pause > PAUSE_MAX {
        return Err(format!("`{text}` is longer than the limit of 30 days"));
    }
    Ok(pause)
}

/// Options for exit codes.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct ExitCodeArgs {
    /// Exit codes after which the task has failed, whatever retries it has left: 65,66
    #[arg(long, value_name = "CODES", value_delimiter = ',', value_parser = clap::value_parser!(u8).range(1..))]
    pub(crate) final_exit: Vec<u8>,
    /// Exit codes that say "not now": 75
    ///
    /// The task is handed out again after --again-after, to any worker. That is neither a failure nor a lost worker, but the attempt counts: a task
    /// has 4,095 in all. While it waits, `qtf task` shows the code, the last line of its stderr and the time. 75 says so by custom.
    #[arg(long, value_name = "CODES", value_delimiter = ',', value_parser = clap::value_parser!(u8).range(1..))]
    pub(crate) again_exit: Vec<u8>,
    /// The pause after a code of --again-exit, at most 30 days [default: that before a first retry]
    #[arg(long, value_name = "DURATION", requires = "again_exit", value_parser = parse_pause)]
    pub(crate) again_after: Option<Duration>,
}

impl ExitCodeArgs {
    /// A code has one meaning.
    pub(crate) fn check(&self) -> Result<(), String> {
        let both = self
            .final_exit
            .iter()
            .find(|code| self.again_exit.contains(code));
        both.map_or(Ok(()), |code| {
            Err(format!(
                "{code} stands in --final-exit and in --again-exit: leave it in one of them"
            ))
        })
    }
}
