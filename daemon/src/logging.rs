//! The log: lines on standard error, with a filter of levels.

use tracing_subscriber::EnvFilter;

/// The filter cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error("log filter \"{filter}\": {source}; write a level such as info, or qtf_daemon=debug")]
pub struct FilterError {
    filter: String,
    #[source]
    source: tracing_subscriber::filter::ParseError,
}

/// Starts the log of this process. A second start changes nothing.
///
/// # Errors
/// When the filter cannot be understood.
pub fn start(filter: &str) -> Result<(), FilterError> {
    let parsed = EnvFilter::try_new(filter).map_err(|source| FilterError {
        filter: filter.to_owned(),
        source,
    })?;
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let started = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr)
        .with_ansi(is_terminal)
        .with_target(false)
        // A reader of the log that has gone away must not take the daemon with it.
        .log_internal_errors(false)
        .try_init();
    if started.is_err() {
        tracing::debug!("the log was started before");
    }
    Ok(())
}
