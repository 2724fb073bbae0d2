//! Runs one attempt of one task to its ending: payload, runner, encoded output.

use core::time::Duration;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use qtf_proto::v1::{ExecSpec, LimitOf, Outcome, OutcomeKind, TaskOutput, TaskRef};
use tokio::sync::watch;

use crate::call;
use crate::exec::{self, ExecPolicy, Identity, NotBegun, Running};
use crate::handler::{HandlerError, Runner, TaskContext, WhatNext};
use crate::stop::StopSignal;
use crate::transfer::{Access, TransferError, byte_count, fetch_payload};

/// `TaskOutput.stdout`.
const STDOUT_TAG: u32 = 1;
/// Room for everything but the two outputs in an encoded `TaskOutput`.
const ENVELOPE_BYTES: u64 = 8 << 10;
const MESSAGE_BYTES_MAX: usize = 4 << 10;
/// LIMIT: the daemon takes no longer pause before another attempt: 30 days.
const PAUSE_MS_MAX: u64 = 30 * 24 * 3_600 * 1_000;
const FETCH_PAUSE: Duration = Duration::from_millis(200);

/// How an attempt ended and what it left.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) outcome: Outcome,
    pub(crate) output: TaskOutput,
}

impl Ending {
    pub(crate) fn new(kind: OutcomeKind, message: impl Into<String>) -> Self {
        Self {
            outcome: Outcome {
                kind: kind.into(),
                ..Outcome::default()
            },
            output: TaskOutput {
                message: message.into(),
                ..TaskOutput::default()
            },
        }
    }

    pub(crate) fn of_bytes(stdout: Bytes) -> Self {
        let mut ending = Self::new(OutcomeKind::Exited, "");
        ending.output.stdout = stdout;
        ending
    }

    /// What `of_bytes` and `encoded` come to, for most handlers of small tasks, without what has no part in it.
    pub(crate) fn encoded_bytes(
        stdout: Vec<u8>,
        discard_result: bool,
        limit_bytes: u64,
    ) -> (Outcome, Bytes) {
        let outcome = Outcome {
            kind: OutcomeKind::Exited.into(),
            ..Outcome::default()
        };
        if discard_result || stdout.is_empty() {
            return (outcome, Bytes::new());
        }
        let length = byte_count(&stdout);
        let prefix = key_len(STDOUT_TAG) + encoded_len_varint(length);
        let encoded_len = prefix.saturating_add(stdout.len());
        if u64::try_from(encoded_len).map_or(true, |bytes| bytes > limit_bytes) {
            return Self::of_bytes(stdout.into()).encoded(discard_result, limit_bytes);
        }
        let mut encoded = Vec::with_capacity(encoded_len);
        encode_key(STDOUT_TAG, WireType::LengthDelimited, &mut encoded);
        encode_varint(length, &mut encoded);
        encoded.extend_from_slice(&stdout);
        (outcome, encoded.into())
    }

    /// The form that travels. An output that is not wanted or too large is left out.
    pub(crate) fn encoded(mut self, discard_result: bool, limit_bytes: u64) -> (Outcome, Bytes) {
        let succeeded = self.outcome.kind() == OutcomeKind::Exited && self.outcome.code == 0;
        if succeeded && discard_result {
            return (self.outcome, Bytes::new());
        }
        let end = self.output.message.floor_char_boundary(MESSAGE_BYTES_MAX);
        self.output.message.truncate(end);
        let encoded = self.output.encode_to_vec();
        if byte_count(&encoded) <= limit_bytes {
            return (self.outcome, encoded.into());
        }
        self.outcome.result_dropped = true;
        let message = format!(
            "the output of {} bytes is over the daemon's limit of {limit_bytes} bytes (payload_bytes_max of qtfd)",
            encoded.len()
        );
        let output = TaskOutput {
            message,
            ..TaskOutput::default()
        };
        (self.outcome, output.encode_to_vec().into())
    }
}

/// What became of an attempt.
#[derive(Debug)]
pub(crate) enum Finish {
    /// It has ended.
    Ended(Ending),
    /// It could not begin, for want of something that there may be later: why.
    NotBegun(String),
}

/// Everything an attempt needs.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) identity: Identity,
    pub(crate) kind: String,
    pub(crate) runner: Runner,
    pub(crate) payload: Bytes,
    pub(crate) payload_bytes: u64,
    pub(crate) policy: Arc<ExecPolicy>,
    pub(crate) output_limit_bytes: u64,
    pub(crate) access: watch::Receiver<Option<Access>>,
}

