//! How the descriptors that the process may have are shared out, so that no number of connections takes away what journal,
//! snapshots and spill files need.
//!
//! | share | how many |
//! |---|---|
//! | the daemon's own files, sockets and rings | [`OWN`] |
//! | the poll of each edge thread | [`EDGE_THREAD`] |
//! | connections that are being refused | [`REFUSALS`] |
//! | uploads under way, a file each | `uploads_max`, at most an eighth of all |
//! | processes of local workers that are watched | one each, at most a quarter of the rest |
//! | connections | `connections_max`, at most what is left |
//!
//! A connection costs one descriptor, that of a local worker one more. Tested at the end and in
//! `tests/tests/descriptors.rs`.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::config::settings::Limits;

/// LIMIT: log, locks, listeners, rings, journal files, a snapshot, a spill file that is read: about 30, and as many again.
const OWN: u64 = 64;
/// LIMIT: an edge thread's poll, its wake, and as many again.
const EDGE_THREAD: u64 = 4;
/// LIMIT: connections beyond the last one that may be open until they have heard that they are refused.
const REFUSALS: u64 = 32;
/// LIMIT: with fewer there is no room for a dozen connections.
const LIMIT_MIN: u64 = 128;

/// What the process may open, and for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptors {
    /// The limit of the process (`RLIMIT_NOFILE`).
    pub limit: u64,
    /// Of these for connections.
    pub connections: u64,
    /// Of these for watching the processes of local workers.
    pub processes: u64,
    /// Of these for uploads under way.
    pub uploads: u64,
}

/// Raises the limit of open files as far as this user may. For programs that start no others: those would inherit it.
///
/// # Errors
/// What the system says.
pub fn raise_limit() -> io::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(())
}

/// Why the daemon cannot serve with what the process may open.
#[derive(Debug)]
pub(crate) enum NotEnough {
    /// The system does not say.
    Unknown(io::Error),
    /// The limit of the process, and the least.
    TooFew { limit: u64, needed: u64 },
}

/// What this process may open, if that is enough with so many edge threads. Asked before anything is made that a failed start would leave.
pub(crate) fn limit_of_process(edge_threads: usize) -> Result<u64, NotEnough> {
    let asked = getrlimit(Resource::RLIMIT_NOFILE);
    let (limit, _) = asked.map_err(|errno| NotEnough::Unknown(errno.into()))?;
    let needed = LIMIT_MIN.saturating_add(of_edge_threads(edge_threads));
    if limit < needed {
        return Err(NotEnough::TooFew { limit, needed });
    }
    Ok(limit)
}

impl Descriptors {
    /// Shares out what this process may open, which is `limit`.
    pub(crate) fn share_out(
        limit: u64,
        limits: &Limits,
        workers: u64,
        edge_threads: usize,
    ) -> Self {
        let others = limit.saturating_sub(of_edge_threads(edge_threads));
        let shares = Self {
            limit,
            ..Self::of(others, limits, workers)
        };
        if shares.connections < count(limits.connections) {
            tracing::warn!(
                limit,
                connections = shares.connections,
                connections_max = limits.connections,
                "fewer connections than connections_max, as the limit of open files allows: raise `ulimit -n` (LimitNOFILE= of a service)"
            );
        }
        shares
    }

    fn of(limit: u64, limits: &Limits, workers: u64) -> Self {
        let uploads = count(limits.uploads).min(limit / 8);
        let rest = limit.saturating_sub(OWN + REFUSALS).saturating_sub(uploads);
        let processes = workers.min(rest / 4);
        let connections = count(limits.connections).min(rest.saturating_sub(processes));
        Self {
            limit,
            connections,
            processes,
            uploads,
        }
    }

    /// The configured limits, as far as there are descriptors for them.
    pub(crate) fn within(self, limits: Limits) -> Limits {
        let at_most = |wanted: usize, share: u64| {
            usize::try_from(share).map_or(wanted, |share| wanted.min(share))
        };
        Limits {
            connections: at_most(limits.connections, self.connections),
            uploads: at_most(limits.uploads, self.uploads),
            ..limits
        }
    }
}

fn of_edge_threads(threads: usize) -> u64 {
    EDGE_THREAD.saturating_mul(count(threads))
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            payload_bytes: 0,
            spill_bytes: 0,
            message_bytes: 0,
            connections: 10_000,
            streams_per_connection: 256,
            uploads: 256,
        }
    }

    #[test]
    fn shares_never_come_to_more_than_the_limit_and_leave_room_for_files() {
        for limit in [
            128,
            129,
            256,
            1_000,
            1_024,
            4_096,
            20_000,
            1_048_576,
            u64::MAX,
        ] {
            for workers in [0, 1, 100, 4_095] {
                let shares = Descriptors::of(limit, &limits(), workers);
                let sum = shares.connections + shares.processes + shares.uploads;
                assert!(sum + OWN + REFUSALS <= limit, "{shares:?}");
                assert!(shares.connections >= 12, "{shares:?}");
                let within = shares.within(limits());
                assert_eq!(count(within.connections), shares.connections);
            }
        }
    }

    #[test]
    fn large_limit_gives_what_was_configured() {
        let shares = Descriptors::of(524_288, &limits(), 4_095);
        assert_eq!(shares.within(limits()), limits());
        assert_eq!(shares.processes, 4_095);
    }
}
