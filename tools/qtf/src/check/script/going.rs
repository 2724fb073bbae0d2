//! Checks of how a worker goes and comes: broken connections, eviction, drain.

use std::time::Duration;

use qtf_client::WorkerId;

use super::super::wire::Instead;
use super::{Checked, Complaint, LONG_MS, Script, complain, of_daemon};

/// How long nobody is there when the daemon is away.
const AWAY: Duration = Duration::from_millis(500);
/// A worker whose connection breaks before the message comes is told by its next welcome, and is evicted again: one of so many is heard.
const EVICTIONS_MAX: u32 = 5;

/// The hello of a worker that came back.
struct Back {
    /// It says who it was.
    is_itself: bool,
    /// Whether it names what runs, and as ended or not.
    names_long: Option<bool>,
    /// Whether it names what has ended, and as ended or not.
    names_kept: Option<bool>,
}

impl Back {
    fn judged(&self) -> Result<(), Complaint> {
        if !self.is_itself {
            return complain(
                "a hello with worker_id, token and segment_id of the welcome before",
                "others",
            );
        }
        let said = |names: Option<bool>| match names {
            None => "it is not named",
            Some(true) => "it is named, `finished` set",
            Some(false) => "it is named, `finished` left out",
        };
        if self.names_long != Some(false) {
            return complain(
                "`held` of the hello with what runs, `finished` left out",
                said(self.names_long),
            );
        }
        if self.names_kept != Some(true) {
            return complain(
                "`held` of the hello with what has ended and has no verdict, `finished` set",
                said(self.names_kept),
            );
        }
        Ok(())
    }
}

