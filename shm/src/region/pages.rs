//! How large the pages of a region are, and asking the kernel for larger ones: 2 MiB instead of 4 KiB, of which a segment of
//! 256 MiB needs 128 and not 65,536, so that the processor finds the address of a random slot without walking tables.
//!
//! A region is looked at in **extents**: the 2 MiB between two addresses that are multiples of it, within the region. One call
//! makes at most one of them huge, and whoever touches it meanwhile waits for a copy of 2 MiB. What the kernel has given is asked
//! of the kernel (`/proc/self/smaps`), never concluded from what it was asked for.
//!
//! Tested at the end of this file, with memory of this process (which a kernel with `transparent_hugepage/enabled` of `madvise`
//! or `always` gives in such pages) and with System V memory.

use std::fs;
use std::io::{self, BufReader};

use crate::region::residency::resident_pages;
use crate::sync::{AtomicU64, Ordering};

/// Bytes of a huge page.
pub(crate) const HUGE_BYTES: usize = 2 << 20;
const HUGE_WORDS: usize = HUGE_BYTES / 8;

/// `MADV_COLLAPSE`, Linux 6.1; the C library may not name it.
const MADV_COLLAPSE: libc::c_int = 25;

/// What the kernel says about the pages of a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct PageSizes {
    /// Bytes of the pages that it was made of.
    pub(crate) page_bytes: u64,
    /// Bytes that are mapped here in huge pages that were put together later.
    pub(crate) huge_bytes: u64,
}

/// The whole extents of some words.
fn extents(words: &[AtomicU64]) -> impl ExactSizeIterator<Item = &[AtomicU64]> {
    let into = words.as_ptr().addr() % HUGE_BYTES / 8;
    let head = (HUGE_WORDS - into) % HUGE_WORDS;
    words
        .get(head..)
        .unwrap_or_default()
        .chunks_exact(HUGE_WORDS)
}

/// How many whole extents there are.
pub(crate) fn count(words: &[AtomicU64]) -> usize {
    extents(words).len()
}

/// One of them.
pub(crate) fn extent(words: &[AtomicU64], index: usize) -> Option<&[AtomicU64]> {
    extents(words).nth(index)
}

/// Asks the kernel to give, or not to give, huge pages for what is touched from now on, and to put pages together that are there.
/// It is advice: what comes of it [`sizes`] tells.
///
/// # Errors
/// A kernel without huge pages refuses (`EINVAL`).
pub(crate) fn advise(words: &[AtomicU64], wanted: bool) -> io::Result<()> {
    let advice = if wanted {
        libc::MADV_HUGEPAGE
    } else {
        libc::MADV_NOHUGEPAGE
    };
    give_advice(words, advice)
}

/// Puts an extent together into one huge page, now. What of it was not there is zeros then.
///
/// # Errors
/// `EAGAIN`, `EBUSY` or `ENOMEM` when there is no such page just now, `EINVAL` when the kernel does not do it.
pub(crate) fn collapse(extent: &[AtomicU64]) -> io::Result<()> {
    give_advice(extent, MADV_COLLAPSE)
}

