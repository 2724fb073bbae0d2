//! A start may take as long as it makes progress: a replay of a large journal is no hang.
//!
//! Tested at the end.

use std::io;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use crate::notify;

/// How often the progress is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// What the manager is asked for each time: a start that stands still longer than this is ended.
const EXTENSION: Duration = Duration::from_secs(30);

/// A start that is under way. Dropped, it asks for no more time.
#[derive(Debug)]
pub struct Starting {
    _over: Sender<()>,
}

impl Starting {
    /// Asks for more time as long as `progress` rises, by a thread of its own. Without a service manager it does nothing.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn begin(progress: impl Fn() -> u64 + Send + 'static) -> io::Result<Self> {
        let (over, seen) = channel();
        if notify::is_managed() {
            let thread = std::thread::Builder::new().name("qtf-starting".to_owned());
            thread.spawn(move || {
                let mut rise = Rise::default();
                while seen.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                    let now = progress();
                    if rise.has_risen(now) {
                        notify::status(&format!("restoring tasks: {now} records and tasks so far"));
                        notify::extend(EXTENSION);
                    }
                }
            })?;
        }
        Ok(Self { _over: over })
    }
}

/// Whether a count is higher than before.
#[derive(Debug, Default)]
struct Rise(u64);

impl Rise {
    fn has_risen(&mut self, now: u64) -> bool {
        std::mem::replace(&mut self.0, now) < now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_that_stands_still_gets_no_more_time_and_one_that_goes_on_does() {
        let mut rise = Rise::default();
        let seen = [0, 3, 3, 4, 4].map(|count| rise.has_risen(count));
        assert_eq!(seen, [false, true, false, true, false]);
    }
}
