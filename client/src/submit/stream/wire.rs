//! One open submission stream: how it is opened, and how it ends.

use core::time::Duration;

use qtf_proto::v1::{SubmitStreamRequest, SubmitStreamResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::BATCHES_IN_FLIGHT_MAX;
use crate::client::Client;
use crate::error::CallError;
use crate::session::Session;

/// Keys have this long to be given back at the end of a stream.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);

/// One open submission stream.
pub(super) struct Wire {
    pub(super) requests: mpsc::Sender<SubmitStreamRequest>,
    pub(super) responses: Streaming<SubmitStreamResponse>,
    pub(super) session: Session,
}

/// Opens a stream with its first batch.
pub(super) async fn open(
    client: &Client,
    first: SubmitStreamRequest,
    session: Session,
) -> Result<Wire, CallError> {
    let (requests, queue) = mpsc::channel(BATCHES_IN_FLIGHT_MAX + 1);
    requests.try_send(first).map_err(|_| lost())?;
    let mut plm = client.plm();
    let call = plm.submit_stream(ReceiverStream::new(queue));
    let responses = client.timed(call).await?;
    Ok(Wire {
        requests,
        responses,
        session,
    })
}

/// Gives the last keys back. What does not arrive ends by its time to live.
pub(super) async fn farewell(client: Client, wire: Wire, mut batch: u64) {
    let Wire {
        requests,
        mut responses,
        session,
    } = wire;
    let Some(keys) = &client.inner.keys else {
        return;
    };
    let giving_back = async {
        loop {
            let received_keys = keys.take_received();
            if received_keys.is_empty() {
                return;
            }
            let request = SubmitStreamRequest {
                session: session.token,
                batch,
                received_keys,
                ..SubmitStreamRequest::default()
            };
            batch += 1;
            if requests.send(request).await.is_err()
                || !matches!(responses.message().await, Ok(Some(_)))
            {
                return;
            }
        }
    };
    if tokio::time::timeout(FAREWELL_TIMEOUT, giving_back)
        .await
        .is_err()
    {
        tracing::debug!("the daemon did not take the last keys back");
    }
}

/// Why a stream is over.
pub(super) fn lost() -> CallError {
    CallError::Unreachable {
        cause: "the submission stream broke".to_owned(),
    }
}
