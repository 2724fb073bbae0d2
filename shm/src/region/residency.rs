//! Which pages of a region are there: zeroing words without touching those that are not, and mapping those that are in one
//! go.
//!
//! Reading a page of shared memory that does not exist yet makes it, so a look at all words of a large, mostly unused
//! region costs memory and milliseconds for nothing. The kernel is asked which pages are there. It also calls a page absent
//! that was swapped out: so this is only for places that should be zero anyway, where a missed word is one that some
//! process damaged, and costs order, not safety.
//!
//! Tested at the end of this file.

use crate::sync::{AtomicU64, Ordering};

const PAGE_BYTES: usize = 4096;
const PAGE_WORDS: usize = PAGE_BYTES / 8;

/// Maps the pages of some words, all of which are about to be read: a page fault for each costs twice as much. A kernel that
/// cannot do it leaves the faults to the reader.
#[expect(unsafe_code, reason = "system call")]
pub(crate) fn map_ahead(words: &[AtomicU64]) {
    let into_page = words.as_ptr().addr() % PAGE_BYTES / 8;
    let head = (PAGE_WORDS - into_page) % PAGE_WORDS;
    let pages = words.get(head..).unwrap_or_default();
    let bytes = size_of_val(pages) / PAGE_BYTES * PAGE_BYTES;
    if bytes > 0 {
        let start = pages.as_ptr().cast_mut();
        // SAFETY: the range is mapped as long as `words` lives; the advice reads the pages and changes nothing in them.
        unsafe { libc::madvise(start.cast(), bytes, libc::MADV_POPULATE_READ) };
    }
}

/// Makes all words zero; those of pages that do not exist are.
pub(crate) fn empty(words: &[AtomicU64]) {
    let into_page = words.as_ptr().addr() % PAGE_BYTES / 8;
    let head = (PAGE_WORDS - into_page) % PAGE_WORDS;
    let (head, pages) = words.split_at(head.min(words.len()));
    zero(head);
    if pages.is_empty() {
        return;
    }
    let resident = resident_pages(pages);
    for (page, here) in pages.chunks(PAGE_WORDS).zip(resident) {
        if here {
            zero(page);
        }
    }
}

fn zero(words: &[AtomicU64]) {
    for word in words {
        // ORDERING: only at start-up, while nobody else writes.
        if word.load(Ordering::Relaxed) != 0 {
            // ORDERING: as above.
            word.store(0, Ordering::Relaxed);
        }
    }
}

/// Which pages exist, for words that start a page; all of them when the kernel does not say.
#[expect(unsafe_code, reason = "system call")]
pub(super) fn resident_pages(words: &[AtomicU64]) -> Vec<bool> {
    let bytes = size_of_val(words);
    let mut pages = vec![1_u8; bytes.div_ceil(PAGE_BYTES)];
    let start = words.as_ptr().cast_mut();
    // SAFETY: the range is mapped as long as `words` lives, the vector has a byte for each page of it, and mincore
    // writes nowhere else. On a machine of larger pages the call fails for an address between two, or fills fewer bytes.
    let result = unsafe { libc::mincore(start.cast(), bytes, pages.as_mut_ptr()) };
    pages
        .into_iter()
        .map(|page| result != 0 || page & 1 != 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::region::{Mapping, SysvMemory, sysv};

    #[test]
    fn words_that_were_written_are_zeroed_and_untouched_pages_stay_away() {
        let shm_id = sysv::create(libc::IPC_PRIVATE, 64 << 20, 0o600).unwrap();
        let memory = SysvMemory::attach(shm_id, false);
        sysv::remove(shm_id).unwrap();
        let mapping = Arc::new(Mapping::Sysv(memory.unwrap()));
        let words = &mapping.words()[3..];
        for place in [0, 508, 509, 510, 100_000, words.len() - 1] {
            words[place].store(7, Ordering::Relaxed);
        }
        empty(words);
        let first_page = (PAGE_WORDS - words.as_ptr().addr() % PAGE_BYTES / 8) % PAGE_WORDS;
        let resident = resident_pages(&words[first_page..]);
        let there = resident.iter().filter(|&&here| here).count();
        assert!(there < resident.len() / 2, "{there} of {}", resident.len());
        assert!(words.iter().all(|word| word.load(Ordering::Relaxed) == 0));
    }
}
