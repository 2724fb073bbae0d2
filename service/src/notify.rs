//! What is told to the service manager.

use std::io;
use std::time::Duration;

use sd_notify::NotifyState;

/// The program serves.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// It reads its configuration anew; [`ready`] says that this is done.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        // Without the time systemd 253 and later wait in vain, and end the service: better not to begin.
        Err(error) => refused(&error),
    }
}

/// It stops.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// A line about what it does, as `systemctl status` shows it.
pub fn status(line: &str) {
    tell(&[NotifyState::Status(line)]);
}

/// It is alive.
pub(crate) fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// The start, or whatever the manager waits for, may take so long from now on.
pub(crate) fn extend(by: Duration) {
    let usec = u32::try_from(by.as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::ExtendTimeoutUsec(usec)]);
}

/// Whether there is somebody to tell.
pub(crate) fn is_managed() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        refused(&error);
    }
}

fn refused(error: &io::Error) {
    tracing::warn!(%error, "the service manager is not told how this program is: it may end it");
}
