//! The gRPC edge: each handler decodes, checks, enters the engine synchronously, and encodes.
//!
//! No decision lives here. Streams are driven by their own polling: a response stream reads its requests
//! when the peer has room for the answer, so a peer that does not read is not read either, and nothing
//! queues between the two.
//!
//! | file | serves |
//! |---|---|
//! | `connection.rs`, `places.rs`, `refused.rs` | a connection from its first byte to its end, how many there may be, and the answer to those for which there is no room |
//! | `entrances.rs`, `threads.rs` | where connections come from, and which thread serves them |
//! | `service.rs` | finds the service by the path of a request |
//! | `grpc.rs` | what makes a request a call, and when it must be over |
//! | `half_messages.rs` | what has come of messages that are not complete |
//! | `company.rs` | how long what could be told waits for something else to be told with it |
//! | `intake.rs` | the part of a peer's messages that one poll takes in |
//! | `plm.rs`, `submit.rs`, `submit_stream.rs`, `watch.rs`, `ends.rs`, `listing.rs` | clients |
//! | `scheduler.rs` | assignments to workers |
//! | `work.rs`, `attempt_token.rs` | workers that call instead of holding streams |
//! | `register.rs`, `worker_session.rs`, `results.rs`, `result.rs`, `client_session.rs` | sessions |
//! | `transfer.rs` | payloads and outputs that are too large for a message |
//! | `admin.rs`, `stripes.rs` | operators |
//! | `status.rs` | refusals as gRPC statuses, all of them |
//! | `read.rs` | records of the segment as messages |
//! | `previews.rs` | what lists show of payloads that lie in files |
//! | `peer.rs` | who speaks on a connection |

pub(crate) mod admin;
mod attempt_token;
pub(crate) mod client_session;
mod company;
pub(crate) mod connection;
mod ends;
pub(crate) mod entrances;
pub(crate) mod grpc;
pub(crate) mod half_messages;
mod intake;
pub(crate) mod listing;
pub(crate) mod peer;
mod places;
pub(crate) mod plm;
mod previews;
pub(crate) mod read;
mod reflection;
mod refused;
pub(crate) mod register;
mod result;
pub(crate) mod results;
pub(crate) mod scheduler;
pub(crate) mod service;
pub(crate) mod status;
pub(crate) mod stripes;
pub(crate) mod submit;
pub(crate) mod submit_stream;
pub(crate) mod threads;
pub(crate) mod transfer;
pub(crate) mod watch;
pub(crate) mod work;
pub(crate) mod worker_session;

/// LIMIT: bytes of payload or output that one poll copies.
pub(crate) const COPIED_PER_POLL_MAX: usize = 64 << 10;

/// The client record of a session, or, without one, that of whom the call is made for.
pub(crate) fn session_client(
    core: &mut crate::core::Core,
    session: u64,
    principal: qtf_engine::Principal,
) -> Result<qtf_shm::ClientIndex, qtf_engine::Rejection> {
    if session == 0 {
        let now = core.now();
        return Ok(core.engine.client_for(now, principal));
    }
    core.engine.client_of(session)
}
