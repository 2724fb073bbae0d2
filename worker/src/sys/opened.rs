//! Notice of whoever opens, makes or changes something in a folder: one queue of the kernel's (inotify) for many folders.
//!
//! Invariant: what happened before [`Opened::next`] is called is told by it, or it says that it cannot know. Nothing is held up by a
//! queue that nobody reads: the kernel drops what has no room, and says so.
//!
//! Tested through `contain`.

use core::ffi::{CStr, c_int};
use core::mem::MaybeUninit;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use nix::errno::Errno;

/// Whatever could change a file or a folder opens it first, or is one of the others.
const WATCHED: u32 = libc::IN_OPEN
    | libc::IN_ATTRIB
    | libc::IN_CREATE
    | libc::IN_DELETE
    | libc::IN_MOVE
    | libc::IN_DELETE_SELF
    | libc::IN_MOVE_SELF
    | libc::IN_ONLYDIR;

/// A folder of a queue. No number is used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FolderNumber(c_int);

/// What was told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// Somebody did something in this folder: to the file of that name, or to the folder itself where there is none.
    Of(FolderNumber, Vec<u8>),
    /// Something may have happened in any of them.
    Lost,
}

/// The queue.
#[derive(Debug)]
pub(crate) struct Opened(OwnedFd);

impl Opened {
    /// Makes a queue, of which a user may have so many.
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: inotify_init1 takes an integer, and gives a new descriptor or -1.
        let number = unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) };
        let number = Errno::result(number)?;
        // SAFETY: `number` is an open descriptor that the call above has just made, and nobody else has it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(number) }))
    }

    /// From now on that folder is watched, until it is removed or forgotten.
    pub(crate) fn watch(&self, folder: &CStr) -> io::Result<FolderNumber> {
        // SAFETY: inotify_add_watch reads a string that ends with NUL.
        let number =
            unsafe { libc::inotify_add_watch(self.0.as_raw_fd(), folder.as_ptr(), WATCHED) };
        Ok(FolderNumber(Errno::result(number)?))
    }

    /// That folder is watched no more. What was queued of it may still be told.
    pub(crate) fn forget(&self, folder: FolderNumber) {
        // SAFETY: inotify_rm_watch takes two integers; one that is gone already is refused.
        unsafe { libc::inotify_rm_watch(self.0.as_raw_fd(), folder.0) };
    }

    /// Tells what has happened and was not told yet, some of it; nothing when all is told.
    pub(crate) fn next(&self) -> Vec<Told> {
        let mut buffer = MaybeUninit::<Events>::zeroed();
        let length = size_of::<Events>();
        // SAFETY: read writes at most as many bytes as are given into `buffer`.
        let count = unsafe { libc::read(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), length) };
        let count = match Errno::result(count) {
            Ok(count) => usize::try_from(count).unwrap_or(0),
            Err(Errno::EAGAIN) => return Vec::new(),
            Err(_) => return vec![Told::Lost],
        };
        // SAFETY: it was zeroed to begin with, so every byte has a value.
        let events = unsafe { buffer.assume_init_ref() };
        told_in(events.0.get(..count).unwrap_or_default())
    }
}

// LIMIT: of one read, which takes some hundred events. One event is at most 16 and 256 bytes long.
#[repr(align(8))]
struct Events([u8; 4096]);

/// Each event is a number of 4 bytes, what happened in 4, 4 more, the length of the name in 4, and the name with NULs behind it.
fn told_in(mut bytes: &[u8]) -> Vec<Told> {
    let mut all = Vec::new();
    while let Some((number, mask, length)) = head_of(bytes) {
        let name = bytes.get(HEAD_BYTES..HEAD_BYTES + length);
        let name = name.unwrap_or_default().split(|byte| *byte == 0);
        if mask & libc::IN_Q_OVERFLOW != 0 {
            all.push(Told::Lost);
        } else if mask & libc::IN_IGNORED == 0 {
            let name = name.take(1).flatten().copied().collect();
            all.push(Told::Of(FolderNumber(number), name));
        }
        bytes = bytes.get(HEAD_BYTES + length..).unwrap_or_default();
    }
    all
}

const HEAD_BYTES: usize = 16;

fn head_of(bytes: &[u8]) -> Option<(c_int, u32, usize)> {
    let (head, _) = bytes.split_first_chunk::<HEAD_BYTES>()?;
    let word = |at: usize| head.get(at..at + 4)?.try_into().ok();
    let number = c_int::from_ne_bytes(word(0)?);
    let mask = u32::from_ne_bytes(word(4)?);
    let length = u32::from_ne_bytes(word(12)?);
    Some((number, mask, usize::try_from(length).ok()?))
}
