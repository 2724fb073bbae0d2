//! Where the edge threads have the core's thread run something for them, and wait until it has: delegation, as in flat combining.
//!
//! Each edge thread has one place at the desk, and at most one errand there, since it waits for its end; so nothing queues, and
//! what one thread asks for is done in its order. The core's thread passes along the places in each turn ([`Clerk::serve`]). An errand is a closure
//! on the stack of its thread: nothing is allocated, and whatever it borrows stays where it is.
//!
//! Invariants:
//! - I1: a poster does not leave [`Messenger::run`], not even by a panic, before its errand has been run or can no longer be run.
//! - I2: a clerk that sleeps or is about to (`goes_to_sleep`) is woken for what is posted; one that is awake costs its posters no system call.
//! - I3: when the clerk is gone, whoever waits and whoever comes later is sent away; nobody waits for ever.
//! - I4: a panic of an errand is its poster's, not the core's.
//!
//! The word of a place is modelled in `shm/tests/loom_errand.rs`. Tested at the end of this file and by the daemon's tests on edge threads.

#![expect(
    unsafe_code,
    reason = "a closure is lent to another thread for as long as its own thread waits"
)]

use std::any::Any;
use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

use qtf_shm::doorbell::Doorbell;
use qtf_shm::errand::ErrandWord;
use qtf_shm::sync::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::Notify;

/// LIMIT: how long a poster looks again and again for the end of its errand before it sleeps: about what it takes to fall asleep and be woken.
/// Where there is one core it sleeps at once.
const PATIENCE: Duration = Duration::from_micros(10);
/// Looks between two looks at the clock.
const LOOKS: u32 = 32;
/// LIMIT: looks along the places before the runtime of the core's thread has its turn: a few microseconds.
const WATCHES: u32 = 64;

/// What is lent, with the lifetime of what it borrows, and without.
type Borrowed<'e> = dyn FnMut() + Send + 'e;
type Errand = Borrowed<'static>;

/// One thread's place; on lines of its own, as its thread and the core's hand them to and fro.
#[repr(align(128))]
struct Place {
    word: ErrandWord,
    errand: UnsafeCell<Option<*mut Errand>>,
    poster: OnceLock<Thread>,
}

// SAFETY: the word says which of two threads may touch the cell: the one `Messenger` of this place while it is free, the one `Clerk` from
// `take` to `finish`; the word orders what they do (`shm/src/errand.rs`). What the pointer leads to is `Send`.
unsafe impl Send for Place {}
// SAFETY: as above.
unsafe impl Sync for Place {}

struct Desk {
    bell: AtomicU64,
    is_closed: AtomicBool,
    places: Box<[Place]>,
    wake: Arc<Notify>,
    patience: Duration,
}

/// Makes a desk with so many places. Posts wake a sleeping clerk by `wake`. `cores` is how many the process may use.
pub(crate) fn desk(places: usize, wake: Arc<Notify>, cores: usize) -> (Clerk, Vec<Ticket>) {
    let place = |_| Place {
        word: ErrandWord::new(),
        errand: UnsafeCell::new(None),
        poster: OnceLock::new(),
    };
    let desk = Arc::new(Desk {
        bell: AtomicU64::new(0),
        is_closed: AtomicBool::new(false),
        places: (0..places).map(place).collect(),
        wake,
        patience: if cores > 1 { PATIENCE } else { Duration::ZERO },
    });
    let tickets = (0..places).map(|place| Ticket {
        desk: Arc::clone(&desk),
        place,
    });
    let tickets = tickets.collect();
    (Clerk(desk), tickets)
}

/// Runs errands, on the core's thread. Dropped, it sends everybody away.
pub(crate) struct Clerk(Arc<Desk>);

impl Clerk {
    /// Runs what is posted: at most one errand of each place. Returns how many.
    pub(crate) fn serve(&mut self) -> u64 {
        let mut served = 0_u64;
        for place in &self.0.places {
            if !place.word.take() {
                continue;
            }
            // SAFETY: the word was taken, so the cell is ours until `finish`.
            let errand = unsafe { *place.errand.get() };
            if let Some(errand) = errand {
                // SAFETY: its poster stays in `run` until `finish` (I1), so the closure and all that it borrows are there, and nobody else
                // uses them.
                unsafe { (*errand)() };
            }
            place.word.finish();
            if let Some(poster) = place.poster.get() {
                poster.unpark();
            }
            served = served.saturating_add(1);
        }
        served
    }

