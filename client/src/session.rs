//! Keeps one registered session: hello, heartbeats, and a new hello after each break.
//!
//! Invariant: the published session is the newest one the daemon has given; it is taken back as soon
//! as its stream is known to be broken, so a call never knowingly uses a dead token.
//! A break that the first new hello mends is not told to the listener.

use core::time::Duration;

use qtf_proto::transport::Transport;
use qtf_proto::v1::register_client::RegisterClient;
use qtf_proto::v1::{ClientHeartbeat, ClientHello, ClientNotice, ClientWelcome};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::error::CallError;
use crate::notice::{Listener, Notice};
use crate::patience::spread;

const BACKOFF_FIRST: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_millis(500);
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
    /// The daemon knows keys.
    pub(crate) has_keys: bool,
    /// Counts the sessions of this client; the first is 1.
    pub(crate) number: u64,
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
    pub(crate) fn start(transport: Transport, hello: ClientHello, listener: Listener) -> Self {
        let (publish, state) = watch::channel(State::Opening(None));
        let (lost, lost_numbers) = mpsc::channel(4);
        let keeping = Keeping {
            transport,
            hello,
            listener,
            publish,
            lost: lost_numbers,
        };
        let task = tokio::spawn(keeping.run());
        Self { state, lost, task }
    }

    /// Why there is no session, if there is none and a try has failed.
    pub(crate) fn last_error(&self) -> Option<CallError> {
        match &*self.state.borrow() {
            State::Opening(error) => error.clone(),
            State::Open(_) => None,
        }
    }

    /// The daemon said that it does not know this session: it is given up for another.
    pub(crate) fn is_lost(&self, number: u64) {
        // A full queue means that the keeper has been told already.
        let _ = self.lost.try_send(number);
    }

    /// An open session with a higher number; waits at most `within` for one. A refusal that does not pass
    /// is final for the caller.
    pub(crate) async fn newer_than(
        &self,
        number: u64,
        within: Duration,
    ) -> Result<Session, CallError> {
        let mut state = self.state.clone();
        let usable = state.wait_for(|state| match state {
            State::Open(session) => session.number > number,
            State::Opening(error) => error
                .as_ref()
                .is_some_and(|error| matches!(error, CallError::Refused(_)) && !error.is_passing()),
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

/// What the background task has.
struct Keeping {
    transport: Transport,
    hello: ClientHello,
    listener: Listener,
    publish: watch::Sender<State>,
    lost: mpsc::Receiver<u64>,
}

impl Keeping {
    async fn run(mut self) {
        let mut backoff = BACKOFF_FIRST;
        let mut segment_id = None;
        // When the last session was lost, and whether that was told.
        let mut away: Option<(Instant, bool)> = None;
        for number in 1_u64.. {
            let error = match open(&self.transport, &self.hello).await {
                Ok(opened) => {
                    backoff = BACKOFF_FIRST;
                    let welcome = &opened.welcome;
                    tracing::debug!(client_id = welcome.client_id, "client session open");
                    let is_new_segment = segment_id.is_some_and(|id| id != welcome.segment_id);
                    segment_id = Some(welcome.segment_id);
                    self.publish_session(welcome, number);
                    if let Some((since, true)) = away {
                        let after = since.elapsed();
                        self.listener.tell(&Notice::Back {
                            after,
                            is_new_segment,
                        });
                    }
                    let error = stay(opened, number, &mut self.lost).await;
                    let is_told = error.is_silence();
                    if is_told {
                        // It has been waited for long enough already.
                        self.listener.tell(&Notice::Away {
                            cause: error.clone(),
                        });
                    }
                    away = Some((Instant::now(), is_told));
                    error
                }
                Err(error) => {
                    if let Some((_, is_told @ false)) = &mut away {
                        *is_told = true;
                        self.listener.tell(&Notice::Away {
                            cause: error.clone(),
                        });
                    }
                    error
                }
            };
            tracing::debug!(%error, "no client session");
            self.publish.send_replace(State::Opening(Some(error)));
            tokio::time::sleep(spread(backoff)).await;
            backoff = backoff.saturating_mul(2).min(BACKOFF_MAX);
        }
    }

    fn publish_session(&self, welcome: &ClientWelcome, number: u64) {
        self.publish.send_replace(State::Open(Session {
            token: welcome.session,
            client_id: welcome.client_id,
            payload_limit_bytes: welcome.payload_limit_bytes,
            payload_inline_limit_bytes: welcome.payload_inline_limit_bytes,
            has_keys: welcome.key_slots > 0,
            number,
        }));
    }
}

struct Opened {
    heartbeats: mpsc::Sender<ClientHeartbeat>,
    notices: Streaming<ClientNotice>,
    welcome: ClientWelcome,
}

async fn open(transport: &Transport, hello: &ClientHello) -> Result<Opened, CallError> {
    let (heartbeats, requests) = mpsc::channel(2);
    let first = ClientHeartbeat {
        hello: Some(hello.clone()),
    };
    heartbeats
        .try_send(first)
        .map_err(|_| CallError::protocol("the heartbeat queue is full at its start"))?;
    let mut register = RegisterClient::new(transport.clone());
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
