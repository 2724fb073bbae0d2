//! Room for the descriptors of running programs, which those programs do not inherit.
//!
//! The usual limit of 1,024 is there because `select` knows no higher descriptors. This worker does not use it; a program
//! that it runs may, so each gets the limit back that the worker was started with.
//!
//! Tested in `exec/tests.rs`.

use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

/// Descriptors a running task takes: three pipes, its notice of end, and the reports of its init.
const PER_SLOT: u64 = 5;
const BESIDES: u64 = 128;

/// The limits before they were raised, soft and hard.
static GIVEN: OnceLock<(rlim_t, rlim_t)> = OnceLock::new();

/// Raises the limit of open files for so many programs at the same time, and `more` of the caller's own. Programs that are
/// run get the limit of before.
///
/// Gives how many programs at the same time the limit carries, `slots` at most and 1 at least. What the caller has for itself is then a quarter.
#[must_use]
pub fn raise_descriptor_limit(slots: u32, more: u64) -> u32 {
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
    use super::carried;

    #[test]
    fn slots_are_offered_as_the_limit_carries_them_and_one_always() {
        assert_eq!(carried(400, 0, 1 << 20), 400);
        assert_eq!(carried(400, 0, 1_128), 200);
        assert_eq!(carried(400, 2_048, 1_128), 143, "a quarter is the caller's");
        assert_eq!(carried(400, 2_048, 100), 1);
    }
}
