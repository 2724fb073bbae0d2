//! The hands of a local worker: the thread that takes tasks from the queue for its agent, ends them with what the agent reports, and sleeps at the
//! lane when there is nothing to do.
//!
//! A task is begun when it is taken: whoever is killed behind that has had it. What is not ended when the thread ends goes back to the
//! queue, unless it may run only once.
//!
//! Invariants:
//! - H1: no more tasks are taken than the agent has granted credits for.
//! - H2: a stop is told once for each flag, and obeyed by the agent; nobody takes an attempt away as long as this process lives.
//! - H3: a sleeping worker is rung by whoever has work for it, and looks by itself now and then: a ringer can be killed in between.
//!
//! Tested in `tests/tests/local.rs`.

use core::time::Duration;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use qtf_proto::limits::{self, INLINE_BYTES_MAX};
use qtf_proto::v1::{
    Assignment, DispatchResponse, RefusalReason, ResultDisposition, ResultVerdict, StopOrder,
    StopReason, TaskRef, TaskResult, WorkerHello, WorkerNotice, WorkerReport, WorkerWelcome,
};
use qtf_proto::version::PROTOCOL_VERSION;
use qtf_shm::lane::Event;
use qtf_shm::segment::OwnedLane;
use qtf_shm::{
    FLAG_CANCEL, FLAG_TIMED_OUT, KindSet, LocalWorker, LocalWorkerSpec, Outcome, OutcomeKind, Part,
    Taken, TaskOptions, WorkerPhase,
};
use tonic::Status;

use super::post::{Dispatches, Inbox, Notices, Post};
use crate::{records, refusals};

/// Longest sleep while there is room for a task: who submits rings, and may be killed before it does.
const SLEEP_MAX: Duration = Duration::from_millis(20);
/// Longest sleep without room.
const SLEEP_BUSY: Duration = Duration::from_millis(100);
/// The segment is looked at so often, whether it still is the instance's.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A task that took more workers down than this is left to the daemon, which buries it.
const LOSSES_MAX: u8 = 3;
/// LIMIT: of a local worker's hand-over, which has an entry for each task that it holds. Credits bound what the agent runs; the rest of the capacity
/// is for ends that no daemon has judged, so that a worker goes on when its daemon dies behind some.
const HELD_MAX: u16 = 64;
/// LIMIT: assignments in one message, and bytes of their payloads.
const ASSIGNMENTS_MAX: usize = 64;
const PAYLOAD_BYTES_MAX: usize = 1 << 20;

/// The end of an attempt whose payload cannot be read.
const NOT_READ: Outcome = Outcome {
    kind: OutcomeKind::TransferFailed,
    code: 0,
    result_dropped: false,
    output_cut: false,
};

/// A task that the agent has.
struct Held<'w> {
    taken: Taken<'w>,
    /// Flags that it was told of.
    told: u8,
}

/// Starts the thread for an agent that has said hello.
///
/// # Errors
/// The kernel has no thread for it.
pub(crate) fn start(post: Arc<Post>, hello: WorkerHello, notices: Notices) -> std::io::Result<()> {
    let run = move || {
        if let Err(status) = work(&post, &hello, &notices) {
            // An agent that is gone does not hear it.
            let _gone = notices.send(Err(status));
        }
    };
    std::thread::Builder::new()
        .name("qtf-local".to_owned())
        .spawn(run)
        .map(drop)
}

/// Joins as a worker, and works until the agent or the segment is gone.
fn work(post: &Post, hello: &WorkerHello, notices: &Notices) -> Result<(), Status> {
    let attachment = &post.attachment;
    let full = |text: String| refusals::status(RefusalReason::WorkersFull, text);
    let lane = attachment
        .open_lane()
        .map_err(|error| full(error.to_string()))?;
    let mut kinds = KindSet::default();
    for name in &hello.kinds {
        let kind = attachment.kinds().intern(name);
        let kind = kind
            .map_err(|error| refusals::status(RefusalReason::InvalidArgument, error.to_string()))?;
        kinds.insert(kind);
    }
    let spec = LocalWorkerSpec {
        name: &hello.name,
        host: &hello.host,
        kinds,
        capacity: HELD_MAX,
        losses_max: LOSSES_MAX,
    };
    let worker = attachment
        .join_as_worker(&spec)
        .map_err(|error| full(error.to_string()))?;
    let welcome = WorkerWelcome {
        worker_id: worker.id().as_raw(),
        token: 0,
        segment_id: attachment.segment_id(),
        heartbeat_ms: 60_000,
        lease_ms: 0,
        output_limit_bytes: attachment.payload_limit(),
        abandon: Vec::new(),
        protocol_version: PROTOCOL_VERSION,
        limits: Some(limits::limits()),
        credits_in_reports: true,
    };
    let welcome = WorkerNotice {
        welcome: Some(welcome),
        ..WorkerNotice::default()
    };
    if notices.send(Ok(welcome)).is_err() {
        return Ok(());
    }
    Hands {
        post,
        lane,
        worker: &worker,
        notices,
        dispatches: None,
        held: HashMap::new(),
        credits: 0,
        is_draining: false,
        drain_is_told: false,
        full_is_told: false,
    }
    .run()
}

