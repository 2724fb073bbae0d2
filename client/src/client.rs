//! [`Client`]: one channel, one session, and how a call is made over them.

use core::time::Duration;
use std::sync::Arc;

use qtf_proto::address::Address;
use qtf_proto::channel;
use qtf_proto::limits::{MESSAGE_BYTES_MAX, UPLOADS_AT_ONCE};
use qtf_proto::transport::Transport;
use qtf_proto::v1::ClientHello;
use qtf_proto::v1::plm_client::PlmClient;
use qtf_proto::version::PROTOCOL_VERSION;
use tokio::sync::Semaphore;
use tonic::{Response, Status};

use crate::error::{CallError, ConnectError};
use crate::key::{KEY_TTL, KeyMint};
use crate::notice::{Listener, Notice};
use crate::patience::Patience;
use crate::session::{Session, SessionKeeper};

const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const RECONNECT_FOR: Duration = Duration::from_secs(30);
/// Whoever waits for longer wants to know why.
const TOLD_AFTER: Duration = Duration::from_secs(1);
/// An automatic key lives at least so long, and several times as long as calls are repeated.
const AUTOMATIC_KEY_TTL_MIN: Duration = Duration::from_secs(120);
const AUTOMATIC_KEY_TTL_FACTOR: u32 = 4;
// LIMIT: field `name` of `ClientHello` and of the client record.
const NAME_BYTES_MAX: usize = 63;

/// A connection to a daemon, with a registered session that is kept alive in the background.
///
/// Cheap to clone; the session ends when the last clone is gone. Tasks and results do not depend on it.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) transport: Transport,
    pub(crate) call_timeout: Duration,
    pub(crate) reconnect_for: Duration,
    /// `None`: only tasks with a key of their own are repeated.
    pub(crate) keys: Option<KeyMint>,
    pub(crate) listener: Listener,
    /// Turns of uploads: [`UPLOADS_AT_ONCE`].
    pub(crate) uploads: Semaphore,
    session: SessionKeeper,
}

/// How a client connects; made by [`Client::builder`].
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    address: Address,
    name: String,
    host: String,
    call_timeout: Duration,
    reconnect_for: Duration,
    has_automatic_keys: bool,
    listener: Listener,
}

impl ClientBuilder {
    /// Name the client is listed under; the program's name when not set. Clients of one user, host and
    /// name are one identity.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Host the client is listed under; the machine's name when not set. For programs in containers, whose host names say
    /// nothing or are ever new.
    #[must_use]
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.host = host.into();
        self
    }

    /// Longest time a single call may take; 10 s when not set. Waiting for a task is not limited.
    #[must_use]
    pub const fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// How long a daemon that went away is waited for by submissions, cancellations, acknowledgements,
    /// [`Client::wait`] and result streams; 30 s when not set. Zero means that nothing is tried twice.
    #[must_use]
    pub const fn reconnect_for(mut self, duration: Duration) -> Self {
        self.reconnect_for = duration;
        self
    }

    /// Submits tasks that have no [`Task::key`](crate::Task::key) without one. A submission whose answer is
    /// lost is then not repeated, since it could have been accepted.
    #[must_use]
    pub const fn without_automatic_keys(mut self) -> Self {
        self.has_automatic_keys = false;
        self
    }

    /// Calls `listener` when the daemon goes, comes back or is full while calls wait for it. It is called
    /// from the tasks that do the work, so it must not block.
    #[must_use]
    pub fn on_notice(mut self, listener: impl Fn(&Notice) + Send + Sync + 'static) -> Self {
        self.listener = Listener::new(listener);
        self
    }

    /// What calls go over. A segment that is not there yet, because its daemon is starting, or has no place, is waited for by the session.
    async fn transport(&self) -> Result<Transport, ConnectError> {
        let Address::Segment(segment) = &self.address else {
            return Ok(channel::connect(&self.address).await?.into());
        };
        match qtf_local::connect_client(segment, &self.name) {
            Ok(transport) => Ok(transport),
            Err(failure) if failure.is_passing() && !failure.is_not_there() => {
                Ok(qtf_local::connect_client_later(segment, &self.name))
            }
            Err(failure) => Err(ConnectError::Segment { failure }),
        }
    }

    /// Connects and registers.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect(self) -> Result<Client, ConnectError> {
        let transport = self.transport().await?;
        // What is written to the segment is not lost on its way.
        let is_local = matches!(self.address, Address::Segment(_));
        let hello = ClientHello {
            name: shortened(self.name.clone()),
            host: shortened(self.host),
            pid: std::process::id(),
            protocol_version: PROTOCOL_VERSION,
        };
        let session = SessionKeeper::start(transport.clone(), hello, self.listener.clone());
        let client = Client {
            inner: Arc::new(Inner {
                transport,
                call_timeout: self.call_timeout,
                reconnect_for: self.reconnect_for,
                keys: (self.has_automatic_keys && !is_local).then(KeyMint::new),
                listener: self.listener.clone(),
                uploads: Semaphore::new(UPLOADS_AT_ONCE),
                session,
            }),
        };
        let address = self.address.to_string();
        let opened = client.first_session(&self.listener).await;
        match opened {
            Ok(_) => Ok(client),
            Err(CallError::Refused(refusal)) => Err(ConnectError::Refused { address, refusal }),
            Err(error) => Err(ConnectError::Session {
                address,
                cause: error.to_string(),
            }),
        }
    }
}

