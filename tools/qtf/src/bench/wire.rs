//! The two streams of a client: submissions with their verdicts and ends; and watched tasks, at a daemon that tells no ends on the first.
//!
//! Made of generated code, so that the client costs little beside the daemon that is measured. Sending never waits: a client that
//! does not read ends because it has something to say would wait for a daemon that waits for it. What is unsent is bounded by the
//! tasks that the client keeps under way.

use std::mem::take;

use qtf_proto::address::Address;
use qtf_proto::limits::{BATCH_ENTRIES_MAX, MESSAGE_BYTES_MAX};
use qtf_proto::transport::Transport;
use qtf_proto::v1;
use qtf_proto::v1::plm_client::PlmClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;

use crate::daemon::CLIENT_NAME;
use crate::exit::{Exit, Failure};

/// An open connection.
#[derive(Debug)]
pub(super) struct Wire {
    plm: PlmClient<Transport>,
    submissions: mpsc::UnboundedSender<v1::SubmitStreamRequest>,
    pub(super) verdicts: Streaming<v1::SubmitStreamResponse>,
    watches: mpsc::UnboundedSender<v1::WatchRequest>,
    pub(super) ends: Streaming<v1::WatchResponse>,
    with_output: bool,
    acknowledge: Vec<u64>,
    /// The daemon takes acknowledgements with a batch.
    is_watched: bool,
}

/// A connection that broke.
pub(super) fn broken(error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Unreachable, format!("the daemon went away: {error}"))
}

/// An answer that no daemon gives.
pub(super) fn odd(what: impl std::fmt::Display) -> Failure {
    Failure::new(
        Exit::Unreachable,
        format!("the daemon broke the protocol: {what}"),
    )
}

async fn transport_to(address: &Address) -> Result<Transport, Failure> {
    if let Address::Segment(segment) = address {
        return qtf_local::connect_client(segment, CLIENT_NAME).map_err(broken);
    }
    let connected = qtf_proto::channel::connect(address).await;
    connected.map(Transport::from).map_err(broken)
}

impl Wire {
    /// Connects and opens the streams.
    pub(super) async fn open(address: &Address, with_output: bool) -> Result<Self, Failure> {
        let transport = transport_to(address).await?;
        let mut plm = PlmClient::new(transport).max_decoding_message_size(2 * MESSAGE_BYTES_MAX);
        let (submissions, queue) = mpsc::unbounded_channel();
        let call = plm.submit_stream(UnboundedReceiverStream::new(queue)).await;
        let verdicts = call
            .map_err(|status| broken(status.message()))?
            .into_inner();
        let (watches, queue) = mpsc::unbounded_channel();
        let call = plm.watch(UnboundedReceiverStream::new(queue)).await;
        let ends = call
            .map_err(|status| broken(status.message()))?
            .into_inner();
        Ok(Self {
            plm,
            submissions,
            verdicts,
            watches,
            ends,
            with_output,
            acknowledge: Vec::new(),
            is_watched: false,
        })
    }

    /// What the daemon has said of the ends of a batch.
    pub(super) fn note_watched(&mut self, is_watched: bool) {
        self.is_watched = is_watched;
    }

    /// Submits a batch and asks for its ends; acknowledgements that wait go with it.
    pub(super) fn submit(&mut self, batch: u64, tasks: Vec<v1::TaskSpec>) -> Result<(), Failure> {
        let acknowledge = if self.is_watched {
            take(&mut self.acknowledge)
        } else {
            Vec::new()
        };
        let request = v1::SubmitStreamRequest {
            batch,
            tasks,
            watch: true,
            with_output: self.with_output,
            acknowledge,
            ..v1::SubmitStreamRequest::default()
        };
        let sent = self.submissions.send(request);
        sent.map_err(|_| broken("the stream of submissions is closed"))
    }

    /// Asks for the ends of tasks; acknowledgements that wait go with it.
    pub(super) fn watch(&mut self, watch: Vec<u64>) -> Result<(), Failure> {
        let request = v1::WatchRequest {
            watch,
            acknowledge: take(&mut self.acknowledge),
            with_output: self.with_output,
            ..v1::WatchRequest::default()
        };
        let sent = self.watches.send(request);
        sent.map_err(|_| broken("the stream of watches is closed"))
    }

    /// Says that the ends of these were received: with the next batch or watch, or when a message is full.
    pub(super) fn acknowledge(&mut self, ids: impl Iterator<Item = u64>) -> Result<(), Failure> {
        for id in ids {
            self.acknowledge.push(id);
            if self.acknowledge.len() >= BATCH_ENTRIES_MAX {
                self.watch(Vec::new())?;
            }
        }
        Ok(())
    }

    /// Cancels tasks. Their ends come as others do.
    pub(super) async fn cancel(&mut self, ids: &[u64]) -> Result<(), Failure> {
        for ids in ids.chunks(BATCH_ENTRIES_MAX) {
            let selection = v1::TaskSelection {
                task_ids: ids.to_vec(),
                reason: "the bench is over".to_owned(),
                ..v1::TaskSelection::default()
            };
            let answer = self.plm.cancel_tasks(selection).await;
            answer.map_err(|status| broken(status.message()))?;
        }
        Ok(())
    }

    /// Ends both streams when everything that was said has been read.
    pub(super) async fn close(mut self) -> Result<(), Failure> {
        if !self.acknowledge.is_empty() {
            self.watch(Vec::new())?;
        }
        let Self {
            submissions,
            watches,
            mut ends,
            ..
        } = self;
        drop((submissions, watches));
        let late = ends.message().await;
        match late.map_err(|status| broken(status.message()))? {
            None => Ok(()),
            Some(_) => Err(odd("the end of a task came twice")),
        }
    }
}
