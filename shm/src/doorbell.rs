//! The doorbell of a sleeper: the daemon, rung by local processes that have done something that it may have to act on; or the owner of a lane, rung by
//! the core when it has told it something.
//!
//! ```text
//! word, of which the lower half is a futex: rings 31 bits | 1 = the sleeper sleeps, or is about to
//! ```
//! What is said here of the daemon is true of an owner, for which the core is the one that rings.
//!
//! The daemon says that it is going to sleep, *then* looks through everything once more, and only then sleeps. A local process
//! does what it does, *then* looks whether the daemon sleeps. That is a store-load pair (`sync`): one of them sees the other.
//! Whoever finds the daemon asleep takes the mark away and wakes it, so one of many pays for the system call, and none while the
//! daemon is awake.
//!
//! Invariants:
//! - I1: the mark is set by the daemon alone; a ring takes it away and changes the count in one step, so a waiter that looked at the
//!   word before finds it changed and does not fall asleep.
//! - I2: a process that is killed between the step and the call to the kernel leaves the daemon asleep until its next deadline;
//!   the daemon therefore never sleeps for longer than half a second.
//! - I3: the word is a hint: with any value in it (a mad peer writes what it likes) the daemon wakes too often or too late,
//!   and does nothing wrong.
//!
//! Tested in `shm/tests/loom_doorbell.rs` and `loom_lane.rs`, at the end of this file and in `daemon/src/cycle/bell.rs`.

#[cfg(not(loom))]
use crate::sync::futex;
use crate::sync::{AtomicU64, Ordering, fence, store_load_load};

const ASLEEP: u64 = 1;
const RING: u64 = 2;
/// The count and the mark; the upper half stays zero.
const WORD: u64 = u32::MAX as u64;

/// The bell, by its word.
#[derive(Debug, Clone, Copy)]
pub struct Doorbell<'s> {
    word: &'s AtomicU64,
}

/// What the word said: how often was rung, and whether the daemon sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rings(u32);

impl Rings {
    /// Counts of rings that can be compared.
    #[must_use]
    pub const fn count(self) -> u32 {
        self.0 >> 1
    }

    /// The daemon sleeps, or is about to.
    #[must_use]
    pub const fn is_asleep(self) -> bool {
        self.0 & 1 == 1
    }
}

impl<'s> Doorbell<'s> {
    /// A bell over its word.
    #[must_use]
    pub const fn new(word: &'s AtomicU64) -> Self {
        Self { word }
    }

    /// The daemon is about to sleep. What it looks at from here on, it sees as whoever does not ring has left it.
    pub fn goes_to_sleep(&self) {
        // ORDERING: [doorbell.sleep] the writing half of the pair; the fence orders it before every look that follows, which
        // are many and of all kinds. The daemon does this when it has nothing to do, so the fence costs nobody anything.
        self.word.fetch_or(ASLEEP, Ordering::SeqCst);
        if !cfg!(qtf_mutant = "doorbell_sleeper_looks_too_early") {
            // ORDERING: [doorbell.sleep] as above.
            fence(Ordering::SeqCst);
        }
    }

    /// The daemon is awake.
    pub fn wakes_up(&self) {
        // ORDERING: a hint; a ring that comes in between is one too many.
        self.word.fetch_and(!ASLEEP, Ordering::Relaxed);
    }

    /// What the word says now.
    #[must_use]
    pub fn rings(&self) -> Rings {
        let order = if cfg!(qtf_mutant = "doorbell_rings_without_acquire") {
            // ORDERING: a mutant.
            Ordering::Relaxed
        } else {
            // ORDERING: [doorbell.ring] Acquire: who has seen a ring sees what was rung for; pairs with `take_mark`.
            Ordering::Acquire
        };
        // ORDERING: as chosen above.
        Rings(low(self.word.load(order)))
    }

