//! What every fake daemon is: services over a real Unix socket, on a runtime of their own, so that it can die with all its
//! connections and be started again. What it knows and how it misbehaves is the affair of those who use it: `client/tests/` and
//! `worker/tests/`, where it is tested too.

use core::pin::Pin;
use core::time::Duration;
use std::path::PathBuf;

use bytes::Bytes;
use qtf_proto::address::Address;
use qtf_proto::v1::{OutputChunk, Refusal, RefusalReason};
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio_stream::Stream;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::Status;
use tonic::transport::server::Router;

/// A test that waits longer hangs.
pub const WATCHDOG: Duration = Duration::from_secs(300);

/// The answers of a call that has many.
pub type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Awaits one thing, or fails the test.
///
/// # Panics
/// When the watchdog bites.
pub async fn soon<T>(thing: impl Future<Output = T>) -> T {
    tokio::time::timeout(WATCHDOG, thing)
        .await
        .expect("nothing happens")
}

/// A refusal.
#[must_use]
pub fn refusal(reason: RefusalReason, message: &str, retry_after_ms: u32) -> Refusal {
    Refusal {
        reason: reason.into(),
        message: message.into(),
        retry_after_ms,
    }
}

/// Bytes as the daemon sends them, piece by piece.
///
/// # Panics
/// Never on machines of 64 bits.
#[must_use]
pub fn chunks(bytes: &[u8]) -> Answers<OutputChunk> {
    let total_bytes = u64::try_from(bytes.len()).expect("a length has at most 64 bits");
    let chunks: Vec<Result<OutputChunk, Status>> = bytes
        .chunks(64 << 10)
        .map(|data| {
            let data = Bytes::copy_from_slice(data);
            Ok(OutputChunk { total_bytes, data })
        })
        .collect();
    Box::pin(tokio_stream::iter(chunks))
}

/// A daemon's process, so to speak.
#[derive(Debug)]
pub struct Host {
    path: PathBuf,
    runtime: Option<Runtime>,
    _directory: tempfile::TempDir,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Host {
    /// Serves at an address of its own.
    ///
    /// # Panics
    /// When it cannot.
    #[must_use]
    pub fn start(services: Router) -> Self {
        let directory = tempfile::tempdir().expect("a folder can be made");
        let mut host = Host {
            path: directory.path().join("daemon.sock"),
            runtime: None,
            _directory: directory,
        };
        host.serve(services);
        host
    }

    /// Where it listens, dead or alive.
    #[must_use]
    pub fn address(&self) -> Address {
        Address::Unix(self.path.clone())
    }

    /// Ends it as SIGKILL does: its connections break, its socket file stays.
    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// Starts another one at the same address.
    ///
    /// # Panics
    /// When it cannot.
    pub fn start_again(&mut self, services: Router) {
        self.kill();
        std::fs::remove_file(&self.path).expect("a dead daemon's socket file stays");
        self.serve(services);
    }

    /// After a kill: waits until somebody has called at the address and has found no daemon.
    ///
    /// # Panics
    /// When nobody calls.
    pub async fn called_in_vain(&mut self) {
        std::fs::remove_file(&self.path).expect("a dead daemon's socket file stays");
        let listener = UnixListener::bind(&self.path).expect("the address is free");
        let _caller = soon(listener.accept()).await.expect("somebody calls");
    }

    fn serve(&mut self, services: Router) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a thread can be had");
        let listener = {
            let _entered = runtime.enter();
            UnixListener::bind(&self.path).expect("the address is free")
        };
        runtime.spawn(services.serve_with_incoming(UnixListenerStream::new(listener)));
        self.runtime = Some(runtime);
    }
}
