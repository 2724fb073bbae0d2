//! The way to the daemon: which address, and what its answers mean for the exit code.
//!
//! Where nobody listens, but a daemon was there a short while ago, its successor is waited for (`awaited`).
//! Tested at the end of this file, in `tests/exit_codes.rs` and in `tests/restarts.rs`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use qtf_client::{CallError, Client, ConnectError, Refusal, SubmitError, WatchError};
use qtf_proto::address::{Address, default_address};

use crate::args::GlobalArgs;
use crate::awaited::Expected;
use crate::exit::{Exit, Failure};
use crate::last::LastFile;
use crate::notices::{RECONNECT_FOR, Teller};
use crate::output::message;

/// Name under which this program is listed by the daemon; part of the caller's identity.
pub(crate) const CLIENT_NAME: &str = "qtf";

/// A daemon that was started the moment before, as in `qtfd & qtf submit ..`, has its socket by then.
pub(crate) const JUST_STARTED: Duration = Duration::from_millis(500);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A connection and the address it was made to.
#[derive(Clone, Debug)]
pub(crate) struct Daemon {
    /// The calls.
    pub(crate) client: Client,
    /// As people write it.
    pub(crate) address: String,
}

impl Daemon {
    /// Connects to the address that was given, else to the user's own socket.
    pub(crate) async fn connect(global: &GlobalArgs) -> Result<Self, Failure> {
        let address = address(global)?;
        let connected = Daemon::at(&address, None).await;
        connected.map_err(|error| unreachable(&error))
    }

    /// As [`connect`](Self::connect), for commands that outlive their daemon: where one was killed or stopped, its successor is
    /// waited for.
    pub(crate) async fn connect_or_await(
        global: &GlobalArgs,
        limit: Duration,
    ) -> Result<Self, Failure> {
        let address = address(global)?;
        let connected = Daemon::at_or_next(&address, None, (limit, JUST_STARTED)).await;
        connected.map_err(|error| unreachable(&error))
    }

