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

/// The same of a segment that was to be made of pages of 2 MiB.
#[expect(clippy::wildcard_enum_match_arm, reason = "there are 130 of them")]
pub(super) fn refusal_of_huge_pages(source: io::Error, bytes: u64, instance: &str) -> CreateError {
    let errno = source
        .raw_os_error()
        .map_or(Errno::UnknownErrno, Errno::from_raw);
    let (why, fix) = match errno {
        Errno::ENOMEM => pages_missing(bytes, Pool::of_machine()),
        Errno::EPERM => (
            "this user may not have such pages".to_owned(),
            "give it a group that may with `sysctl -w vm.hugetlb_shm_group=GID`".to_owned(),
        ),
        Errno::ENOENT | Errno::EINVAL if Pool::of_machine().is_none() => (
            "this kernel has none".to_owned(),
            "boot one with CONFIG_HUGETLBFS on a processor that has them".to_owned(),
        ),
        _ => return refusal(source, "shmget", bytes, instance),
    };
    CreateError::HugePages {
        bytes,
        why,
        fix,
        source,
    }
}

/// The pages of 2 MiB that are set aside.
struct Pool {
    pages: u64,
    available: u64,
}

impl Pool {
    fn of_machine() -> Option<Self> {
        let number = |file: &str| {
            let folder = "/sys/kernel/mm/hugepages/hugepages-2048kB";
            let text = fs::read_to_string(format!("{folder}/{file}")).ok()?;
            text.trim().parse::<u64>().ok()
        };
        let free = number("free_hugepages")?;
        Some(Self {
            pages: number("nr_hugepages")?,
            // What is promised to a mapping that has not touched it is free too.
            available: free.saturating_sub(number("resv_hugepages")?),
        })
    }
}

fn pages_missing(bytes: u64, pool: Option<Pool>) -> (String, String) {
    let needed = bytes.div_ceil(2 << 20);
    let Pool { pages, available } = pool.unwrap_or(Pool {
        pages: 0,
        available: 0,
    });
    let missing = needed.saturating_sub(available);
    (
        format!(
            "{needed} of them are needed, and of {pages} that are set aside {available} are free"
        ),
        format!(
            "set them aside with `sysctl -w vm.nr_hugepages={}`, best at boot, while memory is in one piece",
            pages.saturating_add(missing)
        ),
    )
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
    fn refusal_of_huge_pages_names_the_setting_of_the_kernel_and_the_one_of_the_daemon() {
        for (errno, word) in [
            (Errno::ENOMEM, "vm.nr_hugepages="),
            (Errno::EPERM, "vm.hugetlb_shm_group="),
        ] {
            let error = refusal_of_huge_pages(io::Error::from(errno), 256 << 20, "main");
            let text = error.to_string();
            assert!(text.contains(word), "{errno}: {text}");
            assert!(text.contains("huge_pages = \"auto\""), "{text}");
        }
        let text = refusal_of_huge_pages(io::Error::from(Errno::EIO), 1, "main").to_string();
        assert!(text.contains("shmget for instance `main`"), "{text}");
    }

    #[test]
    fn pages_that_are_set_aside_already_count() {
        let pool = Pool {
            pages: 100,
            available: 28,
        };
        let (why, fix) = pages_missing((256 << 20) + 1, Some(pool));
        assert!(why.starts_with("129 of them are needed"), "{why}");
        assert!(
            why.ends_with("of 100 that are set aside 28 are free"),
            "{why}"
        );
        assert!(fix.contains("vm.nr_hugepages=201"), "{fix}");
    }

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
