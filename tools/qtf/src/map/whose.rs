//! Whose daemon runs the tasks of `qtf map`: the one that was named, the one on the default socket, or an own one.
//!
//! Invariant: what a run means does not depend on it. As many tasks of it run at the same time as `-j` says, and they have the
//! environment of the caller; where they cannot, or should not (another user's daemon, another machine), the line that names the
//! daemon says so. Tested at the end of this file, in `tests/map.rs`, `tests/map_whose.rs` and `tests/restarts.rs`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::num::NonZero;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use indicatif::ProgressBar;
use qtf_proto::address::{Address, default_address};
use qtf_worker::ExecPolicy;

use crate::args::{GlobalArgs, MapArgs};
use crate::commands::Variable;
use crate::crew::{Crew, default_slots};
use crate::daemon::{Daemon, JUST_STARTED, given_address, unreachable};
use crate::exit::Failure;
use crate::notices::RECONNECT_FOR;
use crate::output::message;

/// LIMIT: tasks in flight for each slot, so that no slot waits for the next submission.
const TASKS_PER_SLOT: usize = 4;
/// LIMIT: tasks in flight at a daemon whose workers may be many or still to come.
const TASKS_IN_FLIGHT: std::ops::RangeInclusive<usize> = 64..=16_384;

/// What a worker says to each attempt of it; of an outer task it would be wrong in an inner one.
const SAID_BY_THE_WORKER: [&str; 4] = [
    "QTF_TASK_ID",
    "QTF_ATTEMPT",
    "QTF_ARRAY_ID",
    "QTF_ARRAY_INDEX",
];

/// What was asked for that depends on the daemon.
#[derive(Clone, Debug)]
pub(super) struct Wishes {
    slots: Option<NonZero<u16>>,
    policy: ExecPolicy,
    /// Options that only an own daemon can follow.
    own_only: Vec<&'static str>,
}

impl Wishes {
    pub(super) fn of(args: &MapArgs) -> Self {
        let mut own_only = Vec::new();
        let mut policy = ExecPolicy::default();
        if let Some(way) = args.contain {
            policy = policy.containment(way);
            own_only.push("--contain");
        }
        if let Some(linger) = args.linger {
            policy = policy.linger(linger);
            own_only.push("--linger");
        }
        Wishes {
            slots: args.slots,
            policy,
            own_only,
        }
    }
}

/// The daemon, and what it is to the caller.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) daemon: Daemon,
    /// Of an own daemon.
    pub(super) crew: Option<Crew>,
    /// The environment of the caller is to go with the tasks. To an own one it goes by itself.
    pub(super) takes_environment: bool,
}

impl Found {
    /// The daemon that was named or is at the default socket, or else an own one. Where one was killed or stopped a short while ago, the
    /// next is waited for first.
    pub(super) async fn find(
        global: &GlobalArgs,
        wishes: &Wishes,
        bar: &ProgressBar,
    ) -> Result<Self, Failure> {
        let given = given_address(global)?;
        let may_be_own = given.is_none();
        let address = given.unwrap_or_else(default_address);
        let unannounced = if may_be_own {
            Duration::ZERO
        } else {
            JUST_STARTED
        };
        match Daemon::at_or_next(&address, Some(bar), (RECONNECT_FOR, unannounced)).await {
            Ok(daemon) => Ok(Found {
                daemon,
                crew: None,
                takes_environment: is_callers(&address),
            }),
            Err(error) if may_be_own && error.is_not_there() => {
                let slots = wishes.slots.map_or_else(default_slots, NonZero::get);
                let crew = Crew::start_for_map(slots, wishes.policy.clone())?;
                let daemon = Daemon::at(&crew.address(), Some(bar))
                    .await
                    .map_err(|error| unreachable(&error))?;
                Ok(Found {
                    daemon,
                    crew: Some(crew),
                    takes_environment: false,
                })
            }
            Err(error) => Err(unreachable(&error)),
        }
    }

    /// The line that says which daemon it is, and what is not as asked for.
    pub(super) fn told(&self, wishes: &Wishes) -> String {
        if let Some(crew) = &self.crew {
            return format!(
                "a daemon of its own runs the tasks, {} at a time",
                crew.slots()
            );
        }
        let mut text = format!("the daemon at {} runs the tasks", self.daemon.address);
        if let Some(slots) = wishes.slots {
            text.push_str(&format!(", {slots} at a time"));
        }
        if !self.takes_environment {
            text.push_str("; they have the environment of its workers, not of this shell: --env NAME passes a variable on");
        }
        if !wishes.own_only.is_empty() {
            let options = wishes.own_only.join(" and ");
            text.push_str(&format!("; {options} is left to its workers"));
        }
        text
    }

