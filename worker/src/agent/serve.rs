//! The loop while there is a link: notices and tasks in, reports and credits out.

use core::time::Duration;
use std::sync::Arc;

use qtf_proto::limits::BATCH_ENTRIES_MAX;
use qtf_proto::limits::UPLOADS_AT_ONCE;
use qtf_proto::v1::{
    DispatchRequest, DispatchResponse, OutcomeKind, ResultDisposition, ResultVerdict, StopReason,
    WorkerNotice, WorkerReport,
};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::link::{self, Link, LinkError, Session};
use super::tasks::Upload;
use super::{Agent, Event, Leaving, at, next_control, next_turn, task_text};
use crate::load::Load;
use crate::stop::StopCause;
use crate::transfer::{Access, TransferError, upload_output};

// A daemon's word about the heartbeat is taken within these bounds.
const HEARTBEAT_MS: core::ops::RangeInclusive<u32> = 10..=60_000;
// LIMIT: events taken in before what they brought is sent.
const EVENTS_PER_TURN: usize = 1024;
/// Starts alone wait so long: what ends by then is told without its start.
const START_PAUSE: Duration = Duration::from_millis(1);
// Together about 12 s, then the output is given up: a slot of the daemon must not wait for ever.
const UPLOAD_TRIES: u32 = 7;
const UPLOAD_PAUSE: Duration = Duration::from_millis(200);
/// When one stream has ended the other may still say why.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);
/// The goodbye has this long to be read.
const GOODBYE_TIMEOUT: Duration = Duration::from_millis(500);

/// False when the call is over.
async fn has_room<T>(queue: &mpsc::Sender<T>) -> bool {
    queue.reserve().await.is_ok()
}

/// What is to be said over this link besides tasks and results.
#[derive(Debug)]
struct Talk {
    period: Duration,
    heartbeat_at: Instant,
    /// The daemon takes credits with reports.
    credits_in_reports: bool,
    /// Something has come on the dispatch stream: the daemon has read its first request, and makes no credits void any more.
    dispatch_is_heard: bool,
    /// Probes to be answered.
    probes: Vec<u64>,
    drain_is_told: bool,
    load: Load,
    /// Since when there has been something to report.
    news_since: Option<Instant>,
    uploads: Arc<Semaphore>,
    /// They end with the link.
    uploading: JoinSet<()>,
    access: Access,
}

impl Agent {
    /// Works over one session; `None` when the worker has left for good.
    pub(super) async fn serve(&mut self, session: Session) -> Option<LinkError> {
        let welcome = &session.welcome;
        let heartbeat_ms = welcome.heartbeat_ms;
        let heartbeat_ms = heartbeat_ms.clamp(*HEARTBEAT_MS.start(), *HEARTBEAT_MS.end());
        let access = Access {
            channel: session.channel.clone(),
            worker_id: welcome.worker_id,
            token: welcome.token,
        };
        self.on_welcome(welcome, access.clone());
        let period = Duration::from_millis(heartbeat_ms.into());
        let mut talk = Talk {
            period,
            heartbeat_at: Instant::now() + period,
            credits_in_reports: welcome.credits_in_reports,
            dispatch_is_heard: false,
            probes: Vec::new(),
            drain_is_told: false,
            load: Load::now(),
            news_since: None,
            uploads: Arc::new(Semaphore::new(UPLOADS_AT_ONCE)),
            uploading: JoinSet::new(),
            access,
        };
        let credits = self.grant();
        let mut link = match self.attending(link::take_tasks(session, credits)).await {
            Some(Ok(link)) => link,
            Some(Err(error)) => return Some(error),
            None => return None,
        };
        self.start_tasks();
        loop {
            self.settings.vitals.turned(self.tasks.holding());
            self.starts.look_up();
            self.flush(&mut link, &mut talk);
            if self.may_leave(&talk) {
                self.say_goodbye(link).await;
                return None;
            }
            if let Some(error) = self.turn(&mut link, &mut talk).await {
                return Some(error);
            }
            for _ in 0..EVENTS_PER_TURN {
                match self.events.try_recv() {
                    Ok(event) => self.on_event(Some(event)),
                    Err(_) => break,
                }
            }
        }
    }