impl Client {
    /// Connects with the defaults of [`Client::builder`].
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect(address: &Address) -> Result<Self, ConnectError> {
        Self::builder(address.clone()).connect().await
    }

    /// Starts to describe a connection.
    #[must_use]
    pub fn builder(address: Address) -> ClientBuilder {
        ClientBuilder {
            address,
            name: program_name(),
            host: host_name(),
            call_timeout: CALL_TIMEOUT,
            reconnect_for: RECONNECT_FOR,
            has_automatic_keys: true,
            listener: Listener::default(),
        }
    }

    /// Number under which this client is listed.
    ///
    /// # Errors
    /// When the session is being renewed and the daemon does not come back in time.
    pub async fn client_id(&self) -> Result<u32, CallError> {
        Ok(self.session().await?.client_id)
    }

    /// The current session; waits for its renewal when it was lost.
    pub(crate) async fn session(&self) -> Result<Session, CallError> {
        self.inner
            .session
            .newer_than(0, self.inner.call_timeout)
            .await
    }

    /// The first session. Whoever waits for it is told after a moment.
    async fn first_session(&self, listener: &Listener) -> Result<Session, CallError> {
        let mut opening = core::pin::pin!(self.session());
        if let Ok(opened) = tokio::time::timeout(TOLD_AFTER, &mut opening).await {
            return opened;
        }
        let cause = self.inner.session.last_error();
        listener.tell(&Notice::Waiting { cause });
        opening.await
    }

    /// An open session, newer than the one with this number, for as long as there is patience.
    pub(crate) async fn session_after(
        &self,
        number: u64,
        patience: &Patience,
    ) -> Result<Session, CallError> {
        self.inner.session.newer_than(number, patience.left()).await
    }

    /// After a failure of a call that may be repeated: notes a session that the daemon does not know any
    /// more as lost, and waits before the next try; the error comes back when there is to be none.
    pub(crate) async fn before_repeat(
        &self,
        patience: &mut Patience,
        after: &mut u64,
        (error, session): (CallError, Option<&Session>),
    ) -> Result<(), CallError> {
        if let Some(session) = session
            && error.is_unknown_session()
        {
            self.inner.session.is_lost(session.number);
            *after = session.number;
        }
        patience.after(error).await
    }

    /// Patience as it was asked for when connecting.
    pub(crate) fn patience(&self) -> Patience {
        Patience::new(self.inner.reconnect_for)
    }

    /// Life of automatic keys.
    pub(crate) fn automatic_key_ttl(&self) -> Duration {
        let repeated_for = self.inner.reconnect_for.max(self.inner.call_timeout);
        let ttl = repeated_for.saturating_mul(AUTOMATIC_KEY_TTL_FACTOR);
        ttl.clamp(AUTOMATIC_KEY_TTL_MIN, KEY_TTL)
    }

    pub(crate) fn plm(&self) -> PlmClient<Transport> {
        PlmClient::new(self.inner.transport.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Awaits one call for as long as a call may take.
    pub(crate) async fn timed<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, CallError> {
        let after = self.inner.call_timeout;
        match tokio::time::timeout(after, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(CallError::of_status(&status)),
            Err(_elapsed) => Err(CallError::TimedOut { after }),
        }
    }
}

fn program_name() -> String {
    let name = std::env::args_os().next().and_then(|program| {
        let name = std::path::Path::new(&program).file_name()?;
        Some(name.to_string_lossy().into_owned())
    });
    name.filter(|name| !name.is_empty())
        .unwrap_or_else(|| "client".to_owned())
}

fn host_name() -> String {
    let name = nix::unistd::gethostname().unwrap_or_default();
    shortened(name.to_string_lossy().into_owned())
}

fn shortened(mut name: String) -> String {
    let end = name.floor_char_boundary(NAME_BYTES_MAX);
    name.truncate(end);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_cut_between_characters() {
        assert_eq!(shortened("a".repeat(64)).len(), 63);
        assert_eq!(shortened("ä".repeat(40)).len(), 62);
        assert_eq!(shortened("qtf".into()), "qtf");
    }
}
