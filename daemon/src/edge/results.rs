//! Results of one worker's session on their way in, and their verdicts on the way back.
//!
//! A verdict is given when what it says is on stable storage; until then the worker keeps the result. Where all results of a report
//! that has a number are recorded at once, one word says so for all of them. A result that
//! the journal has no room for now, or whose output finds no room in the segment and is being written to a file by the spill thread, is
//! held here and tried again, in order, while the session goes on. Tested in `tests/daemon/journal.rs`, `tests/daemon/spill.rs` and at the
//! end of this file.

use std::collections::VecDeque;
use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use qtf_engine::{Caller, Disposition, Lsn, Output, Principal, ResultAnswer, TaskRef};
use qtf_proto::v1::{ResultDisposition, ResultVerdict, TaskRef as TaskRefMessage, TaskResult};
use qtf_proto::wire;
use qtf_proto::wire::Ended;
use qtf_shm::{BlobRef, Counter, TaskId, WorkerId};
use tokio::sync::oneshot::error::RecvError;
use tonic::Status;

use super::result::{check, last_bytes, plain_report, report_of, said_of};
use super::status;
use crate::core::held_outputs::HeldBytes;
use crate::core::stability::StablePlace;
use crate::core::uploads::Asked;
use crate::core::verdicts::{VERDICTS_MAX, Verdicts};
use crate::core::{Core, core_cell};
use crate::spill::thread::{Answer, UploadKey};

/// LIMIT: results that are held for one worker; at more its session ends and it reports them again.
const HELD_MAX: usize = 1024;

/// Results that the engine is given in one go: so many lie in the first cache from their frame to the engine, those of a whole message
/// do not.
const TOGETHER_MAX: usize = 64;

/// The worker whose results are taken in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reporter {
    pub(crate) worker: WorkerId,
    /// Its secret.
    pub(crate) token: u64,
}

/// The results of one session.
#[derive(Debug, Default)]
pub(crate) struct Results {
    /// Verdicts that may be given.
    ready: Verdicts,
    /// Verdicts that wait for a record, in its order.
    waiting: VecDeque<(Lsn, Verdict)>,
    /// Results that there was no room for.
    held: VecDeque<HeldResult>,
    place: StablePlace,
    /// For whom the worker works.
    principal: Principal,
}

/// What is said of one result, or of all of a report.
#[derive(Debug)]
enum Verdict {
    One(ResultVerdict),
    /// They are recorded.
    Report(u64),
}

/// What came of a try to record a result.
enum Tried {
    Verdict(ResultDisposition, Option<Lsn>),
    /// The journal has no room for it now.
    NotNow,
    /// The segment has none for its output.
    NeedsFile,
}

impl Tried {
    fn of(answer: ResultAnswer) -> Self {
        let disposition = match answer.disposition {
            Disposition::NotNow => return Self::NotNow,
            Disposition::NeedsFile => return Self::NeedsFile,
            Disposition::Recorded => ResultDisposition::Recorded,
            Disposition::AlreadyRecorded => ResultDisposition::AlreadyRecorded,
            Disposition::Stale => ResultDisposition::Stale,
        };
        Self::Verdict(disposition, answer.durable)
    }
}

impl Drop for Results {
    fn drop(&mut self) {
        let storing = self.held.iter().filter_map(|held| held.storing.as_ref());
        let keys: Vec<UploadKey> = storing.map(|(key, _)| *key).collect();
        if !keys.is_empty() {
            core_cell::attend(|core| keys.into_iter().for_each(|key| core.uploads.leave(key)));
        }
    }
}

impl Results {
    /// None yet, of a worker of this principal.
    pub(crate) fn new(principal: Principal) -> Self {
        let mut results = Self::default();
        results.principal = principal;
        results
    }

    /// Whether no more reports are to be read now.
    pub(crate) fn are_too_many(&self) -> bool {
        self.ready.len().saturating_add(self.waiting.len()) >= VERDICTS_MAX
    }

