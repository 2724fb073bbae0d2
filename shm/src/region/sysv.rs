//! System V shared memory: `shmget`, `shmat`, `shmctl`, and nothing else.
//!
//! Invariants:
//! - I1: an attached segment stays mapped until its `SysvMemory` is dropped; the kernel keeps the memory as long as it is
//!   attached, also after a removal.
//! - I2: its size is what the kernel says (`shm_segsz`), not what a header says.
//! - I3: it is attached at a multiple of 2 MiB where the kernel lets us, because only there can its pages be huge (`pages.rs`).
//!
//! Tested at the end of this file and in `shm/tests/`.

use core::ptr::{self, NonNull};
use std::io;

use memmap2::MmapRaw;

use crate::region::pages::HUGE_BYTES;

/// Most keys that one instance may try.
pub const KEYS_PROBED: u32 = 16;

/// An attached segment.
#[derive(Debug)]
pub(crate) struct SysvMemory {
    start: NonNull<u8>,
    bytes: usize,
}

#[expect(unsafe_code, reason = "the marker is the claim")]
// SAFETY: the mapping is of the whole process, and is reached through shared references to atomics only.
unsafe impl Send for SysvMemory {}
#[expect(unsafe_code, reason = "the marker is the claim")]
// SAFETY: as above.
unsafe impl Sync for SysvMemory {}

/// What the kernel says about a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SysvStatus {
    pub(crate) bytes: usize,
    pub(crate) owner_uid: u32,
    pub(crate) creator_uid: u32,
    pub(crate) creator_pid: u32,
    pub(crate) changed_unix_s: u64,
    pub(crate) attached: u64,
    pub(crate) mode: u32,
}

impl SysvStatus {
    /// Its pages stay in memory, also when nobody is attached.
    pub(crate) const fn is_locked(&self) -> bool {
        /// `SHM_LOCKED`, which libc does not name.
        const LOCKED: u32 = 0o2000;
        self.mode & LOCKED != 0
    }

    /// It goes with the last process that is attached.
    pub(crate) const fn is_removed(&self) -> bool {
        /// `SHM_DEST`, which libc does not name.
        const DEST: u32 = 0o1000;
        self.mode & DEST != 0
    }
}

impl SysvMemory {
    /// Attaches a segment. Read-only means that a write through the mapping is a fault.
    pub(crate) fn attach(shm_id: i32, read_only: bool) -> io::Result<Self> {
        let flags = if read_only { libc::SHM_RDONLY } else { 0 };
        let place = free_place(status(shm_id)?.bytes).unwrap_or(ptr::null());
        // Another thread may have mapped something there in between.
        let start = attach_at(shm_id, place, flags).or_else(|error| match place.is_null() {
            true => Err(error),
            false => attach_at(shm_id, ptr::null(), flags),
        })?;
        // Detaches when the size cannot be had.
        let mut memory = Self { start, bytes: 0 };
        // Asked for only now: what is attached keeps its id, while before it could have gone and the id come back as that of
        // a smaller one.
        memory.bytes = status(shm_id)?.bytes;
        Ok(memory)
    }

    pub(super) const fn span(&self) -> (NonNull<u8>, usize) {
        (self.start, self.bytes)
    }
}

#[expect(unsafe_code, reason = "system call")]
fn attach_at(shm_id: i32, place: *const u8, flags: i32) -> io::Result<NonNull<u8>> {
    // SAFETY: without SHM_REMAP the kernel refuses a place where something is mapped, and chooses a free one where none is asked for;
    // the id is checked by the kernel.
    let start = unsafe { libc::shmat(shm_id, place.cast(), flags) };
    if start.addr() == usize::MAX {
        return Err(io::Error::last_os_error());
    }
    let start = NonNull::new(start.cast::<u8>());
    Ok(start.ok_or(io::ErrorKind::InvalidData)?)
}

