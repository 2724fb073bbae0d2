//! Whether it pays to look again and again instead of to sleep.
//!
//! Looking keeps a core warm for the answer that comes in a moment. Where somebody else needs that core, each look is taken from whoever
//! is to give the answer, who may wait for milliseconds until the kernel takes the core away: on a single core always, on several
//! when there is more to do than there are cores. The kernel counts how often it took the core of a thread that could have gone on
//! (`ru_nivcsw`), so that is asked once for each time that work runs out.
//!
//! Invariants:
//! - I1: on a single core it never pays.
//! - I2: after the core was taken away it does not pay for [`PAUSE_MAX`] at most; a machine that becomes quiet is noticed.
//! - I3: where the core is taken soon after each try, tries become rarer, until [`PAUSE_MAX`] lies between them.
//!
//! Tested at the end.

use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};

/// After this time it is tried again.
const PAUSE_MIN: Duration = Duration::from_millis(1);
/// LIMIT: so long at most it is not tried.
const PAUSE_MAX: Duration = Duration::from_millis(128);
/// A core that was left alone for so many times the pause before it is taken is as good as one's own: kernel threads need
/// each core for a moment.
const LEFT_ALONE: u32 = 8;

/// How often the core was taken from the calling thread.
fn times_taken() -> i64 {
    // Without the kernel's word nothing is known of others.
    getrusage(UsageWho::RUSAGE_THREAD).map_or(0, |usage| usage.involuntary_context_switches())
}

/// Judges each time that work runs out.
#[derive(Debug)]
pub(crate) struct Spin {
    has_other_cores: bool,
    times_taken: fn() -> i64,
    taken_before: i64,
    /// Since when it pays, or from when on it is tried again.
    tried_since: Result<Instant, Instant>,
    pause: Duration,
    /// The judgement, until there is work again.
    answer: Option<bool>,
}

impl Spin {
    /// For the calling thread of a process that may use so many cores. A pinned thread cannot ask how many that are: it is told of its
    /// own only.
    pub(crate) fn new(cores: usize) -> Self {
        Self::with(cores, times_taken, Instant::now())
    }

    fn with(cores: usize, times_taken: fn() -> i64, now: Instant) -> Self {
        Self {
            has_other_cores: cores > 1,
            times_taken,
            taken_before: 0,
            tried_since: Err(now),
            pause: PAUSE_MIN,
            answer: None,
        }
    }

    /// There is work, or the thread has slept: the next time that work runs out is another one.
    pub(crate) fn note_work(&mut self) {
        self.answer = None;
    }

    /// On a single core it never pays.
    pub(crate) const fn has_other_cores(&self) -> bool {
        self.has_other_cores
    }

    /// Whether to look again instead of to sleep; the same until there is work.
    pub(crate) fn pays(&mut self, now: Instant) -> bool {
        if !self.has_other_cores {
            return false;
        }
        if let Some(answer) = self.answer {
            return answer;
        }
        let answer = self.judge(now);
        self.answer = Some(answer);
        answer
    }

    fn judge(&mut self, now: Instant) -> bool {
        match self.tried_since {
            Err(again) if now < again => false,
            Err(_) => {
                // What was taken before the try says nothing.
                self.taken_before = (self.times_taken)();
                self.tried_since = Ok(now);
                true
            }
            Ok(since) => {
                let taken = (self.times_taken)();
                if taken == self.taken_before {
                    return true;
                }
                let was_left_alone = now.duration_since(since) >= self.pause * LEFT_ALONE;
                let pause = if was_left_alone {
                    self.pause / 2
                } else {
                    self.pause * 2
                };
                self.pause = pause.clamp(PAUSE_MIN, PAUSE_MAX);
                self.tried_since = now.checked_add(self.pause).map_or(Ok(now), Err);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        static TAKEN: Cell<i64> = const { Cell::new(0) };
    }

    const TIME: Duration = Duration::from_micros(20);

    /// Of so many times that work runs out, one each 20 us, how often it paid, where the core is taken after so many of them.
    fn paid(spin: &mut Spin, clock: &mut Instant, times: u32, taken_each: u32) -> u32 {
        let mut paid = 0;
        for _ in 0..times {
            *clock += TIME;
            spin.note_work();
            if spin.pays(*clock) {
                paid += 1;
                TAKEN.set(TAKEN.get() + i64::from(paid % taken_each == 0));
            }
        }
        paid
    }

    fn on(cores: usize, clock: Instant) -> Spin {
        TAKEN.set(7);
        Spin::with(cores, || TAKEN.get(), clock)
    }

    #[test]
    fn looking_never_pays_on_a_single_core_and_always_on_several_that_are_quiet() {
        let mut clock = Instant::now();
        assert_eq!(paid(&mut on(1, clock), &mut clock, 1_000, u32::MAX), 0);
        assert_eq!(paid(&mut on(2, clock), &mut clock, 1_000, u32::MAX), 1_000);
    }

    #[test]
    fn thread_whose_core_others_need_looks_ever_more_seldom_and_looks_again_when_it_is_quiet() {
        let mut clock = Instant::now();
        let mut spin = on(2, clock);
        // Each 4 ms, as the kernel's clock takes it.
        let looks = paid(&mut spin, &mut clock, 100_000, 200);
        assert!((200..8_000).contains(&looks), "{looks} of 100,000");
        // The longest pause.
        paid(&mut spin, &mut clock, 7_000, u32::MAX);
        assert_eq!(paid(&mut spin, &mut clock, 1_000, u32::MAX), 1_000);
    }

    #[test]
    fn thread_whose_core_the_kernel_itself_needs_now_and_then_goes_on_to_look() {
        let mut clock = Instant::now();
        let looks = paid(&mut on(2, clock), &mut clock, 100_000, 1_000);
        assert!(looks > 90_000, "{looks} of 100,000");
    }

    #[test]
    fn judgement_stands_until_there_is_work_again() {
        let clock = Instant::now();
        let mut spin = on(2, clock);
        assert!(spin.pays(clock));
        TAKEN.set(TAKEN.get() + 1);
        assert!(spin.pays(clock), "the same time");
        spin.note_work();
        assert!(!spin.pays(clock), "the core was taken");
    }

    #[test]
    fn kernel_counts_when_the_core_is_taken_from_a_thread_that_goes_on() {
        // Two threads that both want one core for longer than the kernel gives it to one at a time.
        let taken = std::sync::Arc::new(std::sync::OnceLock::new());
        let threads = [(); 2].map(|()| {
            let taken = std::sync::Arc::clone(&taken);
            std::thread::spawn(move || {
                let first = crate::sys::affinity::allowed_cores()[0];
                crate::sys::affinity::pin(crate::config::Core::Number(first));
                let before = times_taken();
                // Whoever is first leaves the core to the other, from whom it may never be taken then.
                while taken.get().is_none() {
                    if times_taken() != before {
                        let _ = taken.set(());
                    }
                }
            })
        });
        for thread in threads {
            thread.join().unwrap();
        }
    }
}