/// Runs it, and calls `begun` when it runs. Dropping the future kills what runs.
pub(crate) async fn run(mut job: Job, stop: StopSignal, begun: impl FnOnce()) -> Finish {
    if job.payload_bytes > byte_count(&job.payload) {
        let fetched = tokio::select! {
            // Apart, as is what runs a program: most attempts need neither, and no room for them.
            fetched = Box::pin(fetch(&mut job)) => fetched,
            cause = stop.stopped() => {
                return Finish::Ended(Ending::new(cause.outcome_kind(), ""));
            }
        };
        match fetched {
            Ok(payload) => job.payload = payload,
            Err(message) => {
                return Finish::Ended(Ending::new(OutcomeKind::TransferFailed, message));
            }
        }
    }
    let ending = match job.runner.clone() {
        Runner::Exec => return Box::pin(run_exec(job, stop, begun)).await,
        Runner::Noop => Ending::of_bytes(Bytes::new()),
        Runner::Echo => Ending::of_bytes(job.payload),
        Runner::Call(function) => {
            let context = TaskContext {
                task_id: job.identity.task,
                attempt: job.identity.attempt,
                kind: job.kind,
                payload: job.payload,
                stop: stop.clone(),
            };
            let grace = job.policy.stop_grace;
            begun();
            // Who hears of it may follow on this thread, which the handler may hold up.
            tokio::task::yield_now().await;
            call::finish(function(context), &stop, grace).await
        }
    };
    Finish::Ended(ending)
}

async fn run_exec(job: Job, stop: StopSignal, begun: impl FnOnce()) -> Finish {
    let how = (&*job.policy, job.output_limit_bytes);
    match ProgramJob::of(&job.payload, job.identity, how) {
        Ok(program) => program.run(&stop, begun).await,
        Err(ending) => Finish::Ended(*ending),
    }
}

/// A program as an attempt runs it.
#[derive(Debug)]
pub(crate) struct ProgramJob {
    spec: ExecSpec,
    identity: Identity,
    policy: ExecPolicy,
    /// Whose limit that of the policy is now.
    limit_of: LimitOf,
}

impl ProgramJob {
    /// What is in a payload, to be run as the worker wants it, for a daemon that takes so much.
    pub(crate) fn of(
        payload: &Bytes,
        identity: Identity,
        (policy, daemon_bytes): (&ExecPolicy, u64),
    ) -> Result<Self, Box<Ending>> {
        let spec = ExecSpec::decode(payload.clone()).map_err(|error| {
            let message = format!("the payload is no encoded ExecSpec: {error}");
            Box::new(Ending::new(OutcomeKind::Refused, message))
        })?;
        let each = each_output_limit(daemon_bytes);
        let (limit, limit_of) = if policy.output_limit_bytes <= each {
            (policy.output_limit_bytes, LimitOf::Worker)
        } else {
            (each, LimitOf::Daemon)
        };
        Ok(Self {
            spec,
            identity,
            policy: policy.clone().output_limit_bytes(limit),
            limit_of,
        })
    }

    /// See [`exec::begin`].
    pub(crate) fn begin(&self) -> Result<Box<Running>, NotBegun> {
        exec::begin(&self.spec, self.identity, &self.policy)
    }

    /// See [`exec::run`].
    pub(crate) async fn run(self, stop: &StopSignal, begun: impl FnOnce()) -> Finish {
        let spec = self.spec.clone();
        match exec::run(spec, self.identity, (&self.policy, stop), begun).await {
            Finish::Ended(ending) => Finish::Ended(self.told(ending)),
            not_begun @ Finish::NotBegun(_) => not_begun,
        }
    }

    /// Attends to what has begun, to its end.
    pub(crate) async fn rest(self, running: Box<Running>, stop: &StopSignal) -> Ending {
        let ending = running.until_its_end((&self.policy, stop)).await;
        self.told(ending)
    }

    /// An ending that says whether its output was cut, and why.
    pub(crate) fn told(&self, mut ending: Ending) -> Ending {
        let output = &mut ending.output;
        if output.stdout_dropped_bytes > 0 || output.stderr_dropped_bytes > 0 {
            ending.outcome.output_cut = true;
            output.cut_limit_bytes = self.policy.output_limit_bytes;
            output.set_cut_by(self.limit_of);
        }
        ending
    }
}

/// What a daemon takes of each of the two outputs of a program.
pub(crate) const fn each_output_limit(daemon_bytes: u64) -> u64 {
    daemon_bytes.saturating_sub(ENVELOPE_BYTES) / 2
}

