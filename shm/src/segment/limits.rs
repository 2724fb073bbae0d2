//! What the kernel means when it refuses memory, in words that help.

use std::fs;
use std::io;

use nix::errno::Errno;

use crate::segment::spec::CreateError;

/// Turns the refusal of `shmget` or `shmat` into an error that names the limit and how to raise it.
pub(super) fn refusal(
    source: io::Error,
    call: &'static str,
    bytes: u64,
    instance: &str,
) -> CreateError {
    let errno = source
        .raw_os_error()
        .map_or(Errno::UnknownErrno, Errno::from_raw);
    let Some((limit, fix)) = meaning(errno, call) else {
        return CreateError::Call {
            call,
            instance: instance.to_owned(),
            source,
        };
    };
    CreateError::Limit {
        bytes,
        limit,
        fix,
        source,
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "there are 130 of them")]
fn meaning(errno: Errno, call: &str) -> Option<(&'static str, &'static str)> {
    Some(match errno {
        Errno::EINVAL if call == "shmget" => (
            "it is larger than kernel.shmmax allows",
            "raise it with `sysctl -w kernel.shmmax=BYTES`, or ask for fewer bytes",
        ),
        Errno::ENOSPC if segments_are_used_up() => (
            "there are as many segments as kernel.shmmni allows",
            "remove stale ones (`shm-inspect list`, `ipcs -m`), or raise it with `sysctl -w kernel.shmmni=COUNT`",
        ),
        Errno::ENOSPC => (
            "all segments together would be larger than kernel.shmall allows",
            "remove stale ones (`shm-inspect list`, `ipcs -m`), or raise it with `sysctl -w kernel.shmall=PAGES`",
        ),
        Errno::ENOMEM => (
            "memory, or the limit of this process or control group, does not suffice",
            "ask for fewer bytes, or raise the limit (`ulimit -v`, MemoryMax= of the unit, vm.overcommit_memory)",
        ),
        Errno::ENFILE | Errno::EMFILE => (
            "too many files are open",
            "raise the limit (`ulimit -n`, fs.file-max)",
        ),
        Errno::EPERM | Errno::EACCES | Errno::ENOSYS => (
            "System V shared memory is not allowed here",
            "allow shmget, shmat and shmctl in the sandbox (seccomp filter, security module, container options)",
        ),
        _ => return None,
    })
}

fn segments_are_used_up() -> bool {
    let limit: Option<usize> = fs::read_to_string("/proc/sys/kernel/shmmni")
        .ok()
        .and_then(|text| text.trim().parse().ok());
    let segments =
        fs::read_to_string("/proc/sysvipc/shm").map_or(0, |table| table.lines().skip(1).count());
    limit.is_some_and(|limit| segments >= limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_names_its_limit_and_a_way_out() {
        for (errno, call, word) in [
            (Errno::EINVAL, "shmget", "kernel.shmmax"),
            (Errno::ENOSPC, "shmget", "kernel.shm"),
            (Errno::ENOMEM, "shmget", "ulimit"),
            (Errno::ENOMEM, "shmat", "ulimit"),
            (Errno::EPERM, "shmget", "seccomp"),
            (Errno::EACCES, "shmat", "seccomp"),
            (Errno::ENOSYS, "shmget", "seccomp"),
            (Errno::EIO, "shmget", "shmget for instance `main` failed"),
        ] {
            let text = refusal(io::Error::from(errno), call, 1 << 28, "main").to_string();
            assert!(text.contains(word), "{errno}: {text}");
            assert!(!text.contains('\n') && !text.ends_with('.'), "{text}");
        }
    }
}
