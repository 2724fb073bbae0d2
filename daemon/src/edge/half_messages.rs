//! The bodies of requests, and what of their messages has come and is not complete.
//!
//! A message is held until its last byte is there. What is held that way is counted, over all connections, for each principal
//! and for each connection; a call whose next bytes would go beyond one of these bounds is refused, and so is one whose message
//! is not complete in time. Whole messages are not counted: each stream takes the next one when it has done with the one
//! before. The counts are the daemon's, whichever thread serves a connection. Invariant: the counts are the sums over the bodies that there are.
//!
//! Tested at the end of this file and in `tests/daemon/grpc.rs`.

use std::collections::BTreeMap;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use hyper::body::{Body as HttpBody, Frame};
use qtf_engine::Principal;
use tokio::time::{Instant, Sleep};
use tonic::Status;

/// LIMIT: half messages of the largest size that all connections, one principal, and one connection may have.
const MESSAGES_OF_ALL: usize = 64;
const MESSAGES_OF_PRINCIPAL: usize = 32;
const MESSAGES_OF_CONNECTION: usize = 8;
/// LIMIT: from the first byte of a message to its last.
const MESSAGE_TIME_MAX: Duration = Duration::from_secs(30);
/// A message begins with a flag and its length.
const PREFIX_BYTES: usize = 5;

/// The counts of all connections.
#[derive(Debug, Clone)]
pub(crate) struct HalfMessages {
    held: Arc<Mutex<Held>>,
    message_bytes_max: usize,
}

impl HalfMessages {
    /// Nobody holds anything; a message has so many bytes at most.
    pub(crate) fn new(message_bytes_max: usize) -> Self {
        Self {
            held: Arc::default(),
            message_bytes_max,
        }
    }

