//! What the tasks of a tormented system do: chosen by seed, client and number, so that client and checker know it
//! without telling each other.
//!
//! Each task is one process: a shell that says that it runs, and then ends or becomes (`exec`) what it does. So "no
//! process of an ended attempt is alive" can be checked exactly: every process of an attempt is a child of its worker,
//! has its end as a death signal, and carries task and attempt in its environment. Local tasks have no process; who does them is
//! `system-local`. Tested at the end of this file.

use std::time::Duration;

use crate::ledger::{Story, Told};

/// Exit code of attempts that are to be repeated.
pub const AGAIN_CODE: u32 = 7;
/// The kind of tasks that only local workers do.
pub const LOCAL_KIND: &str = "local";
/// Losses of workers that a task survives, in the daemon's default.
const LOSSES_SURVIVED: u32 = 3;
/// Longer than any run of a test: whoever sleeps so long was not stopped.
const NEVER: &str = "600";

/// What one task does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Exits with 0 at once.
    Succeed,
    /// Exits with 0 after a while.
    SucceedLate {
        /// The while.
        ms: u64,
    },
    /// Prints more than fits into a message.
    Print {
        /// So many zero bytes.
        bytes: usize,
        /// They come from its standard input, so that the payload is large too.
        is_fed: bool,
    },
    /// Exits with this code.
    Fail {
        /// The code, not 0.
        code: u32,
    },
    /// Fails in its first attempts; has just as many retries.
    FailFirst {
        /// So many.
        attempts: u32,
    },
    /// Fails in each attempt; has one retry.
    FailAlways,
    /// Runs into its time limit.
    Overrun {
        /// Ignores SIGTERM.
        is_stubborn: bool,
        /// The limit.
        limit_ms: u64,
    },
    /// Never ends by itself, and has no time limit: it has to be cancelled.
    Endless {
        /// Ignores SIGTERM.
        is_stubborn: bool,
    },
    /// Exits with 0 and may be begun only once.
    Once,
}

/// One task: what it does, and what is done to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// What it does.
    pub act: Act,
    /// When it is cancelled, counted from its acceptance.
    pub cancel_after: Option<Duration>,
    /// It is not journalled: it goes with the segment.
    pub is_memory: bool,
    /// A local worker does it, and no process of its own.
    pub is_local: bool,
    /// It goes before others, so that a cancellation is likely to meet it while it runs.
    pub is_urgent: bool,
}

