//! Keeps the machine's cores from deep sleep while there is work, for those who ask for it (`keep_awake`).
//!
//! A core that has nothing to do for a moment goes to sleep, and takes 20 to 100 us to wake up: as long as a fast disk
//! takes for a sync. The way of a task crosses cores several times (a client, the kernel's writer, a worker), so most
//! of its latency can be that. Linux lets a process ask for a bound on this time for all cores while it holds
//! `/dev/cpu_dma_latency` (`pm_qos_interface` in its documentation); 0 means that idle cores poll.
//!
//! Invariants:
//! - I1: the request stands from the first work on until there has been none for [`HOLD`]; the kernel takes it back when
//!   the process ends.
//! - I2: what the kernel refuses is said once, and the daemon goes on without.
//!
//! Tested at the end.

use std::fs::File;
use std::io::{self, Write as _};
use std::time::{Duration, Instant};

/// The kernel's place for it.
const DEVICE: &str = "/dev/cpu_dma_latency";
/// LIMIT: time without work after which the cores may sleep again.
const HOLD: Duration = Duration::from_millis(20);
/// No core may take longer than this to wake up: none may sleep.
const NONE_SLEEPS: i32 = 0;
/// What stands for "no request" (`PM_QOS_CPU_LATENCY_DEFAULT_VALUE`), in microseconds.
const ANY: i32 = 2_000_000_000;

/// The request, if there can be one.
#[derive(Debug)]
pub(crate) struct Awake {
    device: Option<File>,
    /// When there was work last, while the request stands.
    held_since: Option<Instant>,
}

impl Awake {
    /// For a daemon that lets cores sleep as they like.
    pub(crate) fn never() -> Self {
        Self {
            device: None,
            held_since: None,
        }
    }

    /// For one that keeps them awake while there is work. Without the right to do so it says that, and lets them sleep.
    pub(crate) fn while_working() -> Self {
        match File::options().write(true).open(DEVICE) {
            Ok(device) => Self::with(device),
            Err(error) => {
                tracing::warn!(
                    %error,
                    "keep_awake: {DEVICE} cannot be opened, cores sleep as they like; run as root, or give the daemon's user the right to write there"
                );
                Self::never()
            }
        }
    }

    fn with(device: File) -> Self {
        Self {
            device: Some(device),
            held_since: None,
        }
    }

    /// There is work.
    pub(crate) fn note_work(&mut self) {
        if self.device.is_none() {
            return;
        }
        if self.held_since.replace(Instant::now()).is_none() {
            self.ask(NONE_SLEEPS);
        }
    }

    /// There is no work. Gives the request up when there has been none for long enough; else says after which time to
    /// look again.
    pub(crate) fn let_go(&mut self) -> Option<Duration> {
        let left = HOLD.saturating_sub(self.held_since?.elapsed());
        if !left.is_zero() {
            return Some(left);
        }
        self.held_since = None;
        self.ask(ANY);
        None
    }

    fn ask(&mut self, latency_us: i32) {
        let Some(device) = &mut self.device else {
            return;
        };
        if let Err(error) = write_to(device, latency_us) {
            tracing::warn!(%error, "keep_awake: {DEVICE} takes no request any more, cores sleep as they like");
            self.device = None;
            self.held_since = None;
        }
    }
}

fn write_to(device: &mut File, latency_us: i32) -> io::Result<()> {
    device.write_all(&latency_us.to_ne_bytes())
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _};

    use super::*;

    fn requests(file: &mut File) -> Vec<i32> {
        let mut bytes = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        bytes
            .chunks(4)
            .map(|four| i32::from_ne_bytes(four.try_into().unwrap()))
            .collect()
    }

    #[test]
    fn request_is_made_at_the_first_work_and_given_up_after_a_time_without() {
        let mut file = tempfile::tempfile().unwrap();
        let mut awake = Awake::with(file.try_clone().unwrap());
        assert_eq!(awake.let_go(), None, "nothing to give up");
        awake.note_work();
        awake.note_work();
        assert!(awake.let_go().is_some_and(|left| left <= HOLD));
        assert_eq!(requests(&mut file), [NONE_SLEEPS], "asked once");
        awake.held_since = Instant::now().checked_sub(HOLD);
        assert_eq!(awake.let_go(), None);
        assert_eq!(awake.let_go(), None);
        assert_eq!(requests(&mut file), [NONE_SLEEPS, ANY]);
        awake.note_work();
        assert_eq!(requests(&mut file), [NONE_SLEEPS, ANY, NONE_SLEEPS]);
    }

    #[test]
    fn device_that_takes_nothing_is_left_alone_after_the_first_refusal() {
        let readable = File::open("/dev/null").unwrap();
        let mut awake = Awake::with(readable);
        awake.note_work();
        assert!(awake.device.is_none());
        assert_eq!(awake.let_go(), None);
    }

    #[test]
    fn without_the_device_nothing_is_asked() {
        let mut awake = Awake::never();
        awake.note_work();
        assert_eq!(awake.let_go(), None);
    }
}
