//! Room for the descriptors of running programs, which those programs do not inherit.
//!
//! The usual limit of 1,024 is there because `select` knows no higher descriptors. This worker does not use it; a program
//! that it runs may, so each gets the limit back that the worker was started with.
//!
//! Tested in `exec/tests.rs`.

use std::os::unix::fs::MetadataExt as _;
use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

/// Descriptors a running task takes: three pipes, its notice of end, and the reports of its init or the folder of its cgroup.
const PER_SLOT: u64 = 5;
const BESIDES: u64 = 128;

/// Processes a running task may need: its program, two that this starts, and its init. Programs that can start none fail.
const PROCESSES_PER_SLOT: u64 = 4;

/// The limits before they were raised, soft and hard.
static GIVEN: OnceLock<(rlim_t, rlim_t)> = OnceLock::new();

/// Raises the limit of open files for so many programs at the same time, and `more` of the caller's own. Programs that are
/// run get the limit of before.
///
/// Gives how many programs at the same time that limit and the limit of processes carry, `slots` at most and 1 at least. What the caller has for itself is then a quarter.
#[must_use]
pub fn raise_descriptor_limit(slots: u32, more: u64) -> u32 {
    let slots = slots_by_processes(slots);
    let wanted = u64::from(slots) * PER_SLOT + BESIDES + more;
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return slots;
    };
    if soft >= wanted {
        return slots;
    }
    GIVEN.get_or_init(|| (soft, hard));
    let raised = setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard);
    let limit = if raised.is_ok() {
        wanted.min(hard)
    } else {
        soft
    };
    carried(slots, more, limit)
}

/// Of the slots, those that the limit of processes of this user leaves.
fn slots_by_processes(slots: u32) -> u32 {
    // The kernel lets root start more.
    if nix::unistd::geteuid().is_root() {
        return slots;
    }
    match getrlimit(Resource::RLIMIT_NPROC) {
        // Looked at closely only where it may matter: counting takes a while.
        Ok((soft, _)) if soft / PROCESSES_PER_SLOT / 4 < u64::from(slots) => {
            carried_by_processes(slots, soft, threads_of_user())
        }
        Ok(_) | Err(_) => slots,
    }
}

fn carried_by_processes(slots: u32, limit: u64, used: u64) -> u32 {
    let rest = limit.saturating_sub(used) / PROCESSES_PER_SLOT;
    u32::try_from(rest)
        .unwrap_or(u32::MAX)
        .clamp(1, slots.max(1))
}

/// What the kernel counts against the limit: threads.
fn threads_of_user() -> u64 {
    let me = nix::unistd::getuid().as_raw();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let own = processes.filter(|entry| entry.metadata().is_ok_and(|data| data.uid() == me));
    own.map(|entry| {
        let threads = std::fs::read_dir(entry.path().join("task"));
        threads.map_or(0, |threads| u64::try_from(threads.count()).unwrap_or(0))
    })
    .sum()
}

fn carried(slots: u32, more: u64, limit: u64) -> u32 {
    let rest = limit.saturating_sub(BESIDES + more.min(limit / 4));
    let carried = u32::try_from(rest / PER_SLOT).unwrap_or(u32::MAX);
    carried.clamp(1, slots.max(1))
}

/// What a program is given, if that is another limit than the worker's own.
pub(crate) fn given() -> Option<(rlim_t, rlim_t)> {
    GIVEN.get().copied()
}

#[cfg(test)]
mod tests {
    use super::{carried, carried_by_processes};

    #[test]
    fn slots_are_offered_as_the_limit_carries_them_and_one_always() {
        assert_eq!(carried(400, 0, 1 << 20), 400);
        assert_eq!(carried(400, 0, 1_128), 200);
        assert_eq!(carried(400, 2_048, 1_128), 143, "a quarter is the caller's");
        assert_eq!(carried(400, 2_048, 100), 1);
    }

    #[test]
    fn slots_leave_processes_for_what_programs_start() {
        assert_eq!(carried_by_processes(400, 10_000, 100), 400);
        assert_eq!(carried_by_processes(400, 500, 100), 100);
        assert_eq!(carried_by_processes(400, 50, 100), 1);
    }
}
