//! What went over the wire between the worker that is checked and the daemon, and what is held back or added on the way.
//!
//! Messages are read and passed on as they came; one is written anew only where something was taken out of it. Each check waits for
//! a fact with [`Wire::until`]. Tested with the checks, in `tests/tests/conformance/worker_check.rs`.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use prost::Message;
use qtf_proto::v1::{
    DispatchRequest, DispatchResponse, HeldTask, Outcome, ResultDisposition, ResultVerdict,
    TaskRef, TaskResult, WorkerHello, WorkerNotice, WorkerReport, WorkerWelcome,
};
use tokio::sync::{mpsc, watch};

/// The number of the probe that a check sends; the daemon counts its own from 1.
pub(super) const PROBE: u64 = 0x7061_7373_0000_0001;

/// One attempt of one task.
pub(super) type Attempt = (u64, u32);

fn attempt_of(task: Option<&TaskRef>) -> Attempt {
    task.map_or((0, 0), |task| (task.task_id, task.attempt))
}

/// One `WorkerSession`.
#[derive(Debug, Default)]
pub(super) struct Session {
    pub(super) hello: WorkerHello,
    pub(super) welcome: Option<WorkerWelcome>,
    pub(super) reports: u64,
    /// Of the last heartbeat that named what the worker has.
    pub(super) held: Option<Vec<HeldTask>>,
    /// A heartbeat said how many it has.
    pub(super) has_counted: bool,
    pub(super) goodbye: bool,
}

impl Session {
    /// Its last heartbeat names this attempt.
    pub(super) fn names(&self, attempt: Attempt) -> bool {
        let mut held = self.held.iter().flatten();
        held.any(|held| attempt_of(held.task.as_ref()) == attempt)
    }

    /// Its hello names this attempt, ended or not.
    pub(super) fn came_with(&self, attempt: Attempt) -> Option<bool> {
        let mut held = self.hello.held.iter();
        let found = held.find(|held| attempt_of(held.task.as_ref()) == attempt);
        found.map(|held| held.finished)
    }
}

/// One `Dispatch`.
#[derive(Debug, Default)]
pub(super) struct Dispatch {
    pub(super) worker_id: u64,
    pub(super) token: u64,
    pub(super) granted: u64,
    /// What was granted before the first assignment.
    pub(super) granted_at_first: u64,
    pub(super) assigned: u64,
}

/// One result as it was reported.
#[derive(Debug)]
pub(super) struct Reported {
    pub(super) attempt: Attempt,
    pub(super) outcome: Outcome,
    pub(super) upload: u64,
}

/// What becomes of the next result instead of reaching the daemon.
#[derive(Debug, Clone)]
pub(super) enum Instead {
    /// It is lost.
    Lost,
    /// The worker is given this verdict.
    Verdict(ResultDisposition, &'static str),
}

/// Everything that was seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) sessions: Vec<Session>,
    pub(super) dispatches: Vec<Dispatch>,
    pub(super) started: Vec<Attempt>,
    pub(super) results: Vec<Reported>,
    pub(super) uploads: u64,
    pub(super) fetches: u64,
    pub(super) probe_answers: u64,
    instead: Option<Instead>,
    to_session: Option<mpsc::UnboundedSender<Bytes>>,
    to_dispatch: Option<mpsc::UnboundedSender<Bytes>>,
}

impl Seen {
    /// How often the attempt's result was reported.
    pub(super) fn reported(&self, attempt: Attempt) -> usize {
        let results = self.results.iter();
        results.filter(|result| result.attempt == attempt).count()
    }

    /// The session that was welcomed last.
    pub(super) fn session(&self) -> Option<&Session> {
        let mut sessions = self.sessions.iter().rev();
        sessions.find(|session| session.welcome.is_some())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Session,
    Dispatch,
    Other,
}

/// One call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    kind: Kind,
    number: usize,
}

impl Call {
    pub(super) fn is_session(self) -> bool {
        self.kind == Kind::Session
    }
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Wire {
    seen: Mutex<Seen>,
    changed: watch::Sender<u64>,
}

impl Wire {
    pub(super) fn new() -> Self {
        Self {
            seen: Mutex::new(Seen::default()),
            changed: watch::Sender::new(0),
        }
    }

    /// What was seen until now.
    pub(super) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `look` finds something; `None` when it does not within the time.
    pub(super) async fn until<T>(
        &self,
        within: Duration,
        mut look: impl FnMut(&Seen) -> Option<T>,
    ) -> Option<T> {
        let mut changed = self.changed.subscribe();
        let found = async {
            loop {
                changed.borrow_and_update();
                if let Some(found) = look(&self.seen()) {
                    return Some(found);
                }
                if changed.changed().await.is_err() {
                    return None;
                }
            }
        };
        tokio::time::timeout(within, found).await.ok().flatten()
    }

