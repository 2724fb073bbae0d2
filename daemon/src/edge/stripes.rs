//! Lists of workers and of clients: read a stripe at a time, at their turn among all lists ([`crate::core::lists`]).
//!
//! Tested at the end of this file and in `tests/daemon/listing.rs`.

use std::future::poll_fn;
use std::task::{Context, Poll};

use tonic::Status;

use super::status;
use crate::core::lists::Ticket;
use crate::core::{Core, core_cell};

/// LIMIT: numbers that one turn looks at, and records that it copies.
const NUMBERS_PER_TURN: u16 = 1024;
const RECORDS_PER_TURN: usize = 32;

/// How far a list has come.
#[derive(Debug)]
pub(crate) struct Stripe<T> {
    next: u16,
    is_over: bool,
    found: Vec<T>,
}

impl<T> Stripe<T> {
    const fn new() -> Self {
        Self {
            next: 0,
            is_over: false,
            found: Vec::new(),
        }
    }

    /// Reads on, below `end`.
    pub(crate) fn read(&mut self, end: u16, mut record: impl FnMut(u16) -> Option<T>) {
        let stop = self.next.saturating_add(NUMBERS_PER_TURN).min(end);
        let full = self.found.len().saturating_add(RECORDS_PER_TURN);
        while self.next < stop && self.found.len() < full {
            self.found.extend(record(self.next));
            self.next = self.next.saturating_add(1);
        }
        self.is_over = self.next >= end;
    }
}

/// Reads the next records of a list.
type Read<T> = fn(&Core, &mut Stripe<T>);

/// A place among the lists; given up when dropped.
#[derive(Debug, Default)]
struct Place(Option<Ticket>);

impl Place {
    /// One stripe, when it is its turn.
    fn poll_stripe<T: Send>(
        &mut self,
        cx: &Context<'_>,
        stripe: &mut Stripe<T>,
        read: Read<T>,
    ) -> Poll<Result<(), Status>> {
        // Whoever asks wakes the loop, so that there is a next turn.
        let waker = cx.waker();
        let is_read = core_cell::enter(|core| {
            let is_its_turn = core.lists.take(&mut self.0, waker);
            if is_its_turn {
                read(core, stripe);
            }
            is_its_turn
        });
        match is_read {
            None => Poll::Ready(Err(status::gone())),
            Some(true) => Poll::Ready(Ok(())),
            Some(false) => Poll::Pending,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let ticket = self.0.take();
        if ticket.is_some() {
            core_cell::attend(|core| core.lists.leave(ticket));
        }
    }
}

/// The whole list, over as many turns as it takes.
pub(crate) async fn collect<T: Send>(read: Read<T>) -> Result<Vec<T>, Status> {
    let (mut place, mut stripe) = (Place::default(), Stripe::new());
    while !stripe.is_over {
        poll_fn(|cx| place.poll_stripe(cx, &mut stripe, read)).await?;
    }
    Ok(stripe.found)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::pin::pin;
    use std::task::Waker;

    use super::*;
    use crate::core::test_core;

    thread_local! {
        static READ: Cell<u32> = const { Cell::new(0) };
    }

    /// As many numbers as there can be workers, all of them used.
    fn all_used(_: &Core, stripe: &mut Stripe<u16>) {
        stripe.read(4_096, |number| {
            READ.set(READ.get() + 1);
            Some(number)
        });
    }

    /// As many, none of them used.
    fn none_used(_: &Core, stripe: &mut Stripe<u16>) {
        stripe.read(4_096, |_| {
            READ.set(READ.get() + 1);
            None
        });
    }

    /// Polls several lists to their ends; returns the turns, and the most records that were looked at in one of them.
    fn turns_of(lists: usize, read: Read<u16>, found: usize) -> (u32, u32) {
        let mut cx = Context::from_waker(Waker::noop());
        let mut all: Vec<_> = (0..lists).map(|_| Box::pin(collect(read))).collect();
        let (mut turns, mut most) = (0, 0);
        while !all.is_empty() {
            READ.set(0);
            all.retain_mut(|list| match pin!(list).as_mut().poll(&mut cx) {
                Poll::Pending => true,
                Poll::Ready(list) => {
                    assert_eq!(list.unwrap().len(), found);
                    false
                }
            });
            most = most.max(READ.get());
            turns += 1;
            core_cell::turn();
        }
        (turns, most)
    }

    #[test]
    fn lists_of_workers_read_one_stripe_a_turn_together() {
        let folder = tempfile::tempdir().unwrap();
        core_cell::install(test_core(folder.path()));
        let (turns, most) = turns_of(5, all_used, 4_096);
        assert_eq!(most, 32);
        assert!(turns >= 5 * 4_096 / 32, "{turns}");
        let (turns, most) = turns_of(5, none_used, 0);
        assert_eq!(most, u32::from(NUMBERS_PER_TURN));
        assert!(turns >= 5 * 4, "{turns}");
        drop(core_cell::remove());
    }
}
