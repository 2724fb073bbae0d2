//! Room for the descriptors of running programs, which those programs do not inherit.
//!
//! The usual limit of 1,024 is there because `select` knows no higher descriptors. This worker does not use it; a program
//! that it runs may, so each gets the limit back that the worker was started with.
//!
//! Tested in `exec/tests.rs`.

use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

/// Descriptors a running task takes: three pipes and its notice of end.
const PER_SLOT: u64 = 4;
const BESIDES: u64 = 128;

/// The limits before they were raised, soft and hard.
static GIVEN: OnceLock<(rlim_t, rlim_t)> = OnceLock::new();

/// Raises the limit of open files for so many programs at the same time, and `more` of the caller's own. Programs that are
/// run get the limit of before.
pub fn raise_descriptor_limit(slots: u32, more: u64) {
    let wanted = u64::from(slots) * PER_SLOT + BESIDES + more;
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    if soft >= wanted {
        return;
    }
    GIVEN.get_or_init(|| (soft, hard));
    let raised = setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard);
    if wanted > hard || raised.is_err() {
        tracing::warn!(
            soft,
            hard,
            wanted,
            "the limit of open files is too low for this many slots: raise `ulimit -n`"
        );
    }
}

/// What a program is given, if that is another limit than the worker's own.
pub(crate) fn given() -> Option<(rlim_t, rlim_t)> {
    GIVEN.get().copied()
}