#[expect(unsafe_code, reason = "system call")]
fn give_advice(words: &[AtomicU64], advice: libc::c_int) -> io::Result<()> {
    let start = words.as_ptr().cast_mut();
    // SAFETY: the range is mapped as long as `words` lives; none of the advices given here changes what is in it.
    let result = unsafe { libc::madvise(start.cast(), size_of_val(words), advice) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Bytes of words, which start a page, that are in memory.
pub(crate) fn resident_bytes(words: &[AtomicU64]) -> u64 {
    // In parts, so that the answer for a large region needs no large buffer.
    words
        .chunks(HUGE_WORDS)
        .flat_map(resident_pages)
        .map(|here| if here { 4096 } else { 0 })
        .sum()
}

/// Maps each extent that is in memory as a whole, so that [`sizes`] counts those in huge pages. Touches nothing that is not there.
pub(crate) fn map_whole_extents(words: &[AtomicU64]) {
    for extent in extents(words) {
        if resident_bytes(extent) == HUGE_BYTES as u64 {
            let first = extent.first();
            // ORDERING: the word's value is of no interest, only that its page is mapped.
            std::hint::black_box(first.map(|word| word.load(Ordering::Relaxed)));
        }
    }
}

/// What the kernel says about the mapping of some words in this process.
///
/// # Errors
/// `/proc/self/smaps` cannot be read.
pub(crate) fn sizes(words: &[AtomicU64]) -> io::Result<PageSizes> {
    let start = words.as_ptr().addr();
    let table = BufReader::new(fs::File::open("/proc/self/smaps")?);
    sizes_in(table, (start, start + size_of_val(words)))
}

fn sizes_in(table: impl io::BufRead, (start, end): (usize, usize)) -> io::Result<PageSizes> {
    let mut sizes = PageSizes::default();
    let mut is_ours = false;
    for line in table.lines() {
        let line = line?;
        let mut words = line.split_ascii_whitespace();
        let first = words.next().unwrap_or_default();
        let Some(name) = first.strip_suffix(':') else {
            // The first line of a mapping: its addresses.
            is_ours = addresses(first).is_some_and(|(from, to)| from < end && to > start);
            continue;
        };
        let kib = words.next().and_then(|number| number.parse::<u64>().ok());
        let (true, Some(bytes)) = (is_ours, kib.and_then(|kib| kib.checked_mul(1024))) else {
            continue;
        };
        match name {
            "KernelPageSize" => sizes.page_bytes = sizes.page_bytes.max(bytes),
            "AnonHugePages" | "ShmemPmdMapped" => sizes.huge_bytes += bytes,
            _ => {}
        }
    }
    Ok(sizes)
}

fn addresses(text: &str) -> Option<(usize, usize)> {
    let (from, to) = text.split_once('-')?;
    let number = |digits| usize::from_str_radix(digits, 16).ok();
    Some((number(from)?, number(to)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::{HeapMemory, Mapping, SysvMemory, sysv};

    fn is_on(file: &str, words: &[&str]) -> bool {
        let folder = "/sys/kernel/mm/transparent_hugepage";
        let text = fs::read_to_string(format!("{folder}/{file}")).unwrap_or_default();
        words.iter().any(|word| text.contains(&format!("[{word}]")))
    }

    #[test]
    fn extents_are_whole_and_lie_on_boundaries() {
        let memory = Mapping::Heap(HeapMemory::zeroed(3 * HUGE_BYTES));
        let words = memory.words();
        assert_eq!((count(words), count(&words[1..])), (3, 2));
        assert_eq!(count(&words[..HUGE_WORDS - 1]), 0);
        for index in 0..2 {
            let extent = extent(&words[1..], index).unwrap();
            assert_eq!(extent.as_ptr().addr() % HUGE_BYTES, 0);
            assert_eq!(size_of_val(extent), HUGE_BYTES);
        }
        assert!(extent(words, 3).is_none());
    }

    #[test]
    fn an_extent_is_put_together_with_what_is_in_it_or_the_kernel_says_why_not() {
        let memory = Mapping::Heap(HeapMemory::zeroed(2 * HUGE_BYTES));
        let words = memory.words();
        // Otherwise a kernel that always gives huge pages has given them by now.
        let _ = advise(words, false);
        words[7].store(1, Ordering::Relaxed);
        words[HUGE_WORDS + 9].store(2, Ordering::Relaxed);
        assert_eq!(sizes(words).unwrap().huge_bytes, 0);
        assert_eq!(sizes(words).unwrap().page_bytes, 4096);
        let _ = advise(words, true);
        match collapse(extent(words, 0).unwrap()) {
            Ok(()) => {
                // More where the kernel's own thread has come by.
                assert!(sizes(words).unwrap().huge_bytes >= HUGE_BYTES as u64);
                assert!(resident_bytes(words) >= HUGE_BYTES as u64 + 4096);
            }
            // There may be no such page just now.
            Err(error) if error.raw_os_error() != Some(libc::EINVAL) => {}
            Err(error) => {
                assert!(!is_on("enabled", &["always", "madvise"]), "{error}");
            }
        }
        assert_eq!(words[7].load(Ordering::Relaxed), 1);
        assert_eq!(words[8].load(Ordering::Relaxed), 0);
        assert_eq!(words[HUGE_WORDS + 9].load(Ordering::Relaxed), 2);
    }

    #[test]
    fn system_v_memory_is_put_together_where_shmem_enabled_allows_it_and_refused_elsewhere() {
        let shm_id = sysv::create(libc::IPC_PRIVATE, 8 << 20, 0o600).unwrap();
        let memory = SysvMemory::attach(shm_id, false);
        sysv::remove(shm_id).unwrap();
        let memory = Mapping::Sysv(memory.unwrap());
        let words = memory.words();
        assert_eq!(count(words), 4, "attached on a boundary");
        words[0].store(3, Ordering::Relaxed);
        let _ = advise(words, true);
        let collapsed = collapse(extent(words, 0).unwrap());
        let huge_bytes = sizes(words).unwrap().huge_bytes;
        match collapsed {
            Ok(()) => assert!(huge_bytes >= HUGE_BYTES as u64, "{huge_bytes}"),
            Err(error) if error.raw_os_error() != Some(libc::EINVAL) => {}
            Err(error) => {
                assert_eq!(huge_bytes, 0);
                let allowed = ["always", "within_size", "advise", "force"];
                assert!(!is_on("shmem_enabled", &allowed), "{error}");
            }
        }
        assert_eq!(words[0].load(Ordering::Relaxed), 3);
    }

    #[test]
    fn extents_that_are_there_in_part_are_not_touched() {
        let memory = Mapping::Heap(HeapMemory::zeroed(2 * HUGE_BYTES));
        let words = memory.words();
        let _ = advise(words, false);
        words[0].store(1, Ordering::Relaxed);
        map_whole_extents(words);
        assert_eq!(resident_bytes(words), 4096);
    }

    #[test]
    fn only_the_mappings_of_the_words_count() {
        let table = "\
1000-2000 rw-s 00000000 00:01 60 /SYSV00000000 (deleted)\n\
KernelPageSize:        4 kB\n\
ShmemPmdMapped:     2048 kB\n\
2000-4000 rw-s 00001000 00:01 60 /SYSV00000000 (deleted)\n\
Size:             258048 kB\n\
KernelPageSize:     2048 kB\n\
AnonHugePages:      2048 kB\n\
ShmemPmdMapped:     4096 kB\n\
THPeligible:           0\n\
VmFlags: rd wr sh mr mw me ms hg \n\
4000-5000 rw-p 00000000 00:00 0\n\
AnonHugePages:      2048 kB\n";
        let sizes = sizes_in(table.as_bytes(), (0x2800, 0x3000)).unwrap();
        assert_eq!(sizes.huge_bytes, 6 << 20);
        assert_eq!(sizes.page_bytes, 2 << 20);
    }
}
