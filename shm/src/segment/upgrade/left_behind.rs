//! A segment of layout 2.0 as a daemon of that version leaves it, for tests: made of an image, under the name of an instance of this user.
//!
//! Exists in tests only.

use std::io;

use crate::layout::header::{HEADER_BYTES, checksum};
use crate::layout::text::store_text;
use crate::region::Mapping;
use crate::region::sysv::{self, SysvMemory};
use crate::segment::create::instance_hash;
use crate::segment::key::keys_of;
use crate::segment::process::{boot_id, ipc_namespace, pid_namespace};
use crate::sync::{AtomicU64, Ordering};

/// Places of words in a header.
const BOOT_ID: usize = 7;
const IPC_NAMESPACE: usize = 9;
const OWNER_UID: usize = 10;
const INSTANCE_HASH: usize = 13;
const INSTANCE_NAME: core::ops::Range<usize> = 16..24;
const REGIONS: usize = 32;
const CRC: usize = HEADER_BYTES / 8 - 1;
/// Number of the attach records in the table of regions.
const ATTACHES: usize = 4;
const RECORD_WORDS: usize = 16;

fn put(word: &AtomicU64, value: u64) {
    // ORDERING: nobody else is here.
    word.store(value, Ordering::Relaxed);
}

/// Writes the checksums of both headers anew.
pub(in crate::segment) fn seal(words: &[AtomicU64]) {
    for copy in 0..2 {
        let header = &words[copy * HEADER_BYTES / 8..];
        put(&header[CRC], checksum(header));
    }
}

/// The attach records.
pub(in crate::segment) fn records(words: &[AtomicU64]) -> impl Iterator<Item = &[AtomicU64]> {
    let region = |part: usize| {
        // ORDERING: as above.
        let word = words[REGIONS + ATTACHES * 4 + part].load(Ordering::Relaxed);
        usize::try_from(word / 8).unwrap_or(usize::MAX)
    };
    words[region(0)..region(0) + region(1)].chunks(RECORD_WORDS)
}

/// Puts an image of layout 2.0 at the first key of an instance, as if its daemon had been this user's since this boot; the kernel's id of it.
///
/// # Errors
/// The key is taken, or the kernel gives no memory.
pub fn leave_segment_of_before(instance: &str, image: &[u8]) -> io::Result<i32> {
    leave(instance, image).map(|(shm_id, _)| shm_id)
}

pub(in crate::segment) fn leave(instance: &str, image: &[u8]) -> io::Result<(i32, Mapping)> {
    let uid = nix::unistd::geteuid().as_raw();
    let key = keys_of(instance, uid).next().unwrap_or(0);
    let shm_id = sysv::create(key, image.len(), 0o600)?;
    let memory = Mapping::Sysv(SysvMemory::attach(shm_id, false)?);
    let words = memory.words();
    for (to, from) in words.iter().zip(image.as_chunks::<8>().0) {
        put(to, u64::from_le_bytes(*from));
    }
    for copy in 0..2 {
        let header = &words[copy * HEADER_BYTES / 8..];
        let [low, high] = boot_id();
        put(&header[BOOT_ID], low);
        put(&header[BOOT_ID + 1], high);
        put(&header[IPC_NAMESPACE], ipc_namespace());
        put(&header[OWNER_UID], u64::from(uid));
        put(&header[INSTANCE_HASH], instance_hash(instance, uid));
        store_text(&header[INSTANCE_NAME], instance);
    }
    seal(words);
    for record in records(words).skip(1) {
        put(&record[3], pid_namespace());
    }
    Ok((shm_id, memory))
}
