//! What the pinned thread does when the engine has nothing to do.
//!
//! `adaptive` looks again and again for a short while after the last work, because most answers come
//! within it, and then sleeps until it is woken or something is due; where others need the core it looks no more than once
//! ([`Spin`]). `sleep` does so always, `spin` never sleeps.

use std::time::{Duration, Instant};

use qtf_shm::Now;
use tokio::sync::Notify;

use super::awake::Awake;
use super::bell::Bell;
use super::spin::Spin;
use crate::config::Idle;
use crate::config::settings::{Settings, WhileWorking};
use crate::net::Backend;
use crate::sys::desk::Clerk;

/// How long `adaptive` spins after the last work: a few times what a request takes, and about what a
/// sleeping core needs to wake up.
const SPIN_BUDGET: Duration = Duration::from_micros(50);
/// Longest sleep, so that nothing that only the segment shows waits for ever.
const SLEEP_MAX: Duration = Duration::from_millis(500);

/// Rests between turns.
#[derive(Debug)]
pub(crate) struct Rest {
    idle: Idle,
    backend: Backend,
    last_work: Instant,
    /// A write of the journal is under way.
    is_writing: bool,
    spin: Spin,
    awake: Awake,
    bell: Bell,
    /// Does what edge threads want to have done.
    clerk: Clerk,
    /// It has been said that the thread sleeps, or is about to.
    is_said: bool,
    /// When it was said last, there was nothing to do in the turn after that.
    was_right: bool,
}

impl Rest {
    /// Rests as configured, where the process may use so many cores.
    pub(crate) fn new(
        settings: &Settings,
        backend: Backend,
        bell: Bell,
        clerk: Clerk,
        cores: usize,
    ) -> Self {
        Self {
            idle: settings.idle,
            backend,
            last_work: Instant::now(),
            is_writing: false,
            spin: Spin::new(cores),
            awake: match settings.while_working {
                WhileWorking::CoresAreAwake => Awake::while_working(),
                WhileWorking::CoresMaySleep => Awake::never(),
            },
            bell,
            clerk,
            is_said: false,
            was_right: false,
        }
    }

    /// Says whether a write of the journal is under way: there is work then, though not here.
    pub(crate) fn note_write(&mut self, is_writing: bool) {
        self.is_writing = is_writing;
    }

    /// Does what edge threads have posted. Returns how much.
    pub(crate) fn serve(&mut self) -> u64 {
        self.clerk.serve()
    }

    fn is_awake(&mut self, work: u64) -> bool {
        // A turn is bounded: there may be more.
        if work > 0 {
            return true;
        }
        match self.idle {
            Idle::Spin => true,
            Idle::Sleep => false,
            Idle::Adaptive => {
                let now = Instant::now();
                now.duration_since(self.last_work) < SPIN_BUDGET && self.spin.pays(now)
            }
        }
    }

    /// The turn that was to find whether there is more can be the one before the sleep: a daemon that is not to look again and again has done its
    /// work, and had nothing more to do the last time. Otherwise whoever has work for it would call the kernel for one that is awake.
    fn sleeps_after(&self, work: u64) -> bool {
        let looks_again = match self.idle {
            Idle::Spin => true,
            Idle::Adaptive => self.spin.has_other_cores(),
            Idle::Sleep => false,
        };
        work > 0 && self.was_right && !looks_again
    }

    /// Comes back when there may be work: at once after work, else as the strategy says.
    pub(crate) async fn rest(&mut self, work: u64, now: Now, due: Option<Now>, wake: &Notify) {
        if work > 0 {
            self.note_work();
        }
        let sleep_max = if work > 0 || self.is_writing {
            self.awake.note_work();
            SLEEP_MAX
        } else {
            self.awake.let_go().unwrap_or(SLEEP_MAX)
        };
        let until_due = due.map_or(SLEEP_MAX, |due| Duration::from_nanos(due.since_ns(now)));
        let is_over = !self.is_said && self.sleeps_after(work);
        if self.is_awake(work) && !is_over || until_due.is_zero() {
            self.was_right &= !self.is_said || work == 0;
            self.say_awake();
            if work > 0 || !self.clerk.watch() {
                self.backend.turn().await;
            }
            return;
        }
        // Whoever was served a moment ago mostly wants something else in the next one, and to be woken takes longer than to look.
        if !self.is_said && self.clerk.watch() {
            return;
        }
        if !std::mem::replace(&mut self.is_said, true) {
            self.bell.goes_to_sleep();
            self.clerk.goes_to_sleep();
            // One more turn, which finds what was done before this could be known.
            return;
        }
        self.was_right = true;
        tokio::select! {
            biased;
            () = wake.notified() => {}
            () = self.bell.rung() => {}
            () = tokio::time::sleep(until_due.min(sleep_max)) => {
                self.say_awake();
                return;
            }
        }
        self.note_work();
        self.say_awake();
    }

    fn note_work(&mut self) {
        self.last_work = Instant::now();
        self.spin.note_work();
    }

    fn say_awake(&mut self) {
        if std::mem::take(&mut self.is_said) {
            self.bell.wakes_up();
            self.clerk.wakes_up();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use qtf_shm::{Geometry, Segment, SegmentSpec};

    use super::*;
    use crate::config::RawConfig;

    /// Whether a daemon that had work a moment ago, and has so much now, looks again.
    fn looks_again(idle: &str, cores: usize, work: u64) -> bool {
        let folder = tempfile::tempdir().unwrap();
        let mut spec = SegmentSpec::new("idle", folder.path());
        spec.geometry = Geometry::for_counts(64, 16).unwrap();
        let segment = Arc::new(Segment::create_private(&spec).unwrap());
        let raw = RawConfig {
            idle: Some(idle.to_owned()),
            ..RawConfig::default()
        };
        let settings = Settings::private_with(raw).unwrap();
        let bell = Bell::listen(&segment, false).unwrap();
        let (clerk, _) = crate::sys::desk::desk(0, bell.wake(), cores);
        let mut rest = Rest::new(&settings, Backend::Tokio, bell, clerk, cores);
        rest.last_work = Instant::now();
        rest.is_awake(work)
    }

    #[test]
    fn daemon_that_is_to_sleep_looks_again_after_work_only_and_one_that_is_to_spin_always() {
        // What a turn leaves undone for the next one would wait for ever.
        assert!(looks_again("sleep", 2, 1));
        assert!(!looks_again("sleep", 2, 0));
        assert!(looks_again("spin", 1, 0));
    }

    #[test]
    fn adaptive_daemon_looks_again_where_there_are_other_cores_also_if_it_is_pinned_to_one() {
        let pinned = |cores: usize, work: u64| {
            std::thread::spawn(move || {
                let first = crate::sys::affinity::allowed_cores()[0];
                crate::sys::affinity::pin(crate::config::Core::Number(first));
                // The kernel may take the core away between two looks.
                (0..20).any(|_| looks_again("adaptive", cores, work))
            })
            .join()
            .unwrap()
        };
        assert!(pinned(2, 0));
        assert!(!pinned(1, 0));
        assert!(pinned(1, 1), "a turn is bounded");
    }
}
