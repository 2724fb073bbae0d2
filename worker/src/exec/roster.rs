//! The children of this process that run programs: all of them can be stopped and continued together, and told from others.
//!
//! Invariants:
//! - Who is on the roster is not reaped, so its number is nobody else's; it is taken off in the same breath as it is reaped.
//! - This process does not stop with its programs while one of them has begun and is not on the roster yet.
//!
//! Tested in `exec/tree_tests.rs` and by the tests of `qtf map`.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use tokio::signal::unix::{SignalKind, signal};

use crate::sys;

/// Who hears a signal for a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ear {
    /// The child's group.
    Group,
    /// The child, an init, which passes it on.
    Init,
}

#[derive(Debug, Default)]
struct Roster {
    children: HashMap<Pid, Ear>,
    is_suspended: bool,
}

static ROSTER: LazyLock<Mutex<Roster>> = LazyLock::new(Mutex::default);

/// Shared by all who start a program, from before it begins until it is on the roster. Taken before the roster.
static STARTING: RwLock<()> = RwLock::new(());

/// To be held while a program is started and put on the roster.
pub(super) fn starting() -> RwLockReadGuard<'static, ()> {
    STARTING.read().unwrap_or_else(PoisonError::into_inner)
}

fn roster() -> MutexGuard<'static, Roster> {
    ROSTER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Puts a child on it. While all are stopped, so is this one.
pub(super) fn add(child: Pid, ear: Ear) {
    let mut roster = roster();
    roster.children.insert(child, ear);
    if roster.is_suspended {
        suspend(child, ear);
    }
}

/// Reaps a child by `reap`, which says whether that is done, and takes it off then.
pub(super) fn reap<T>(child: Pid, reap: impl FnOnce() -> (bool, T)) -> T {
    let mut roster = roster();
    let (is_reaped, result) = reap();
    if is_reaped {
        roster.children.remove(&child);
    }
    result
}

/// Whether all are stopped.
pub(super) fn is_suspended() -> bool {
    roster().is_suspended
}

/// Stops the programs that this process runs, and those it starts from now on, until [`resume_programs`]. Calls `stop`, which may
/// stop this process, at a moment at which no program runs that was not stopped.
pub fn suspend_programs(stop: impl FnOnce()) {
    let _none_is_starting = STARTING.write().unwrap_or_else(PoisonError::into_inner);
    {
        let mut roster = roster();
        roster.is_suspended = true;
        for (child, ear) in &roster.children {
            suspend(*child, *ear);
        }
    }
    stop();
}

/// Lets the programs that this process runs go on.
pub fn resume_programs() {
    let mut roster = roster();
    roster.is_suspended = false;
    // The only possible error is that nobody is left who may be signalled.
    for (child, ear) in &roster.children {
        let _ = match ear {
            Ear::Group => killpg(*child, Signal::SIGCONT),
            Ear::Init => kill(*child, sys::RESUME),
        };
    }
}

/// Reaps children of this process that it has not started, as they come: as pid 1 of a container it gets those that others leave. To be
/// awaited by a program that starts no children besides.
///
/// It comes back when there are no signals to wait for.
pub async fn reap_strays() {
    let Ok(mut signals) = signal(SignalKind::child()) else {
        tracing::error!("cannot listen to SIGCHLD: zombies are not reaped");
        return;
    };
    loop {
        reap_those_there();
        if signals.recv().await.is_none() {
            return;
        }
    }
}

fn reap_those_there() {
    // A program that has ended before it was on the roster would be taken for a stray.
    let _none_is_starting = STARTING.write().unwrap_or_else(PoisonError::into_inner);
    let roster = roster();
    for child in children() {
        if !roster.children.contains_key(&child) {
            let _ = waitpid(child, Some(WaitPidFlag::WNOHANG));
        }
    }
}

/// The children of all threads of this process.
fn children() -> Vec<Pid> {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    let lists = threads
        .flatten()
        .map(|thread| std::fs::read_to_string(thread.path().join("children")).unwrap_or_default());
    let numbers = lists.flat_map(|list| {
        let numbers = list.split_ascii_whitespace();
        numbers
            .filter_map(|pid| pid.parse().ok())
            .collect::<Vec<_>>()
    });
    numbers.map(Pid::from_raw).collect()
}

fn suspend(child: Pid, ear: Ear) {
    let _ = match ear {
        Ear::Group => killpg(child, Signal::SIGSTOP),
        Ear::Init => kill(child, sys::SUSPEND),
    };
}
