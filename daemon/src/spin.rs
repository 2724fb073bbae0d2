//! Whether it pays to look again and again instead of to sleep.
//!
//! Looking keeps a core warm for the answer that comes in a moment. Where somebody else needs that core, each look is taken from whoever
//! is to give the answer: on a single core always, on several when their programs have more to do than there are cores. The kernel
//! counts how often it gave the core of a thread that could have gone on to another (`ru_nivcsw`), so that is asked once for each
//! time that work runs out.
//!
//! Invariants:
//! - I1: on a single core it never pays.
//! - I2: where the core was taken away since it was asked last, it does not pay for the next [`PAUSE_MAX`] times at most, and is
//!   tried again then: a machine that becomes quiet is noticed.
//!
//! Tested at the end.

use nix::sys::resource::{UsageWho, getrusage};

/// LIMIT: so often at most it is not tried after the core was taken away every time that it was.
const PAUSE_MAX: u32 = 256;

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
    /// So many times more it is not tried.
    left_out: u32,
    /// So many times it was left out last.
    pause: u32,
    /// The judgement, until there is work again.
    answer: Option<bool>,
}

impl Spin {
    /// For the calling thread, which is one of those that share the process's cores.
    pub(crate) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self::with(cores, times_taken)
    }

    fn with(cores: usize, times_taken: fn() -> i64) -> Self {
        Self {
            has_other_cores: cores > 1,
            times_taken,
            taken_before: times_taken(),
            left_out: 0,
            pause: 0,
            answer: None,
        }
    }

    /// There is work, or the thread has slept: the next time that work runs out is another one.
    pub(crate) fn note_work(&mut self) {
        self.answer = None;
    }

    /// Whether to look again instead of to sleep; the same until there is work.
    pub(crate) fn pays(&mut self) -> bool {
        if !self.has_other_cores {
            return false;
        }
        if let Some(answer) = self.answer {
            return answer;
        }
        let answer = self.judge();
        self.answer = Some(answer);
        answer
    }

    fn judge(&mut self) -> bool {
        if self.left_out > 1 {
            self.left_out = self.left_out.saturating_sub(1);
            return false;
        }
        let taken = (self.times_taken)();
        let was_taken = std::mem::replace(&mut self.taken_before, taken) != taken;
        if std::mem::take(&mut self.left_out) > 0 {
            // What was taken while it slept says nothing: this is the try.
            return true;
        }
        if was_taken {
            self.pause = self.pause.saturating_mul(2).clamp(1, PAUSE_MAX);
            // The time that is judged now is the first that is left out.
            self.left_out = self.pause;
        } else {
            self.pause /= 2;
        }
        !was_taken
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        static TAKEN: Cell<i64> = const { Cell::new(0) };
    }

    fn on(cores: usize) -> Spin {
        Spin::with(cores, || TAKEN.get())
    }

    /// How many of so many times it paid, if each look that is taken costs the thread its core or not.
    fn paid(spin: &mut Spin, times: u32, is_taken: bool) -> u32 {
        let mut paid = 0;
        for _ in 0..times {
            spin.note_work();
            if spin.pays() {
                paid += 1;
                TAKEN.set(TAKEN.get() + i64::from(is_taken));
            }
        }
        paid
    }

    #[test]
    fn looking_never_pays_on_a_single_core_and_always_on_several_that_are_quiet() {
        assert_eq!(paid(&mut on(1), 1_000, false), 0);
        assert_eq!(paid(&mut on(2), 1_000, false), 1_000);
    }

    #[test]
    fn thread_whose_core_is_taken_each_time_looks_ever_more_seldom_and_looks_again_when_it_is_quiet()
     {
        let mut spin = on(2);
        let tries = paid(&mut spin, 10_000, true);
        assert!((10..60).contains(&tries), "{tries} of 10,000");
        // The longest pause, and what is left of the shorter ones that follow it.
        paid(&mut spin, 2 * PAUSE_MAX, false);
        assert_eq!(paid(&mut spin, 1_000, false), 1_000);
    }

    #[test]
    fn judgement_stands_until_there_is_work_again() {
        let mut spin = on(2);
        assert!(spin.pays());
        TAKEN.set(TAKEN.get() + 1);
        assert!(spin.pays(), "the same time");
        spin.note_work();
        assert!(!spin.pays(), "the core was taken");
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