/// A multiple of 2 MiB behind which so many bytes are free at this moment; `None` for what is too small to have a huge page.
fn free_place(bytes: usize) -> Option<*const u8> {
    if bytes < HUGE_BYTES {
        return None;
    }
    // Mapped and unmapped: that finds a place, and nothing of it is touched.
    let room = bytes.checked_next_multiple_of(HUGE_BYTES)?;
    let map = memmap2::MmapOptions::new()
        .len(room.checked_add(HUGE_BYTES)?)
        .no_reserve_swap()
        .map_anon()
        .ok()?;
    let start = MmapRaw::from(map).as_ptr();
    Some(start.map_addr(|address| address.next_multiple_of(HUGE_BYTES)))
}

impl Drop for SysvMemory {
    #[expect(unsafe_code, reason = "system call")]
    fn drop(&mut self) {
        // SAFETY: `start` came from shmat and is detached once, here; nobody has a reference: each holds an Arc of the
        // mapping.
        unsafe { libc::shmdt(self.start.as_ptr().cast()) };
    }
}

/// Makes a segment of zeros at `key`, which must be free. [`libc::IPC_PRIVATE`] gives one without a key.
pub(crate) fn create(key: i32, bytes: usize, mode: u32) -> io::Result<i32> {
    let mode = i32::try_from(mode & 0o777).unwrap_or(0o600);
    get(key, bytes, libc::IPC_CREAT | libc::IPC_EXCL | mode)
}

/// The same of pages of 2 MiB that the administrator has set aside; they are reserved with the call, and never swapped.
pub(crate) fn create_of_huge_pages(key: i32, bytes: usize, mode: u32) -> io::Result<i32> {
    /// `SHM_HUGETLB`, and the size as a power of two above `SHM_HUGE_SHIFT`.
    const HUGE: i32 = 0o4000 | (21 << 26);
    let mode = i32::try_from(mode & 0o777).unwrap_or(0o600);
    get(key, bytes, libc::IPC_CREAT | libc::IPC_EXCL | HUGE | mode)
}

/// Keeps the pages of a segment in memory from when they are first touched, until it is gone or [`unlock`]ed.
///
/// # Errors
/// The limit of locked memory (`ENOMEM`, `EPERM`).
pub(crate) fn lock(shm_id: i32) -> io::Result<()> {
    control(shm_id, libc::SHM_LOCK)
}

/// Takes [`lock`] back.
pub(crate) fn unlock(shm_id: i32) -> io::Result<()> {
    control(shm_id, libc::SHM_UNLOCK)
}

