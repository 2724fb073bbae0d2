//! What the kernel says about the System V segments of this IPC namespace (`/proc/sysvipc/shm`).
//!
//! Reading this file attaches to nothing. Tested at the end.

use std::io;

const FILE: &str = "/proc/sysvipc/shm";

/// One line of the kernel's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KernelSegment {
    pub(crate) key: u32,
    pub(crate) shm_id: i32,
    /// Permission bits; above them `0o1000` means marked for removal.
    pub(crate) mode: u32,
    pub(crate) bytes: u64,
    pub(crate) attached: u64,
    pub(crate) uid: u32,
}

impl KernelSegment {
    /// Marked for removal: the kernel frees it with its last process.
    pub(crate) fn is_private(&self) -> bool {
        self.key == 0
    }
}

/// All segments of this IPC namespace.
///
/// # Errors
/// `/proc` is not there.
pub(crate) fn all() -> io::Result<Vec<KernelSegment>> {
    Ok(std::fs::read_to_string(FILE)?
        .lines()
        .filter_map(parse_line)
        .collect())
}

/// The head line and lines of another form are none.
fn parse_line(line: &str) -> Option<KernelSegment> {
    let mut words = line.split_whitespace();
    let key = words.next()?.parse::<i64>().ok()?;
    let shm_id = words.next()?.parse().ok()?;
    let mode = u32::from_str_radix(words.next()?, 8).ok()?;
    let bytes = words.next()?.parse().ok()?;
    let mut words = words.skip(2);
    let attached = words.next()?.parse().ok()?;
    let uid = words.next()?.parse().ok()?;
    // The kernel prints the key as a signed number.
    let key = u32::try_from(key & i64::from(u32::MAX)).ok()?;
    Some(KernelSegment {
        key,
        shm_id,
        mode,
        bytes,
        attached,
        uid,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_of_the_kernel_is_understood() {
        let line = "-1073741823     163842   600            268435456 41 42  2     0     0     0     0  1 0 1  4096  0";
        let expected = KernelSegment {
            key: 0xC000_0001,
            shm_id: 163_842,
            mode: 0o600,
            bytes: 268_435_456,
            attached: 2,
            uid: 0,
        };
        assert_eq!(parse_line(line), Some(expected));
    }

    #[test]
    fn head_and_broken_lines_are_no_segments() {
        let head = "       key      shmid perms                  size  cpid  lpid nattch   uid";
        for line in [head, "", "1 2", "0 x 600 4096 1 2 3 4"] {
            assert_eq!(parse_line(line), None, "{line}");
        }
    }

    #[test]
    fn table_of_this_machine_can_be_read() {
        all().unwrap();
    }
}
