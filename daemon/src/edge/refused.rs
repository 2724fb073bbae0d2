//! Connections that there is no room for: an answer each, within bounds of their own.
//!
//! A few at a time are served as far as their first call, which is refused with the reason, so that programs and people read
//! it where they read every refusal. Beyond those, the words go into the frame that ends an HTTP/2 connection, at once and
//! without waiting for the peer. Tested at the end of this file and in `tests/daemon/sockets.rs`.

use std::io::Write as _;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use qtf_proto::refusal;
use qtf_proto::v1::{Refusal, RefusalReason};

use super::places::NoPlace;
use super::status;
use crate::net::edge_io::Socket;

/// LIMIT: connections beyond the limit that are answered at the same time.
const REFUSALS_MAX: usize = 32;
/// LIMIT: for the whole of such a connection.
pub(super) const REFUSAL_TIME_MAX: Duration = Duration::from_secs(2);
/// Others end their connections meanwhile, or do not.
const RETRY_MS: u32 = 1_000;

/// Places for connections that are being refused.
#[derive(Debug, Default)]
pub(super) struct Refusals(Arc<()>);

/// One such place; given back when dropped.
#[derive(Debug)]
pub(super) struct RefusalPlace {
    _counted: Arc<()>,
}

impl Refusals {
    /// A place, if there is one.
    pub(super) fn place(&self) -> Option<RefusalPlace> {
        // One is ours. Connections are refused by one thread, so nobody else takes one in between.
        (Arc::strong_count(&self.0) <= REFUSALS_MAX).then(|| RefusalPlace {
            _counted: Arc::clone(&self.0),
        })
    }
}

/// What is said.
pub(super) fn no_room(why: NoPlace) -> Refusal {
    let message = match why {
        NoPlace::Full { connections_max } => format!(
            "all {connections_max} connections are in use: end some, or raise connections_max"
        ),
        NoPlace::Share(used_up) => used_up.to_string(),
    };
    Refusal {
        retry_after_ms: RETRY_MS,
        ..status::refuse(RefusalReason::ConnectionsFull, message)
    }
}

/// The answer to a call on such a connection.
pub(super) fn answer(why: NoPlace) -> http::Response<tonic::body::Body> {
    refusal::status_of(no_room(why)).into_http()
}

/// Says it in the connection's last words, and does not wait for anything.
pub(super) fn say_goodbye(socket: &Socket, why: NoPlace) {
    let words = last_words(&no_room(why).message);
    // A fresh connection takes this many bytes at once; if not, there is nobody to tell.
    let said = match socket {
        Socket::Tcp(stream) => stream
            .set_nonblocking(true)
            .and_then(|()| (&mut &*stream).write_all(&words))
            .and_then(|()| stream.shutdown(Shutdown::Write)),
        Socket::Unix(stream) => stream
            .set_nonblocking(true)
            .and_then(|()| (&mut &*stream).write_all(&words))
            .and_then(|()| stream.shutdown(Shutdown::Write)),
    };
    if let Err(error) = said {
        tracing::debug!(%error, "connection refused without words");
    }
}

/// The settings that HTTP/2 begins with, and a GOAWAY: no stream was looked at, calm down, and why.
fn last_words(message: &str) -> Vec<u8> {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const GOAWAY: u8 = 7;
    const ENHANCE_YOUR_CALM: u32 = 11;
    let length = u32::try_from(message.len().saturating_add(8)).unwrap_or(0);
    let mut words = SETTINGS.to_vec();
    words.extend_from_slice(&length.to_be_bytes()[1..]);
    words.extend_from_slice(&[GOAWAY, 0, 0, 0, 0, 0]);
    words.extend_from_slice(&0_u32.to_be_bytes());
    words.extend_from_slice(&ENHANCE_YOUR_CALM.to_be_bytes());
    words.extend_from_slice(message.as_bytes());
    words
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn last_words_are_two_frames_of_http2_that_name_the_limit() {
        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        say_goodbye(&Socket::Unix(ours), NoPlace::Full { connections_max: 7 });
        let mut words = Vec::new();
        theirs.read_to_end(&mut words).unwrap();
        let length = (usize::from(words[10]) << 8) | usize::from(words[11]);
        assert_eq!(words.len(), 9 + 9 + length);
        let text = String::from_utf8_lossy(&words[26..]);
        assert!(text.contains("connections_max"), "{text}");
    }

    #[test]
    fn places_are_bounded_and_given_back() {
        let refusals = Refusals::default();
        let mut places: Vec<_> = (0..REFUSALS_MAX)
            .map(|_| refusals.place().unwrap())
            .collect();
        assert!(refusals.place().is_none());
        places.pop();
        assert!(refusals.place().is_some());
    }
}
