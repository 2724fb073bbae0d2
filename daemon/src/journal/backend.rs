//! What executes the writes of the journal: the ring, or a thread of its own. Both do one write at a time, each
//! with its sync, and give the buffer back.
//!
//! Tested at the end, over both.

use std::io;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use crate::config::faults::{DiskFaults, WriteFault};
use crate::sys::synced_write::{Answer, RingWrite, SyncedWrite, write_blocking};

/// One of the two.
#[derive(Debug)]
pub(crate) enum WriteBackend {
    /// Operations on the ring of the daemon's thread.
    Ring,
    /// Blocking calls on a thread.
    Thread(WriteThread),
}

impl WriteBackend {
    /// Name as operators see it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Ring => "io_uring",
            Self::Thread(_) => "thread",
        }
    }

    async fn execute(&mut self, write: SyncedWrite) -> Answer {
        match self {
            Self::Ring => RingWrite::start(write).await,
            Self::Thread(thread) => thread.execute(write).await,
        }
    }
}

/// The thread that writes. It ends when this is dropped, after the write that it is at.
#[derive(Debug)]
pub(crate) struct WriteThread {
    writes: mpsc::Sender<SyncedWrite>,
    answers: tokio::sync::mpsc::UnboundedReceiver<Answer>,
    _thread: JoinHandle<()>,
}

impl WriteThread {
    /// Starts the thread. It runs where the caller may run, so the caller must not be pinned yet.
    pub(crate) fn start() -> io::Result<Self> {
        let (writes, taken) = mpsc::channel::<SyncedWrite>();
        let (answer, answers) = tokio::sync::mpsc::unbounded_channel();
        let run = move || {
            for write in taken {
                if answer.send(write_blocking(write)).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("qtfd-journal".to_owned())
            .spawn(run)?;
        Ok(Self {
            writes,
            answers,
            _thread: thread,
        })
    }

    async fn execute(&mut self, write: SyncedWrite) -> Answer {
        let gone = || io::Error::other("the journal's thread has ended");
        if let Err(mpsc::SendError(write)) = self.writes.send(write) {
            return (Err(gone()), write.bytes);
        }
        let answer = self.answers.recv().await;
        answer.unwrap_or_else(|| (Err(gone()), Vec::new()))
    }
}

/// A backend, with the faults that a test wants.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) backend: WriteBackend,
    pub(crate) faults: Option<Arc<dyn DiskFaults>>,
}

impl Disk {
    /// Writes, and comes back when it is stable or has failed. Not to be dropped before that.
    pub(crate) async fn write(&mut self, mut write: SyncedWrite) -> Answer {
        if let Some(held) = self.faults.as_ref().and_then(|faults| faults.held()) {
            held.await;
        }
        match self.faults.as_ref().and_then(|faults| faults.write()) {
            None => {}
            Some(WriteFault::Errno(errno)) => {
                return (Err(io::Error::from_raw_os_error(errno)), write.bytes);
            }
            Some(WriteFault::Short) => {
                let half = write.range.len().div_ceil(2);
                write.range.end = write.range.start.saturating_add(half);
            }
        }
        self.backend.execute(write).await
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[derive(Debug)]
    struct Always(WriteFault);

    impl DiskFaults for Always {
        fn write(&self) -> Option<WriteFault> {
            Some(self.0)
        }
    }

    fn disk(fault: Option<WriteFault>) -> Disk {
        Disk {
            backend: WriteBackend::Thread(WriteThread::start().unwrap()),
            faults: fault.map(|fault| -> Arc<dyn DiskFaults> { Arc::new(Always(fault)) }),
        }
    }

    fn write(file: &File) -> SyncedWrite {
        SyncedWrite {
            file: Arc::new(file.try_clone().unwrap()),
            offset: 0,
            bytes: b"0123".to_vec(),
            range: 0..4,
        }
    }

    #[test]
    fn thread_writes_one_order_after_the_other_and_faults_are_short_or_refusals() {
        let file = tempfile::tempfile().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut sound = disk(None);
            for _ in 0..3 {
                let (result, bytes) = sound.write(write(&file)).await;
                assert_eq!((result.unwrap(), bytes.len()), (4, 4));
            }
            let (result, _) = disk(Some(WriteFault::Short)).write(write(&file)).await;
            assert_eq!(result.unwrap(), 2);
            let broken = WriteFault::Errno(libc::EIO);
            let (result, bytes) = disk(Some(broken)).write(write(&file)).await;
            assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EIO));
            assert_eq!(bytes.len(), 4, "the buffer comes back");
        });
    }
}