    /// How many tasks may be submitted and not ended.
    pub(super) async fn unfinished(&self, wishes: &Wishes) -> Result<usize, Failure> {
        let (slots, ahead) = match &self.crew {
            Some(crew) => (crew.slots(), crew.ahead()),
            None => (slots_of(&self.daemon).await?, 0),
        };
        // While some ends are on their way here, the next are taken ahead, and more come in.
        let unfinished = slots
            .saturating_mul(TASKS_PER_SLOT)
            .saturating_add(ahead.saturating_mul(2));
        let unfinished = unfinished.clamp(*TASKS_IN_FLIGHT.start(), *TASKS_IN_FLIGHT.end());
        Ok(match wishes.slots {
            // Its workers have slots for others too: only what is not there does not run.
            Some(slots) if self.crew.is_none() => slots.get().into(),
            _ => unfinished,
        })
    }
}

/// Whether whoever listens there is the caller, so that what the caller's environment holds goes to nobody else.
fn is_callers(address: &Address) -> bool {
    let socket = address.socket_file();
    let owner = socket.and_then(|socket| std::fs::symlink_metadata(socket).ok());
    owner.is_some_and(|owner| owner.uid() == nix::unistd::geteuid().as_raw())
}

/// The environment of the caller, with what was asked for over it.
pub(super) fn with_environment(
    inherited: impl Iterator<Item = (OsString, OsString)>,
    asked: Vec<Variable>,
) -> Vec<Variable> {
    let is_passed_on = |name: &OsString| {
        // A worker takes no other names, and no program can read them by its own means.
        let is_name = !name.is_empty() && !name.as_bytes().contains(&b'=');
        is_name && !SAID_BY_THE_WORKER.iter().any(|said| name == said)
    };
    let inherited = inherited
        .filter(|(name, _)| is_passed_on(name))
        .map(|(name, value)| Variable::passed_on(name, value));
    let named = |variable: Variable| (variable.name.clone(), variable);
    let all: BTreeMap<OsString, Variable> = inherited.chain(asked).map(named).collect();
    all.into_values().collect()
}

/// Slots of all workers of a daemon.
async fn slots_of(daemon: &Daemon) -> Result<usize, Failure> {
    let workers = daemon.client.workers().await?;
    if workers.is_empty() {
        message(format!(
            "no worker is at {}; the tasks wait until one comes (qtf-worker --connect)",
            daemon.address
        ));
    }
    let capacity = workers
        .iter()
        .map(|worker| usize::try_from(worker.capacity).unwrap_or(0));
    Ok(capacity.fold(0, usize::saturating_add))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::parse_variables;

    #[test]
    fn environment_goes_along_without_what_a_worker_says_and_with_what_was_asked_for() {
        let variable = |name: &str, value: &str| (OsString::from(name), OsString::from(value));
        let inherited = [
            variable("HOME", "/home/x"),
            variable("CC", "gcc"),
            variable("QTF_TASK_ID", "outer"),
            variable("=odd", "1"),
            variable("QTF_ADDR", "unix:/q"),
        ];
        let asked = parse_variables(&["CC=clang".into()]).unwrap();
        let all: Vec<_> = with_environment(inherited.into_iter(), asked)
            .into_iter()
            .map(|variable| (variable.name.clone(), variable.value().to_owned()))
            .collect();
        let expected = [
            variable("CC", "clang"),
            variable("HOME", "/home/x"),
            variable("QTF_ADDR", "unix:/q"),
        ];
        assert_eq!(all, expected);
    }

    #[test]
    fn environment_goes_to_nobody_but_the_caller() {
        assert!(!is_callers(&Address::Tcp("127.0.0.1:7878".to_owned())));
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("q.sock");
        let address = Address::Unix(socket.clone());
        assert!(!is_callers(&address));
        std::fs::write(&socket, "").unwrap();
        assert!(is_callers(&address));
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::lchown(&socket, Some(1), None).unwrap();
            assert!(!is_callers(&address), "it is another user's");
        }
    }
}