    /// Comes back when the session has said goodbye, or a later one of the worker has been welcomed.
    pub(super) async fn session_is_over(&self, call: Call) {
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            {
                let seen = self.seen();
                let mut later = seen.sessions.iter().skip(call.number + 1);
                let has_left = seen
                    .sessions
                    .get(call.number)
                    .is_none_or(|session| session.goodbye);
                if has_left || later.any(|session| session.welcome.is_some()) {
                    return;
                }
            }
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// What is to become of the next result.
    pub(super) fn instead_of_next_result(&self, instead: Instead) {
        self.seen().instead = Some(instead);
    }

    /// Nothing is to become of it but what always does.
    pub(super) fn every_result_passes(&self) {
        self.seen().instead = None;
    }

    /// Sends a probe to the worker.
    pub(super) fn probe(&self) {
        let probe = DispatchResponse {
            probe: PROBE,
            ..DispatchResponse::default()
        };
        if let Some(to) = &self.seen().to_dispatch {
            // A stream that is over gets no probe, and its check finds no answer.
            let _over = to.send(probe.encode_to_vec().into());
        }
    }

    /// A call begins; what is added to its answers comes from the stream.
    pub(super) fn open(&self, path: &str) -> (Call, impl Stream<Item = Bytes> + Send + use<>) {
        let (to, mut added) = mpsc::unbounded_channel();
        let mut seen = self.seen();
        let (kind, number) = match path {
            "/qtf.v1.Register/WorkerSession" => {
                seen.sessions.push(Session::default());
                seen.to_session = Some(to);
                (Kind::Session, seen.sessions.len() - 1)
            }
            "/qtf.v1.Scheduler/Dispatch" => {
                seen.dispatches.push(Dispatch::default());
                seen.to_dispatch = Some(to);
                (Kind::Dispatch, seen.dispatches.len() - 1)
            }
            "/qtf.v1.Register/UploadOutput" => {
                seen.uploads += 1;
                (Kind::Other, 0)
            }
            "/qtf.v1.Scheduler/FetchPayload" => {
                seen.fetches += 1;
                (Kind::Other, 0)
            }
            _ => (Kind::Other, 0),
        };
        drop(seen);
        self.tell();
        let added = stream::poll_fn(move |cx| added.poll_recv(cx));
        (Call { kind, number }, added)
    }

    /// A message of the worker's: what the daemon gets of it.
    pub(super) fn upward(&self, call: Call, bytes: Bytes) -> Option<Bytes> {
        // What is no message is the daemon's to refuse.
        let passed = match call.kind {
            Kind::Session => match WorkerReport::decode(bytes.clone()) {
                Ok(report) => self.report(call.number, report).or(Some(bytes)),
                Err(_) => Some(bytes),
            },
            Kind::Dispatch => match DispatchRequest::decode(bytes.clone()) {
                Ok(request) => self.request(call.number, &request, bytes),
                Err(_) => Some(bytes),
            },
            Kind::Other => Some(bytes),
        };
        self.tell();
        passed
    }

    /// A message of the daemon's; it always goes to the worker.
    pub(super) fn downward(&self, call: Call, bytes: Bytes) -> Bytes {
        match call.kind {
            Kind::Session => {
                if let Ok(notice) = WorkerNotice::decode(bytes.clone())
                    && let Some(session) = self.seen().sessions.get_mut(call.number)
                    && notice.welcome.is_some()
                {
                    session.welcome = notice.welcome;
                }
            }
            Kind::Dispatch => {
                if let Ok(response) = DispatchResponse::decode(bytes.clone())
                    && let Some(dispatch) = self.seen().dispatches.get_mut(call.number)
                {
                    if dispatch.assigned == 0 {
                        dispatch.granted_at_first = dispatch.granted;
                    }
                    dispatch.assigned = dispatch
                        .assigned
                        .saturating_add(u64::try_from(response.assignments.len()).unwrap_or(0));
                }
            }
            Kind::Other => {}
        }
        self.tell();
        bytes
    }

    /// Takes a report in; the report written anew if something was taken out of it.
    fn report(&self, number: usize, mut report: WorkerReport) -> Option<Bytes> {
        let mut seen = self.seen();
        let seen = &mut *seen;
        let started = report.started.iter();
        seen.started
            .extend(started.map(|task| attempt_of(Some(task))));
        for result in &report.results {
            let attempt = attempt_of(result.task.as_ref());
            seen.results.push(Reported {
                attempt,
                outcome: result.outcome.unwrap_or_default(),
                upload: result.output_upload,
            });
        }
        if let Some(session) = seen.sessions.get_mut(number) {
            session.reports += 1;
            session.goodbye |= report.goodbye;
            session.has_counted |= report.holding.is_some();
            if let Some(held) = &report.held {
                session.held = Some(held.tasks.clone());
            }
            if let Some(hello) = &report.hello {
                session.hello = hello.clone();
            }
        }
        if let Some(dispatch) = seen.dispatches.last_mut() {
            dispatch.granted += u64::from(report.credits);
        }
        if report.results.is_empty() {
            return None;
        }
        let instead = seen.instead.take()?;
        let taken: TaskResult = report.results.remove(0);
        // The daemon would say of all of them what it knows of the rest.
        report.number = 0;
        if let (Instead::Verdict(disposition, reason), Some(to)) = (instead, &seen.to_session) {
            let notice = WorkerNotice {
                verdicts: vec![ResultVerdict {
                    task: taken.task,
                    disposition: disposition.into(),
                    reason: reason.to_owned(),
                }],
                ..WorkerNotice::default()
            };
            let _over = to.send(notice.encode_to_vec().into());
        }
        Some(report.encode_to_vec().into())
    }

    /// Takes a request in; `None` if it was the answer to our own probe and nothing else.
    fn request(&self, number: usize, request: &DispatchRequest, bytes: Bytes) -> Option<Bytes> {
        let mut seen = self.seen();
        let is_ours = request.probe_answer == PROBE;
        seen.probe_answers += u64::from(is_ours);
        if let Some(dispatch) = seen.dispatches.get_mut(number) {
            if request.worker_id != 0 {
                (dispatch.worker_id, dispatch.token) = (request.worker_id, request.token);
            }
            dispatch.granted += u64::from(request.credits);
        }
        if !is_ours {
            return Some(bytes);
        }
        let rest = DispatchRequest {
            probe_answer: 0,
            ..*request
        };
        (rest != DispatchRequest::default()).then(|| rest.encode_to_vec().into())
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }
}
