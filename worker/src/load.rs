//! How busy the machine is, as reports tell it.
//!
//! Invariant: the kernel is asked once in a period, however many reports there are. Tested at the end of the file.

use core::time::Duration;
use std::sync::LazyLock;

use tokio::time::Instant;

/// What was last known.
#[derive(Debug)]
pub(crate) struct Load {
    milli: u32,
    known_at: Instant,
}

impl Load {
    /// What it is now.
    pub(crate) fn now() -> Self {
        Self {
            milli: load_milli(),
            known_at: Instant::now(),
        }
    }

    /// Runnable threads for each core, times 1000, as they were within the last `period`; 0 when the kernel does not say.
    pub(crate) fn milli(&mut self, period: Duration) -> u32 {
        self.milli_at(Instant::now(), period, load_milli)
    }

    fn milli_at(&mut self, now: Instant, period: Duration, ask: impl FnOnce() -> u32) -> u32 {
        if now.duration_since(self.known_at) >= period {
            self.milli = ask();
            self.known_at = now;
        }
        self.milli
    }
}

fn load_milli() -> u32 {
    /// Finding them takes longer than the rest: a look at every cgroup above this process.
    static CORES: LazyLock<u32> = LazyLock::new(|| {
        let cores = std::thread::available_parallelism().map_or(1, core::num::NonZero::get);
        u32::try_from(cores).unwrap_or(1)
    });
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    parse(&text, *CORES).unwrap_or(0)
}

fn parse(text: &str, cores: u32) -> Option<u32> {
    let (runnable, _all) = text.split_ascii_whitespace().nth(3)?.split_once('/')?;
    let runnable: u32 = runnable.parse().ok()?;
    runnable.saturating_mul(1000).checked_div(cores)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_is_the_run_queue_per_core() {
        assert_eq!(parse("0.41 0.20 0.10 3/412 9913\n", 2), Some(1500));
        assert_eq!(parse("", 2), None);
        assert_eq!(parse("0 0 0 x/y 1", 2), None);
    }

    #[test]
    fn kernel_is_asked_once_in_a_period_however_often_the_load_is_told() {
        let period = Duration::from_secs(1);
        let known_at = Instant::now();
        let mut load = Load { milli: 7, known_at };
        for _ in 0..3 {
            let milli = load.milli_at(known_at, period, || panic!("asked within the period"));
            assert_eq!(milli, 7);
        }
        let later = known_at + period;
        assert_eq!(load.milli_at(later, period, || 9), 9);
        assert_eq!(load.milli_at(later, period, || panic!("asked twice")), 9);
    }
}
