//! A client's session: hello, then heartbeats; welcome back, and a word when the daemon stops.
//!
//! Its end ends nothing: the client's tasks go on and its results are kept. Tested in
//! `tests/daemon/sessions.rs`.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::Stream;
use qtf_engine::{ClientHello, Principal};
use qtf_proto::limits::{INLINE_BYTES_MAX, limits};
use qtf_proto::v1::{ClientHeartbeat, ClientNotice, ClientWelcome};
use qtf_proto::version::PROTOCOL_VERSION;
use qtf_shm::ClientIndex;
use tonic::{Status, Streaming};

use super::intake::{Reader, Source, take_in};
use super::peer::Peer;
use super::{read, status};
use crate::core::{Core, StopPlace, core_cell};

/// The notices of one `ClientSession` call; reads its heartbeats while it is polled.
#[derive(Debug)]
pub(crate) struct ClientSessionStream {
    beats: Streaming<ClientHeartbeat>,
    peer: Option<Arc<Peer>>,
    client: Option<ClientIndex>,
    stop_place: StopPlace,
    notice: ClientNotice,
    has_left: bool,
    has_ended: bool,
}

impl ClientSessionStream {
    /// A session that waits for its hello.
    pub(crate) fn new(beats: Streaming<ClientHeartbeat>, peer: Option<Arc<Peer>>) -> Self {
        let notice = ClientNotice::default();
        Self {
            beats,
            peer,
            client: None,
            stop_place: StopPlace::default(),
            notice,
            has_left: false,
            has_ended: false,
        }
    }

    fn take(&mut self, beat: &ClientHeartbeat) -> Result<(), Status> {
        core_cell::enter(|core| match self.client {
            Some(client) => {
                let now = core.now();
                core.engine.client_beat(now, client);
                Ok(())
            }
            None => self.hello(core, beat),
        })
        .ok_or_else(status::gone)?
    }

    fn hello(&mut self, core: &mut Core, beat: &ClientHeartbeat) -> Result<(), Status> {
        let hello = beat.hello.as_ref().ok_or_else(|| {
            status::invalid("hello is missing in the first message of the session")
        })?;
        status::check_version("client", hello.protocol_version)?;
        let peer = self.peer.as_deref();
        let address = peer.map_or_else(|| "unknown".to_owned(), ToString::to_string);
        let now = core.now();
        let session = core
            .engine
            .client_hello(
                now,
                &ClientHello {
                    principal: peer.map_or(Principal::Unknown, Peer::principal),
                    name: &hello.name,
                    host: &hello.host,
                    address: &address,
                    pid: peer.and_then(Peer::pid).unwrap_or(hello.pid),
                },
            )
            .map_err(|rejection| status::status_of(&rejection))?;
        self.client = Some(session.index);
        self.notice.welcome = Some(ClientWelcome {
            session: session.token,
            client_id: session.index.get().into(),
            segment_id: core.segment().segment_id(),
            heartbeat_ms: read::ms_of_ns(core.engine.config().heartbeat_ns),
            payload_limit_bytes: core.limits.payload_bytes,
            payload_inline_limit_bytes: INLINE_BYTES_MAX as u64,
            key_slots: core.segment().keys().capacity().into(),
            protocol_version: PROTOCOL_VERSION,
            limits: Some(limits()),
        });
        Ok(())
    }
}

impl Reader for ClientSessionStream {
    type Messages = Streaming<ClientHeartbeat>;
    type Message = ClientHeartbeat;

    fn source(&mut self) -> Result<Source<'_, Self::Messages>, Status> {
        if self.has_left {
            return Ok(Source::Nothing);
        }
        Ok(Source::Messages(&mut self.beats))
    }

    fn take_message(&mut self, beat: ClientHeartbeat) -> Result<(), Status> {
        self.take(&beat)
    }

    fn end_of_messages(&mut self) {
        self.has_left = true;
    }
}

impl Stream for ClientSessionStream {
    type Item = Result<ClientNotice, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        if let Err(status) = take_in(&mut *self, cx) {
            self.has_ended = true;
            return Poll::Ready(Some(Err(status)));
        }
        self.notice.daemon_stopping |= self.stop_place.is_stopping(cx);
        self.has_ended |= self.notice.daemon_stopping || self.has_left;
        let notice = std::mem::take(&mut self.notice);
        match (notice == ClientNotice::default(), self.has_ended) {
            (false, _) => Poll::Ready(Some(Ok(notice))),
            (true, true) => Poll::Ready(None),
            (true, false) => Poll::Pending,
        }
    }
}

impl Drop for ClientSessionStream {
    fn drop(&mut self) {
        if let Some(client) = self.client {
            core_cell::enter(|core| {
                let now = core.now();
                core.engine.client_closed(now, client);
            });
        }
    }
}
