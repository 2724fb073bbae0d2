//! Checks of what a worker says while it is there: hello, credits, heartbeats, what it holds, answers to probes.

use super::super::wire::Seen;
use super::{Checked, ECHO, EXEC, LONG_MS, Script, WAIT, Way, complain};

/// Tasks of the check of credits, at most.
const MANY_MAX: u32 = 64;
/// Parts of a wait that is counted in waits.
const WAITS: u32 = 20;

impl Script<'_> {
    /// A worker comes and offers what the checks need.
    pub(super) async fn hello(&mut self) -> Checked {
        let found = self.wire.until(self.wait_for, |seen| {
            let session = seen.session()?;
            Some((session.hello.kinds.clone(), session.hello.capacity))
        });
        let Some((kinds, _)) = found.await else {
            let said = self.wire.seen().sessions.len();
            return complain(
                "WorkerSession with a hello that the daemon welcomes",
                match said {
                    0 => "no such call (workers that call Work.Reserve are not checked)".to_owned(),
                    calls => {
                        format!("{calls} calls, none welcomed: see what the worker was answered")
                    }
                },
            );
        };
        let has = |kind: &str| kinds.iter().any(|known| known == kind);
        self.way = match (has(ECHO) && has(WAIT), has(EXEC)) {
            (true, _) => Way::Kinds,
            (false, true) => Way::Exec,
            (false, false) => {
                return complain(
                    format!(
                        "kinds {ECHO} (gives its payload back) and {WAIT} (runs as many ms as its payload says), or exec"
                    ),
                    kinds.join(", "),
                );
            }
        };
        Ok(None)
    }

    /// Dispatch begins with who the worker is, and grants what it has room for.
    pub(super) async fn credits(&self) -> Checked {
        let granted = self.wire.until(self.patience, |seen| {
            let dispatch = seen.dispatches.last()?;
            (dispatch.granted > 0).then_some((dispatch.worker_id, dispatch.token, dispatch.granted))
        });
        let expected =
            "Dispatch with worker_id and token of the welcome and credits, at most the capacity";
        let Some((worker, token, granted)) = granted.await else {
            return complain(expected, "no credits");
        };
        let welcome = self
            .wire
            .seen()
            .session()
            .and_then(|session| session.welcome.clone());
        let welcome = welcome.unwrap_or_default();
        if (worker, token) != (welcome.worker_id, welcome.token) {
            return complain(expected, format!("worker_id {worker:#x}"));
        }
        if granted > self.capacity() {
            return complain(
                expected,
                format!("{granted} credits of {}", self.capacity()),
            );
        }
        Ok(None)
    }

    /// Some report in each period.
    pub(super) async fn heartbeats(&self) -> Checked {
        let reports = |seen: &Seen| seen.session().map_or(0, |session| session.reports);
        let before = reports(&self.wire.seen());
        let within = super::super::HEARTBEAT * 3 + super::super::LEASE;
        // In short waits, of which a late one counts as one: while a machine stands still, nobody can send anything.
        let mut come = None;
        for _ in 0..WAITS {
            let wait = within / WAITS;
            let three = |seen: &Seen| (reports(seen) >= before + 3).then_some(());
            come = self.wire.until(wait, three).await;
            if come.is_some() {
                break;
            }
        }
        match come {
            Some(()) => Ok(None),
            None => complain(
                format!(
                    "a report in each {} ms (heartbeat_ms)",
                    super::super::HEARTBEAT.as_millis()
                ),
                format!(
                    "{} within {} ms",
                    reports(&self.wire.seen()).saturating_sub(before),
                    within.as_millis()
                ),
            ),
        }
    }

    /// A credit for each place that is free again, and never more.
    pub(super) async fn credits_again(&self) -> Checked {
        let capacity = self.capacity();
        let many = capacity.saturating_mul(3).min(MANY_MAX.into());
        let mut ids = Vec::new();
        for _ in 0..many {
            ids.push(self.submit(self.echo(b"again")).await?);
        }
        for id in ids {
            let end = self.end(id, "each of many tasks").await?;
            Self::is_echo(&end, b"again", "each of many tasks")?;
        }
        let open = |seen: &Seen| {
            let dispatch = seen.dispatches.last();
            dispatch.map_or((0, 0), |one| (one.granted, one.assigned))
        };
        let free = self.wire.until(self.patience, |seen| {
            let (granted, assigned) = open(seen);
            (granted > assigned).then_some(())
        });
        let expected = format!("1 to {capacity} open credits when nothing runs");
        if free.await.is_none() {
            return complain(expected, "none: the worker is given nothing more");
        }
        let (granted, assigned) = open(&self.wire.seen());
        if granted.saturating_sub(assigned) > capacity {
            return complain(expected, format!("{} open credits", granted - assigned));
        }
        Ok(None)
    }

    /// Heartbeats name what the worker has.
    pub(super) async fn held(&self) -> Checked {
        let (id, attempt) = self.running(self.wait(LONG_MS), "a long task").await?;
        let reports = self
            .wire
            .seen()
            .session()
            .map_or(0, |session| session.reports);
        let look = self.wire.until(self.patience, |seen| {
            let session = seen.session()?;
            let is_silent = session.held.is_none() && !session.has_counted;
            if session.names(attempt) {
                return Some(Ok(None));
            }
            // Long enough to have said it.
            (is_silent && session.reports >= reports + 4)
                .then_some(Ok(Some("leaves `held` and `holding` out: what is lost on its way to this worker stays lost for long")))
        });
        let looked = look.await;
        let counts = self
            .wire
            .seen()
            .session()
            .is_some_and(|session| session.has_counted && session.held.is_none());
        self.clear(id).await?;
        match looked {
            Some(looked) => looked,
            None if counts => Ok(Some("says only how many it holds (`holding`), not which")),
            None => complain(
                "`held` of a heartbeat with the attempt that runs",
                "it is not named",
            ),
        }
    }

    /// A probe is answered at once.
    pub(super) async fn probe(&self) -> Checked {
        let before = self.wire.seen().probe_answers;
        self.wire.probe();
        let answered = self.wire.until(self.patience, |seen| {
            (seen.probe_answers > before).then_some(())
        });
        match answered.await {
            Some(()) => Ok(None),
            None => complain(
                "a DispatchRequest with the number of the probe as probe_answer",
                "none",
            ),
        }
    }
}
