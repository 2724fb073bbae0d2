//! What a client wants to be done, as a builder over the wire's `TaskSpec`.

use core::time::Duration;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use bytes::Bytes;
use prost::Message as _;
use qtf_proto::v1::{Durability, EnvironmentVariable, ExecSpec, TaskSpec};

use crate::TaskId;
use crate::key::TaskKey;

/// One task to be submitted.
///
/// ```
/// use core::time::Duration;
/// use qtf_client::Task;
///
/// let task = Task::exec(["convert", "in.png", "out.jpg"])
///     .working_directory("/srv/images")
///     .env("OMP_NUM_THREADS", "1")
///     .priority(200)
///     .timeout(Duration::from_secs(30))
///     .retries(2);
/// assert_eq!(task.kind(), "exec");
/// ```
#[derive(Clone, Debug)]
pub struct Task {
    spec: TaskSpec,
    /// Of an exec task; encoded into the payload when the task is submitted.
    exec: Option<ExecSpec>,
}

impl Task {
    /// A program with its arguments, run without a shell. Any bytes but NUL may stand in arguments.
    pub fn exec<A: AsRef<OsStr>>(argv: impl IntoIterator<Item = A>) -> Self {
        let argv = argv.into_iter().map(|arg| bytes_of(arg.as_ref())).collect();
        Self {
            spec: TaskSpec {
                kind: "exec".to_owned(),
                ..TaskSpec::default()
            },
            exec: Some(ExecSpec {
                argv,
                ..ExecSpec::default()
            }),
        }
    }

    /// A call of a handler that some worker has registered under this name.
    pub fn handler(kind: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Self {
            spec: TaskSpec {
                kind: kind.into(),
                payload: payload.into(),
                ..TaskSpec::default()
            },
            exec: None,
        }
    }