    /// As [`at`](Self::at). A successor of the daemon that was there is waited for up to `limit`, and one of which nothing tells for
    /// `unannounced`.
    pub(crate) async fn at_or_next(
        address: &Address,
        bar: Option<&ProgressBar>,
        (limit, unannounced): (Duration, Duration),
    ) -> Result<Self, ConnectError> {
        let began = Instant::now();
        let mut patience = unannounced.min(limit);
        let mut told = false;
        loop {
            let error = match Daemon::at(address, bar).await {
                Ok(daemon) => return Ok(daemon),
                Err(error) => error,
            };
            if matches!(error, ConnectError::Refused { .. }) || error.is_untrusted() {
                return Err(error);
            }
            if !told && let Some(expected) = Expected::at(address).await {
                // The next one removes the old socket before it makes its own.
                told = true;
                patience = patience.max(expected.patience(limit));
                tell(bar, expected.waiting(address, patience));
            }
            if began.elapsed() >= patience {
                return Err(error);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Connects to one address; what is told while it is awaited goes above `bar`.
    pub(crate) async fn at(
        address: &Address,
        bar: Option<&ProgressBar>,
    ) -> Result<Self, ConnectError> {
        let teller = Teller::new(address.to_string(), bar.cloned());
        let client = Client::builder(address.clone())
            .name(CLIENT_NAME)
            .reconnect_for(RECONNECT_FOR)
            .on_notice(move |notice| teller.tell(notice))
            .connect()
            .await?;
        Ok(Daemon {
            client,
            address: address.to_string(),
        })
    }

    /// Where the last submission to this daemon is remembered.
    pub(crate) fn last(&self) -> LastFile {
        LastFile::of(&self.address)
    }
}

/// Tells a person, above a progress bar where there is one.
pub(crate) fn tell(bar: Option<&ProgressBar>, text: impl std::fmt::Display) {
    match bar {
        Some(bar) => bar.suspend(|| message(text)),
        None => message(text),
    }
}

fn address(global: &GlobalArgs) -> Result<Address, Failure> {
    Ok(given_address(global)?.unwrap_or_else(default_address))
}

/// The address of `--addr` or `QTF_ADDR`, when there is one.
pub(crate) fn given_address(global: &GlobalArgs) -> Result<Option<Address>, Failure> {
    // An empty QTF_ADDR is what `QTF_ADDR= qtf ps` and unset variables in scripts leave.
    let Some(text) = global.addr.as_deref().filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    match text.parse::<Address>() {
        Ok(Address::Unix(path)) => Ok(Some(Address::Unix(absolute(path)))),
        Ok(address) => Ok(Some(address)),
        Err(error) => Err(Failure::usage(format!("--addr or QTF_ADDR: {error}"))),
    }
}

/// The same socket has the same name from every directory, so that `last` finds its submission.
fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

/// No connection.
pub(crate) fn unreachable(error: &ConnectError) -> Failure {
    let refused = matches!(error, ConnectError::Refused { .. });
    let exit = if refused {
        Exit::Refused
    } else {
        Exit::Unreachable
    };
    let says_what_to_do = matches!(error, ConnectError::Segment { .. });
    let hint = if error.is_not_there() && !says_what_to_do {
        "; start one with `qtf dev` or `qtfd`, or name another with --addr"
    } else {
        ""
    };
    Failure::new(exit, format!("{error}{hint}"))
}

/// The way to end for a refusal.
pub(crate) fn exit_of(refusal: &Refusal) -> Exit {
    if refusal.is_unknown() {
        Exit::NotFound
    } else {
        Exit::Refused
    }
}

/// The way to end for a call that failed.
pub(crate) fn exit_of_call(error: &CallError) -> Exit {
    if let CallError::Refused(refusal) = error {
        exit_of(refusal)
    } else {
        Exit::Unreachable
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Failure::new(exit_of_call(&error), error)
    }
}

impl From<SubmitError> for Failure {
    fn from(error: SubmitError) -> Self {
        let refused = matches!(error, SubmitError::Refused(_));
        let exit = if refused {
            Exit::Refused
        } else {
            Exit::Unreachable
        };
        Failure::new(exit, error)
    }
}

impl From<WatchError> for Failure {
    fn from(error: WatchError) -> Self {
        let exit = if let WatchError::Task { refusal, .. } = &error {
            exit_of(refusal)
        } else if let WatchError::Output { error, .. } | WatchError::Call(error) = &error {
            exit_of_call(error)
        } else {
            Exit::Unreachable
        };
        Failure::new(exit, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qtf_client::RefusalReason;

    fn refusal(reason: RefusalReason) -> Refusal {
        Refusal {
            reason,
            message: "no".to_owned(),
            retry_after_ms: 0,
        }
    }

    #[test]
    fn refusals_end_with_3_for_what_is_not_there_and_4_for_the_rest() {
        let exit = |reason| Failure::from(CallError::Refused(refusal(reason))).exit();
        assert_eq!(exit(RefusalReason::UnknownTask), Exit::NotFound);
        assert_eq!(exit(RefusalReason::StaleTask), Exit::NotFound);
        assert_eq!(exit(RefusalReason::UnknownWorker), Exit::NotFound);
        assert_eq!(exit(RefusalReason::NoJournal), Exit::Refused);
        assert_eq!(exit(RefusalReason::TasksFull), Exit::Refused);
    }

    #[test]
    fn a_broken_connection_ends_with_5() {
        let cause = || "reset".to_owned();
        assert_eq!(
            Failure::from(CallError::Unreachable { cause: cause() }).exit(),
            Exit::Unreachable
        );
        assert_eq!(
            Failure::from(SubmitError::NotSent {
                cause: CallError::Unreachable { cause: cause() }
            })
            .exit(),
            Exit::Unreachable
        );
    }
}