    /// Looks again and again whether something is posted, a bounded number of times. At once false where nothing can come.
    pub(crate) fn watch(&self) -> bool {
        let places = &self.0.places;
        let look = |_| {
            std::hint::spin_loop();
            places.iter().any(|place| place.word.is_posted())
        };
        // On a single core nobody posts while this thread looks.
        let may_come = !places.is_empty() && !self.0.patience.is_zero();
        may_come && (0..WATCHES).any(look)
    }

    /// The clerk is about to sleep until its `wake`: it serves once more after this.
    pub(crate) fn goes_to_sleep(&self) {
        Doorbell::new(&self.0.bell).goes_to_sleep();
    }

    /// It is awake.
    pub(crate) fn wakes_up(&self) {
        Doorbell::new(&self.0.bell).wakes_up();
    }
}

impl std::fmt::Debug for Clerk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Clerk").field(&self.0.places.len()).finish()
    }
}

impl Drop for Clerk {
    fn drop(&mut self) {
        // ORDERING: whoever sleeps is unparked, which carries it over; whoever does not looks at it again and again.
        self.0.is_closed.store(true, Ordering::Relaxed);
        for poster in self.0.places.iter().filter_map(|place| place.poster.get()) {
            poster.unpark();
        }
    }
}

/// The right to one place; for the thread that takes it.
pub(crate) struct Ticket {
    desk: Arc<Desk>,
    place: usize,
}

/// Posts errands, on the thread that took the place.
pub(crate) struct Messenger {
    ticket: Ticket,
    /// Not `Send`: this thread is the one that is woken.
    _thread: PhantomData<*const ()>,
}

impl Messenger {
    /// The calling thread takes its place.
    pub(crate) fn on_this_thread(ticket: Ticket) -> Self {
        if let Some(place) = ticket.desk.places.get(ticket.place) {
            place.poster.get_or_init(std::thread::current);
        }
        Self {
            ticket,
            _thread: PhantomData,
        }
    }

    /// Has `action` run by the clerk, and waits for what comes of it. `None` when the clerk is gone.
    ///
    /// # Panics
    /// If `action` does.
    pub(crate) fn run<R: Send>(&self, action: impl FnOnce() -> R + Send) -> Option<R> {
        let mut action = Some(action);
        let mut result: Option<Result<R, Box<dyn Any + Send>>> = None;
        // I4
        let mut errand = || {
            if let Some(action) = action.take() {
                result = Some(catch_unwind(AssertUnwindSafe(action)));
            }
        };
        self.post_and_wait(&mut errand);
        result.map(|result| result.unwrap_or_else(|panic| resume_unwind(panic)))
    }

    fn post_and_wait(&self, errand: &mut Borrowed<'_>) {
        let desk = &*self.ticket.desk;
        let Some(place) = desk.places.get(self.ticket.place) else {
            return;
        };
        let mut stays = StaysHere { may_go: false };
        let errand: *mut Borrowed<'_> = errand;
        // SAFETY: only the lifetime is another one, which no longer says how long the closure is there. It is there until this function
        // returns, and it returns when the word is free again: the errand was run and is not looked at any more, or it was withdrawn and
        // never will be (I1 of `ErrandWord`).
        let errand = unsafe { std::mem::transmute::<*mut Borrowed<'_>, *mut Errand>(errand) };
        // SAFETY: the cell is ours, since the word is free: this is the only `Messenger` of the place, it stays on one thread, and it is
        // not entered again while it waits.
        unsafe { *place.errand.get() = Some(errand) };
        place.word.post();
        let was_asleep = Doorbell::new(&desk.bell).take_mark();
        if was_asleep {
            desk.wake.notify_one();
        }
        // Whoever has to be woken first takes longer than patience lasts.
        let mut patience = Patience::new(if was_asleep {
            Duration::ZERO
        } else {
            desk.patience
        });
        while !place.word.is_free() {
            // ORDERING: see `Clerk::drop`.
            if desk.is_closed.load(Ordering::Relaxed) && place.word.withdraw() {
                break;
            }
            if patience.lasts() {
                std::hint::spin_loop();
            } else {
                std::thread::park();
            }
        }
        stays.may_go = true;
    }
}

/// Whoever would be unwound while another thread may use its stack ends the process instead (I1).
struct StaysHere {
    may_go: bool,
}

impl Drop for StaysHere {
    fn drop(&mut self) {
        if !self.may_go {
            std::process::abort();
        }
    }
}

/// How long to look again.
struct Patience {
    limit: Duration,
    looks: u32,
    since: Option<Instant>,
}

impl Patience {
    fn new(limit: Duration) -> Self {
        Self {
            limit,
            looks: 0,
            since: None,
        }
    }

