//! [`Client`]: one channel, one session, and how a call is made over them.

use core::time::Duration;
use std::sync::Arc;

use qtf_proto::address::Address;
use qtf_proto::channel;
use qtf_proto::limits::MESSAGE_BYTES_MAX;
use qtf_proto::v1::ClientHello;
use qtf_proto::v1::plm_client::PlmClient;
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::error::{CallError, ConnectError};
use crate::session::{Session, SessionKeeper};

const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const RECONNECT_FOR: Duration = Duration::from_secs(10);
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
    pub(crate) channel: Channel,
    pub(crate) call_timeout: Duration,
    pub(crate) reconnect_for: Duration,
    session: SessionKeeper,
}

/// How a client connects; made by [`Client::builder`].
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    address: Address,
    name: String,
    call_timeout: Duration,
    reconnect_for: Duration,
}

impl ClientBuilder {
    /// Name the client is listed under; the program's name when not set. Clients of one user, host and
    /// name are one identity.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Longest time a single call may take; 10 s when not set. Waiting for a task is not limited.
    #[must_use]
    pub const fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// How long [`Client::wait`] and result streams try to reach a daemon that went away; 10 s when not
    /// set.
    #[must_use]
    pub const fn reconnect_for(mut self, duration: Duration) -> Self {
        self.reconnect_for = duration;
        self
    }

    /// Connects and registers.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect(self) -> Result<Client, ConnectError> {
        let channel = channel::connect(&self.address).await?;
        let hello = ClientHello {
            name: shortened(self.name),
            host: host_name(),
            pid: std::process::id(),
        };
        let session = SessionKeeper::start(channel.clone(), hello);
        let client = Client {
            inner: Arc::new(Inner {
                channel,
                call_timeout: self.call_timeout,
                reconnect_for: self.reconnect_for,
                session,
            }),
        };
        let address = self.address.to_string();
        match client.session().await {
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
            call_timeout: CALL_TIMEOUT,
            reconnect_for: RECONNECT_FOR,
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
        self.inner.session.current(self.inner.call_timeout).await
    }

    /// Says that the daemon does not know this session, and waits for another.
    pub(crate) async fn renewed_session(&self, lost: &Session) -> Result<Session, CallError> {
        let within = self.inner.call_timeout;
        self.inner.session.renewed(lost, within).await
    }

    pub(crate) fn plm(&self) -> PlmClient<Channel> {
        PlmClient::new(self.inner.channel.clone())
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