    /// Takes the results of a report in, of which there are so many; 0 is no number.
    #[expect(
        single_use_lifetimes,
        reason = "an iterator of what is borrowed cannot be written without a name for what it borrows"
    )]
    pub(crate) fn take<'r>(
        &mut self,
        core: &mut Core,
        who: Reporter,
        (number, count): (u64, usize),
        results: &(impl Iterator<Item = Ended<'r>> + Clone),
    ) -> Result<(), Status> {
        let (answers, are_all) = if number != 0 && self.held.is_empty() {
            record_together(core, who.worker, (count, results.clone()))
        } else {
            (Vec::new(), false)
        };
        let is_recorded =
            |answer: &ResultAnswer| matches!(answer.disposition, Disposition::Recorded);
        if are_all && answers.iter().all(is_recorded) {
            if !answers.is_empty() {
                let durable = answers.iter().filter_map(|answer| answer.durable).max();
                self.give(core, Verdict::Report(number), durable);
            }
            return Ok(());
        }
        // As long as all are recorded nothing is said of each.
        let mut is_split = number == 0;
        let mut durable = None;
        let mut recorded = 0;
        for (place, result) in results.clone().enumerate() {
            let said = match answers.get(place) {
                Some(answer) => match Tried::of(*answer) {
                    Tried::Verdict(disposition, durable) => Some((disposition, durable)),
                    Tried::NotNow | Tried::NeedsFile => self.hold(core, &result)?,
                },
                None => self.take_one(core, who, &result)?,
            };
            match said {
                Some((ResultDisposition::Recorded, lsn)) if !is_split => {
                    durable = durable.max(lsn);
                    recorded += 1;
                }
                _ => {
                    if !std::mem::replace(&mut is_split, true) {
                        for before in results.clone().take(recorded) {
                            self.tell(core, before.task, ResultDisposition::Recorded, durable);
                        }
                    }
                    if let Some((disposition, lsn)) = said {
                        self.tell(core, result.task, disposition, lsn);
                    }
                }
            }
        }
        if !is_split && recorded > 0 {
            self.give(core, Verdict::Report(number), durable);
        }
        Ok(())
    }

    /// Takes a result in. What is to be said of it, if that is known now and was not said here.
    fn take_one(
        &mut self,
        core: &mut Core,
        who: Reporter,
        result: &Ended<'_>,
    ) -> Result<Option<(ResultDisposition, Option<Lsn>)>, Status> {
        let output = match check(result) {
            Ok(output) => output,
            Err(reason) => {
                tracing::debug!(worker = %who.worker, reason, "a result is refused");
                self.ready.each.push(ResultVerdict {
                    task: result.task,
                    disposition: ResultDisposition::Refused.into(),
                    reason,
                });
                return Ok(None);
            }
        };
        if self.held.is_empty()
            && let Tried::Verdict(disposition, durable) =
                record(core, who, (result, &output), false)?
        {
            return Ok(Some((disposition, durable)));
        }
        self.hold(core, result)
    }

    /// Keeps a result that is to be tried again, at once: what it needs, a file or room in the journal, is seen then.
    fn hold(
        &mut self,
        core: &Core,
        result: &Ended<'_>,
    ) -> Result<Option<(ResultDisposition, Option<Lsn>)>, Status> {
        let bytes = core.held_outputs.take(result.output.len());
        match bytes {
            Some(bytes) if self.held.len() < HELD_MAX => self.held.push_back(HeldResult {
                result: Ended {
                    stderr_tail: last_bytes(result.stderr_tail),
                    ..*result
                }
                .to_message(),
                bytes,
                storing: None,
                is_lost: false,
            }),
            _ => {
                return Err(Status::resource_exhausted(
                    "there is no room for more results now, in the journal or in spill files: connect and report them again",
                ));
            }
        }
        Ok(None)
    }

    /// Gives the verdict about a result, or has it wait for its record.
    fn tell(
        &mut self,
        core: &Core,
        task: Option<TaskRefMessage>,
        disposition: ResultDisposition,
        durable: Option<Lsn>,
    ) {
        let verdict = ResultVerdict {
            task,
            disposition: disposition.into(),
            reason: String::new(),
        };
        self.give(core, Verdict::One(verdict), durable);
    }

    fn give(&mut self, core: &Core, verdict: Verdict, durable: Option<Lsn>) {
        match durable {
            Some(lsn) if !core.stability.is_stable(durable) => {
                self.waiting.push_back((lsn, verdict));
            }
            _ => self.is_ready(verdict),
        }
    }

    fn is_ready(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::One(verdict) => self.ready.each.push(verdict),
            Verdict::Report(number) => self.ready.recorded.push(number),
        }
    }

    /// Tries again what is held, and moves on what has become stable. The session is woken when there is more.
    pub(crate) fn progress(&mut self, who: Reporter, cx: &mut Context<'_>) -> Result<(), Status> {
        if !self.held.is_empty() {
            let waker = cx.waker();
            core_cell::enter(|core| self.try_again(core, who, waker))
                .ok_or_else(status::gone)??;
        }
        while let Some((lsn, _)) = self.waiting.front() {
            match self.place.poll(Some(*lsn), cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(result) => result?,
            }
            if let Some((_, verdict)) = self.waiting.pop_front() {
                self.is_ready(verdict);
            }
        }
        if !self.held.is_empty() {
            // Whatever is written next makes room; if nothing is, the worker's heartbeat comes by.
            let next = core_cell::look(|core| core.engine.durable_lsn().get().saturating_add(1));
            let next = next.map(Lsn::new);
            if self.place.poll(next, cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
        Ok(())
    }

    fn try_again(&mut self, core: &mut Core, who: Reporter, waker: &Waker) -> Result<(), Status> {
        while let Some(mut held) = self.held.pop_front() {
            match held.try_again(core, who, self.principal, waker)? {
                Some((disposition, durable)) => {
                    self.tell(core, held.result.task, disposition, durable);
                }
                None => {
                    self.held.push_front(held);
                    break;
                }
            }
        }
        Ok(())
    }

    /// The verdicts that may be given now.
    pub(crate) fn ready(&mut self) -> &mut Verdicts {
        &mut self.ready
    }
}

/// A result that there was no room for.
#[derive(Debug)]
struct HeldResult {
    result: TaskResult,
    bytes: HeldBytes,
    /// Its output is being written to a file.
    storing: Option<(UploadKey, Asked)>,
    /// Its output could not be stored.
    is_lost: bool,
}

impl HeldResult {
    /// What is to be said of it; nothing, if it is to be tried again.
    fn try_again(
        &mut self,
        core: &mut Core,
        who: Reporter,
        principal: Principal,
        waker: &Waker,
    ) -> Result<Option<(ResultDisposition, Option<Lsn>)>, Status> {
        let mut cx = Context::from_waker(waker);
        loop {
            if let Some((key, asked)) = &mut self.storing {
                let (key, Poll::Ready(answer)) = (*key, Pin::new(asked).poll(&mut cx)) else {
                    return Ok(None);
                };
                self.storing = None;
                self.stored(core, key, who.token, answer)?;
            }
            let result = Ended::from(&self.result);
            // It was checked when it came.
            let output = wire::Output::read(result.output).unwrap_or_default();
            match record(core, who, (&result, &output), self.is_lost)? {
                Tried::Verdict(disposition, durable) => return Ok(Some((disposition, durable))),
                Tried::NotNow => return Ok(None),
                Tried::NeedsFile => {
                    let data = self.result.output.clone();
                    let is_durable = core.journal.is_some();
                    match core.uploads.store(principal, data, is_durable) {
                        Ok(storing) => self.storing = Some(storing),
                        // Others are to be used first.
                        Err(_) => return Ok(None),
                    }
                }
            }
        }
    }

    /// The spill thread has answered: from now on the output is an upload of the worker's.
    fn stored(
        &mut self,
        core: &mut Core,
        key: UploadKey,
        token: u64,
        answer: Result<Answer, RecvError>,
    ) -> Result<(), Status> {
        let now = core.now();
        let kept = match answer.map_err(|_| status::gone())? {
            Ok(_) => core.uploads.keep(key, token, now),
            Err(error) => {
                tracing::warn!(%error, "the output of a result is dropped");
                None
            }
        };
        if let Some(receipt) = kept {
            self.result.output_upload = receipt;
            let counters = core.segment().counters();
            counters.add(Counter::SpillWritten, 1);
            let bytes = u64::try_from(self.result.output.len()).unwrap_or(u64::MAX);
            counters.add(Counter::SpillBytes, bytes);
        } else {
            core.uploads.leave(key);
            core.segment().counters().add(Counter::SpillFailed, 1);
            self.is_lost = true;
        }
        let result = Ended::from(&self.result);
        let output = wire::Output::read(result.output).unwrap_or_default();
        let said = said_of(&result, &output).stderr;
        self.result.stderr_tail = Bytes::copy_from_slice(last_bytes(said));
        self.result.output = Bytes::new();
        self.bytes.give_back();
        Ok(())
    }
}

/// What became of a result, and what its verdict waits for. Its output may be lost.
fn record(
    core: &mut Core,
    who: Reporter,
    (result, left): (&Ended<'_>, &wire::Output<'_>),
    is_lost: bool,
) -> Result<Tried, Status> {
    let Reporter { worker, token } = who;
    let now = core.now();
    let asked = result
        .task
        .as_ref()
        .ok_or_else(|| status::invalid("task of a result is missing"))?;
    let Some(task) = TaskId::from_raw(asked.task_id) else {
        return Ok(Tried::Verdict(ResultDisposition::Stale, None));
    };
    let reference = TaskRef {
        task,
        attempt: asked.attempt,
    };
    let uploaded = match result.output_upload {
        0 => None,
        receipt => core.uploads.peek(receipt, token, now),
    };
    let output = match uploaded {
        Some(blob) => Output::Stored(blob),
        // It was given by the daemon before, or too long ago: the worker still has the output. For an attempt that is not this
        // worker's (any more) it makes no difference.
        None if result.output_upload != 0 && core.engine.payload_for(worker, reference).is_ok() => {
            return Ok(Tried::Verdict(ResultDisposition::UploadAgain, None));
        }
        None if result.output_upload != 0 => Output::None,
        None if is_lost => Output::Lost,
        None if result.output.is_empty() => Output::None,
        None => Output::InMemory(result.output),
    };
    let report = report_of(result, left, output);
    let tried = Tried::of(core.engine.task_result(now, worker, reference, &report));
    match (&tried, uploaded) {
        (Tried::NotNow, _) => core.uploads.renew(result.output_upload, now),
        (Tried::Verdict(disposition, _), Some(blob)) => {
            core.uploads.use_up(result.output_upload);
            if *disposition != ResultDisposition::Recorded && matches!(blob, BlobRef::Spill { .. })
            {
                core.uploads.discard(blob);
            }
        }
        (Tried::Verdict(..) | Tried::NeedsFile, _) => {}
    }
    Ok(tried)
}

/// Records results in one go, up to the first that needs more than the engine: what became of them, and whether those are all.
#[expect(
    single_use_lifetimes,
    reason = "an iterator of what is borrowed cannot be written without a name for what it borrows"
)]
fn record_together<'r>(
    core: &mut Core,
    who: WorkerId,
    (count, results): (usize, impl Iterator<Item = Ended<'r>>),
) -> (Vec<ResultAnswer>, bool) {
    let mut reports = Vec::with_capacity(count.min(TOGETHER_MAX));
    let mut answers = Vec::with_capacity(count);
    let mut plain = results.map(|result| plain_report(&result));
    let now = core.now();
    let mut are_all = true;
    loop {
        while reports.len() < TOGETHER_MAX {
            match plain.next() {
                Some(Some(report)) => reports.push(report),
                Some(None) => {
                    are_all = false;
                    break;
                }
                None => break,
            }
        }
        let is_full = reports.len() == TOGETHER_MAX;
        core.engine
            .results_batch(Caller { now, who }, &reports, |answer| answers.push(answer));
        reports.clear();
        if !is_full {
            break;
        }
    }
    (answers, are_all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::held_outputs::{HELD_BYTES_MAX, HeldOutputs};
    use crate::core::test_core;

    #[test]
    fn result_that_cannot_be_understood_is_held_no_longer_and_neither_are_its_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let mut core = test_core(folder.path());
        let mut results = Results::default();
        for task in [None, Some(qtf_proto::v1::TaskRef::default())] {
            results.held.push_back(HeldResult {
                result: TaskResult {
                    task,
                    output: vec![1; 5].into(),
                    ..TaskResult::default()
                },
                bytes: core.held_outputs.take(5).unwrap(),
                storing: None,
                is_lost: false,
            });
        }
        assert_eq!(core.held_outputs.sum(), 10);
        let who = Reporter {
            worker: WorkerId::from_raw(1 << 16).unwrap(),
            token: 1,
        };
        results
            .try_again(&mut core, who, Waker::noop())
            .unwrap_err();
        assert_eq!(core.held_outputs.sum(), 5);
        drop(results);
        assert_eq!(core.held_outputs.sum(), 0);
    }

    #[test]
    fn each_result_of_a_long_report_is_answered_once_up_to_the_first_that_is_not_plain() {
        let folder = tempfile::tempdir().unwrap();
        let mut core = test_core(folder.path());
        let who = WorkerId::from_raw(1 << 16).unwrap();
        let plain = Ended {
            task: Some(qtf_proto::v1::TaskRef {
                task_id: 1 << 24,
                attempt: 1,
            }),
            outcome: Some(qtf_proto::v1::Outcome {
                kind: qtf_proto::v1::OutcomeKind::Exited.into(),
                ..qtf_proto::v1::Outcome::default()
            }),
            ..Ended::default()
        };
        let uploaded = Ended {
            output_upload: 1,
            ..plain
        };
        for count in [
            0,
            1,
            TOGETHER_MAX,
            TOGETHER_MAX + 1,
            2 * TOGETHER_MAX,
            1_000,
        ] {
            let all = std::iter::repeat_n(plain, count);
            let (answers, are_all) = record_together(&mut core, who, (count, all.clone()));
            assert_eq!((answers.len(), are_all), (count, true));
            let some = all.chain([uploaded, plain]);
            let (answers, are_all) = record_together(&mut core, who, (count + 2, some));
            assert_eq!((answers.len(), are_all), (count, false));
        }
    }

    #[test]
    fn bytes_held_for_all_workers_are_bounded() {
        let held = HeldOutputs::default();
        let most = held.take(HELD_BYTES_MAX).unwrap();
        assert!(held.take(1).is_none());
        drop(most);
        assert!(held.take(1).is_some());
    }
}