    /// Waits for one thing to happen and takes it in.
    async fn turn(&mut self, link: &mut Link, talk: &mut Talk) -> Option<LinkError> {
        let wants_report = self.wants_report(talk);
        let report_at = self.gathers_until(talk).filter(|_| !wants_report);
        let wants_request = self.wants_request(talk);
        let until = self.leaving_until();
        tokio::select! {
            notice = link.notices.message() => match notice {
                Ok(Some(notice)) => return self.on_notice(notice),
                Ok(None) => return Some(link::broken(None)),
                Err(status) => return Some(link::broken(Some(&status))),
            },
            response = link.dispatches.message() => match response {
                Ok(Some(response)) => self.on_dispatch(response, talk),
                Ok(None) => return Some(self.last_words(link, link::broken(None)).await),
                Err(status) => {
                    let error = link::broken(Some(&status));
                    return Some(self.last_words(link, error).await);
                }
            },
            event = self.events.recv() => self.on_event(event),
            control = next_control(&mut self.control) => self.on_control(control),
            () = tokio::time::sleep_until(talk.heartbeat_at.min(next_turn())) => {}
            room = has_room(&link.reports), if wants_report => if !room {
                return Some(self.last_words(link, link::broken(None)).await);
            },
            room = has_room(&link.requests), if wants_request => if !room {
                return Some(self.last_words(link, link::broken(None)).await);
            },
            () = at(report_at) => {}
            () = at(until) => self.on_leaving_time(),
            () = at(self.short_until) => self.try_again(),
            () = self.starts.go_on() => self.start_tasks(),
        }
        None
    }

    /// Why the link is over: streams end in any order, and `evicted` must not be lost because the other one was looked at first.
    async fn last_words(&mut self, link: &mut Link, error: LinkError) -> LinkError {
        if !matches!(error, LinkError::Broken(_)) {
            return error;
        }
        let said = async {
            while let Ok(Some(notice)) = link.notices.message().await {
                if let Some(told) = self.on_notice(notice) {
                    return Some(told);
                }
            }
            None
        };
        let said = tokio::time::timeout(LAST_WORDS_TIMEOUT, said).await;
        said.ok().flatten().unwrap_or(error)
    }

    /// What became of results, on either stream.
    fn on_verdicts(&mut self, verdicts: Vec<ResultVerdict>, recorded: Vec<u64>) {
        for report in recorded {
            self.tasks.on_recorded(report);
        }
        for verdict in verdicts {
            if let Some(task) = verdict.task {
                match verdict.disposition() {
                    ResultDisposition::UploadAgain => self.tasks.upload_again(task.into()),
                    ResultDisposition::Refused => {
                        tracing::error!(name: "result-refused", task = task_text(task), attempt = task.attempt, reason = verdict.reason, "a result is refused");
                        self.tasks.refused(task.into(), &verdict.reason);
                    }
                    ResultDisposition::Unspecified
                    | ResultDisposition::Recorded
                    | ResultDisposition::AlreadyRecorded
                    | ResultDisposition::Stale => self.tasks.on_verdict(task.into()),
                }
            }
        }
    }

    fn on_notice(&mut self, notice: WorkerNotice) -> Option<LinkError> {
        self.on_verdicts(notice.verdicts, notice.recorded);
        if notice.evicted {
            tracing::warn!("evicted by the daemon: ending all tasks, registering anew");
            self.forget_registration();
            return Some(LinkError::Broken("evicted".to_owned()));
        }
        if notice.drain {
            self.drain("the daemon asks for it");
        }
        if notice.daemon_stopping {
            return Some(LinkError::Broken("the daemon is stopping".to_owned()));
        }
        None
    }

    fn on_dispatch(&mut self, response: DispatchResponse, talk: &mut Talk) {
        talk.dispatch_is_heard = true;
        self.on_verdicts(response.verdicts, response.recorded);
        if response.probe != 0 {
            talk.probes.push(response.probe);
        }
        for assignment in response.assignments {
            let task = assignment.task;
            if self.tasks.accept(assignment)
                && self.tasks.is_overfull()
                && let Some(task) = task
                && let Some(run) = self.tasks.stop(task.into(), StopCause::Cancelled)
            {
                self.end_unstarted(run, OutcomeKind::Refused);
            }
            // Each while it is at hand: most are over before the next.
            self.start_tasks();
        }
        if !response.stops.is_empty() {
            self.take_back();
        }
        for stop in response.stops {
            let cause = match stop.reason() {
                StopReason::Unspecified | StopReason::Cancelled => StopCause::Cancelled,
                StopReason::TimedOut => StopCause::TimedOut,
                StopReason::Stale => StopCause::Stale,
            };
            if let Some(task) = stop.task
                && let Some(run) = self.tasks.stop(task.into(), cause)
            {
                self.end_unstarted(run, cause.outcome_kind());
            }
        }
        self.start_tasks();
    }

    fn wants_report(&self, talk: &Talk) -> bool {
        let must_tell_drain = self.leaving != Leaving::No && !talk.drain_is_told;
        let is_due = |at: Instant| Instant::now() >= at;
        let has_news = self.tasks.has_news() && self.gathers_until(talk).is_none_or(is_due);
        has_news || must_tell_drain || is_due(talk.heartbeat_at)
    }

