//! One write that is on stable storage when it is answered (`RWF_DSYNC`): as an `io_uring` operation, or as a
//! blocking call for a thread of its own.
//!
//! Invariants:
//! - I1: an operation owns its buffer and a share of its file until the kernel has answered, so neither the
//!   memory nor the descriptor number can be used again before (dropping the future keeps both alive inside
//!   the driver).
//! - I2: an operation is never dropped by its owner before the answer: nobody could tell what became of it.
//!
//! Buffered, never `O_DIRECT`: direct writes through the ring complete on a queue that is bound to the
//! submitting core and takes milliseconds when that is busy. Tested at the end.

#![expect(
    unsafe_code,
    reason = "a buffer is lent to the kernel; pwritev2 has no safe wrapper in nix"
)]

use std::fs::File;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use io_uring::{cqueue, opcode, types};
use tokio_uring::{InFlightOneshot, OneshotOutputTransform, UnsubmittedOneshot};

/// What is to be written where.
#[derive(Debug)]
pub(crate) struct SyncedWrite {
    pub(crate) file: Arc<File>,
    /// Position in the file of the first byte of the range.
    pub(crate) offset: u64,
    pub(crate) bytes: Vec<u8>,
    /// Which of the bytes are written.
    pub(crate) range: Range<usize>,
}

impl SyncedWrite {
    fn part(&self) -> &[u8] {
        self.bytes.get(self.range.clone()).unwrap_or_default()
    }
}

/// What came of it: how many bytes are stable, and the buffer.
pub(crate) type Answer = (io::Result<usize>, Vec<u8>);

struct Written;

impl OneshotOutputTransform for Written {
    type Output = Answer;
    type StoredData = SyncedWrite;

    fn transform_oneshot_output(self, write: SyncedWrite, entry: cqueue::Entry) -> Answer {
        let result = entry.result();
        let count = usize::try_from(result)
            .map_err(|_| io::Error::from_raw_os_error(result.saturating_neg()));
        (count, write.bytes)
    }
}

/// A write in flight on the ring. It must be awaited to its end (I2).
pub(crate) struct RingWrite(InFlightOneshot<SyncedWrite, Written>);

impl RingWrite {
    /// Starts to write.
    pub(crate) fn start(write: SyncedWrite) -> Self {
        let part = write.part();
        // LIMIT: one write of the kernel takes less than 2 GiB; what is left is a short write's rest.
        let length = u32::try_from(part.len()).unwrap_or(1 << 30);
        let entry = opcode::Write::new(types::Fd(write.file.as_raw_fd()), part.as_ptr(), length)
            .offset(write.offset)
            .rw_flags(libc::RWF_DSYNC)
            .build();
        Self(UnsubmittedOneshot::new(write, Written, entry).submit())
    }
}

impl Future for RingWrite {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        Pin::new(&mut self.0).poll(cx)
    }
}

/// Writes and waits until it is stable.
pub(crate) fn write_blocking(write: SyncedWrite) -> Answer {
    let part = write.part();
    let Ok(offset) = libc::off_t::try_from(write.offset) else {
        return (Err(io::ErrorKind::InvalidInput.into()), write.bytes);
    };
    let vector = libc::iovec {
        iov_base: part.as_ptr().cast_mut().cast(),
        iov_len: part.len(),
    };
    // SAFETY: the kernel reads one iovec and the bytes that it names, which `write` owns and which nobody
    // writes before the call returns; it keeps no pointer.
    let count = unsafe {
        libc::pwritev2(
            write.file.as_raw_fd(),
            &raw const vector,
            1,
            offset,
            libc::RWF_DSYNC,
        )
    };
    let result = usize::try_from(count).map_err(|_| io::Error::last_os_error());
    (result, write.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(file: &Arc<File>) -> SyncedWrite {
        SyncedWrite {
            file: Arc::clone(file),
            offset: 3,
            bytes: b"xxhelloyy".to_vec(),
            range: 2..7,
        }
    }

    fn file(folder: &tempfile::TempDir) -> (Arc<File>, std::path::PathBuf) {
        let path = folder.path().join("f");
        std::fs::write(&path, "0123456789").unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        (Arc::new(file), path)
    }

    #[test]
    fn blocking_write_puts_its_part_of_the_buffer_at_its_offset_and_gives_it_back() {
        let folder = tempfile::tempdir().unwrap();
        let (file, path) = file(&folder);
        let (result, bytes) = write_blocking(write(&file));
        assert_eq!(
            (result.unwrap(), bytes.as_slice()),
            (5, b"xxhelloyy".as_slice())
        );
        assert_eq!(std::fs::read(path).unwrap(), b"012hello89");
    }

    #[test]
    fn blocking_write_that_the_system_refuses_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let unwritable = File::open(file(&folder).1).unwrap();
        let (result, _) = write_blocking(write(&Arc::new(unwritable)));
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    fn write_on_the_ring_is_as_the_blocking_one() {
        if let Err(refused) = crate::sys::ring::probe() {
            return qtf_needs::skip(qtf_needs::Need::IoUring, refused);
        }
        let folder = tempfile::tempdir().unwrap();
        let (file, path) = file(&folder);
        tokio_uring::start(async {
            let (result, bytes) = RingWrite::start(write(&file)).await;
            assert_eq!(
                (result.unwrap(), bytes.as_slice()),
                (5, b"xxhelloyy".as_slice())
            );
            let unwritable = File::open(&path).unwrap();
            let (result, _) = RingWrite::start(write(&Arc::new(unwritable))).await;
            assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EBADF));
        });
        assert_eq!(std::fs::read(path).unwrap(), b"012hello89");
    }
}