    /// "exec" or the handler's name.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.spec.kind
    }

    /// Directory the program runs in; else the worker's own. No effect on a handler task.
    #[must_use]
    pub fn working_directory(mut self, directory: impl AsRef<Path>) -> Self {
        if let Some(exec) = &mut self.exec {
            exec.working_directory = bytes_of(directory.as_ref().as_os_str());
        }
        self
    }

    /// Sets a variable in addition to the worker's base environment. No effect on a handler task.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        if let Some(exec) = &mut self.exec {
            exec.environment.push(EnvironmentVariable {
                name: bytes_of(name.as_ref()),
                value: bytes_of(value.as_ref()),
            });
        }
        self
    }

    /// Bytes on the program's standard input; else it is empty. No effect on a handler task.
    #[must_use]
    pub fn stdin(mut self, stdin: impl Into<Bytes>) -> Self {
        if let Some(exec) = &mut self.exec {
            exec.stdin = stdin.into();
        }
        self
    }

    /// Exit codes of the program after which no attempt would end better: the task has failed then, whatever retries it has left. No effect
    /// on a handler task.
    #[must_use]
    pub fn final_exit_codes(mut self, codes: impl IntoIterator<Item = u8>) -> Self {
        if let Some(exec) = &mut self.exec {
            exec.final_exit_codes
                .extend(codes.into_iter().map(u32::from));
        }
        self
    }

    /// Exit codes of the program that say "not now": the task is handed out again after this pause (30 days at most; zero is that before a first
    /// retry), which is neither a failure nor a loss. No effect on a handler task.
    #[must_use]
    pub fn again_exit_codes(
        mut self,
        codes: impl IntoIterator<Item = u8>,
        pause: Duration,
    ) -> Self {
        if let Some(exec) = &mut self.exec {
            exec.again_exit_codes
                .extend(codes.into_iter().map(u32::from));
            exec.again_after_ms = millis_up(pause);
        }
        self
    }

    /// 0 to 255, higher first; 128 when not set.
    #[must_use]
    pub fn priority(mut self, priority: u8) -> Self {
        self.spec.priority = Some(priority.into());
        self
    }

    /// Longest run time of one attempt, in whole milliseconds, rounded up; zero means no limit.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.spec.timeout_ms = u32::try_from(millis_up(timeout)).unwrap_or(u32::MAX);
        self
    }

    /// Attempts after the first that failures may use; 0 to 253. Lost workers use a budget of their own: a task whose worker is
    /// lost is handed out again three times, and is a dead letter when it loses the fourth. See [`Task::at_most_once`].
    #[must_use]
    pub fn retries(mut self, retries: u32) -> Self {
        self.spec.retries = retries;
        self
    }

    /// Never hands the task out again once a worker may have begun it: when that worker is lost, the task is a dead letter at
    /// once. Goes with no retries only.
    #[must_use]
    pub fn at_most_once(mut self) -> Self {
        self.spec.at_most_once = true;
        self
    }

    /// Expected run time.
    #[must_use]
    pub fn estimate(mut self, estimate: Duration) -> Self {
        self.spec.estimate_ms = u32::try_from(millis_up(estimate)).unwrap_or(u32::MAX);
        self
    }

    /// How long the result is kept if nobody acknowledges it; else the daemon's time, longer where the task failed.
    #[must_use]
    pub fn keep(mut self, keep: Duration) -> Self {
        self.spec.keep_ms = millis_up(keep);
        self
    }

    /// Earliest start, counted from acceptance.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.spec.delay_ms = millis_up(delay);
        self
    }

    /// Not to be started before it is [released](crate::Client::release).
    #[must_use]
    pub fn hold(mut self) -> Self {
        self.spec.hold = true;
        self
    }

    /// How durable the task is when it is answered; else the daemon's default.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.spec.durability = durability.into();
        self
    }

    /// Names the submission: submitting with a key that the daemon knows gives the first task of this key
    /// instead of another one. Without it the client gives each submission a key of its own, so that it
    /// can repeat what was not answered.
    #[must_use]
    pub fn key(mut self, key: impl Into<TaskKey>) -> Self {
        self.spec.idempotency_key = key.into().on_the_wire();
        self
    }

    /// How long the daemon knows the key, counted from the first submission; 1 h when not set. No effect
    /// without a key.
    #[must_use]
    pub fn key_ttl(mut self, ttl: Duration) -> Self {
        self.spec.key_ttl_ms = millis_up(ttl);
        self
    }

    /// Frees the slot as soon as the task has succeeded; its output is not kept.
    #[must_use]
    pub fn discard_result(mut self) -> Self {
        self.spec.discard_result = true;
        self
    }

    /// Makes the task member `index` of an array. `first` is the id of the first member, and `None` in
    /// the first member itself and for [`Client::submit_array`](crate::Client::submit_array), which knows.
    #[must_use]
    pub fn array(mut self, first: Option<TaskId>, index: u64) -> Self {
        self.spec.array_member = true;
        self.spec.array_id = first.map_or(0, TaskId::as_raw);
        self.spec.array_index = index;
        self
    }

    /// The wire form, with the whole payload inside, whatever its size.
    pub(crate) fn into_spec(self) -> TaskSpec {
        let mut spec = self.spec;
        if let Some(exec) = self.exec {
            spec.payload = exec.encode_to_vec().into();
        }
        spec
    }
}

fn bytes_of(text: &OsStr) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn millis_up(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exec_payload_holds_every_byte_of_its_arguments() {
        let odd = OsStr::from_bytes(b"a b\n'\xff\"");
        let spec = Task::exec([OsStr::new("echo"), odd])
            .env("K", "v=1")
            .stdin("in")
            .working_directory("/tmp")
            .into_spec();
        let exec = ExecSpec::decode(spec.payload).unwrap();
        assert_eq!(exec.argv[1], odd.as_bytes());
        assert_eq!(exec.environment[0].value, "v=1");
        assert_eq!(exec.stdin, "in");
        assert_eq!(exec.working_directory, "/tmp");
    }

    #[test]
    fn times_are_rounded_up_to_milliseconds_and_saturate() {
        let spec = Task::handler("noop", "")
            .timeout(Duration::from_micros(1))
            .estimate(Duration::MAX)
            .delay(Duration::from_millis(7))
            .into_spec();
        assert_eq!(spec.timeout_ms, 1);
        assert_eq!(spec.estimate_ms, u32::MAX);
        assert_eq!(spec.delay_ms, 7);
    }
}