struct Hands<'w> {
    post: &'w Post,
    lane: OwnedLane<'w>,
    worker: &'w LocalWorker<'w>,
    notices: &'w Notices,
    dispatches: Option<Dispatches>,
    held: HashMap<(u64, u32), Held<'w>>,
    credits: u32,
    /// The agent takes no more.
    is_draining: bool,
    drain_is_told: bool,
    full_is_told: bool,
}

impl Hands<'_> {
    fn run(mut self) -> Result<(), Status> {
        let mut look_at = Instant::now() + LOOK_EVERY;
        loop {
            let Inbox {
                reports,
                credits,
                dispatches,
                is_over,
            } = self.post.take();
            self.credits = self.credits.saturating_add(credits);
            if dispatches.is_some() {
                self.dispatches = dispatches;
            }
            for report in reports {
                if self.take_report(report) {
                    return Ok(());
                }
            }
            if is_over {
                return Ok(());
            }
            self.hear_events();
            let has_taken = self.take_tasks();
            self.tell_stops();
            if Instant::now() >= look_at {
                look_at = Instant::now() + LOOK_EVERY;
                self.look_around()?;
            }
            if !has_taken {
                self.sleep();
            }
        }
    }

    /// Ends what the agent says has ended. True if it leaves.
    fn take_report(&mut self, report: WorkerReport) -> bool {
        self.credits = self.credits.saturating_add(report.credits);
        self.is_draining |= report.draining;
        let mut verdicts = Vec::new();
        let mut are_recorded = true;
        for result in report.results {
            let verdict = self.end(result);
            are_recorded &= verdict.disposition() == ResultDisposition::Recorded;
            verdicts.push(verdict);
        }
        if !verdicts.is_empty() {
            let notice = if are_recorded && report.number != 0 {
                WorkerNotice {
                    recorded: vec![report.number],
                    ..WorkerNotice::default()
                }
            } else {
                WorkerNotice {
                    verdicts,
                    ..WorkerNotice::default()
                }
            };
            let _gone = self.notices.send(Ok(notice));
        }
        report.goodbye
    }

    fn end(&mut self, result: TaskResult) -> ResultVerdict {
        let task = result.task.unwrap_or_default();
        let verdict = |disposition: ResultDisposition, reason: String| ResultVerdict {
            task: Some(task),
            disposition: disposition.into(),
            reason,
        };
        let output = match result.output_upload {
            0 => result.output,
            receipt => match self.post.uploads.look(receipt) {
                Some(output) => {
                    self.post.uploads.use_up(receipt);
                    output
                }
                None => return verdict(ResultDisposition::UploadAgain, String::new()),
            },
        };
        let Some(held) = self.held.remove(&(task.task_id, task.attempt)) else {
            return verdict(ResultDisposition::Stale, String::new());
        };
        let outcome = records::outcome_from(result.outcome.as_ref());
        let pause_ms = result.outcome.map_or(0, |outcome| outcome.again_after_ms);
        match held.taken.finish_for(outcome, &output, pause_ms) {
            Ok(_) => verdict(ResultDisposition::Recorded, String::new()),
            Err(_) => verdict(ResultDisposition::Stale, String::new()),
        }
    }

    /// Events say where to look, and all of it is looked at anyway.
    fn hear_events(&mut self) {
        while let Some(event) = self.lane.next() {
            if matches!(event, Event::Lost) {
                tracing::debug!("the daemon has given this worker up");
            }
        }
        let _all_is_looked_at = self.lane.take_missed();
    }

    /// Takes tasks for which there are credits; true if there may be more.
    fn take_tasks(&mut self) -> bool {
        if self.is_draining {
            return false;
        }
        let Some(dispatches) = self.dispatches.clone() else {
            return false;
        };
        let mut assignments = Vec::new();
        let mut bytes = 0;
        while self.credits > 0 && assignments.len() < ASSIGNMENTS_MAX && bytes < PAYLOAD_BYTES_MAX {
            let Some(taken) = self.worker.take() else {
                break;
            };
            if taken.start().is_err() {
                continue;
            }
            let Some(assignment) = self.assignment(&taken) else {
                // To give it back would be to take it again. That it has moved on is no fault.
                let _moved_on = taken.finish(NOT_READ, b"");
                continue;
            };
            bytes += assignment.payload.len();
            let task = assignment.task.unwrap_or_default();
            assignments.push(assignment);
            self.credits -= 1;
            let held = Held { taken, told: 0 };
            self.held.insert((task.task_id, task.attempt), held);
        }
        let has_taken = !assignments.is_empty();
        if has_taken {
            let response = DispatchResponse {
                assignments,
                ..DispatchResponse::default()
            };
            // An agent that is gone has said so, or says so next.
            let _gone = dispatches.send(Ok(response));
        }
        has_taken
    }

    /// What the agent needs to run an attempt; `None` if the task cannot be read.
    fn assignment(&self, taken: &Taken<'_>) -> Option<Assignment> {
        let segment = &self.post.attachment;
        let record = records::task(segment, taken.id())?;
        let payload_bytes = record.payload.len();
        let mut payload = Vec::new();
        if payload_bytes <= INLINE_BYTES_MAX as u64 {
            payload = vec![0; usize::try_from(payload_bytes).ok()?];
            let read = segment.load(taken.id(), Part::Payload, 0, &mut payload);
            if read.ok()? != payload.len() {
                return None;
            }
        }
        let side = segment.read_side(&record).unwrap_or_default();
        Some(Assignment {
            task: Some(TaskRef {
                task_id: taken.id().as_raw(),
                attempt: taken.attempt().into(),
            }),
            kind: records::kind_name(segment, record.kind),
            payload: Bytes::from(payload),
            payload_bytes,
            timeout_ms: record.timeout_ms,
            discard_result: record.options.has(TaskOptions::DISCARD_RESULT),
            array_id: side.array_id,
            array_index: side.array_index,
        })
    }

    /// Tells the agent of attempts that somebody wants to be stopped.
    fn tell_stops(&mut self) {
        let mut stops = Vec::new();
        for ((task_id, attempt), held) in &mut self.held {
            let flags = held.taken.stop_flags();
            let news = flags & !held.told & (FLAG_CANCEL | FLAG_TIMED_OUT);
            held.told |= news;
            let reason = match news {
                0 => continue,
                flags if flags & FLAG_CANCEL != 0 => StopReason::Cancelled,
                _ => StopReason::TimedOut,
            };
            let task = TaskRef {
                task_id: *task_id,
                attempt: *attempt,
            };
            stops.push(StopOrder {
                task: Some(task),
                reason: reason.into(),
            });
        }
        if let Some(dispatches) = &self.dispatches
            && !stops.is_empty()
        {
            let response = DispatchResponse {
                stops,
                ..DispatchResponse::default()
            };
            let _gone = dispatches.send(Ok(response));
        }
    }

    /// Whether the segment is still there, and whether an operator wants this worker to leave.
    fn look_around(&mut self) -> Result<(), Status> {
        if self.post.attachment.is_removed() {
            return Err(Status::unavailable("the instance's segment was removed"));
        }
        if self.worker.state().phase() == WorkerPhase::Draining && !self.drain_is_told {
            self.drain_is_told = true;
            let notice = WorkerNotice {
                drain: true,
                ..WorkerNotice::default()
            };
            let _gone = self.notices.send(Ok(notice));
        }
        let is_full =
            self.credits > 0 && self.held.len() < usize::from(HELD_MAX) && self.worker.is_full();
        if is_full && !self.full_is_told {
            tracing::warn!(
                "this worker takes nothing: {HELD_MAX} of its ends wait for the daemon to judge them; start qtfd, or let it go on if it is stopped"
            );
        }
        self.full_is_told = is_full;
        Ok(())
    }

    /// Sleeps until somebody rings: the agent, the core, or who has made a task ready.
    fn sleep(&self) {
        let has_room = self.credits > 0 && !self.is_draining && self.dispatches.is_some();
        let events = &self.lane.events;
        if has_room {
            self.worker
                .sleep_unless(events, SLEEP_MAX, || self.post.has_news());
        } else {
            events.sleep_unless(SLEEP_BUSY, || self.post.has_news());
        }
    }
}
