//! What is done to a system, by seed: kills, stops, cuts, black holes, and when each of them is over.
//!
//! The seed chooses victims and pauses; what the machine makes of them differs from run to run. Used by `tests/kills.rs`.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::system::{Role, System};

/// How hard a system is tormented.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Between two blows.
    pub pause_ms: RangeInclusive<u64>,
    /// Victims of one blow at most.
    pub victims: usize,
    /// Blows in one round.
    pub blows: u32,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Blows {
    /// Processes killed.
    pub kills: u64,
    /// Processes stopped for a while.
    pub stops: u64,
    /// Links cut for a while.
    pub cuts: u64,
    /// Links that were a black hole for a while.
    pub holes: u64,
}

/// The end of something that lasts.
#[derive(Clone, Copy, Debug)]
enum Relief {
    GoOn(usize),
    Mend(usize),
    Reset(usize),
}

/// See the head of this file.
#[derive(Debug)]
pub struct Torment {
    random: fastrand::Rng,
    pace: Pace,
    /// What is to be ended when.
    reliefs: Vec<(Instant, Relief)>,
    blows: Blows,
}

impl Torment {
    /// Of this seed.
    #[must_use]
    pub fn new(seed: u64, pace: Pace) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            pace,
            reliefs: Vec::new(),
            blows: Blows::default(),
        }
    }

    /// What was done so far.
    #[must_use]
    pub const fn blows(&self) -> Blows {
        self.blows
    }

    /// Torments a system for one round, or until its clients have done their work, and lets them do the rest of it in peace: a
    /// kill might put right what went wrong before.
    ///
    /// # Panics
    /// As [`System::finish`].
    pub fn round(&mut self, system: &mut System) {
        for _ in 0..self.pace.blows {
            let pause = Duration::from_millis(self.random.u64(self.pace.pause_ms.clone()));
            if self.pass(system, Instant::now() + pause) {
                break;
            }
            for _ in 0..self.random.usize(1..=self.pace.victims) {
                self.strike(system);
            }
        }
        self.reliefs.clear();
        system.finish();
    }

    /// Lets time pass, and ends what is over. True when all clients have done their work.
    fn pass(&mut self, system: &mut System, until: Instant) -> bool {
        loop {
            let now = Instant::now();
            self.relieve(system, now);
            let next = self.reliefs.iter().map(|(at, _)| *at).min();
            let then = next.map_or(until, |next| next.min(until));
            if system.go_on(then.saturating_duration_since(now)) {
                return true;
            }
            if now >= until {
                return false;
            }
        }
    }

    fn relieve(&mut self, system: &System, now: Instant) {
        for (_, relief) in self.reliefs.extract_if(.., |(at, _)| *at <= now) {
            match relief {
                Relief::GoOn(member) => {
                    system.signal(member, Signal::SIGCONT);
                }
                Relief::Mend(link) => system.links()[link].mend(),
                Relief::Reset(link) => system.links()[link].mend_by_reset(),
            }
        }
    }

    fn strike(&mut self, system: &mut System) {
        match self.random.u32(0..100) {
            0..60 => self.kill(system),
            60..76 => self.stop(system),
            76..88 => self.cut(system),
            _ => self.hold(system),
        }
    }

    fn kill(&mut self, system: &mut System) {
        let member = self.random.usize(..system.count());
        self.blows.kills += u64::from(system.kill(member));
    }

    /// A worker or client for longer than its lease now and then; the daemon, for whom all others wait, not as long.
    fn stop(&mut self, system: &System) {
        let member = self.random.usize(..system.count());
        let longest = match system.role(member) {
            Role::Daemon => 1_500,
            Role::Worker(_)
            | Role::Client(_)
            | Role::LocalWorker
            | Role::SegmentWorker
            | Role::SegmentClient => 3_500,
        };
        if system.signal(member, Signal::SIGSTOP) {
            self.blows.stops += 1;
            let relief = Relief::GoOn(member);
            self.relieve_within(longest, relief);
        }
    }

    fn cut(&mut self, system: &System) {
        let link = self.random.usize(..system.links().len());
        if self.random.bool() {
            system.links()[link].cut();
        } else {
            system.links()[link].cut_by_reset();
        }
        self.blows.cuts += 1;
        self.relieve_within(2_500, Relief::Mend(link));
    }

    fn hold(&mut self, system: &System) {
        let link = self.random.usize(..system.links().len());
        let (is_up, is_down) = match self.random.u32(0..4) {
            0 => (true, false),
            1 => (false, true),
            _ => (true, true),
        };
        system.links()[link].hold_ways(is_up, is_down);
        self.blows.holes += 1;
        let relief = if self.random.bool() {
            Relief::Reset(link)
        } else {
            Relief::Mend(link)
        };
        self.relieve_within(4_000, relief);
    }

    fn relieve_within(&mut self, longest_ms: u64, relief: Relief) {
        let after = Duration::from_millis(self.random.u64(50..=longest_ms));
        self.reliefs.push((Instant::now() + after, relief));
    }
}
