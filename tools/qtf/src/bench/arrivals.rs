//! The schedule of an open loop: when each task of a client is due, and an alarm that is exact to microseconds.
//!
//! The runtime's own timer knows whole milliseconds, which would show in every time that is measured. Tested at the end of this
//! file.

use std::io;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// When the tasks of one client of several are due, evenly among those of the others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    /// Tasks a second, of all clients.
    pub(super) rate: f64,
    /// Clients.
    pub(super) clients: u16,
    /// Which this is, from 0.
    pub(super) number: u16,
}

impl Schedule {
    /// How long after the begin the task with this ordinal is due.
    pub(super) fn due(&self, ordinal: u64) -> Duration {
        let among_all = u128::from(ordinal) * u128::from(self.clients) + u128::from(self.number);
        let whole = u64::try_from(among_all).unwrap_or(u64::MAX);
        Duration::try_from_secs_f64(seconds(whole) / self.rate).unwrap_or(Duration::MAX)
    }
}

/// Exact below 2^53, which no run reaches.
fn seconds(count: u64) -> f64 {
    count as f64
}

/// Wakes its client at each moment of a schedule; those that it sleeps through are one waking.
///
/// A thread of its own sleeps in the kernel, which is exact to microseconds; it ends when the alarm is dropped, with its next waking.
#[derive(Debug)]
pub(super) struct Alarm(Arc<Notify>);

impl Alarm {
    /// One whose schedule begins now, for so many tasks.
    pub(super) fn start(schedule: Schedule, began: Instant, tasks: u64) -> io::Result<Self> {
        let notify = Arc::new(Notify::new());
        let client = Arc::downgrade(&notify);
        let thread = std::thread::Builder::new().name("qtf-bench-alarm".to_owned());
        thread.spawn(move || {
            // Without it wakings are up to 50 us late, which is told in the times; they are right either way.
            let _late = nix::sys::prctl::set_timerslack(1);
            ring(&client, schedule, (began, tasks));
        })?;
        Ok(Self(notify))
    }

    /// Waits for the next waking, or takes one that was missed.
    pub(super) async fn rings(&self) {
        self.0.notified().await;
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the clock of an open loop"
)]
fn ring(client: &Weak<Notify>, schedule: Schedule, (began, tasks): (Instant, u64)) {
    let mut next = 0;
    while next < tasks {
        let Some(moment) = began.checked_add(schedule.due(next)) else {
            // It never comes.
            return;
        };
        std::thread::sleep(moment.saturating_duration_since(Instant::now()));
        let Some(client) = client.upgrade() else {
            return;
        };
        client.notify_one();
        drop(client);
        let now = began.elapsed();
        while next < tasks && schedule.due(next) <= now {
            next += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tasks_of_all_clients_come_evenly() {
        let of = |number| Schedule {
            rate: 1_000.0,
            clients: 4,
            number,
        };
        let mut all: Vec<Duration> = (0..4)
            .flat_map(|number| (0..3).map(move |ordinal| of(number).due(ordinal)))
            .collect();
        all.sort();
        let expected: Vec<Duration> = (0..12).map(Duration::from_millis).collect();
        assert_eq!(all, expected);
    }

    #[test]
    fn a_moment_that_never_comes_is_no_panic() {
        let schedule = Schedule {
            rate: 0.001,
            clients: u16::MAX,
            number: 0,
        };
        assert_eq!(
            schedule.due(u64::MAX),
            Duration::try_from_secs_f64(seconds(u64::MAX) / 0.001).unwrap_or(Duration::MAX)
        );
    }

    #[tokio::test]
    async fn the_alarm_rings_when_a_task_is_due_and_not_before() {
        let schedule = Schedule {
            rate: 500.0,
            clients: 1,
            number: 0,
        };
        let began = Instant::now();
        let alarm = Alarm::start(schedule, began, 4).unwrap();
        let mut came = 0;
        // Several that were slept through are one waking.
        while came < 4 {
            alarm.rings().await;
            let due = (came..4).take_while(|task| schedule.due(*task) <= began.elapsed());
            let due = due.count();
            assert!(due > 0, "{came} were told of");
            came += due as u64;
        }
        assert!(began.elapsed() >= schedule.due(3));
    }
}