    /// Until when news wait for others, if they do.
    fn gathers_until(&self, talk: &Talk) -> Option<Instant> {
        let may_wait = self.leaving == Leaving::No
            && !self.is_gathered
            && self.tasks.is_well_supplied(self.programs.waiting());
        let since = talk.news_since?;
        let gather = if may_wait {
            self.settings.gather
        } else {
            Duration::ZERO
        };
        let for_ends = if self.tasks.has_results() {
            Duration::ZERO
        } else {
            START_PAUSE
        };
        Some(since + gather.max(for_ends))
    }

    fn wants_request(&self, talk: &Talk) -> bool {
        let has_credits = self.leaving == Leaving::No && self.tasks.has_credits_due();
        has_credits || !talk.probes.is_empty()
    }

    /// Credits for the room that there is; none for one that leaves.
    fn grant(&mut self) -> u32 {
        if self.leaving == Leaving::No {
            self.tasks.grant()
        } else {
            0
        }
    }

    /// Sends what there is to say, as far as there is room.
    fn flush(&mut self, link: &mut Link, talk: &mut Talk) {
        if talk.news_since.is_none() && self.tasks.has_news() {
            talk.news_since = Some(Instant::now());
        }
        for upload in self.tasks.take_uploads() {
            self.start_upload(upload, talk);
        }
        while self.wants_report(talk)
            && let Ok(room) = link.reports.try_reserve()
        {
            let (number, results) = self.tasks.take_results();
            let is_draining = self.leaving != Leaving::No;
            let credits = if talk.credits_in_reports && talk.dispatch_is_heard {
                self.grant()
            } else {
                0
            };
            // By name once in a period: with each result would be too much.
            let is_heartbeat = Instant::now() >= talk.heartbeat_at;
            let started = self.tasks.take_started();
            let held = is_heartbeat.then(|| self.tasks.named()).flatten();
            room.send(WorkerReport {
                hello: None,
                started,
                results,
                holding: Some(self.tasks.holding()),
                held,
                load_milli: talk.load.milli(talk.period),
                draining: is_draining,
                goodbye: false,
                credits,
                number,
            });
            talk.drain_is_told = is_draining;
            talk.news_since = self.tasks.has_news().then(Instant::now);
            self.is_gathered &= self.tasks.has_results();
            talk.heartbeat_at = Instant::now() + talk.period;
        }
        while self.wants_request(talk)
            && let Ok(room) = link.requests.try_reserve()
        {
            let credits = self.grant();
            let probe_answer = talk.probes.pop().unwrap_or(0);
            if credits == 0 && probe_answer == 0 {
                break;
            }
            room.send(DispatchRequest {
                worker_id: 0,
                token: 0,
                credits,
                probe_answer,
            });
        }
    }

    fn start_upload(&self, upload: Upload, talk: &mut Talk) {
        while talk.uploading.try_join_next().is_some() {}
        let Upload { run, output } = upload;
        let sender = self.event_sender.clone();
        let access = talk.access.clone();
        let link = self.link_number;
        let uploads = Arc::clone(&talk.uploads);
        talk.uploading.spawn(async move {
            let Ok(_turn) = uploads.acquire().await else {
                return;
            };
            let mut result = upload_output(access.clone(), output.clone()).await;
            let mut pause = UPLOAD_PAUSE;
            for _ in 1..UPLOAD_TRIES {
                if !matches!(result, Err(TransferError::Broken(_))) {
                    break;
                }
                tokio::time::sleep(pause).await;
                pause *= 2;
                result = upload_output(access.clone(), output.clone()).await;
            }
            let _ = sender.send(Event::Uploaded { run, link, result });
        });
    }

    fn may_leave(&self, talk: &Talk) -> bool {
        match self.leaving {
            Leaving::No => false,
            Leaving::Draining { .. } => talk.drain_is_told && self.tasks.is_quiet(),
            Leaving::Stopping { until } => self.tasks.is_quiet() || Instant::now() >= until,
        }
    }

    /// Hands back what is still held, and waits a moment for it to be read.
    async fn say_goodbye(&self, link: Link) {
        let Link {
            mut notices,
            reports,
            dispatches,
            requests,
            _first,
        } = link;
        // A task that may not run twice goes back only if it was not begun.
        let begun = self.tasks.begun();
        let goodbye = WorkerReport {
            holding: Some(self.tasks.holding()),
            draining: true,
            goodbye: true,
            ..WorkerReport::default()
        };
        let said = async {
            for started in begun.chunks(BATCH_ENTRIES_MAX) {
                let report = WorkerReport {
                    started: started.to_vec(),
                    holding: goodbye.holding,
                    draining: true,
                    ..WorkerReport::default()
                };
                if reports.send(report).await.is_err() {
                    return;
                }
            }
            if reports.send(goodbye).await.is_ok() {
                drop(reports);
                while let Ok(Some(_)) = notices.message().await {}
            }
        };
        if tokio::time::timeout(GOODBYE_TIMEOUT, said).await.is_err() {
            tracing::debug!("the goodbye was not answered");
        }
        drop((dispatches, requests));
        tracing::info!("left");
    }
}