/// An operation that uses no buffer.
#[expect(unsafe_code, reason = "system call")]
fn control(shm_id: i32, operation: i32) -> io::Result<()> {
    // SAFETY: IPC_RMID, SHM_LOCK and SHM_UNLOCK do not use the buffer.
    let result = unsafe { libc::shmctl(shm_id, operation, ptr::null_mut()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// The id of the segment at `key`.
pub(crate) fn find(key: i32) -> io::Result<i32> {
    get(key, 0, 0)
}

#[expect(unsafe_code, reason = "system call")]
fn get(key: i32, bytes: usize, flags: i32) -> io::Result<i32> {
    // SAFETY: takes numbers only.
    let shm_id = unsafe { libc::shmget(key, bytes, flags) };
    if shm_id < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(shm_id)
    }
}

/// Removes a segment: it lives on until the last process has detached, and nobody finds it any more.
pub(crate) fn remove(shm_id: i32) -> io::Result<()> {
    control(shm_id, libc::IPC_RMID)
}

/// What the kernel says about a segment.
pub(crate) fn status(shm_id: i32) -> io::Result<SysvStatus> {
    let raw = raw_status(shm_id)?;
    Ok(SysvStatus {
        bytes: raw.shm_segsz,
        owner_uid: raw.shm_perm.uid,
        creator_uid: raw.shm_perm.cuid,
        creator_pid: u32::try_from(raw.shm_cpid).unwrap_or(0),
        changed_unix_s: u64::try_from(raw.shm_ctime).unwrap_or(0),
        attached: raw.shm_nattch,
        mode: u32::from(raw.shm_perm.mode),
    })
}

#[expect(unsafe_code, reason = "system call")]
fn raw_status(shm_id: i32) -> io::Result<libc::shmid_ds> {
    let mut raw = core::mem::MaybeUninit::<libc::shmid_ds>::zeroed();
    // SAFETY: the buffer is writable and of the type that IPC_STAT fills.
    let result = unsafe { libc::shmctl(shm_id, libc::IPC_STAT, raw.as_mut_ptr()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has filled it, and zeros are valid in it too.
    Ok(unsafe { raw.assume_init() })
}

/// Gives a segment to a group. The owner stays.
pub(crate) fn set_group(shm_id: i32, group: u32) -> io::Result<()> {
    let mut raw = raw_status(shm_id)?;
    raw.shm_perm.gid = group;
    set(shm_id, raw)
}

/// Gives a segment to another user: what an attacker with the right would do.
#[cfg(test)]
pub(crate) fn set_owner(shm_id: i32, uid: u32) -> io::Result<()> {
    let mut raw = raw_status(shm_id)?;
    raw.shm_perm.uid = uid;
    set(shm_id, raw)
}

#[expect(unsafe_code, reason = "system call")]
fn set(shm_id: i32, mut raw: libc::shmid_ds) -> io::Result<()> {
    // SAFETY: the buffer holds what IPC_STAT gave; IPC_SET reads owner, group and mode from it.
    let result = unsafe { libc::shmctl(shm_id, libc::IPC_SET, &raw mut raw) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_segment_lives_until_it_is_detached() {
        let shm_id = create(libc::IPC_PRIVATE, 8192, 0o600).unwrap();
        let memory = SysvMemory::attach(shm_id, false);
        remove(shm_id).unwrap();
        let memory = memory.unwrap();
        assert_eq!(memory.span().1, 8192);
        let seen = status(shm_id).unwrap();
        assert_eq!((seen.bytes, seen.attached), (8192, 1));
        assert!(seen.is_removed());
        assert_eq!(seen.creator_pid, std::process::id());
        drop(memory);
        assert!(status(shm_id).is_err());
    }

    #[test]
    fn locked_memory_says_so_to_everybody_or_the_limit_is_named() {
        let shm_id = create(libc::IPC_PRIVATE, 8192, 0o600).unwrap();
        assert!(!status(shm_id).unwrap().is_locked());
        match lock(shm_id) {
            Ok(()) => {
                assert!(status(shm_id).unwrap().is_locked());
                unlock(shm_id).unwrap();
            }
            Err(error) => assert!(matches!(
                error.raw_os_error(),
                Some(libc::ENOMEM | libc::EPERM)
            )),
        }
        assert!(!status(shm_id).unwrap().is_locked());
        remove(shm_id).unwrap();
    }

    #[test]
    fn attached_memory_begins_on_a_boundary_of_huge_pages() {
        let shm_id = create(libc::IPC_PRIVATE, 5 << 20, 0o600).unwrap();
        let several: Vec<_> = (0..4)
            .map(|number| SysvMemory::attach(shm_id, number % 2 == 1).unwrap())
            .collect();
        remove(shm_id).unwrap();
        for memory in several {
            assert!(memory.span().0.addr().get().is_multiple_of(HUGE_BYTES));
        }
    }

    #[test]
    fn segment_that_is_not_there_is_an_error() {
        assert!(status(i32::MAX).is_err());
        assert!(SysvMemory::attach(i32::MAX, true).is_err());
        assert!(create(libc::IPC_PRIVATE, 0, 0o600).is_err());
        assert!(create(libc::IPC_PRIVATE, usize::MAX / 2, 0o600).is_err());
    }
}