    /// Takes the mark of a sleeping daemon away; true if this call did, so that its caller is to wake it. What was done before it
    /// (its last write through `sync::store_load_*`) the daemon sees, awake or woken.
    #[must_use]
    pub fn take_mark(&self) -> bool {
        let mut found = if cfg!(qtf_mutant = "doorbell_ringer_looks_too_early") {
            // ORDERING: the mutant: may be older than what was done before.
            self.word.load(Ordering::Relaxed)
        } else {
            store_load_load(self.word)
        };
        while found & ASLEEP != 0 {
            let rung = if cfg!(qtf_mutant = "doorbell_ring_is_not_counted") {
                found & !ASLEEP
            } else {
                (found & !ASLEEP).wrapping_add(RING) & WORD
            };
            // ORDERING: [doorbell.ring] Release: with what was rung for; SeqCst as the mark is half of the pair.
            match self
                .word
                .compare_exchange_weak(found, rung, Ordering::SeqCst, Ordering::Relaxed)
            {
                Ok(_) => return true,
                Err(now) => found = now,
            }
        }
        false
    }

    /// Wakes the sleeper if it sleeps: one look at a word while it does not. Returns whether this call woke it.
    #[cfg(not(loom))]
    #[inline]
    pub fn ring(&self) -> bool {
        let is_asleep = self.take_mark();
        if is_asleep {
            futex::wake_all(self.word);
        }
        is_asleep
    }

    /// Sleeps until the word is no longer what it was (at most for the time given, and perhaps for no reason at all).
    #[cfg(not(loom))]
    pub fn wait(&self, seen: Rings, at_most: core::time::Duration) {
        futex::wait(self.word, seen.0, at_most);
    }

    /// The futex for a sleeper that waits by other means than [`Doorbell::wait`]: its address, and what it holds as long as nobody has rung since the
    /// word was looked at. The address is good as long as the memory of the word is mapped.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn futex(&self, seen: Rings) -> (*const u32, u32) {
        (futex::low_half(self.word).cast_const(), seen.0)
    }

    /// Wakes whoever waits, whether the daemon sleeps or not: for the end of the waiter.
    #[cfg(not(loom))]
    pub fn ring_anyway(&self) {
        // ORDERING: [doorbell.ring] as in `take_mark`.
        self.word.fetch_add(RING, Ordering::SeqCst);
        futex::wake_all(self.word);
    }
}

/// The half that the kernel looks at.
#[expect(clippy::cast_possible_truncation, reason = "the half that is wanted")]
const fn low(word: u64) -> u32 {
    word as u32
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_of_many_rings_finds_the_daemon_asleep_and_none_while_it_is_awake() {
        let word = AtomicU64::new(0);
        let bell = Doorbell::new(&word);
        assert!(!bell.take_mark());
        bell.goes_to_sleep();
        assert!(bell.rings().is_asleep());
        assert!(bell.take_mark());
        assert!(!bell.take_mark(), "somebody is on the way already");
        assert_eq!((bell.rings().count(), bell.rings().is_asleep()), (1, false));
        bell.goes_to_sleep();
        bell.wakes_up();
        assert!(!bell.take_mark());
    }

    #[test]
    fn count_goes_round_and_leaves_the_upper_half_alone() {
        let word = AtomicU64::new(u64::from(u32::MAX));
        let bell = Doorbell::new(&word);
        assert!(bell.take_mark());
        assert_eq!(bell.rings(), Rings(0));
        // ORDERING: of this thread.
        assert_eq!(word.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn waiter_is_woken_by_a_ring_and_does_not_wait_for_one_that_came_before() {
        let word = Arc::new(AtomicU64::new(0));
        let bell = Doorbell::new(&word);
        bell.goes_to_sleep();
        let seen = bell.rings();
        let waiter = std::thread::spawn({
            let word = Arc::clone(&word);
            move || {
                let bell = Doorbell::new(&word);
                while bell.rings().count() == seen.count() {
                    bell.wait(seen, Duration::from_secs(600));
                }
            }
        });
        bell.ring();
        waiter.join().unwrap();
        // The word is another one by now: no sleep.
        bell.wait(seen, Duration::from_secs(600));
    }
}