    fn lasts(&mut self) -> bool {
        if self.limit.is_zero() {
            return false;
        }
        self.looks = self.looks.wrapping_add(1);
        if self.looks.is_multiple_of(LOOKS) {
            let since = *self.since.get_or_insert_with(Instant::now);
            if since.elapsed() >= self.limit {
                self.limit = Duration::ZERO;
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desk_of(places: usize, cores: usize) -> (Clerk, Vec<Ticket>, Arc<Notify>) {
        let wake = Arc::new(Notify::new());
        let (clerk, tickets) = desk(places, Arc::clone(&wake), cores);
        (clerk, tickets, wake)
    }

    #[test]
    fn each_errand_runs_once_on_the_clerks_thread_and_its_poster_gets_what_came_of_it() {
        const ERRANDS: u64 = 2_000;
        for cores in [1, 2] {
            let (mut clerk, tickets, _) = desk_of(3, cores);
            let mut sums = [0_u64; 3];
            let clerks_thread = std::thread::current().id();
            std::thread::scope(|scope| {
                for (ticket, sum) in tickets.into_iter().zip(&mut sums) {
                    scope.spawn(move || {
                        let messenger = Messenger::on_this_thread(ticket);
                        for number in 1..=ERRANDS {
                            let before = messenger.run(|| {
                                assert_eq!(std::thread::current().id(), clerks_thread);
                                let before = *sum;
                                *sum += number;
                                before
                            });
                            // In order, and what was done is seen.
                            assert_eq!(before, Some(number * (number - 1) / 2));
                        }
                    });
                }
                let mut served = 0;
                while served < 3 * ERRANDS {
                    served += clerk.serve();
                    std::thread::yield_now();
                }
            });
            assert_eq!(sums, [ERRANDS * (ERRANDS + 1) / 2; 3]);
            assert_eq!(clerk.serve(), 0);
        }
    }

    #[tokio::test]
    async fn clerk_that_sleeps_is_woken_for_what_is_posted_however_it_goes_to_sleep() {
        const ERRANDS: u32 = 500;
        let (mut clerk, mut tickets, wake) = desk_of(1, 2);
        let ticket = tickets.remove(0);
        let poster = std::thread::spawn(move || {
            let messenger = Messenger::on_this_thread(ticket);
            (0..ERRANDS).all(|number| messenger.run(move || number) == Some(number))
        });
        let mut served = 0;
        while served < u64::from(ERRANDS) {
            clerk.goes_to_sleep();
            let found = clerk.serve();
            served += found;
            if found == 0 {
                // Without a wake this would last for ever.
                wake.notified().await;
            }
            clerk.wakes_up();
        }
        assert!(poster.join().unwrap());
    }

    #[test]
    fn when_the_clerk_goes_whoever_waits_and_whoever_comes_later_is_sent_away() {
        for cores in [1, 2] {
            let (clerk, mut tickets, _) = desk_of(2, cores);
            let ticket = tickets.remove(0);
            let poster = std::thread::spawn(move || {
                let messenger = Messenger::on_this_thread(ticket);
                [messenger.run(|| 1), messenger.run(|| 2)]
            });
            // It waits, or will be waiting: nobody serves.
            drop(clerk);
            assert_eq!(poster.join().unwrap(), [None, None]);
            let late = Messenger::on_this_thread(tickets.remove(0));
            assert_eq!(late.run(|| 3), None);
        }
    }

    #[test]
    fn panic_of_an_errand_is_its_posters_and_the_clerk_goes_on() {
        let (mut clerk, mut tickets, _) = desk_of(1, 2);
        let ticket = tickets.remove(0);
        let poster = std::thread::spawn(move || {
            let messenger = Messenger::on_this_thread(ticket);
            let run = || messenger.run(|| -> u32 { panic!("as planned") });
            let panicked = catch_unwind(AssertUnwindSafe(run)).is_err();
            (panicked, messenger.run(|| 7))
        });
        let mut served = 0;
        while served < 2 {
            served += clerk.serve();
            std::thread::yield_now();
        }
        assert_eq!(poster.join().unwrap(), (true, Some(7)));
    }
}
