//! What names an attempt in the calls of a worker without streams, and proves that it is the caller's.
//!
//! Hexadecimal numbers and points: worker, its secret, task, attempt. To callers it is opaque. Whoever has it may say how the attempt
//! ended, so it goes to nobody but the caller. Tested at the end of this file.

use std::fmt::Write as _;

use qtf_engine::TaskRef;
use qtf_shm::TaskId;
use tonic::Status;

use super::status;

/// An attempt, by the word of its caller: worker and secret are still to be checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AttemptToken {
    pub(crate) worker_id: u64,
    pub(crate) secret: u64,
    pub(crate) asked: TaskRef,
}

impl AttemptToken {
    /// As callers get it.
    pub(crate) fn text(self) -> String {
        let mut text = String::with_capacity(64);
        let (task, attempt) = (self.asked.task.as_raw(), self.asked.attempt);
        let written = write!(
            text,
            "{:x}.{:x}.{task:x}.{attempt:x}",
            self.worker_id, self.secret
        );
        debug_assert!(written.is_ok(), "a text takes all that is written to it");
        text
    }

    /// As callers give it back.
    pub(crate) fn read(text: &str) -> Result<Self, Status> {
        parse(text).ok_or_else(|| {
            status::invalid(
                "attempt_token is none: give that of a task from the answer of Reserve, letter by letter",
            )
        })
    }
}

fn parse(text: &str) -> Option<AttemptToken> {
    let mut parts = text.split('.').map(|part| {
        let is_number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_number.then(|| u64::from_str_radix(part, 16).ok())?
    });
    let mut next = || parts.next().flatten();
    let (worker_id, secret, task, attempt) = (next()?, next()?, next()?, next()?);
    let asked = TaskRef {
        task: TaskId::from_raw(task)?,
        attempt: u32::try_from(attempt).ok()?,
    };
    parts.next().is_none().then_some(AttemptToken {
        worker_id,
        secret,
        asked,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_is_read_back_as_it_was_given() {
        for (secret, attempt) in [(1, 1), (u64::MAX, 254)] {
            let token = AttemptToken {
                worker_id: 0x12_3004,
                secret,
                asked: TaskRef {
                    task: TaskId::from_raw(7 << 24).unwrap(),
                    attempt,
                },
            };
            assert_eq!(AttemptToken::read(&token.text()).unwrap(), token);
        }
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let wrong = [
            "",
            "...",
            "1.2.3",
            "1.2.3.4.5",
            "1.2.x.4",
            "+1.2.3.4",
            "1.2.3.ffffffffff",
            "11111111111111111.2.3.4",
            "1.2.ffffffffffffffff.4",
        ];
        for text in wrong {
            let refused = AttemptToken::read(text).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{text}");
        }
    }
}
