//! Which cores the process may use, and pinning the daemon's thread to one of them.
//!
//! Failing to pin is no reason not to serve: it is said once in the log. Tested at the end.

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::config::Core;

/// Cores that the process may use, ascending.
pub(crate) fn allowed_cores() -> Vec<u16> {
    let ids = core_affinity::get_core_ids().unwrap_or_default();
    ids.into_iter()
        .filter_map(|core| u16::try_from(core.id).ok())
        .collect()
}

/// Which of `allowed` the thread shall run on; `None` = on any.
pub(crate) fn choose(core: Core, allowed: &[u16]) -> Option<u16> {
    match core {
        Core::None => None,
        Core::Number(number) => Some(number),
        Core::Auto if allowed.len() < 2 => None,
        Core::Auto => allowed.last().copied(),
    }
}

/// Pins the calling thread; says in the log what came of it. Returns the core it is pinned to.
pub(crate) fn pin(core: Core) -> Option<u16> {
    let allowed = allowed_cores();
    let Some(number) = choose(core, &allowed) else {
        tracing::info!(cores = allowed.len(), "not pinned to a core");
        return None;
    };
    if core_affinity::set_for_current(core_affinity::CoreId { id: number.into() }) {
        tracing::info!(core = number, "pinned");
        return Some(number);
    }
    tracing::warn!(
        core = number,
        ?allowed,
        "cannot be pinned to this core, runs on any: choose one of the allowed cores, or core = \"none\""
    );
    None
}

/// Lets the calling thread run on all of these, whatever the thread was pinned to that started it.
pub(crate) fn spread(cores: &[u16]) {
    let mut set = CpuSet::new();
    let is_set = cores.iter().all(|core| set.set(usize::from(*core)).is_ok());
    let spread = if is_set && !cores.is_empty() {
        sched_setaffinity(Pid::from_raw(0), &set)
    } else {
        Err(Errno::EINVAL)
    };
    if let Err(error) = spread {
        tracing::warn!(%error, ?cores, "a thread stays on the core of the one that started it");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn automatic_choice_takes_the_last_core_and_leaves_a_single_one_alone() {
        assert_eq!(choose(Core::Auto, &[0, 2, 5]), Some(5));
        assert_eq!(choose(Core::Auto, &[0]), None);
        assert_eq!(choose(Core::None, &[0, 1]), None);
        assert_eq!(choose(Core::Number(7), &[0, 1]), Some(7));
    }

    #[test]
    fn thread_of_a_pinned_one_may_run_on_all_cores_again() {
        let allowed = allowed_cores();
        let pinned = std::thread::spawn(|| {
            pin(Core::Number(allowed_cores()[0]));
            assert_eq!(allowed_cores().len(), 1);
            allowed
        });
        let allowed = pinned.join().unwrap();
        std::thread::spawn(move || {
            pin(Core::Number(allowed[0]));
            let beside = std::thread::spawn(move || {
                spread(&allowed);
                assert_eq!(allowed_cores(), allowed);
            });
            beside.join().unwrap();
        })
        .join()
        .unwrap();
    }

    #[test]
    fn core_that_does_not_exist_is_not_fatal() {
        assert_eq!(
            std::thread::spawn(|| pin(Core::Number(1023)))
                .join()
                .unwrap(),
            None
        );
    }
}
