//! Calls a handler: as far as it comes at once where the agent is, the rest in a task of its own.
//!
//! Invariants:
//! - C1: a handler that ends without waiting costs no task, timer or queue.
//! - C2: a handler that panics has failed, wherever it does; nobody else notices.
//! - C3: what waits is polled again by its own task before anything can be missed, so the first poll wakes nobody.
//!
//! Tested at the end of the file and in `worker/tests/session`.

use core::panic::AssertUnwindSafe;
use core::task::{Context, Poll, Waker};
use core::time::Duration;
use std::panic::catch_unwind;

use qtf_proto::v1::OutcomeKind;

use crate::attempt::{Ending, failed};
use crate::handler::{HandlerFunction, HandlerFuture, TaskContext};
use crate::stop::StopSignal;

/// How far a call came at once.
pub(crate) enum Begun {
    /// To its end, and gave this.
    Gave(Vec<u8>),
    /// To another end.
    Failed(Box<Ending>),
    /// It waits for something.
    Waits(HandlerFuture),
}

/// Calls, and goes on until it waits for the first time.
pub(crate) fn begin(function: &HandlerFunction, context: TaskContext) -> Begun {
    let first = AssertUnwindSafe(|| {
        let mut future = function(context);
        let polled = future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        match polled {
            Poll::Ready(Ok(bytes)) => Begun::Gave(bytes),
            Poll::Ready(Err(error)) => Begun::Failed(Box::new(failed(&error))),
            Poll::Pending => Begun::Waits(future),
        }
    });
    catch_unwind(first).unwrap_or_else(|_| Begun::Failed(Box::new(panicked())))
}

/// Goes on to the end, or to the stop and the end of its grace.
pub(crate) async fn finish(
    mut future: HandlerFuture,
    stop: &StopSignal,
    grace: Duration,
) -> Ending {
    let result = tokio::select! {
        biased;
        // First: a handler that returns because it is stopped was stopped.
        cause = stop.stopped() => {
            tokio::select! {
                _ = &mut future => {}
                () = tokio::time::sleep(grace) => {}
                () = stop.stopped_at_once() => {}
            }
            return Ending::new(cause.outcome_kind(), "");
        }
        result = &mut future => result,
    };
    match result {
        Ok(bytes) => Ending::of_bytes(bytes.into()),
        Err(error) => failed(&error),
    }
}

/// The end of a handler that panicked.
pub(crate) fn panicked() -> Ending {
    Ending::new(OutcomeKind::HandlerFailed, "the handler panicked")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use qtf_shm::TaskId;

    use super::*;
    use crate::stop::stop_pair;

    fn context(stop: StopSignal) -> TaskContext {
        TaskContext {
            task_id: TaskId::from_raw(1 << 24).unwrap(),
            attempt: 1,
            kind: "test".to_owned(),
            payload: Bytes::from_static(b"payload"),
            stop,
        }
    }

    #[test]
    fn handler_that_does_not_wait_needs_no_runtime() {
        let (_switch, stop) = stop_pair(0);
        let function: HandlerFunction =
            Arc::new(|context| Box::pin(async move { Ok(context.payload.to_vec()) }));
        match begin(&function, context(stop)) {
            Begun::Gave(bytes) => assert_eq!(bytes, b"payload"),
            Begun::Failed(_) | Begun::Waits(_) => panic!("it does neither"),
        }
    }

    #[test]
    fn panic_is_the_end_of_its_own_attempt_before_the_future_and_in_it() {
        let early: HandlerFunction = Arc::new(|_| panic!("before"));
        let late: HandlerFunction = Arc::new(|_| Box::pin(async { panic!("in it") }));
        for function in [early, late] {
            let (_switch, stop) = stop_pair(0);
            match begin(&function, context(stop)) {
                Begun::Failed(ending) => {
                    assert_eq!(ending.outcome.kind(), OutcomeKind::HandlerFailed);
                    assert!(ending.output.message.contains("panicked"));
                }
                Begun::Gave(_) | Begun::Waits(_) => panic!("it has panicked"),
            }
        }
    }

    #[tokio::test]
    async fn what_became_ready_between_the_first_poll_and_the_second_is_not_missed() {
        let (_switch, stop) = stop_pair(0);
        let (sender, receiver) = tokio::sync::watch::channel(false);
        let function: HandlerFunction = Arc::new(move |_| {
            let mut receiver = receiver.clone();
            Box::pin(async move {
                receiver.wait_for(|told| *told).await?;
                Ok(b"told".to_vec())
            })
        });
        let Begun::Waits(future) = begin(&function, context(stop.clone())) else {
            panic!("it waits");
        };
        sender.send_replace(true);
        let ending = finish(future, &stop, Duration::ZERO).await;
        assert_eq!(ending.output.stdout, "told");
    }
}
