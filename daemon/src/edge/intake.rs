//! What a poll of a stream takes in: a bounded part, so that no peer holds up the others.
//!
//! Invariants:
//! - I1: a reader that was left with messages to come is polled again at once.
//! - I2: after the end of the messages they are not asked for again.
//!
//! Tested at the end of this file.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use tonic::Status;

/// LIMIT: messages that one poll of a stream takes in before others have their turn.
const MESSAGES_PER_POLL_MAX: usize = 16;
/// LIMIT: attempts that the messages of one poll name before others have their turn; the last message may go beyond. An agent of
/// this project names no more in one.
const NAMES_PER_POLL_MAX: usize = 2_048;

/// Where the next message comes from.
pub(super) enum Source<'s, M> {
    /// From here.
    Messages(&'s mut M),
    /// From there again, when the reader has done what comes first.
    Later,
    /// There is nothing to be read until something else wakes the reader.
    Nothing,
}

/// Whoever takes in what a peer says.
pub(super) trait Reader {
    /// The messages of the peer.
    type Messages: Stream<Item = Result<Self::Message, Status>> + Unpin;
    /// One of them.
    type Message;

    /// Where the next one comes from.
    ///
    /// # Errors
    /// The stream is to end with this status.
    fn source(&mut self) -> Result<Source<'_, Self::Messages>, Status>;

    /// How many attempts a message names.
    fn names_in(_message: &Self::Message) -> usize {
        0
    }

    /// Takes one in.
    ///
    /// # Errors
    /// The stream is to end with this status.
    fn take_message(&mut self, message: Self::Message) -> Result<(), Status>;

    /// There will be no more.
    fn end_of_messages(&mut self);
}

/// Takes in what there is, up to the bounds.
///
/// # Errors
/// The stream is to end with this status.
pub(super) fn take_in<R: Reader>(reader: &mut R, cx: &mut Context<'_>) -> Result<(), Status> {
    let (mut messages, mut names) = (0_usize, 0_usize);
    while messages < MESSAGES_PER_POLL_MAX && names < NAMES_PER_POLL_MAX {
        let polled = match reader.source()? {
            Source::Messages(stream) => Pin::new(stream).poll_next(cx),
            Source::Later => break,
            Source::Nothing => return Ok(()),
        };
        match polled {
            Poll::Pending => return Ok(()),
            Poll::Ready(None) => reader.end_of_messages(),
            Poll::Ready(Some(message)) => {
                let message = message?;
                messages += 1;
                names = names.saturating_add(R::names_in(&message));
                reader.take_message(message)?;
            }
        }
    }
    cx.waker().wake_by_ref();
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::task::{Wake, Waker};

    use futures_util::stream;

    use super::*;

    struct Woken(Sender<()>);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            let _nobody_asks = self.0.send(());
        }
    }

    /// Messages are numbers of names.
    struct Listener {
        messages: stream::Iter<std::vec::IntoIter<Result<usize, Status>>>,
        has_other_things_to_do: bool,
        taken: Vec<usize>,
        ends: usize,
        woken: Receiver<()>,
        waker: Waker,
    }

    impl Reader for Listener {
        type Messages = stream::Iter<std::vec::IntoIter<Result<usize, Status>>>;
        type Message = usize;

        fn source(&mut self) -> Result<Source<'_, Self::Messages>, Status> {
            Ok(match (self.has_other_things_to_do, self.ends) {
                (true, _) => Source::Later,
                (false, 0) => Source::Messages(&mut self.messages),
                (false, _) => Source::Nothing,
            })
        }

        fn names_in(message: &usize) -> usize {
            *message
        }

        fn take_message(&mut self, message: usize) -> Result<(), Status> {
            self.taken.push(message);
            Ok(())
        }

        fn end_of_messages(&mut self) {
            self.ends += 1;
        }
    }

    impl Listener {
        fn of(messages: Vec<Result<usize, Status>>) -> Self {
            let (sender, woken) = channel();
            Self {
                messages: stream::iter(messages),
                has_other_things_to_do: false,
                taken: Vec::new(),
                ends: 0,
                woken,
                waker: Arc::new(Woken(sender)).into(),
            }
        }

        /// How many messages a poll takes, and whether it asks for another poll.
        fn poll(&mut self) -> (Result<usize, Status>, bool) {
            let before = self.taken.len();
            let waker = self.waker.clone();
            let answer = take_in(self, &mut Context::from_waker(&waker));
            let answer = answer.map(|()| self.taken.len() - before);
            (answer, self.woken.try_iter().count() == 1)
        }
    }

    fn of_names(names: &[usize]) -> Listener {
        Listener::of(names.iter().copied().map(Ok).collect())
    }

    #[test]
    fn a_poll_takes_sixteen_messages_and_asks_for_another_until_they_have_ended() {
        let mut listener = of_names(&[0; 33]);
        for (taken, goes_on) in [(16, true), (16, true), (1, false), (0, false)] {
            let (answer, asks) = listener.poll();
            assert_eq!((answer.unwrap(), asks), (taken, goes_on));
        }
        assert_eq!(listener.ends, 1);
    }

    #[test]
    fn message_that_names_much_is_the_last_before_others_have_their_turn() {
        let mut listener = of_names(&[131_070, 1_000, 1_000, 1_000, 1_000]);
        let taken: Vec<usize> = (0..3).map(|_| listener.poll().0.unwrap()).collect();
        assert_eq!(taken, [1, 3, 1]);
    }

    #[test]
    fn who_has_other_things_to_do_first_takes_nothing_and_is_polled_again() {
        let mut listener = of_names(&[0]);
        listener.has_other_things_to_do = true;
        let (answer, asks) = listener.poll();
        assert_eq!((answer.unwrap(), asks), (0, true));
    }

    #[test]
    fn a_broken_stream_ends_the_readers_own() {
        let mut listener = Listener::of(vec![Ok(0), Err(Status::internal("broken")), Ok(0)]);
        assert!(listener.poll().0.is_err());
        assert_eq!(listener.taken, [0]);
    }
}