/// The end of a handler that failed.
pub(crate) fn failed(error: &HandlerError) -> Ending {
    let (kind, after) = match error.what_next() {
        WhatNext::AsRetriesSay => (OutcomeKind::HandlerFailed, Duration::ZERO),
        WhatNext::Fails => (OutcomeKind::FailedForGood, Duration::ZERO),
        WhatNext::Again(after) => (OutcomeKind::Again, after),
    };
    let mut ending = Ending::new(kind, error.message());
    ending.outcome.again_after_ms = pause_ms(after);
    ending
}

/// A pause as it travels: rounded up to milliseconds, at most what the daemon takes.
pub(crate) fn pause_ms(pause: Duration) -> u64 {
    let most = u128::from(PAUSE_MS_MAX);
    let ms = pause.as_nanos().div_ceil(1_000_000).min(most);
    u64::try_from(ms).unwrap_or(PAUSE_MS_MAX)
}

/// Fetches a large payload, over as many connections as it takes.
async fn fetch(job: &mut Job) -> Result<Bytes, String> {
    let task = TaskRef {
        task_id: job.identity.task.as_raw(),
        attempt: job.identity.attempt,
    };
    loop {
        let access = match job.access.wait_for(Option::is_some).await {
            Ok(access) => access.clone(),
            Err(_) => return Err("the worker is leaving".to_owned()),
        };
        let Some(access) = access else { continue };
        match fetch_payload(access, task).await {
            Ok(payload) => return Ok(payload),
            Err(TransferError::Refused(message)) => {
                return Err(format!("the payload cannot be fetched: {message}"));
            }
            Err(TransferError::Broken(cause)) => {
                tracing::debug!(cause, "fetching a payload again");
                tokio::time::sleep(FETCH_PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_large_output_is_left_out_and_said() {
        let ending = Ending::of_bytes(Bytes::from(vec![7; 100]));
        let (outcome, output) = ending.encoded(false, 99);
        assert!(outcome.result_dropped);
        assert_eq!(outcome.kind(), OutcomeKind::Exited);
        let output = TaskOutput::decode(output).unwrap();
        assert!(
            output.message.contains("limit of 99 bytes"),
            "{}",
            output.message
        );
    }

    #[test]
    fn short_way_of_bytes_comes_to_the_same() {
        for length in [0, 1, 127, 128, 20_000] {
            for limit in [0, 100, 132, 20_004, 1 << 20] {
                for discard in [false, true] {
                    let stdout = vec![b'x'; length];
                    let long = Ending::of_bytes(stdout.clone().into()).encoded(discard, limit);
                    let short = Ending::encoded_bytes(stdout, discard, limit);
                    assert_eq!(short, long, "{length} bytes, limit {limit}, {discard}");
                }
            }
        }
    }

    #[tokio::test]
    async fn output_that_is_cut_says_by_whose_limit_and_how_high_it_is() {
        use qtf_shm::TaskId;
        let cut = async |worker_bytes, daemon_bytes| {
            let spec = ExecSpec {
                argv: ["sh", "-c", "echo 123456789"].map(Bytes::from).to_vec(),
                ..ExecSpec::default()
            };
            let payload = Bytes::from(spec.encode_to_vec());
            let job = Job {
                identity: Identity {
                    task: TaskId::from_raw(1 << 24).unwrap(),
                    attempt: 1,
                    array: None,
                },
                kind: "exec".to_owned(),
                runner: Runner::Exec,
                payload_bytes: byte_count(&payload),
                payload,
                policy: Arc::new(ExecPolicy::default().output_limit_bytes(worker_bytes)),
                output_limit_bytes: daemon_bytes,
                access: watch::channel(None).1,
            };
            let (_switch, stop) = crate::stop::stop_pair(0);
            match run(job, stop, || {}).await {
                Finish::Ended(ending) => ending,
                Finish::NotBegun(why) => panic!("{why}"),
            }
        };
        let large = ENVELOPE_BYTES + 2_000;
        for (worker, daemon, whose, limit) in [
            (4, large, LimitOf::Worker, 4),
            (4_000, ENVELOPE_BYTES + 8, LimitOf::Daemon, 4),
            (4_000, large, LimitOf::Unspecified, 0),
        ] {
            let ending = cut(worker, daemon).await;
            assert_eq!(ending.outcome.output_cut, whose != LimitOf::Unspecified);
            assert_eq!(ending.output.cut_by(), whose);
            assert_eq!(ending.output.cut_limit_bytes, limit);
        }
    }

    #[test]
    fn unwanted_output_is_left_out_only_of_success() {
        let good = Ending::of_bytes(Bytes::from_static(b"x"));
        assert!(good.encoded(true, 1000).1.is_empty());
        let mut bad = Ending::of_bytes(Bytes::from_static(b"x"));
        bad.outcome.code = 1;
        assert!(!bad.encoded(true, 1000).1.is_empty());
    }
}
