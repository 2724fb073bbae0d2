//! Whether a daemon is to be expected where none listens: one was killed and left its socket, or one was stopped in order or is
//! being started, which the time of its lock file tells.
//!
//! `INSTANCE.lock` lies beside `INSTANCE.sock` and stays; a daemon writes it when it starts and touches it when it is stopped. A socket
//! without a lock file beside it is left when its daemon is stopped, with a mark in its mode that tells that from a kill.
//! Tested at the end of this file and in `tests/restarts.rs`.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use qtf_proto::address::{Address, STOPPED};

use crate::durations::age;
use crate::notices::RECONNECT_FOR;

/// Why a daemon may be about to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// The one before was killed: its socket is there, and nobody listens.
    AfterKill,
    /// The one before was stopped so long ago, or the next is on its way up.
    AfterStop { ago: Duration },
}

impl Expected {
    /// What the files at an address tell.
    pub(crate) async fn at(address: &Address) -> Option<Self> {
        let socket = address.socket_file()?;
        let connected = tokio::net::UnixStream::connect(socket).await;
        let error = connected.err()?.kind();
        if error == io::ErrorKind::ConnectionRefused {
            if let Some(left) = left_by_a_stop(socket) {
                return stopped_at(left);
            }
            // What lies there since before a reboot was nobody's end.
            let is_of_this_boot = match (modified(socket), booted()) {
                (Some(made), Some(booted)) => made >= booted,
                _ => true,
            };
            return is_of_this_boot.then_some(Self::AfterKill);
        }
        if error != io::ErrorKind::NotFound {
            return None;
        }
        stopped_at(modified(&socket.with_extension("lock"))?)
    }

    /// How long it is waited for, where that may be `limit`.
    pub(crate) fn patience(self, limit: Duration) -> Duration {
        match self {
            Self::AfterKill => limit,
            Self::AfterStop { ago } => RECONNECT_FOR.saturating_sub(ago).min(limit),
        }
    }

    /// The line for a person.
    pub(crate) fn waiting(self, address: &Address, patience: Duration) -> String {
        let found = match self {
            Self::AfterKill => "the socket of one that was killed".to_owned(),
            Self::AfterStop { ago } => {
                let ago = age(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX));
                format!("one was stopped, or began to start, {ago} ago")
            }
        };
        let seconds = patience.as_millis().div_ceil(1000);
        format!("no daemon, but {found}: waiting up to {seconds} s for the next at {address}")
    }
}

fn stopped_at(time: SystemTime) -> Option<Expected> {
    let ago = time.elapsed().ok()?;
    (ago < RECONNECT_FOR).then_some(Expected::AfterStop { ago })
}

/// When the daemon of this socket was stopped, if its file says so.
fn left_by_a_stop(socket: &Path) -> Option<SystemTime> {
    let left = std::fs::symlink_metadata(socket).ok()?;
    (left.mode() & STOPPED != 0)
        .then(|| left.modified().ok())
        .flatten()
}

fn modified(file: &Path) -> Option<SystemTime> {
    std::fs::symlink_metadata(file).ok()?.modified().ok()
}

/// When the machine was started.
fn booted() -> Option<SystemTime> {
    boot_time(&std::fs::read_to_string("/proc/stat").ok()?)
}

fn boot_time(stat: &str) -> Option<SystemTime> {
    let seconds = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected_at(socket: &Path) -> Option<Expected> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(Expected::at(&Address::Unix(socket.to_owned())))
    }

    #[test]
    fn daemon_is_expected_after_a_kill_of_this_boot_and_a_short_while_after_a_stop() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("q.sock");
        assert_eq!(expected_at(&socket), None, "there was none");

        let lock = std::fs::File::create(folder.path().join("q.lock")).unwrap();
        assert!(matches!(
            expected_at(&socket),
            Some(Expected::AfterStop { .. })
        ));
        let long_ago = SystemTime::now() - 2 * RECONNECT_FOR;
        lock.set_modified(long_ago).unwrap();
        assert_eq!(expected_at(&socket), None, "it was stopped for good");

        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert_eq!(expected_at(&socket), None, "it is there");
        drop(listener);
        assert_eq!(expected_at(&socket), Some(Expected::AfterKill));
        // A socket has no open file whose time could be set.
        let before_boot = nix::sys::time::TimeSpec::new(1, 0);
        nix::sys::stat::utimensat(
            nix::fcntl::AT_FDCWD,
            &socket,
            &before_boot,
            &before_boot,
            nix::sys::stat::UtimensatFlags::NoFollowSymlink,
        )
        .unwrap();
        assert_eq!(expected_at(&socket), None, "it was left before a reboot");
    }

    #[test]
    fn socket_that_a_stop_left_tells_for_a_short_while_that_the_next_may_come() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("q.sock");
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o660 | STOPPED);
        std::fs::set_permissions(&socket, mode).unwrap();
        assert!(matches!(
            expected_at(&socket),
            Some(Expected::AfterStop { .. })
        ));
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let long_ago = now.unwrap().saturating_sub(2 * RECONNECT_FOR).into();
        nix::sys::stat::utimensat(
            nix::fcntl::AT_FDCWD,
            &socket,
            &long_ago,
            &long_ago,
            nix::sys::stat::UtimensatFlags::NoFollowSymlink,
        )
        .unwrap();
        assert_eq!(expected_at(&socket), None, "it was stopped for good");
    }

    #[test]
    fn time_of_the_boot_is_read() {
        let stat = "cpu 1 2 3\nbtime 1700000000\nprocesses 5\n";
        let expected = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        assert_eq!(boot_time(stat), Some(expected));
        assert_eq!(boot_time("cpu 1\n"), None);
    }

    #[test]
    fn patience_ends_a_while_after_the_stop_and_within_its_limit() {
        let seconds = Duration::from_secs;
        let stopped = Expected::AfterStop { ago: seconds(12) };
        assert_eq!(stopped.patience(seconds(30)), seconds(18));
        assert_eq!(stopped.patience(seconds(1)), seconds(1));
        assert_eq!(Expected::AfterKill.patience(seconds(30)), seconds(30));
    }
}