impl Script<'_> {
    /// Connections break, and the worker comes back as itself with all that it has.
    pub(super) async fn reconnect(&self) -> Checked {
        let before = self.wire.seen().sessions.len();
        let capacity = self.capacity();
        let long = match capacity {
            0 | 1 => None,
            _ => Some(self.running(self.wait(LONG_MS), "a long task").await?),
        };
        self.wire.instead_of_next_result(Instead::Lost);
        let ended = self.submit(self.echo(b"kept")).await?;
        let kept = (ended.as_raw(), 1);
        let lost = self.wire.until(self.patience, |seen| {
            (seen.reported(kept) >= 1).then_some(())
        });
        if lost.await.is_none() {
            return complain("the result of a task", "none");
        }
        let old = self
            .wire
            .seen()
            .session()
            .and_then(|session| session.welcome.clone());
        let old = old.unwrap_or_default();
        self.proxy.cut();
        tokio::time::sleep(AWAY).await;
        self.proxy.mend();
        let back = self.wire.until(self.patience, |seen| {
            let new = seen.sessions.iter().skip(before);
            let session = new.rev().find(|session| session.welcome.is_some())?;
            let hello = &session.hello;
            let is_itself = (hello.worker_id, hello.token, hello.segment_id)
                == (old.worker_id, old.token, old.segment_id);
            let names_long = long.map_or(Some(false), |(_, attempt)| session.came_with(attempt));
            Some(Back {
                is_itself,
                names_long,
                names_kept: session.came_with(kept),
            })
        });
        match back.await {
            Some(back) => back.judged()?,
            None => {
                return complain("a new WorkerSession after the connections broke", "none");
            }
        }
        let end = self
            .end(
                ended,
                "the task whose result had no verdict, reported again",
            )
            .await?;
        Self::is_echo(&end, b"kept", "the task whose result had no verdict")?;
        if let Some((id, _)) = long {
            let info = self.client.task(id).await.map_err(of_daemon)?;
            self.clear(id).await?;
            if info.attempt != 1 {
                return complain(
                    "the task that ran still its first attempt",
                    format!("attempt {}", info.attempt),
                );
            }
        }
        Ok(None)
    }

    /// A worker that was given up ends everything and comes back as a new one.
    pub(super) async fn evicted(&self) -> Checked {
        let (id, old) = self.running(self.wait(LONG_MS), "a long task").await?;
        let mut is_told = false;
        for _ in 0..EVICTIONS_MAX {
            is_told = self.evict_once().await?;
            if is_told {
                break;
            }
        }
        if !is_told {
            return complain(
                "a hello without worker_id after `evicted`",
                format!("the old worker_id, {EVICTIONS_MAX} times"),
            );
        }
        let again = self.wire.until(self.patience, |seen| {
            let mut started = seen.started.iter();
            started
                .any(|attempt| attempt.0 == old.0 && attempt.1 > old.1)
                .then_some(())
        });
        if again.await.is_none() {
            return complain(
                "`started` for the task that was taken from the evicted worker",
                format!("none within {} s", self.patience.as_secs()),
            );
        }
        let reported = self.wire.seen().reported(old);
        self.clear(id).await?;
        if reported > 0 {
            return complain(
                "no result of an attempt that is not the worker's any more",
                "one",
            );
        }
        Ok(None)
    }

    /// Whether it was told: comes back as a new one, and not as the one that it was.
    async fn evict_once(&self) -> Result<bool, Complaint> {
        let (before, worker) = {
            let seen = self.wire.seen();
            let welcome = seen.session().and_then(|session| session.welcome.as_ref());
            (
                seen.sessions.len(),
                welcome.map_or(0, |welcome| welcome.worker_id),
            )
        };
        let worker_id = WorkerId::from_raw(worker).ok_or_else(|| of_daemon("no worker id"))?;
        // One that is still on its way in is told by the refusal of its Dispatch. A worker that opens none fails another check.
        let _dispatches = self
            .wire
            .until(self.patience, |seen| {
                let last = seen.dispatches.last()?;
                (last.worker_id == worker).then_some(())
            })
            .await;
        self.takes_tasks(worker).await?;
        let evicted = self.client.evict(worker_id, "check").await;
        evicted.map_err(of_daemon)?;
        let back = self.wire.until(self.patience, |seen| {
            let new = seen.sessions.iter().skip(before);
            let session = new.rev().find(|session| session.welcome.is_some())?;
            let welcome = session.welcome.as_ref()?;
            Some((session.hello.worker_id, welcome.worker_id))
        });
        match back.await {
            None => complain("a hello as a new worker after `evicted`", "none"),
            Some((0, now)) if now != worker => Ok(true),
            Some((said, now)) if said == worker && now != worker => Ok(false),
            Some((said, _)) => complain(
                "a hello without worker_id after `evicted`",
                format!("worker_id {said:#x}"),
            ),
        }
    }

    /// Waits until the daemon has heard the worker's Dispatch, of which the wire knows before it: evicted earlier, even a worker that
    /// does not listen would learn of it by the refusal. One that grants nothing fails another check.
    async fn takes_tasks(&self, worker: u64) -> Result<(), Complaint> {
        let until = tokio::time::Instant::now() + self.patience;
        while tokio::time::Instant::now() < until {
            let workers = self.client.workers().await.map_err(of_daemon)?;
            let own = workers.iter().find(|one| one.worker_id == worker);
            if own.is_none_or(|own| own.credits > 0 || own.running > 0) {
                break;
            }
            // The list is asked for: its change is told to nobody.
            tokio::time::sleep(super::super::HEARTBEAT / 5).await;
        }
        Ok(())
    }

    /// A worker that is drained ends what it has, takes nothing more, and leaves.
    pub(super) async fn drain(&self) -> Checked {
        let worker = {
            let seen = self.wire.seen();
            let welcome = seen.session().and_then(|session| session.welcome.as_ref());
            welcome.map_or(0, |welcome| welcome.worker_id)
        };
        let worker_id = WorkerId::from_raw(worker).ok_or_else(|| of_daemon("no worker id"))?;
        let (running, _) = self.running(self.wait(1_500), "a task of 1.5 s").await?;
        let drained = self.client.drain(worker_id, "check").await;
        drained.map_err(of_daemon)?;
        let waiting = self.submit(self.wait(LONG_MS)).await?;
        let end = self
            .end(running, "what runs while the worker is drained")
            .await?;
        if !end.is_done() || end.attempt != 1 {
            return complain(
                "what runs while the worker is drained DONE",
                format!("{:?}", end.state),
            );
        }
        let until = tokio::time::Instant::now() + self.patience;
        while self
            .client
            .workers()
            .await
            .map_err(of_daemon)?
            .iter()
            .any(|one| one.worker_id == worker)
        {
            if tokio::time::Instant::now() > until {
                return complain(
                    "a `goodbye` when the drained worker holds nothing more",
                    "it is still there",
                );
            }
            // The list is asked for: its change is told to nobody.
            tokio::time::sleep(super::super::HEARTBEAT / 5).await;
        }
        let seen = self.wire.seen();
        if seen
            .started
            .iter()
            .any(|attempt| attempt.0 == waiting.as_raw())
        {
            return complain("nothing more begun by a drained worker", "a task");
        }
        if !seen.sessions.iter().any(|session| session.goodbye) {
            return Ok(Some(
                "leaves without a `goodbye`: its place is free only when its lease is over",
            ));
        }
        Ok(None)
    }
}
