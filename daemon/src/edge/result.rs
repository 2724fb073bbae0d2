//! A result as it came: what is wrong with it, and how the engine takes it.
//!
//! Nothing is copied: its parts are parts of the frame of its report. Tested in `tests/daemon/dispatch.rs` and
//! `tests/daemon/sessions.rs`.

use qtf_engine::{Output, ResultReport, Said, TaskRef};
use qtf_proto::limits::INLINE_BYTES_MAX;
use qtf_proto::v1::OutcomeKind;
use qtf_proto::wire;
use qtf_proto::wire::Ended;
use qtf_shm::{TAIL_BYTES_MAX, TaskId};

use super::read;

/// LIMIT: the longest pause that a worker may ask for.
const AGAIN_AFTER_MS_MAX: u64 = 30 * 24 * 3_600 * 1_000;

/// Checks that a result is one, and gives its output; says what is wrong with it, and what to do.
pub(super) fn check<'r>(result: &Ended<'r>) -> Result<wire::Output<'r>, String> {
    let Some(outcome) = &result.outcome else {
        return Err("outcome is missing: say how the attempt ended".to_owned());
    };
    match OutcomeKind::try_from(outcome.kind) {
        Ok(OutcomeKind::Unspecified) => {
            return Err("outcome.kind is missing: say how the attempt ended".to_owned());
        }
        Ok(OutcomeKind::WorkerLost) => {
            return Err(
                "outcome.kind WORKER_LOST is the daemon's to give: report another, or nothing"
                    .to_owned(),
            );
        }
        Ok(_) => {}
        Err(_) => {
            return Err(format!(
                "outcome.kind {} is not known to this daemon: its protocol is in its reflection",
                outcome.kind
            ));
        }
    }
    if outcome.code > u32::from(u8::MAX) {
        return Err(format!(
            "outcome.code {} is over 255: it is an exit code, a signal or an errno",
            outcome.code
        ));
    }
    if outcome.again_after_ms > AGAIN_AFTER_MS_MAX {
        return Err(format!(
            "outcome.again_after_ms {} is over {AGAIN_AFTER_MS_MAX}, which is 30 days",
            outcome.again_after_ms
        ));
    }
    let bytes = result.output.len();
    if bytes > INLINE_BYTES_MAX {
        return Err(format!(
            "output of {bytes} bytes: more than {INLINE_BYTES_MAX} go through UploadOutput"
        ));
    }
    wire::Output::read(result.output).map_err(|error| format!("output is no TaskOutput: {error}"))
}

/// What is kept of an attempt that failed, should its output not be: message and standard error.
pub(super) fn said_of<'r>(result: &Ended<'r>, output: &wire::Output<'r>) -> Said<'r> {
    let succeeded = result
        .outcome
        .is_some_and(|outcome| outcome.kind() == OutcomeKind::Exited && outcome.code == 0);
    if succeeded {
        Said::default()
    } else if result.output.is_empty() {
        Said {
            stderr: result.stderr_tail,
            ..Said::default()
        }
    } else {
        Said {
            message: output.message,
            stderr: output.stderr,
        }
    }
}

/// As much as is kept of standard error.
pub(super) fn last_bytes(bytes: &[u8]) -> &[u8] {
    &bytes[bytes.len().saturating_sub(TAIL_BYTES_MAX)..]
}

/// The pause that a worker asks for before the next attempt.
fn pause_ns(outcome: &qtf_proto::v1::Outcome) -> Option<u64> {
    let is_asked = outcome.kind() == OutcomeKind::Again && outcome.again_after_ms > 0;
    is_asked.then(|| outcome.again_after_ms.saturating_mul(1_000_000))
}

/// A result as the engine takes it.
pub(super) fn report_of<'r>(
    result: &Ended<'r>,
    left: &wire::Output<'r>,
    output: Output<'r>,
) -> ResultReport<'r> {
    let mut outcome = read::outcome_from(result.outcome.as_ref());
    // Also of a worker that does not say so itself.
    outcome.output_cut |= left.is_cut;
    ResultReport {
        outcome,
        output,
        said: said_of(result, left),
        asked_pause_ns: result.outcome.as_ref().and_then(pause_ns),
    }
}

/// A result that needs nothing but the engine; `None` for any other.
#[inline]
pub(super) fn plain_report<'r>(result: &Ended<'r>) -> Option<(TaskRef, ResultReport<'r>)> {
    let left = check(result).ok()?;
    let asked = result.task?;
    if result.output_upload != 0 {
        return None;
    }
    let output = match result.output {
        [] => Output::None,
        bytes => Output::InMemory(bytes),
    };
    let reference = TaskRef {
        task: TaskId::from_raw(asked.task_id)?,
        attempt: asked.attempt,
    };
    Some((reference, report_of(result, &left, output)))
}
