//! What a person is told while a command waits for its daemon.
//!
//! A full segment is nothing to tell: submission waits for room as a matter of course. Tested at the end
//! of this file and in `tests/restarts.rs`.

use std::sync::Mutex;
use std::time::Duration;

use indicatif::ProgressBar;
use qtf_client::{Notice, Refusal, RefusalReason};

use crate::durations::age;
use crate::output::message;

/// How long a daemon that went away is waited for.
pub(crate) const RECONNECT_FOR: Duration = Duration::from_secs(30);

/// Tells of notices on stderr, above a progress bar where there is one.
#[derive(Debug)]
pub(crate) struct Teller {
    address: String,
    bar: Option<ProgressBar>,
    /// Each kind of want is told once.
    told: Mutex<Vec<RefusalReason>>,
}

impl Teller {
    /// For the daemon at this address.
    pub(crate) fn new(address: String, bar: Option<ProgressBar>) -> Self {
        Teller {
            address,
            bar,
            told: Mutex::default(),
        }
    }

    /// Tells of it, if it is worth telling.
    pub(crate) fn tell(&self, notice: &Notice) {
        let Some(line) = self.line(notice) else {
            return;
        };
        match &self.bar {
            Some(bar) => bar.suspend(|| message(line)),
            None => message(line),
        }
    }

    fn line(&self, notice: &Notice) -> Option<String> {
        match notice {
            Notice::Waiting { cause } => {
                let why = match cause {
                    Some(cause) => format!("{cause}"),
                    None => "it may be stopped or overloaded".to_owned(),
                };
                Some(format!(
                    "no answer from the daemon at {} yet: {why}",
                    self.address
                ))
            }
            Notice::Away { cause } => Some(format!(
                "daemon gone, waiting up to {} s for one at {} ({cause})",
                RECONNECT_FOR.as_secs(),
                self.address
            )),
            Notice::Back {
                after,
                is_new_segment,
            } => {
                let after = age(u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
                let gone = if *is_new_segment {
                    "; its segment is new: tasks that were not in the journal are gone"
                } else {
                    ""
                };
                Some(format!("daemon back after {after}{gone}"))
            }
            Notice::NoPlaceForKey { refusal, up_to } => Some(waiting_for_place(refusal, *up_to)),
            Notice::Full(refusal) => {
                use RefusalReason::{ArenaFull, TasksFull};
                let mut told = self.told.lock().ok()?;
                if matches!(refusal.reason, TasksFull | ArenaFull) || told.contains(&refusal.reason)
                {
                    return None;
                }
                told.push(refusal.reason);
                Some(format!("{refusal}; waiting for room"))
            }
            _ => None,
        }
    }
}

/// That a submission waits for a place for its idempotency key.
pub(crate) fn waiting_for_place(refusal: &Refusal, up_to: Duration) -> String {
    format!("{refusal}; waiting up to {} s for a place", up_to.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use qtf_client::CallError;

    fn teller() -> Teller {
        Teller::new("unix:/run/q.sock".to_owned(), None)
    }

    #[test]
    fn going_and_coming_back_are_told_with_what_is_lost() {
        let cause = CallError::NotThere {
            cause: "refused".to_owned(),
        };
        let line = teller().line(&Notice::Away { cause }).unwrap();
        assert!(
            line.starts_with("daemon gone, waiting up to 30 s for one at unix:/run/q.sock"),
            "{line}"
        );
        let back = |is_new_segment| {
            let after = Duration::from_millis(1234);
            let notice = Notice::Back {
                after,
                is_new_segment,
            };
            teller().line(&notice).unwrap()
        };
        assert_eq!(back(false), "daemon back after 1.2s");
        assert!(back(true).contains("gone"));
    }

    #[test]
    fn wait_for_a_place_for_a_key_is_told_with_its_bound() {
        let notice = Notice::NoPlaceForKey {
            refusal: Refusal {
                reason: RefusalReason::KeysFull,
                message: "uid 1000 holds all".to_owned(),
                retry_after_ms: 900,
            },
            up_to: Duration::from_secs(30),
        };
        assert_eq!(
            teller().line(&notice).as_deref(),
            Some("uid 1000 holds all; waiting up to 30 s for a place")
        );
    }

    #[test]
    fn want_of_room_is_told_once_and_a_full_segment_never() {
        let teller = teller();
        let full = |reason| {
            teller.line(&Notice::Full(Refusal {
                reason,
                message: "the journal has no room".to_owned(),
                retry_after_ms: 100,
            }))
        };
        assert_eq!(full(RefusalReason::TasksFull), None);
        assert!(full(RefusalReason::JournalFull).is_some());
        assert_eq!(full(RefusalReason::JournalFull), None);
    }
}
