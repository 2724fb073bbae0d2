//! Streams of submissions.
//!
//! Invariants:
//! - S1: answers come in the order of the tasks, one each.
//! - S2: what is taken from the source and not yet answered is bounded, in number and in bytes.
//! - S3: an entry refused for want of room is sent again after the daemon's hint, and nothing new is sent
//!   before it. Only for a place of its key it does not wait for ever: nothing of its own stream may be what brings one back.
//! - S4: an entry that may have been accepted is sent again only with its key and while the key is known;
//!   else its answer says what is known of it.
//! - S5: a stream that is stopped answers each task that was taken from the source: what is accepted is told, also behind what is not.
//!
//! `wire` has the open stream, `stopping` the end before its time.
//! Tested in `client/tests/calls.rs` and `client/tests/restarts.rs`.

mod stopping;
mod wire;

use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use futures_util::Stream;
use qtf_proto::v1::{
    RefusalReason, SubmitStreamRequest, SubmitStreamResponse, SubmitTaskResponse, SubmitVerdict,
    TaskSpec,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::stopping::{stop_asked, time_over};
use self::wire::{Wire, farewell, lost, open};
use super::source::Source;
use super::{Accepted, Entry};
use crate::client::Client;
use crate::error::{CallError, Refusal, SubmitError};
use crate::notice::Notice;
use crate::patience::Patience;
use crate::session::Session;

const BATCH_ENTRIES: usize = 512;
const BATCH_BYTES_MAX: usize = 1 << 20;
const BATCHES_IN_FLIGHT_MAX: usize = 8;
const UNANSWERED_MAX: usize = BATCH_ENTRIES * BATCHES_IN_FLIGHT_MAX;
/// LIMIT: payload bytes not yet answered, beyond which nothing more is taken from the source.
const UNANSWERED_BYTES_MAX: usize = 16 << 20;
const RETRY_MIN: Duration = Duration::from_millis(5);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// LIMIT: keys are given back long before their time is over.
const RETRY_KEY_MAX: Duration = Duration::from_millis(500);

/// The answers to a stream of submissions. When the daemon stays away for longer than
/// [`reconnect_for`](crate::ClientBuilder::reconnect_for), a [`SubmitError::NotSent`] or
/// [`SubmitError::Unanswered`] comes for each task without an answer; then the stream ends, and tasks not
/// yet taken from the source are not submitted. Dropping it stops the submission.
#[derive(Debug)]
pub struct Submissions {
    answers: mpsc::Receiver<Answer>,
    /// How long what is on its way is waited for, once it is to stop.
    stop: watch::Sender<Option<Duration>>,
    pump: JoinHandle<()>,
}

impl Submissions {
    pub(super) fn start<S>(client: Client, specs: S, as_array: bool) -> Self
    where
        S: Stream<Item = TaskSpec> + Send + 'static,
    {
        let (out, answers) = mpsc::channel(BATCH_ENTRIES);
        let (stop, stop_seen) = watch::channel(None);
        let pump = Pump::new(client, (Source::new(specs), stop_seen), as_array);
        let pump = tokio::spawn(pump.run(out));
        Self {
            answers,
            stop,
            pump,
        }
    }

    /// Takes nothing more from the source and sends nothing more. What is on its way is waited for, but no longer than `within`; then the
    /// rest of the answers comes, one for each task that was taken, and the stream ends: [`SubmitError::Stopped`] for what was not
    /// sent, or was refused for want of room.
    pub fn stop(&self, within: Duration) {
        self.stop.send_replace(Some(within));
    }
}

impl Drop for Submissions {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

impl Stream for Submissions {
    type Item = Answer;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.answers.poll_recv(cx)
    }
}

type Answer = Result<Accepted, SubmitError>;

struct Unread;

struct Numbered {
    position: u64,
    entry: Entry,
}

enum Step {
    Next,
    Taken(Option<Vec<TaskSpec>>),
    Response(Result<Option<SubmitStreamResponse>, tonic::Status>),
    Silence,
    Stop(Duration),
    /// The time for answers after a stop is over.
    StopIsOver(Duration),
}

struct Pump {
    client: Client,
    as_array: bool,
    array_id: u64,
    source: Source,
    source_is_over: bool,
    /// From position `front` on; `None` = not yet known.
    answers: VecDeque<Option<Answer>>,
    front: u64,
    /// Of payloads without an answer.
    unanswered_bytes: usize,
    /// In order of position.
    unsent: VecDeque<Numbered>,
    retry: Vec<Numbered>,
    retry_at: Instant,
    full_is_told: bool,
    /// First refusal for want of a place for a key since something was accepted.
    no_place_since: Option<Instant>,
    in_flight: BTreeMap<u64, Vec<Numbered>>,
    /// Given back with these batches.
    keys_in_flight: BTreeMap<u64, Vec<Bytes>>,
    next_batch: u64,
    progress: Instant,
    patience: Patience,
    /// Number of a session that the daemon does not know any more.
    lost_session: u64,
    stop: watch::Receiver<Option<Duration>>,
    /// Until when answers are waited for, and how long that is, once it is to stop.
    stopping: Option<(Instant, Duration)>,
}

impl Pump {
    fn new(
        client: Client,
        (source, stop): (Source, watch::Receiver<Option<Duration>>),
        as_array: bool,
    ) -> Self {
        let patience = client.patience();
        Self {
            client,
            as_array,
            array_id: 0,
            source,
            source_is_over: false,
            answers: VecDeque::new(),
            front: 0,
            unanswered_bytes: 0,
            unsent: VecDeque::new(),
            retry: Vec::new(),
            retry_at: Instant::now(),
            full_is_told: false,
            no_place_since: None,
            in_flight: BTreeMap::new(),
            keys_in_flight: BTreeMap::new(),
            next_batch: 1,
            progress: Instant::now(),
            patience,
            lost_session: 0,
            stop,
            stopping: None,
        }
    }

    async fn run(mut self, out: mpsc::Sender<Answer>) {
        let mut wire = None;
        // An error here is that nobody reads the answers any more.
        if self.answer_all(&mut wire, &out).await.is_ok()
            && let Some(wire) = wire
        {
            tokio::spawn(farewell(self.client, wire, self.next_batch));
        }
    }

    async fn answer_all(
        &mut self,
        wire: &mut Option<Wire>,
        out: &mpsc::Sender<Answer>,
    ) -> Result<(), Unread> {
        loop {
            let mut failed = None;
            if self.may_send() {
                failed = self.send(wire).await.err();
            }
            if failed.is_none() {
                if self.source_is_over && self.answers.is_empty() {
                    return Ok(());
                }
                failed = match self.step(wire.as_mut(), out).await? {
                    Step::Next => None,
                    Step::Taken(Some(specs)) => {
                        self.take_in(specs);
                        None
                    }
                    Step::Taken(None) => {
                        self.source_is_over = true;
                        None
                    }
                    // It broke while nobody waited: the next batch opens another.
                    Step::Response(Ok(None) | Err(_)) if self.in_flight.is_empty() => {
                        *wire = None;
                        None
                    }
                    Step::Response(response) => self.on_response(response).err(),
                    Step::Silence => {
                        let after = self.client.inner.call_timeout;
                        Some(CallError::TimedOut { after })
                    }
                    Step::Stop(within) => {
                        self.begin_to_stop(within);
                        None
                    }
                    Step::StopIsOver(after) => {
                        self.end_in_flight(&CallError::TimedOut { after });
                        None
                    }
                };
            }
            if let Some(error) = failed
                && let Err(error) = self.recover(wire, error).await
            {
                *wire = None;
                return self.give_up(&error, out).await;
            }
        }
    }

    fn may_send(&self) -> bool {
        !self.unsent.is_empty()
            && self.retry.is_empty()
            && self.in_flight.len() < BATCHES_IN_FLIGHT_MAX
    }

    async fn step(
        &mut self,
        wire: Option<&mut Wire>,
        out: &mpsc::Sender<Answer>,
    ) -> Result<Step, Unread> {
        let has_answer = matches!(self.answers.front(), Some(Some(_)));
        let has_room =
            self.answers.len() < UNANSWERED_MAX && self.unanswered_bytes < UNANSWERED_BYTES_MAX;
        let may_take = !self.source_is_over && self.unsent.is_empty() && has_room;
        let waits_for_answers = !self.in_flight.is_empty();
        let has_wire = wire.is_some();
        let silence_at = self.progress + self.client.inner.call_timeout;
        let response = async {
            match wire {
                Some(wire) => wire.responses.message().await,
                None => core::future::pending().await,
            }
        };
        let stopping = self.stopping;
        tokio::select! {
            within = stop_asked(&mut self.stop), if stopping.is_none() => Ok(Step::Stop(within)),
            after = time_over(stopping), if waits_for_answers => Ok(Step::StopIsOver(after)),
            permit = out.reserve(), if has_answer => {
                let permit = permit.map_err(|_| Unread)?;
                if let Some(Some(answer)) = self.answers.pop_front() {
                    self.front += 1;
                    permit.send(answer);
                }
                Ok(Step::Next)
            }
            response = response, if has_wire => Ok(Step::Response(response)),
            () = tokio::time::sleep_until(self.retry_at), if !self.retry.is_empty() => {
                let retry = core::mem::take(&mut self.retry);
                self.put_back(retry);
                Ok(Step::Next)
            }
            specs = self.source.chunk(BATCH_ENTRIES, BATCH_BYTES_MAX), if may_take => {
                Ok(Step::Taken(specs))
            }
            () = tokio::time::sleep_until(silence_at), if waits_for_answers => Ok(Step::Silence),
        }
    }

    fn take_in(&mut self, specs: Vec<TaskSpec>) {
        for spec in specs {
            let position = self.front + u64::try_from(self.answers.len()).unwrap_or(u64::MAX);
            self.unanswered_bytes += spec.payload.len();
            self.answers.push_back(None);
            let entry = Entry::new(spec);
            self.unsent.push_back(Numbered { position, entry });
        }
    }

    /// Puts entries where they were before they were sent.
    fn put_back(&mut self, entries: Vec<Numbered>) {
        let mut all: Vec<Numbered> = core::mem::take(&mut self.unsent).into();
        all.extend(entries);
        all.sort_by_key(|entry| entry.position);
        self.unsent = all.into();
    }

    /// Sends one batch, and opens the stream when there is none.
    async fn send(&mut self, wire: &mut Option<Wire>) -> Result<(), CallError> {
        let session = match wire {
            Some(wire) => wire.session.clone(),
            None => {
                let after = self.lost_session;
                self.client.session_after(after, &self.patience).await?
            }
        };
        let batch = self.next_batch;
        self.next_batch += 1;
        let tasks = self.next_batch_of_tasks(batch, &session).await?;
        if tasks.is_empty() {
            self.in_flight.remove(&batch);
            return Ok(());
        }
        self.progress = Instant::now();
        let received_keys = self.client.take_received_keys();
        self.keys_in_flight.insert(batch, received_keys.clone());
        let request = SubmitStreamRequest {
            session: session.token,
            batch,
            tasks,
            as_array: self.as_array,
            received_keys,
            ..SubmitStreamRequest::default()
        };
        for numbered in self.in_flight.get_mut(&batch).into_iter().flatten() {
            numbered.entry.goes_out();
        }
        match wire {
            // The queue holds as many batches as may be in flight.
            Some(wire) => wire.requests.try_send(request).map_err(|_| {
                for numbered in self.in_flight.get_mut(&batch).into_iter().flatten() {
                    numbered.entry.came_back();
                }
                lost()
            }),
            None => {
                *wire = Some(open(&self.client, request, session).await?);
                Ok(())
            }
        }
    }

    /// Moves entries into flight, so that each of them is answered whatever happens, and gives their form
    /// on the wire.
    async fn next_batch_of_tasks(
        &mut self,
        batch: u64,
        session: &Session,
    ) -> Result<Vec<TaskSpec>, CallError> {
        let mut tasks = Vec::new();
        let mut bytes = 0;
        let mut refused = Vec::new();
        let entries = self.in_flight.entry(batch).or_default();
        while let Some(mut numbered) = self.unsent.pop_front() {
            numbered.entry.give_key(&self.client, session);
            let sendable = self.client.sendable(&numbered.entry.spec, session).await;
            entries.push(numbered);
            match sendable {
                Ok(mut spec) => {
                    if self.as_array && spec.array_id == 0 {
                        spec.array_id = self.array_id;
                    }
                    bytes += spec.payload.len();
                    tasks.push(spec);
                }
                // The upload was refused for good or for want of room.
                Err(CallError::Refused(refusal)) if !refusal.is_passing() => {
                    if let Some(numbered) = entries.pop() {
                        refused.push((numbered, refusal));
                    }
                }
                Err(error) => return Err(error),
            }
            if tasks.len() >= BATCH_ENTRIES || bytes >= BATCH_BYTES_MAX {
                break;
            }
        }
        for (numbered, refusal) in refused {
            self.on_refusal(numbered, refusal);
        }
        Ok(tasks)
    }

    fn on_response(
        &mut self,
        response: Result<Option<SubmitStreamResponse>, tonic::Status>,
    ) -> Result<(), CallError> {
        let response = match response {
            Ok(Some(response)) => response,
            Ok(None) => return Err(lost()),
            Err(status) => return Err(CallError::of_status(&status)),
        };
        self.progress = Instant::now();
        self.keys_in_flight.remove(&response.batch);
        let Some(entries) = self.in_flight.remove(&response.batch) else {
            // Numbers are not used twice, so this is an answer that was taken in before.
            if response.batch < self.next_batch {
                return Ok(());
            }
            return Err(CallError::protocol(
                "an answer to a batch that was not sent",
            ));
        };
        if entries.len() != response.verdicts.len() {
            self.in_flight.insert(response.batch, entries);
            return Err(CallError::protocol("a batch has another number of answers"));
        }
        let mut passing = None;
        for (numbered, verdict) in entries.into_iter().zip(response.verdicts) {
            let refused = self.on_verdict(numbered, verdict);
            passing = passing.or(refused);
        }
        match passing {
            Some(error) => Err(error),
            None => {
                self.patience.heard();
                Ok(())
            }
        }
    }

    /// Takes one answer in; a refusal that passes with this daemon comes back.
    fn on_verdict(&mut self, mut numbered: Numbered, verdict: SubmitVerdict) -> Option<CallError> {
        if let Some(refusal) = verdict.refusal {
            let error = CallError::Refused(Refusal::from(refusal));
            numbered.entry.failed(&error);
            if error.is_passing() {
                self.send_again_or_answer(vec![numbered], &error);
                return Some(error);
            }
            if let CallError::Refused(refusal) = error {
                self.on_refusal(numbered, refusal);
            }
            return None;
        }
        self.full_is_told = false;
        self.no_place_since = None;
        let answer = numbered.entry.accepted(&SubmitTaskResponse {
            task_id: verdict.task_id,
            durability: verdict.durability,
            is_repeat: verdict.is_repeat,
            result_expired: verdict.result_expired,
        });
        if let (Ok(accepted), true, 0) = (&answer, self.as_array, self.array_id) {
            self.array_id = accepted.id.as_raw();
        }
        numbered.entry.is_answered(&self.client);
        self.answer(&numbered, answer);
        None
    }

    /// What there was no room for is sent again; other refusals are answers.
    fn on_refusal(&mut self, numbered: Numbered, refusal: Refusal) {
        if !refusal.is_full() || refusal.retry_after_ms == 0 {
            self.answer(&numbered, Err(SubmitError::Refused(refusal)));
            return;
        }
        if self.stopping.is_some() {
            self.answer_unsent(&numbered);
            return;
        }
        let is_of_key = refusal.reason == RefusalReason::KeysFull;
        let up_to = refusal.worth_waiting(self.client.inner.reconnect_for);
        if is_of_key
            && self
                .no_place_since
                .get_or_insert_with(Instant::now)
                .elapsed()
                >= up_to
        {
            self.answer(&numbered, Err(SubmitError::Refused(refusal)));
            return;
        }
        let retry_max = if is_of_key { RETRY_KEY_MAX } else { RETRY_MAX };
        let pause = Duration::from_millis(refusal.retry_after_ms.into());
        let at = Instant::now() + pause.clamp(RETRY_MIN, retry_max);
        self.retry_at = if self.retry.is_empty() {
            at
        } else {
            self.retry_at.max(at)
        };
        self.retry.push(numbered);
        if !core::mem::replace(&mut self.full_is_told, true) {
            let notice = if is_of_key {
                Notice::NoPlaceForKey { refusal, up_to }
            } else {
                Notice::Full(refusal)
            };
            self.client.inner.listener.tell(&notice);
        }
    }

    fn answer(&mut self, numbered: &Numbered, answer: Answer) {
        let bytes = numbered.entry.spec.payload.len();
        self.unanswered_bytes = self.unanswered_bytes.saturating_sub(bytes);
        let at = usize::try_from(numbered.position - self.front).unwrap_or(usize::MAX);
        if let Some(place) = self.answers.get_mut(at) {
            *place = Some(answer);
        }
    }

    fn send_again_or_answer(&mut self, entries: Vec<Numbered>, error: &CallError) {
        let may_send = self.stopping.is_none();
        let (again, over): (Vec<Numbered>, Vec<Numbered>) = entries
            .into_iter()
            .partition(|numbered| may_send && numbered.entry.may_be_sent_again());
        self.put_back(again);
        for numbered in over {
            let answer = numbered.entry.given_up(error.clone());
            self.answer(&numbered, Err(answer));
        }
    }

    /// After a failure of the stream: what was in flight is to be sent again where that may be, after a
    /// pause. An error is that no more tries are made.
    async fn recover(
        &mut self,
        wire: &mut Option<Wire>,
        error: CallError,
    ) -> Result<(), CallError> {
        if matches!(error, CallError::TimedOut { .. }) {
            self.patience.runs_from(self.progress);
        }
        let in_flight = core::mem::take(&mut self.in_flight).into_values();
        let mut in_flight: Vec<Numbered> = in_flight.flatten().collect();
        for numbered in &mut in_flight {
            numbered.entry.failed(&error);
        }
        self.send_again_or_answer(in_flight, &error);
        let keys = core::mem::take(&mut self.keys_in_flight).into_values();
        self.client.keys_not_given_back(keys.flatten());
        let session = wire.take().map(|wire| wire.session);
        let failed = (error, session.as_ref());
        self.client
            .before_repeat(&mut self.patience, &mut self.lost_session, failed)
            .await
    }

    /// Answers everything that was taken in, and ends.
    async fn give_up(
        &mut self,
        error: &CallError,
        out: &mpsc::Sender<Answer>,
    ) -> Result<(), Unread> {
        let unsent = core::mem::take(&mut self.unsent).into_iter();
        for numbered in unsent.chain(core::mem::take(&mut self.retry)) {
            let answer = numbered.entry.given_up(error.clone());
            self.answer(&numbered, Err(answer));
        }
        while let Some(answer) = self.answers.pop_front() {
            let cause = error.clone();
            let answer = answer.unwrap_or(Err(SubmitError::NotSent { cause }));
            out.send(answer).await.map_err(|_| Unread)?;
        }
        Ok(())
    }
}
