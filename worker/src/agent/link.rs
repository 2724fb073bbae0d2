//! One connection to the daemon: session and dispatch stream.

use core::time::Duration;

use qtf_proto::address::Address;
use qtf_proto::channel::{self, Pace};
use qtf_proto::limits::MESSAGE_BYTES_MAX;
use qtf_proto::refusal::refusal_of;
use qtf_proto::transport::Transport;
use qtf_proto::v1::register_client::RegisterClient;
use qtf_proto::v1::scheduler_client::SchedulerClient;
use qtf_proto::v1::{
    DispatchRequest, DispatchResponse, RefusalReason, WorkerHello, WorkerNotice, WorkerReport,
    WorkerWelcome,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::load::Load;

const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
// LIMIT: messages on their way; what has no room is gathered into the next one.
const QUEUED_MAX: usize = 4;

/// Why there is no link, or none any more.
#[derive(Debug)]
pub(super) enum LinkError {
    /// Not connected, or disconnected.
    Broken(String),
    /// The daemon does not know the worker that reconnects.
    UnknownWorker,
    /// The daemon will never take this worker as it is.
    Refused(String),
    /// The socket of the user's own daemon may be another's.
    Untrusted(String),
}

impl LinkError {
    fn of(status: &Status) -> Self {
        if let Some(silence) = channel::silence_of(status) {
            return Self::Broken(silence);
        }
        let message = || status.message().to_owned();
        match refusal_of(status).map(|refusal| refusal.reason()) {
            Some(RefusalReason::UnknownWorker) => Self::UnknownWorker,
            Some(RefusalReason::InvalidArgument | RefusalReason::Unsupported) => {
                Self::Refused(message())
            }
            // Also a session that was another daemon's: this one is told hello, and knows the worker.
            _ => Self::Broken(format!("{} ({})", message(), status.code().description())),
        }
    }
}

/// The first half: registered, but not yet taking tasks.
#[derive(Debug)]
pub(super) struct Session {
    /// What follows goes over this one, which is pinged at the pace of the lease.
    pub(super) channel: Transport,
    pub(super) welcome: WorkerWelcome,
    /// That of the session, open as long as there is a link.
    first: Transport,
    notices: Streaming<WorkerNotice>,
    reports: mpsc::Sender<WorkerReport>,
}

/// Both streams.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) _first: Transport,
    pub(super) notices: Streaming<WorkerNotice>,
    pub(super) reports: mpsc::Sender<WorkerReport>,
    pub(super) dispatches: Streaming<DispatchResponse>,
    pub(super) requests: mpsc::Sender<DispatchRequest>,
}

async fn connect(address: &Address, name: &str, pace: Pace) -> Result<Transport, LinkError> {
    if let Address::Segment(segment) = address {
        return qtf_local::connect_worker(segment, name).map_err(|failure| {
            let text = failure.to_string();
            match failure.is_passing() {
                true => LinkError::Broken(text),
                false if failure.is_untrusted() => LinkError::Untrusted(text),
                false => LinkError::Refused(text),
            }
        });
    }
    let connected = channel::connect_at(address, pace).await;
    connected
        .map(Transport::from)
        .map_err(|error| match error.is_untrusted() {
            true => LinkError::Untrusted(error.to_string()),
            false => LinkError::Broken(error.to_string()),
        })
}

/// Connects and says hello. The pace is that of the lease of before, and after it that of the lease of now.
pub(super) async fn register(
    address: Address,
    hello: WorkerHello,
    pace: &mut Pace,
) -> Result<Session, LinkError> {
    let first = connect(&address, &hello.name, *pace).await?;
    let name = hello.name.clone();
    let (reports, queue) = mpsc::channel(QUEUED_MAX);
    let report = WorkerReport {
        holding: u32::try_from(hello.held.len()).ok(),
        load_milli: Load::now().milli(OPEN_TIMEOUT),
        hello: Some(hello),
        ..WorkerReport::default()
    };
    push(&reports, report)?;
    let mut register = RegisterClient::new(first.clone())
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let opening = async {
        let call = register.worker_session(ReceiverStream::new(queue));
        let mut notices = call.await?.into_inner();
        let welcome = notices.message().await?.and_then(|notice| notice.welcome);
        let welcome = welcome.ok_or_else(|| Status::unknown("no welcome from the daemon"))?;
        Ok::<_, Status>((notices, welcome))
    };
    let (notices, welcome) = within(opening).await?;
    let told = match welcome.lease_ms {
        0 => *pace,
        lease_ms => Pace::of_lease(Duration::from_millis(lease_ms.into())),
    };
    // The pace of a connection is that with which it was made, and only now is it known; the session stays where it was opened.
    let channel = if told == *pace {
        first.clone()
    } else {
        // This link goes on without if there is none; the next one has the pace.
        let connected = connect(&address, &name, told).await;
        connected.unwrap_or_else(|_| first.clone())
    };
    *pace = told;
    Ok(Session {
        channel,
        welcome,
        first,
        notices,
        reports,
    })
}

/// Opens the dispatch stream with its first grant of credits.
pub(super) async fn take_tasks(session: Session, credits: u32) -> Result<Link, LinkError> {
    let (requests, queue) = mpsc::channel(QUEUED_MAX);
    let first = DispatchRequest {
        worker_id: session.welcome.worker_id,
        token: session.welcome.token,
        credits,
        probe_answer: 0,
    };
    push(&requests, first)?;
    let mut scheduler =
        SchedulerClient::new(session.channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let call = scheduler.dispatch(ReceiverStream::new(queue));
    let dispatches = within(call).await?.into_inner();
    Ok(Link {
        _first: session.first,
        notices: session.notices,
        reports: session.reports,
        dispatches,
        requests,
    })
}

fn push<T>(queue: &mpsc::Sender<T>, first: T) -> Result<(), LinkError> {
    let full = |_| LinkError::Broken("a fresh queue is full".to_owned());
    queue.try_send(first).map_err(full)
}

async fn within<T>(step: impl Future<Output = Result<T, Status>>) -> Result<T, LinkError> {
    match tokio::time::timeout(OPEN_TIMEOUT, step).await {
        Ok(result) => result.map_err(|status| LinkError::of(&status)),
        Err(_elapsed) => Err(LinkError::Broken(format!(
            "no answer from the daemon within {} s",
            OPEN_TIMEOUT.as_secs()
        ))),
    }
}

/// What a broken stream says.
pub(super) fn broken(status: Option<&Status>) -> LinkError {
    match status {
        Some(status) => LinkError::of(status),
        None => LinkError::Broken("the daemon closed the connection".to_owned()),
    }
}