impl Work {
    /// The work of a client's task.
    #[must_use]
    pub fn of(seed: u64, client: &str, number: u64) -> Self {
        let of_client = client.bytes().fold(seed, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let mut random =
            fastrand::Rng::with_seed(of_client ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (act, is_cancelled) = match random.u32(0..100) {
            0..26 => (Act::Succeed, random.u32(0..10) == 0),
            26..36 => {
                let is_fed = random.bool();
                let bytes = random.usize(70_000..300_000);
                (Act::Print { bytes, is_fed }, random.u32(0..10) == 0)
            }
            36..44 => (
                Act::Fail {
                    code: random.u32(1..=120),
                },
                false,
            ),
            44..53 => (
                Act::FailFirst {
                    attempts: random.u32(1..=2),
                },
                false,
            ),
            53..57 => (Act::FailAlways, false),
            57..65 => {
                let limit_ms = random.u64(200..400);
                let is_stubborn = random.bool();
                (
                    Act::Overrun {
                        is_stubborn,
                        limit_ms,
                    },
                    random.u32(0..10) == 0,
                )
            }
            65..80 => {
                let is_stubborn = random.bool();
                (Act::Endless { is_stubborn }, true)
            }
            80..95 => (
                Act::SucceedLate {
                    ms: random.u64(50..700),
                },
                random.bool(),
            ),
            _ => (Act::Once, false),
        };
        Self {
            act,
            cancel_after: is_cancelled.then(|| Duration::from_millis(random.u64(0..1_500))),
            is_memory: random.u32(0..8) == 0,
            is_urgent: is_cancelled && random.bool(),
            // What may be begun only once is the daemon's to hand out, if it is journalled.
            is_local: act != Act::Once && random.u32(0..6) == 0,
        }
    }

    /// What the payload of a local task says: enough to know its work.
    #[must_use]
    pub fn order(seed: u64, client: &str, number: u64) -> String {
        format!("{number} {seed} {client}")
    }

    /// The work that an order is about, and its number; `None` when it makes no sense.
    #[must_use]
    pub fn of_order(order: &str) -> Option<(Self, u64)> {
        let mut words = order.splitn(3, ' ');
        let number = words.next()?.parse().ok()?;
        let seed = words.next()?.parse().ok()?;
        Some((Self::of(seed, words.next()?, number), number))
    }

    /// The shell's script; `$1` is the number, `$2` the file of runs.
    #[must_use]
    pub fn script(&self) -> String {
        const SAY: &str =
            r#"line="$QTF_TASK_ID $QTF_ATTEMPT $1"; echo "$line" >> "$2"; echo "$line""#;
        let sleep_on = |is_stubborn: bool| {
            // What is ignored stays so over `exec`.
            let trap = if is_stubborn { "trap '' TERM; " } else { "" };
            format!("{trap}{SAY}; exec sleep {NEVER}")
        };
        match self.act {
            Act::Succeed | Act::Once => SAY.to_owned(),
            Act::SucceedLate { ms } => format!("{SAY}; exec sleep 0.{ms:03}"),
            Act::Print { is_fed: true, .. } => format!("{SAY}; exec cat"),
            Act::Print { bytes, .. } => format!("{SAY}; exec head -c {bytes} /dev/zero"),
            Act::Fail { code } => format!("{SAY}; exit {code}"),
            Act::FailFirst { attempts } => {
                format!("{SAY}; [ $QTF_ATTEMPT -gt {attempts} ] || exit {AGAIN_CODE}")
            }
            Act::FailAlways => format!("{SAY}; exit {AGAIN_CODE}"),
            Act::Overrun { is_stubborn, .. } | Act::Endless { is_stubborn } => {
                sleep_on(is_stubborn)
            }
        }
    }

    /// Failures that it may have beyond the last.
    #[must_use]
    pub const fn retries(&self) -> u32 {
        match self.act {
            Act::FailFirst { attempts } => attempts,
            Act::FailAlways => 1,
            // Never used: none of these fails by itself.
            Act::Succeed | Act::SucceedLate { .. } | Act::Print { .. } | Act::Endless { .. } => 100,
            Act::Fail { .. } | Act::Overrun { .. } | Act::Once => 0,
        }
    }

    /// Zero bytes that it is given, on its standard input or behind its order.
    #[must_use]
    pub const fn fed_bytes(&self) -> usize {
        match self.act {
            Act::Print { bytes, is_fed } if is_fed => bytes,
            Act::Succeed
            | Act::SucceedLate { .. }
            | Act::Print { .. }
            | Act::Fail { .. }
            | Act::FailFirst { .. }
            | Act::FailAlways
            | Act::Overrun { .. }
            | Act::Endless { .. }
            | Act::Once => 0,
        }
    }

    /// Zero bytes that it prints behind its line.
    #[must_use]
    pub const fn printed_bytes(&self) -> usize {
        if let Act::Print { bytes, .. } = self.act {
            bytes
        } else {
            0
        }
    }

    /// Does not stop when it is told to.
    #[must_use]
    pub const fn is_stubborn(&self) -> bool {
        matches!(
            self.act,
            Act::Overrun {
                is_stubborn: true,
                ..
            } | Act::Endless { is_stubborn: true }
        )
    }

    /// What stands behind its line in a full output, as [`crate::ledger`] writes it down.
    fn printed(&self) -> String {
        match self.printed_bytes() {
            0 => String::new(),
            bytes => format!(" +{bytes}"),
        }
    }

    /// Checks an end against what the task does, what was answered about it, and which attempts of it ran.
    ///
    /// # Errors
    /// It cannot have ended so; says why.
    pub fn check(&self, number: u64, told: &Told, story: &Story<'_>) -> Result<(), String> {
        let has_run = story.runs.contains(&(told.attempt, number));
        let line = format!("{} {} {number}{}", told.id, told.attempt, self.printed());
        match told.state.as_str() {
            "done" => self.check_done(told)?,
            "failed" => self.check_failed(told)?,
            "cancelled" if self.cancel_after.is_none() => {
                return Err("nobody has cancelled it".to_owned());
            }
            "cancelled" => return Ok(()),
            "dead_letter" => return self.check_dead(told, story),
            _ => return Err("that is no end".to_owned()),
        }
        if self.has_full_output(told) && told.output != line {
            return Err(format!("its output should be {line:?}"));
        }
        let may_have_been_too_quick = told.outcome.starts_with("timed_out");
        if !has_run && !may_have_been_too_quick {
            return Err(format!("what ran is {:?}", story.runs));
        }
        Ok(())
    }

    /// One that was stopped may not have come to its line.
    fn has_full_output(&self, told: &Told) -> bool {
        !told.outcome.starts_with("timed_out")
    }

    fn check_done(&self, told: &Told) -> Result<(), String> {
        let fits = match self.act {
            Act::Succeed | Act::SucceedLate { .. } | Act::Print { .. } | Act::Once => true,
            Act::FailFirst { attempts } => told.attempt > attempts,
            Act::Fail { .. } | Act::FailAlways | Act::Overrun { .. } | Act::Endless { .. } => false,
        };
        if fits && told.outcome == "exited 0" {
            Ok(())
        } else {
            Err(format!("{:?} does not end so", self.act))
        }
    }

    fn check_failed(&self, told: &Told) -> Result<(), String> {
        let exited = |code: u32| told.outcome == format!("exited {code}");
        let fits = match self.act {
            Act::Fail { code } => exited(code),
            Act::FailAlways => exited(AGAIN_CODE) && told.attempt > 1,
            Act::Overrun { .. } => told.outcome.starts_with("timed_out "),
            Act::Succeed
            | Act::SucceedLate { .. }
            | Act::Print { .. }
            | Act::FailFirst { .. }
            | Act::Endless { .. }
            | Act::Once => false,
        };
        if fits {
            Ok(())
        } else {
            Err(format!("{:?} does not end so", self.act))
        }
    }

    /// Only a task whose workers were lost too often may be a dead letter, and none whose cancellation was answered.
    fn check_dead(&self, told: &Told, story: &Story<'_>) -> Result<(), String> {
        let survived = if self.act == Act::Once {
            0
        } else {
            LOSSES_SURVIVED
        };
        let lost_enough = told.attempt > survived;
        if !told.outcome.starts_with("worker_lost") || !lost_enough {
            return Err("its workers were not lost often enough".to_owned());
        }
        if story.is_flagged() {
            return Err(format!(
                "its cancellation was answered: {:?}",
                story.answers
            ));
        }
        Ok(())
    }

    /// Whether it can end without being cancelled or lost.
    #[must_use]
    pub const fn ends_by_itself(&self) -> bool {
        !matches!(self.act, Act::Endless { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_same_seed_gives_the_same_work_and_every_kind_of_it_comes_up() {
        let kinds: HashSet<_> = (0..400)
            .map(|number| {
                let work = Work::of(7, "client-0", number);
                assert_eq!(work, Work::of(7, "client-0", number));
                core::mem::discriminant(&work.act)
            })
            .collect();
        assert_eq!(kinds.len(), 9);
        let others = (0..400)
            .filter(|&number| Work::of(7, "client-0", number) != Work::of(7, "client-1", number));
        assert!(others.count() > 200);
    }

    #[test]
    fn an_order_tells_the_work() {
        let order = Work::order(7, "client-1", 31);
        assert_eq!(
            Work::of_order(&order),
            Some((Work::of(7, "client-1", 31), 31))
        );
        assert_eq!(Work::of_order("nonsense"), None);
    }

    #[test]
    fn what_never_ends_is_always_cancelled() {
        for number in 0..2_000 {
            let work = Work::of(3, "client-1", number);
            assert!(work.ends_by_itself() || work.cancel_after.is_some());
        }
    }
}
