//! The watchdog: a thread that is none of the loops looks whether all of them have turned since it looked last, and only then
//! says that the program is alive.
//!
//! A timer would go on when the work hangs, so it proves nothing; the turns do. A loop that has nothing to do turns too, at
//! least twice a second; the thread looks four times in the manager's time.
//!
//! Invariants:
//! - W1: while the program works, each sign of life stands for at least one turn of every loop since the one before.
//! - W2: once it stops, its loops may end one after the other: what bounds a stop is the manager's time for stops, so from then on
//!   the sign is given without them.
//!
//! Tested at the end of this file and, with a hanging daemon under a real systemd, in `tests/tests/service/`.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::notify;

/// How often the status is told and the loops are looked at where the manager has no watchdog.
const LOOK_MAX: Duration = Duration::from_secs(5);
/// Looks in the manager's time.
const LOOKS: u32 = 4;
/// LIMIT: a loop that does not turn for so long is told in the log.
const HANGS_AFTER: Duration = Duration::from_secs(5);

/// What the thread looks at.
pub trait Loops: Send + 'static {
    /// Name and turns of each loop, always in the same order.
    fn turns(&self) -> Vec<(&'static str, u64)>;
    /// A line about what the program does.
    fn status(&self) -> String;
}

/// The thread. Dropped, it ends.
#[derive(Debug)]
pub struct Keeper {
    /// Dropped with it.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Begins to look.
///
/// # Errors
/// No thread can be had.
pub fn keep(loops: impl Loops) -> io::Result<Keeper> {
    let patience = sd_notify::watchdog_enabled();
    let (stop, stopped) = channel();
    let thread = std::thread::Builder::new()
        .name("qtf-watchdog".to_owned())
        .spawn(move || look_until(&stopped, &loops, patience))?;
    Ok(Keeper {
        stop: Some(stop),
        thread: Some(thread),
    })
}

impl Keeper {
    /// The program stops from now on: tells the manager, and no longer asks the loops.
    pub fn stops(&self) {
        notify::stopping();
        if let Some(stop) = &self.stop {
            // A thread that has gone tells nothing anyway.
            let _gone = stop.send(());
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the watchdog's thread has panicked");
        }
    }
}

fn look_until(stopped: &Receiver<()>, loops: &impl Loops, patience: Option<Duration>) {
    let each = patience.map_or(LOOK_MAX, |patience| LOOK_MAX.min(patience / LOOKS));
    let mut watch = Watch::new(loops.turns(), Instant::now());
    let mut told = String::new();
    let mut is_stopping = false;
    loop {
        match stopped.recv_timeout(each) {
            Ok(()) => is_stopping = true,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if is_stopping {
            notify::alive();
            continue;
        }
        let status = loops.status();
        if status != told {
            notify::status(&status);
            told = status;
        }
        match watch.look(loops.turns(), Instant::now()) {
            Seen::AllTurned => notify::alive(),
            Seen::Waits => {}
            Seen::Hangs(names) => tracing::error!(
                name: "loop-hangs",
                loops = names,
                "a loop has not turned for {} s: with a watchdog the service manager ends this process and starts it again, with all tasks",
                HANGS_AFTER.as_secs()
            ),
        }
    }
}

/// What was seen at a look.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    AllTurned,
    /// Not all of them, but they have time.
    Waits,
    /// These have not turned for too long. Told once.
    Hangs(String),
}

/// Turns at the last sign of life.
#[derive(Debug)]
struct Watch {
    turns: Vec<(&'static str, u64)>,
    since: Instant,
    is_told: bool,
}

impl Watch {
    fn new(turns: Vec<(&'static str, u64)>, now: Instant) -> Self {
        Self {
            turns,
            since: now,
            is_told: false,
        }
    }

    fn look(&mut self, turns: Vec<(&'static str, u64)>, now: Instant) -> Seen {
        let both = self.turns.iter().zip(&turns);
        let hanging: Vec<&str> = both
            .filter(|(before, is)| before.1 == is.1)
            .map(|(before, _)| before.0)
            .collect();
        if hanging.is_empty() {
            *self = Self::new(turns, now);
            return Seen::AllTurned;
        }
        if now.duration_since(self.since) < HANGS_AFTER
            || std::mem::replace(&mut self.is_told, true)
        {
            return Seen::Waits;
        }
        Seen::Hangs(hanging.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(of: [u64; 3]) -> Vec<(&'static str, u64)> {
        ["a", "b", "c"].into_iter().zip(of).collect()
    }

    #[test]
    fn sign_of_life_stands_for_a_turn_of_every_loop_since_the_one_before() {
        let now = Instant::now();
        let mut watch = Watch::new(turns([1, 1, 1]), now);
        assert_eq!(watch.look(turns([2, 2, 2]), now), Seen::AllTurned);
        // Each of them may be the one that hangs, however far the others come.
        for still in 0..3 {
            let mut moved = [9, 9, 9];
            moved[still] = 2;
            assert_eq!(watch.look(turns(moved), now), Seen::Waits, "{still}");
        }
        assert_eq!(watch.look(turns([3, 3, 3]), now), Seen::AllTurned);
        assert_eq!(watch.look(turns([3, 3, 3]), now), Seen::Waits);
        // A count that begins anew has turned.
        assert_eq!(watch.look(turns([0, 0, 0]), now), Seen::AllTurned);
    }

    #[test]
    fn loop_that_hangs_is_named_once() {
        let now = Instant::now();
        let mut watch = Watch::new(turns([1, 1, 1]), now);
        let late = now + HANGS_AFTER;
        assert_eq!(
            watch.look(turns([2, 1, 2]), late),
            Seen::Hangs("b".to_owned())
        );
        assert_eq!(watch.look(turns([3, 1, 3]), late), Seen::Waits);
        assert_eq!(watch.look(turns([3, 2, 3]), late), Seen::AllTurned);
        assert_eq!(
            watch.look(turns([4, 2, 4]), late + HANGS_AFTER),
            Seen::Hangs("b".to_owned())
        );
    }
}
