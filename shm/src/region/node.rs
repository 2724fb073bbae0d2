//! On which memory node of the machine the pages of a region are to lie.
//!
//! A machine with several processors has memory beside each: a **node** (NUMA). The daemon's thread runs on one core, and a slot in
//! the memory of its node is there in two thirds of the time. The preference is set before the first touch, and the kernel keeps
//! it with the memory: whoever touches a page later, it comes to that node while there is room. Most machines have one node,
//! and nothing is asked of them.
//!
//! Tested at the end of this file.

use std::fs;
use std::io;

use crate::sync::AtomicU64;

const NODES: &str = "/sys/devices/system/node";
/// LIMIT: nodes that a kernel can be built for.
const NODES_MAX: u32 = 1024;
const MASK_WORDS: usize = 1024 / 64;

const MPOL_PREFERRED: libc::c_int = 1;
const MPOL_MF_MOVE: libc::c_uint = 1 << 1;
const MPOL_F_ADDR: libc::c_ulong = 1 << 1;
/// Flags that stand beside the mode in the kernel's answer.
const MPOL_MODE_FLAGS: libc::c_int = 0xE000;

/// The nodes of this machine that have memory; none where the kernel knows of no nodes.
#[must_use]
pub fn nodes() -> Vec<u32> {
    let text = fs::read_to_string(format!("{NODES}/has_memory")).unwrap_or_default();
    numbers(&text)
}

/// The node beside a core, if the machine says so.
#[must_use]
pub fn node_of_core(core: u16) -> Option<u32> {
    nodes().into_iter().find(|node| {
        let cores = fs::read_to_string(format!("{NODES}/node{node}/cpulist"));
        cores.is_ok_and(|cores| numbers(&cores).contains(&core.into()))
    })
}

/// The numbers of a list as the kernel writes it: `0-3,8`.
fn numbers(text: &str) -> Vec<u32> {
    let mut numbers = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) {
            numbers.extend(first..=last.min(first.saturating_add(NODES_MAX)));
        }
    }
    numbers
}

/// Has pages that are touched from now on come to a node, while there is room. With `move_there` those come too that are there and
/// that only this process has mapped.
///
/// # Errors
/// The kernel refuses, as sandboxes do (`EPERM`, `ENOSYS`), or there is no such node (`EINVAL`).
#[expect(unsafe_code, reason = "system call")]
pub(crate) fn prefer(words: &[AtomicU64], node: u32, move_there: bool) -> io::Result<()> {
    let place = usize::try_from(node).unwrap_or(usize::MAX);
    let mut mask = [0_u64; MASK_WORDS];
    *mask
        .get_mut(place / 64)
        .ok_or(io::ErrorKind::InvalidInput)? = 1 << (place % 64);
    let flags = if move_there { MPOL_MF_MOVE } else { 0 };
    // SAFETY: the range is mapped as long as `words` lives, and a policy changes nothing in it; the mask has as many bits as are
    // said, less the one that the kernel takes off.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mbind,
            words.as_ptr(),
            size_of_val(words),
            MPOL_PREFERRED,
            mask.as_ptr(),
            libc::c_ulong::from(NODES_MAX),
            flags,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// The node that the pages of some words prefer; `None` if none.
///
/// # Errors
/// The kernel does not say.
#[expect(unsafe_code, reason = "system call")]
pub(crate) fn preferred(words: &[AtomicU64]) -> io::Result<Option<u32>> {
    let mut mode: libc::c_int = 0;
    let mut mask = [0_u64; MASK_WORDS];
    // SAFETY: the kernel fills mode and mask, which has as many bits as are said, and looks up the mapping at an address.
    let result = unsafe {
        libc::syscall(
            libc::SYS_get_mempolicy,
            &raw mut mode,
            mask.as_mut_ptr(),
            libc::c_ulong::from(NODES_MAX),
            words.as_ptr(),
            MPOL_F_ADDR,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    if mode & !MPOL_MODE_FLAGS != MPOL_PREFERRED {
        return Ok(None);
    }
    let mut places = (0_u32..).zip(mask);
    Ok(places.find_map(|(place, word)| (word != 0).then(|| place * 64 + word.trailing_zeros())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::{Mapping, SysvMemory, sysv};

    #[test]
    fn lists_of_the_kernel_are_read_and_nonsense_is_nobody() {
        assert_eq!(numbers("0\n"), [0]);
        assert_eq!(numbers("0-2,5,8-9\n"), [0, 1, 2, 5, 8, 9]);
        assert_eq!(numbers("\n"), []);
        assert_eq!(numbers("a-b"), []);
        assert!(numbers("0-4294967295").len() <= 1025);
    }

    #[test]
    fn preference_is_kept_with_the_memory_and_seen_by_whoever_attaches() {
        let shm_id = sysv::create(libc::IPC_PRIVATE, 4 << 20, 0o600).unwrap();
        let [writer, reader] = [false, true]
            .map(|read_only| Mapping::Sysv(SysvMemory::attach(shm_id, read_only).unwrap()));
        sysv::remove(shm_id).unwrap();
        let Ok(before) = preferred(reader.words()) else {
            // No nodes here, or a sandbox: whoever sets one is told so.
            assert!(prefer(writer.words(), 0, false).is_err());
            return;
        };
        assert_eq!(before, None);
        let last = nodes().last().copied().unwrap();
        prefer(writer.words(), last, true).unwrap();
        assert_eq!(preferred(reader.words()).unwrap(), Some(last));
    }

    #[test]
    fn a_node_that_is_not_there_is_an_error_and_a_core_of_none_has_no_node() {
        let shm_id = sysv::create(libc::IPC_PRIVATE, 8192, 0o600).unwrap();
        let memory = Mapping::Sysv(SysvMemory::attach(shm_id, false).unwrap());
        sysv::remove(shm_id).unwrap();
        assert!(prefer(memory.words(), 1000, false).is_err());
        assert!(prefer(memory.words(), u32::MAX, false).is_err());
        assert_eq!(node_of_core(60_000), None);
    }
}
