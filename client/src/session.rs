//! Keeps one registered session: hello, heartbeats, and a new hello after each break.
//!
//! Invariant: the published session is the newest one the daemon has given; it is taken back as soon
//! as its stream is known to be broken, so a call never knowingly uses a dead token.

use core::time::Duration;

use qtf_proto::v1::register_client::RegisterClient;
use qtf_proto::v1::{ClientHeartbeat, ClientHello, ClientNotice, ClientWelcome};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::error::CallError;

const BACKOFF_FIRST: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);
// A daemon's word about periods is taken within these bounds.
const HEARTBEAT_MS: core::ops::RangeInclusive<u32> = 20..=60_000;

/// What the daemon said in its welcome.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) token: u64,
    pub(crate) client_id: u32,
    pub(crate) payload_limit_bytes: u64,
    pub(crate) payload_inline_limit_bytes: u64,
    /// Counts the sessions of this client.
    number: u64,
}

#[derive(Clone, Debug)]
enum State {
    Open(Session),
    /// Being opened; why the last attempt failed.
    Opening(Option<CallError>),
}

/// The background task and its published state.
#[derive(Debug)]
pub(crate) struct SessionKeeper {
    state: watch::Receiver<State>,
    /// Numbers of sessions that the daemon said it does not know.
    lost: mpsc::Sender<u64>,
    task: JoinHandle<()>,
}

impl Drop for SessionKeeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl SessionKeeper {
    pub(crate) fn start(channel: Channel, hello: ClientHello) -> Self {
        let (publish, state) = watch::channel(State::Opening(None));
        let (lost, lost_numbers) = mpsc::channel(4);
        let task = tokio::spawn(keep(channel, hello, publish, lost_numbers));
        Self { state, lost, task }
    }

    /// The open session; waits at most `within` for one. A refusal is final for the caller.
    pub(crate) async fn current(&self, within: Duration) -> Result<Session, CallError> {
        self.newer_than(0, within).await
    }

    /// A session opened after `lost`.
    pub(crate) async fn renewed(
        &self,
        lost: &Session,
        within: Duration,
    ) -> Result<Session, CallError> {
        // A full queue means that the keeper has been told already.
        let _ = self.lost.try_send(lost.number);
        self.newer_than(lost.number, within).await
    }

    async fn newer_than(&self, number: u64, within: Duration) -> Result<Session, CallError> {
        let mut state = self.state.clone();
        let usable = state.wait_for(|state| match state {
            State::Open(session) => session.number > number,
            State::Opening(error) => matches!(error, Some(CallError::Refused(_))),
        });
        let usable = async { usable.await.map(|found| found.clone()) };
        let found = match tokio::time::timeout(within, usable).await {
            Ok(found) => found.ok(),
            Err(_elapsed) => None,
        };
        match found.unwrap_or_else(|| self.state.borrow().clone()) {
            State::Open(session) if session.number > number => Ok(session),
            State::Opening(Some(error)) => Err(error),
            State::Open(_) | State::Opening(None) => Err(CallError::Unreachable {
                cause: format!("no answer within {within:?}; it may be stopped or overloaded"),
            }),
        }
    }
}

async fn keep(
    channel: Channel,
    hello: ClientHello,
    publish: watch::Sender<State>,
    mut lost: mpsc::Receiver<u64>,
) {
    let mut backoff = BACKOFF_FIRST;
    for number in 1_u64.. {
        let error = match open(&channel, &hello).await {
            Ok(opened) => {
                backoff = BACKOFF_FIRST;
                let welcome = &opened.welcome;
                tracing::debug!(client_id = welcome.client_id, "client session open");
                publish.send_replace(State::Open(Session {
                    token: welcome.session,
                    client_id: welcome.client_id,
                    payload_limit_bytes: welcome.payload_limit_bytes,
                    payload_inline_limit_bytes: welcome.payload_inline_limit_bytes,
                    number,
                }));
                stay(opened, number, &mut lost).await
            }
            Err(error) => error,
        };
        tracing::debug!(%error, "client session lost");
        publish.send_replace(State::Opening(Some(error)));
        tokio::time::sleep(backoff).await;
        backoff = backoff.saturating_mul(2).min(BACKOFF_MAX);
    }
}

struct Opened {
    heartbeats: mpsc::Sender<ClientHeartbeat>,
    notices: Streaming<ClientNotice>,
    welcome: ClientWelcome,
}

async fn open(channel: &Channel, hello: &ClientHello) -> Result<Opened, CallError> {
    let (heartbeats, requests) = mpsc::channel(2);
    let first = ClientHeartbeat {
        hello: Some(hello.clone()),
    };
    heartbeats
        .try_send(first)
        .map_err(|_| CallError::protocol("the heartbeat queue is full at its start"))?;
    let mut register = RegisterClient::new(channel.clone());
    let opening = async {
        let mut notices = register
            .client_session(ReceiverStream::new(requests))
            .await?
            .into_inner();
        let first = notices.message().await?;
        let welcome = first.and_then(|notice| notice.welcome);
        let welcome = welcome.ok_or_else(|| Status::unknown("no welcome"))?;
        Ok::<_, Status>((notices, welcome))
    };
    match tokio::time::timeout(WELCOME_TIMEOUT, opening).await {
        Ok(Ok((notices, welcome))) => Ok(Opened {
            heartbeats,
            notices,
            welcome,
        }),
        Ok(Err(status)) => Err(CallError::of_status(&status)),
        Err(_elapsed) => Err(CallError::TimedOut {
            after: WELCOME_TIMEOUT,
        }),
    }
}

/// Sends heartbeats until the session is over; says why it is.
async fn stay(mut opened: Opened, number: u64, lost: &mut mpsc::Receiver<u64>) -> CallError {
    let period = opened.welcome.heartbeat_ms;
    let period = period.clamp(*HEARTBEAT_MS.start(), *HEARTBEAT_MS.end());
    let mut ticks = tokio::time::interval(Duration::from_millis(period.into()));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // What is queued says the same as what would be sent.
            _ = ticks.tick() => drop(opened.heartbeats.try_send(ClientHeartbeat { hello: None })),
            notice = opened.notices.message() => match notice {
                Ok(Some(notice)) if notice.daemon_stopping => return stopping(),
                Ok(Some(_)) => {}
                Ok(None) => return ended(),
                Err(status) => return as_loss(CallError::of_status(&status)),
            },
            told = lost.recv() => match told {
                Some(told) if told == number => return ended(),
                Some(_) => {}
                None => return ended(),
            },
        }
    }
}

fn stopping() -> CallError {
    CallError::Unreachable {
        cause: "the daemon is stopping".to_owned(),
    }
}

fn ended() -> CallError {
    CallError::Unreachable {
        cause: "the session was ended".to_owned(),
    }
}

/// An open session that is refused later was lost, which a new hello mends.
fn as_loss(error: CallError) -> CallError {
    if let CallError::Refused(refusal) = error {
        let cause = refusal.to_string();
        return CallError::Unreachable { cause };
    }
    error
}
