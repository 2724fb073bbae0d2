//! A bare futex between two threads on one core: what waking somebody, and being woken by him, costs at least.
//!
//! The doorbell of the segment is that futex, over a word of this process.

use std::sync::Arc;
use std::time::Duration;

use nix::unistd::Pid;
use qtf_benches::Failure;
use qtf_shm::doorbell::Doorbell;
use qtf_shm::sync::AtomicU64;

use crate::beside::pin;

const AT_MOST: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Words {
    there: AtomicU64,
    back: AtomicU64,
    over: AtomicU64,
}

/// Two threads that wake each other.
#[derive(Debug)]
pub(crate) struct Pong(Arc<Words>);

impl Pong {
    pub(crate) fn start(core: usize) -> Result<Self, Failure> {
        let words = Arc::new(Words {
            there: AtomicU64::new(0),
            back: AtomicU64::new(0),
            over: AtomicU64::new(0),
        });
        let of_thread = Arc::clone(&words);
        std::thread::spawn(move || {
            // It runs where it is, if it may not choose.
            let _as_it_is = pin(Pid::from_raw(0), core);
            let (there, back) = (
                Doorbell::new(&of_thread.there),
                Doorbell::new(&of_thread.back),
            );
            let over = Doorbell::new(&of_thread.over);
            let mut seen = there.rings();
            while over.rings().count() == 0 {
                there.wait(seen, AT_MOST);
                let now = there.rings();
                if now != seen {
                    seen = now;
                    back.ring_anyway();
                }
            }
        });
        Ok(Self(words))
    }

    /// Wakes the other side and sleeps until it has answered.
    pub(crate) fn round_trip(&self) {
        let (there, back) = (Doorbell::new(&self.0.there), Doorbell::new(&self.0.back));
        let seen = back.rings();
        there.ring_anyway();
        while back.rings() == seen {
            back.wait(seen, AT_MOST);
        }
    }
}

impl Drop for Pong {
    fn drop(&mut self) {
        Doorbell::new(&self.0.over).ring_anyway();
        Doorbell::new(&self.0.there).ring_anyway();
    }
}
