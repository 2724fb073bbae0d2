//! A worker's session: hello, reports with results, heartbeats; welcome, verdicts and notices back.
//!
//! Verdicts for a worker that numbers its reports wait a moment for the next task, whose message takes them along. The end of the stream is not the end of the worker: it may reconnect within its lease. It is the end
//! if the kernel says that the process is gone, or if the worker lived in this very process. Tested in
//! `tests/daemon/sessions.rs` and `tests/daemon/dispatch.rs`.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use qtf_engine::{Beat, Caller, Held, Holding, Reconnect, TaskRef, WorkerHello};
use qtf_proto::limits::limits;
use qtf_proto::refusal;
use qtf_proto::v1::{self, RefusalReason, WorkerNotice, WorkerWelcome};
use qtf_proto::version::PROTOCOL_VERSION;
use qtf_proto::wire::Report;
use qtf_shm::histogram::Stage;
use qtf_shm::{TaskId, WorkerId};
use tonic::{Status, Streaming};

use super::company::Company;
use super::intake::{Reader, Source, take_in};
use super::peer::Peer;
use super::results::{Reporter, Results};
use super::{read, status};
use crate::core::routes::{Notices, ProcessWatch, StreamKey};
use crate::core::{Core, StopPlace, core_cell};
use crate::sys::peer::{Known, process_ended};

/// `evicted` is said, and then the worker ends both streams. For one that does not, this is the end of its dispatch stream: at once
/// it could come before that word, and the word would be lost.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The notices of one `WorkerSession` call; reads its reports while it is polled.
#[derive(Debug)]
pub(crate) struct WorkerSessionStream {
    reports: Streaming<Report>,
    key: StreamKey,
    peer: Option<Arc<Peer>>,
    worker: Option<Reporter>,
    stop_place: StopPlace,
    results: Results,
    notice: WorkerNotice,
    /// It takes verdicts by the number of a report, and on either stream.
    numbers_reports: bool,
    company: Company,
    has_left: bool,
    has_ended: bool,
}

impl WorkerSessionStream {
    /// A session that waits for its hello.
    pub(crate) fn new(reports: Streaming<Report>, key: StreamKey, peer: Option<Arc<Peer>>) -> Self {
        let principal = peer.as_ref().map(|peer| peer.principal());
        Self {
            reports,
            key,
            peer,
            worker: None,
            stop_place: StopPlace::default(),
            results: Results::new(principal.unwrap_or_default()),
            notice: WorkerNotice::default(),
            numbers_reports: false,
            company: Company::default(),
            has_left: false,
            has_ended: false,
        }
    }

    fn take(&mut self, report: &Report) -> Result<(), Status> {
        core_cell::enter(|core| {
            let who = match self.worker {
                Some(known) => known,
                None => self.hello(core, report)?,
            };
            let worker = who.worker;
            self.take_started(core, worker, report)?;
            status::check_batch(report.results)?;
            self.numbers_reports |= report.number != 0;
            self.results
                .take(core, who, (report.number, report.results), &report.attempts_ended())?;
            core.count_entry(Stage::Result, report.results);
            let now = core.now();
            // Without a dispatch stream they would be void.
            if report.credits > 0
                && core.routes.is_session(worker, self.key)
                && core.routes.has_dispatch(worker)
            {
                core.engine
                    .worker_credits(now, worker, report.credits, false)
                    .map_err(|rejection| status::status_of(&rejection))?;
            }
            if report.goodbye {
                tracing::info!(%worker, "worker left");
                core.engine.worker_goodbye(now, worker);
                core.routes.forget(worker);
                self.has_left = true;
                return Ok(());
            }
            let named: Option<Vec<Held>> = report
                .held
                .as_ref()
                .map(|held| held.tasks.iter().filter_map(held_task).collect());
            let beat = Beat {
                holding: match (&named, report.holding) {
                    (Some(named), _) => Holding::Named(named),
                    (None, Some(count)) => Holding::Count(count),
                    (None, None) => Holding::Unsaid,
                },
                load_milli: report.load_milli,
                draining: report.draining,
            };
            let missing = core
                .engine
                .worker_beat(now, worker, &beat)
                .map_err(|rejection| status::status_of(&rejection))?;
            if missing > 0 {
                tracing::warn!(
                    %worker, missing,
                    "worker does not hold what was sent to it, by its own word (`holding`, `held`): it goes to others, and counts as lost"
                );
            }
            Ok(())
        })
        .ok_or_else(status::gone)?
    }

    fn take_started(
        &self,
        core: &mut Core,
        worker: WorkerId,
        report: &Report,
    ) -> Result<(), Status> {
        status::check_batch(report.started)?;
        let caller = Caller {
            now: core.now(),
            who: worker,
        };
        let attempt_of = |started: v1::TaskRef| {
            let task = TaskId::from_raw(started.task_id)?;
            let attempt = started.attempt;
            Some(TaskRef { task, attempt })
        };
        let started = report.attempts_started().filter_map(attempt_of);
        core.engine.started_batch(caller, started);
        Ok(())
    }