    /// A new connection of a principal.
    pub(crate) fn holder(&self, principal: Principal) -> Holder {
        let mut held = self.lock();
        held.last_number = held.last_number.saturating_add(1);
        let number = held.last_number;
        drop(held);
        Holder {
            all: self.clone(),
            number,
            principal,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection, for the counts.
#[derive(Debug, Clone)]
pub(crate) struct Holder {
    all: HalfMessages,
    number: u64,
    principal: Principal,
}

/// Who holds how many bytes of half messages. Nobody who holds none is in it.
#[derive(Debug, Default)]
struct Held {
    total: usize,
    by_principal: BTreeMap<Principal, usize>,
    by_connection: BTreeMap<u64, usize>,
    last_number: u64,
}

impl Held {
    /// What a bound would be exceeded by, or nothing.
    fn excess(&self, holder: &Holder, more: usize) -> Option<(&'static str, usize)> {
        let held = |map: Option<&usize>| map.copied().unwrap_or(0).saturating_add(more);
        let of = |messages: usize| messages.saturating_mul(holder.all.message_bytes_max);
        let bounds = [
            (
                "this connection",
                held(self.by_connection.get(&holder.number)),
                of(MESSAGES_OF_CONNECTION),
            ),
            (
                "its user or host",
                held(self.by_principal.get(&holder.principal)),
                of(MESSAGES_OF_PRINCIPAL),
            ),
            (
                "all connections",
                held(Some(&self.total)),
                of(MESSAGES_OF_ALL),
            ),
        ];
        bounds
            .into_iter()
            .find(|(_, would_hold, bound)| would_hold > bound)
            .map(|(who, _, bound)| (who, bound))
    }

    fn take(&mut self, holder: &Holder, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.total = self.total.saturating_add(bytes);
        let connection = self.by_connection.entry(holder.number).or_default();
        *connection = connection.saturating_add(bytes);
        let principal = self.by_principal.entry(holder.principal).or_default();
        *principal = principal.saturating_add(bytes);
    }

    fn give_back(&mut self, holder: &Holder, bytes: usize) {
        self.total = self.total.saturating_sub(bytes);
        give_back(&mut self.by_connection, &holder.number, bytes);
        give_back(&mut self.by_principal, &holder.principal, bytes);
    }
}

fn give_back<K: Ord>(map: &mut BTreeMap<K, usize>, key: &K, bytes: usize) {
    if let Some(held) = map.get_mut(key) {
        *held = held.saturating_sub(bytes);
        if *held == 0 {
            map.remove(key);
        }
    }
}

/// Bytes of one body's half message; given back when dropped.
#[derive(Debug)]
struct Share {
    holder: Holder,
    bytes: usize,
}

impl Share {
    /// From now on so many.
    fn set(&mut self, bytes: usize) -> Result<(), Status> {
        let (holder, before) = (&self.holder, self.bytes);
        if bytes == before {
            // A message came whole, as most do.
            return Ok(());
        }
        let mut held = holder.all.lock();
        let more = bytes.saturating_sub(before);
        if more > 0
            && let Some((who, bound)) = held.excess(holder, more)
        {
            return Err(Status::resource_exhausted(format!(
                "half messages of {who} hold {bound} bytes, the bound: finish some before beginning others, or send smaller ones"
            )));
        }
        held.give_back(holder, before);
        held.take(holder, bytes);
        drop(held);
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.bytes > 0 {
            let mut held = self.holder.all.lock();
            held.give_back(&self.holder, self.bytes);
        }
    }
}

/// Where the bytes so far stand among the messages.
#[derive(Debug, Default)]
struct Framing {
    prefix: [u8; PREFIX_BYTES],
    prefix_bytes: usize,
    /// Of the message whose prefix is complete.
    length: usize,
    missing: usize,
}

impl Framing {
    /// Bytes come. True if a message began with them and is not complete.
    fn take(&mut self, mut bytes: &[u8]) -> bool {
        let mut has_begun = false;
        while !bytes.is_empty() {
            if self.missing > 0 {
                let count = self.missing.min(bytes.len());
                self.missing = self.missing.saturating_sub(count);
                bytes = bytes.get(count..).unwrap_or_default();
            } else {
                has_begun |= self.prefix_bytes == 0;
                let space = &mut self.prefix[self.prefix_bytes..];
                let count = space.len().min(bytes.len());
                space[..count].copy_from_slice(&bytes[..count]);
                bytes = bytes.get(count..).unwrap_or_default();
                self.prefix_bytes = self.prefix_bytes.saturating_add(count);
                if self.prefix_bytes < PREFIX_BYTES {
                    return has_begun;
                }
                let [_, length @ ..] = self.prefix;
                self.length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
                self.missing = self.length;
            }
            if self.missing == 0 {
                self.prefix_bytes = 0;
                has_begun = false;
            }
        }
        has_begun
    }

    /// Bytes of the message that is not complete.
    fn held(&self) -> usize {
        if self.missing > 0 {
            self.prefix_bytes
                .saturating_add(self.length.saturating_sub(self.missing))
        } else {
            self.prefix_bytes
        }
    }
}

/// The body of a request.
#[derive(Debug)]
pub(crate) struct MeteredBody<B> {
    body: B,
    framing: Framing,
    share: Share,
    /// When the message that is not complete began.
    begun: Instant,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl<B> MeteredBody<B> {
    /// The body of a request on this connection.
    pub(crate) fn new(body: B, holder: Holder) -> Self {
        Self {
            body,
            framing: Framing::default(),
            share: Share { holder, bytes: 0 },
            begun: Instant::now(),
            alarm: None,
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Status> {
        if self.framing.take(bytes) {
            self.begun = Instant::now();
        }
        self.share.set(self.framing.held())
    }

    /// Ready when the message that is not complete has had its time.
    fn poll_alarm(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        if self.framing.held() == 0 {
            return Poll::Pending;
        }
        let until = self.begun + MESSAGE_TIME_MAX;
        let alarm = self
            .alarm
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        while alarm.as_mut().poll(cx).is_ready() {
            if Instant::now() >= until {
                return Poll::Ready(Status::deadline_exceeded(format!(
                    "{} bytes of a message came and the rest did not within {MESSAGE_TIME_MAX:?}",
                    self.framing.held()
                )));
            }
            // It was set for a message before this one.
            alarm.as_mut().reset(until);
        }
        Poll::Pending
    }
}

impl<B> HttpBody for MeteredBody<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let me = &mut *self;
        match Pin::new(&mut me.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let taken = frame
                    .data_ref()
                    .map_or(Ok(()), |data| me.take(data.chunk()));
                Poll::Ready(Some(taken.map(|()| frame).map_err(Into::into)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => me.poll_alarm(cx).map(|over| Some(Err(over.into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: usize) -> Vec<u8> {
        let mut all = vec![0];
        all.extend_from_slice(&u32::try_from(bytes).unwrap().to_be_bytes());
        all.resize(PREFIX_BYTES + bytes, 7);
        all
    }

    fn totals(all: &HalfMessages) -> (usize, usize, usize) {
        let held = all.lock();
        (
            held.total,
            held.by_principal.len(),
            held.by_connection.len(),
        )
    }

    #[test]
    fn only_what_is_not_complete_is_held_however_the_bytes_are_cut() {
        let mut all = message(3);
        all.extend(message(0));
        all.extend(message(10));
        let ends = [8, 13, 28];
        for piece in 1..=all.len() {
            let mut framing = Framing::default();
            let mut came = 0;
            for bytes in all.chunks(piece) {
                framing.take(bytes);
                came += bytes.len();
                let begun = ends.iter().copied().filter(|end| *end <= came).max();
                assert_eq!(framing.held(), came - begun.unwrap_or(0), "cut at {piece}");
            }
        }
    }

    /// A body whose bytes come when the test sends them.
    struct Pieces(tokio::sync::mpsc::UnboundedReceiver<Bytes>);

    impl HttpBody for Pieces {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            let piece = self.0.poll_recv(cx);
            piece.map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
        }
    }

    /// The next frame's bytes, or why the call ended; `None` if there is nothing after `wait`.
    async fn next_within(
        body: &mut MeteredBody<Pieces>,
        wait: Duration,
    ) -> Option<Result<Bytes, Status>> {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx));
        let frame = tokio::time::timeout(wait, frame).await.ok()?;
        Some(match frame.expect("the sender is there") {
            Ok(frame) => Ok(frame.into_data().unwrap()),
            Err(error) => Err(*error.downcast::<Status>().unwrap()),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn message_that_is_not_complete_in_time_ends_its_call_and_more_of_it_gives_no_more_time()
    {
        const ALMOST: Duration = Duration::from_secs(29);
        let (sender, pieces) = tokio::sync::mpsc::unbounded_channel();
        let send = |bytes: &[u8]| sender.send(Bytes::copy_from_slice(bytes)).unwrap();
        let all = HalfMessages::new(100);
        let holder = all.holder(Principal::Uid(1));
        let mut body = MeteredBody::new(Pieces(pieces), holder);
        // Between messages there is no limit, and each has the whole time for itself.
        let whole = message(10);
        assert!(next_within(&mut body, 100 * ALMOST).await.is_none());
        for _ in 0..3 {
            send(&whole[..8]);
            next_within(&mut body, ALMOST).await.unwrap().unwrap();
            assert!(next_within(&mut body, ALMOST).await.is_none());
            send(&whole[8..]);
            next_within(&mut body, ALMOST).await.unwrap().unwrap();
            assert!(next_within(&mut body, 100 * ALMOST).await.is_none());
        }
        // A byte every now and then does not prolong it.
        let begun = Instant::now();
        send(&whole[..1]);
        next_within(&mut body, ALMOST).await.unwrap().unwrap();
        assert!(next_within(&mut body, ALMOST).await.is_none());
        send(&whole[1..7]);
        next_within(&mut body, ALMOST).await.unwrap().unwrap();
        assert_eq!(totals(&all), (7, 1, 1));
        let over = next_within(&mut body, ALMOST).await.unwrap().unwrap_err();
        let after = begun.elapsed();
        assert!(
            (MESSAGE_TIME_MAX..MESSAGE_TIME_MAX + Duration::from_millis(5)).contains(&after),
            "{after:?}"
        );
        assert_eq!(over.code(), tonic::Code::DeadlineExceeded);
        assert!(
            over.message().contains("7 bytes of a message came"),
            "{over}"
        );
        drop(body);
        assert_eq!(totals(&all), (0, 0, 0));
    }

    #[test]
    fn half_messages_are_refused_beyond_the_bounds_of_connection_principal_and_all() {
        const MAX: usize = 100;
        let all = HalfMessages::new(MAX);
        let of = |uid: u32| all.holder(Principal::Uid(uid));
        let share = |holder| Share { holder, bytes: 0 };
        let message = |share: &mut Share, bytes| {
            share
                .set(bytes)
                .map_err(|refused| refused.message().to_owned())
        };
        let first = of(1);
        let mut shares: Vec<Share> = (0..8).map(|_| share(first.clone())).collect();
        for share in &mut shares {
            message(share, MAX).unwrap();
        }
        let mut ninth = share(first);
        assert!(
            message(&mut ninth, 1)
                .unwrap_err()
                .contains("this connection")
        );
        // Another connection of the same user goes on, up to what is the user's.
        for _ in 0..24 {
            let mut next = share(of(1));
            message(&mut next, MAX).unwrap();
            shares.push(next);
        }
        let mut next = share(of(1));
        assert!(message(&mut next, 1).unwrap_err().contains("user or host"));
        // Another user goes on, up to what there is for all.
        for _ in 0..32 {
            let mut next = share(of(2));
            message(&mut next, MAX).unwrap();
            shares.push(next);
        }
        let mut next = share(of(3));
        assert!(
            message(&mut next, 1)
                .unwrap_err()
                .contains("all connections")
        );
        assert_eq!(totals(&all).0, 64 * MAX);
        shares.truncate(1);
        message(&mut next, 1).unwrap();
        message(&mut shares[0], 0).unwrap();
        drop((next, shares));
        assert_eq!(totals(&all), (0, 0, 0));
    }
}