    fn hello(&mut self, core: &mut Core, report: &Report) -> Result<Reporter, Status> {
        if core.is_stopping() {
            return Err(status::gone());
        }
        let hello = report.hello.as_ref().ok_or_else(|| {
            status::invalid("hello is missing in the first message of the session")
        })?;
        status::check_version("worker", hello.protocol_version)?;
        let held: Vec<Held> = hello.held.iter().filter_map(held_task).collect();
        let peer = self.peer.as_deref();
        let now = core.now();
        let welcome = core
            .engine
            .worker_hello(
                now,
                &WorkerHello {
                    name: &hello.name,
                    host: &hello.host,
                    pid: peer.and_then(Peer::pid).unwrap_or(hello.pid),
                    uid: peer.and_then(Peer::uid),
                    capacity: hello.capacity,
                    kinds: &hello.kinds,
                    reconnect: (hello.worker_id != 0).then_some(Reconnect {
                        worker_id: hello.worker_id,
                        token: hello.token,
                        segment_id: hello.segment_id,
                    }),
                    held: &held,
                },
            )
            .map_err(|rejection| status::status_of(&rejection))?;
        let address = peer.map_or_else(|| "unknown".to_owned(), ToString::to_string);
        tracing::info!(worker = %welcome.id, name = hello.name, address, capacity = hello.capacity,
            again = welcome.is_known, "worker joined");
        core.forget_undelivered(welcome.id);
        core.routes
            .open_session(welcome.id, welcome.token, address, self.key);
        watch_process(core, welcome.id, peer);
        let who = Reporter {
            worker: welcome.id,
            token: welcome.token,
        };
        self.worker = Some(who);
        self.notice.welcome = Some(welcome_message(core, &welcome));
        Ok(who)
    }

    fn poll_notice(&mut self, cx: &mut Context<'_>) -> Poll<Option<WorkerNotice>> {
        let Some(Reporter { worker, .. }) = self.worker else {
            return if self.has_left {
                Poll::Ready(None)
            } else {
                self.wait_for_stop(cx)
            };
        };
        let key = self.key;
        let has_left = self.has_left;
        let (notice, ready, company) = (&mut self.notice, self.results.ready(), &mut self.company);
        let joins = self.numbers_reports && !has_left;
        let waker = cx.waker();
        let mut look = |core: &mut Core, company: &mut Company, is_late: bool| {
            if !core.routes.is_session(worker, key) {
                let verdicts = std::mem::take(ready);
                (notice.verdicts, notice.recorded) = (verdicts.each, verdicts.recorded);
                return Looked::Over;
            }
            let waiting = core.routes.take_notices(worker);
            let goes_anyway =
                !joins || waiting != Notices::default() || *notice != WorkerNotice::default();
            if !core.routes.has_verdicts(worker) {
                // Those of before have gone with a task.
                company.has_come();
            }
            let are_many = core.routes.keep_verdicts(worker, ready);
            let have_verdicts = core.routes.has_verdicts(worker);
            let go = goes_anyway || are_many || core.is_stopping() || is_late;
            if have_verdicts && go {
                company.has_come();
                let verdicts = core.routes.take_verdicts(worker);
                (notice.verdicts, notice.recorded) = (verdicts.each, verdicts.recorded);
            }
            notice.evicted |= waiting.evicted;
            notice.drain |= waiting.drain;
            notice.daemon_stopping |= core.is_stopping();
            if waiting.evicted {
                forget_later(worker);
            }
            core.routes.keep_session_waker(worker, key, waker);
            if waiting.evicted || core.is_stopping() {
                Looked::Over
            } else if have_verdicts && !go {
                Looked::VerdictsWait
            } else {
                Looked::Done
            }
        };
        let mut looked = core_cell::attend(|core| look(core, company, false));
        // The timer is of this thread.
        if looked == Some(Looked::VerdictsWait) && company.is_late(cx) {
            looked = core_cell::attend(|core| look(core, company, true));
        }
        self.has_ended |= matches!(looked, None | Some(Looked::Over)) || has_left;
        let notice = std::mem::take(&mut self.notice);
        match (notice == WorkerNotice::default(), self.has_ended) {
            (false, _) => Poll::Ready(Some(notice)),
            (true, true) => Poll::Ready(None),
            (true, false) => Poll::Pending,
        }
    }

    fn wait_for_stop(&mut self, cx: &Context<'_>) -> Poll<Option<WorkerNotice>> {
        if self.stop_place.is_stopping(cx) {
            Poll::Ready(None)
        } else {
            Poll::Pending
        }
    }
}

/// What a look into the core has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looked {
    /// What there is to say is in the notice.
    Done,
    /// The same, and there are verdicts that would rather go with something else.
    VerdictsWait,
    /// The session is to end.
    Over,
}

impl Reader for WorkerSessionStream {
    type Messages = Streaming<Report>;
    type Message = Report;

    fn source(&mut self) -> Result<Source<'_, Self::Messages>, Status> {
        if self.has_left || self.results.are_too_many() {
            return Ok(Source::Nothing);
        }
        Ok(Source::Messages(&mut self.reports))
    }

    fn names_in(report: &Report) -> usize {
        let in_hello = report.hello.as_ref().map_or(0, |hello| hello.held.len());
        let in_beat = report.held.as_ref().map_or(0, |held| held.tasks.len());
        in_hello.saturating_add(in_beat)
    }

    fn take_message(&mut self, report: Report) -> Result<(), Status> {
        self.take(&report)
    }

    fn end_of_messages(&mut self) {
        self.has_left = true;
    }
}

impl Stream for WorkerSessionStream {
    type Item = Result<WorkerNotice, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        if let Err(status) = take_in(&mut *self, cx) {
            self.has_ended = true;
            return Poll::Ready(Some(Err(status)));
        }
        if let Some(who) = self.worker
            && let Err(status) = self.results.progress(who, cx)
        {
            self.has_ended = true;
            return Poll::Ready(Some(Err(status)));
        }
        self.poll_notice(cx).map(|notice| notice.map(Ok))
    }
}

impl Drop for WorkerSessionStream {
    fn drop(&mut self) {
        let Some(Reporter { worker, .. }) = self.worker else {
            return;
        };
        let was_in_process = self.peer.as_deref().is_some_and(Peer::is_this_process);
        core_cell::enter(|core| {
            let was_current = core.routes.close_session(worker, self.key);
            if was_current && was_in_process && !core.is_stopping() {
                worker_is_gone(core, worker);
            }
        });
    }
}

fn forget_later(worker: WorkerId) {
    tokio::task::spawn_local(async move {
        tokio::time::sleep(LAST_WORDS).await;
        core_cell::enter(|core| core.routes.forget(worker));
    });
}

/// The worker's process is dead, by the kernel's word.
fn worker_is_gone(core: &mut Core, worker: WorkerId) {
    tracing::warn!(%worker, "worker's process has ended");
    let now = core.now();
    core.engine.worker_gone(now, worker);
    core.routes.forget(worker);
}

/// Tells the engine when the process of a local worker ends. Without a descriptor for that its lease decides.
fn watch_process(core: &mut Core, worker: WorkerId, peer: Option<&Peer>) {
    let watched = u64::try_from(core.routes.watched_processes()).unwrap_or(u64::MAX);
    if watched >= core.info.descriptors.processes {
        return;
    }
    let process = match peer.and_then(Peer::open_process) {
        None | Some(Known::Unseen) => return,
        Some(Known::Ended) => None,
        Some(Known::Runs(process)) => Some(process),
    };
    let task = tokio::task::spawn_local(async move {
        let ended = match process {
            Some(process) => process_ended(process).await,
            None => Ok(()),
        };
        match ended {
            Ok(()) => {
                core_cell::enter(|core| worker_is_gone(core, worker));
            }
            Err(error) => {
                tracing::warn!(%worker, %error, "worker's process is not watched, its lease decides");
            }
        }
    });
    core.routes
        .watch_process(worker, ProcessWatch(task.abort_handle()));
}

fn held_task(held: &v1::HeldTask) -> Option<Held> {
    let task = held.task.as_ref()?;
    Some(Held {
        task_id: task.task_id,
        attempt: task.attempt,
        finished: held.finished,
    })
}

fn welcome_message(core: &Core, welcome: &qtf_engine::WorkerWelcome) -> WorkerWelcome {
    let config = core.engine.config();
    let abandon = welcome
        .abandon
        .iter()
        .map(|held| v1::TaskRef {
            task_id: held.task_id,
            attempt: held.attempt,
        })
        .collect();
    WorkerWelcome {
        worker_id: welcome.id.as_raw(),
        token: welcome.token,
        segment_id: core.segment().segment_id(),
        heartbeat_ms: read::ms_of_ns(config.heartbeat_ns),
        lease_ms: read::ms_of_ns(config.lease_ns),
        output_limit_bytes: core.limits.payload_bytes,
        abandon,
        protocol_version: PROTOCOL_VERSION,
        limits: Some(limits()),
        credits_in_reports: true,
    }
}

/// Whether the token is that of some worker: then it may upload.
pub(crate) fn may_upload(core: &Core, token: u64) -> Result<(), Status> {
    if token != 0 && (core.routes.knows_token(token) || core.engine.is_caller_token(token)) {
        return Ok(());
    }
    Err(refusal::status_of(status::refuse(
        RefusalReason::UnknownWorker,
        "session of the upload is no worker's token: register first",
    )))
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn all_attempts_that_a_report_names_are_counted_those_of_its_hello_too() {
        let names = |count: usize| vec![v1::HeldTask::default(); count];
        let report = v1::WorkerReport {
            hello: Some(v1::WorkerHello {
                held: names(3),
                ..v1::WorkerHello::default()
            }),
            held: Some(v1::HeldTasks { tasks: names(4) }),
            ..v1::WorkerReport::default()
        };
        let report = Report::read(report.encode_to_vec().into()).unwrap();
        assert_eq!(WorkerSessionStream::names_in(&report), 7);
    }
}
