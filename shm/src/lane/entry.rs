//! What is said through a lane: commands to the core, events from it, and how they lie in an entry.
//!
//! ```text
//! entry, four words: what 8 | flags 8 | count 16 | number 32; task id; two words by `what`
//!
//! command      count  task            words                     answered by
//! 1 submit            the task        -                         accepted, refused
//! 2 cancel            the task        -                         accepted, refused
//! 3 forget            the task        -                         accepted, refused
//! 4 watch             the task        -                         accepted, refused; then ended
//! 5 credits    how many  -            -                         accepted, refused
//! 6 result     fence  the task        outcome; result           accepted, refused
//! 7 update            the task        priority                  accepted, refused
//! 8 hello             -               -                         welcome, refused
//! 9 acknowledge how many  the first   the second; the third     nothing
//!
//! event        flags             count  task       words
//! 1 accepted   1 a repeat,       -      the task   phase; the task that was asked about
//!              2 result expired
//! 2 refused    -                 -      the task   reason; milliseconds
//! 3 assign     -                 fence  the task   -
//! 4 stop       -                 fence  the task   flags of the state word
//! 5 ended      -                 -      the task   phase
//! 6 lost       -                 -      -          -
//! 7 welcome    1 no ends         -      -          number of the client record
//! ```
//! Answers repeat the number of their command, but for an acknowledgement, which has none: it stays until it was acted upon, and nobody waits for it. Stop, ended and lost have none. Both sides read what the other has written as they would read anything of
//! a stranger: what is unknown, or names no task, is [`None`].
//!
//! Tested at the end of this file.

use crate::id::{ClientIndex, TaskId};
use crate::lane::ring::{ENTRY_WORDS, EntryWords};
use crate::task::phase::Phase;

const SUBMIT: u8 = 1;
const CANCEL: u8 = 2;
const FORGET: u8 = 3;
const WATCH: u8 = 4;
const CREDITS: u8 = 5;
const RESULT: u8 = 6;
const UPDATE: u8 = 7;
const HELLO: u8 = 8;
const ACKNOWLEDGE: u8 = 9;

/// LIMIT: tasks that one entry acknowledges.
pub const ACKNOWLEDGED_MAX: usize = ENTRY_WORDS - 1;

const ACCEPTED: u8 = 1;
const REFUSED: u8 = 2;
const ASSIGN: u8 = 3;
const STOP: u8 = 4;
const ENDED: u8 = 5;
const LOST: u8 = 6;
const WELCOME: u8 = 7;

/// Of an accepted submission: the task is that of an earlier one with the same key.
const IS_REPEAT: u8 = 1;
/// Of a repeat: its result is not kept any more.
const RESULT_EXPIRED: u8 = 2;
/// Of a welcome: the record is shared with others, so ends of its tasks come to no lane.
const NO_ENDS: u8 = 1;

/// What an owner asks of the core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// To be a client, by the name of the attach record.
    Hello,
    /// To judge a task of its own that it has made SUBMITTED.
    Submit(TaskId),
    /// To cancel a task.
    Cancel(TaskId),
    /// To acknowledge the result of a task, which frees its slot.
    Forget(TaskId),
    /// To be told of the end of a task that is not its own, or was submitted without the option.
    Watch(TaskId),
    /// So many more assignments may come. Not served yet.
    Credits(u16),
    /// An attempt that was assigned by the lane has ended. Not served yet.
    Result {
        /// The task.
        task: TaskId,
        /// Which attempt.
        fence: u16,
        /// How it ended, as the bits of the slot.
        outcome: u16,
        /// Where its result lies, as the bits of the slot.
        result: u64,
    },
    /// To give a waiting task another priority.
    Update {
        /// The task.
        task: TaskId,
        /// 0 to 255, higher first.
        priority: u8,
    },
    /// To acknowledge the results of up to three tasks, as [`Command::Forget`] does, without an answer.
    Acknowledge([Option<TaskId>; ACKNOWLEDGED_MAX]),
}

impl Command {
    /// The task that it is about.
    #[must_use]
    pub const fn task(self) -> Option<TaskId> {
        match self {
            Self::Hello | Self::Credits(_) => None,
            Self::Submit(task)
            | Self::Cancel(task)
            | Self::Forget(task)
            | Self::Watch(task)
            | Self::Result { task, .. }
            | Self::Update { task, .. } => Some(task),
            Self::Acknowledge([first, ..]) => first,
        }
    }

    /// As it lies in an entry, under a number.
    #[must_use]
    pub const fn encode(self, number: u32) -> EntryWords {
        match self {
            Self::Hello => [head(HELLO, 0, 0, number), 0, 0, 0],
            Self::Submit(task) => [head(SUBMIT, 0, 0, number), task.as_raw(), 0, 0],
            Self::Cancel(task) => [head(CANCEL, 0, 0, number), task.as_raw(), 0, 0],
            Self::Forget(task) => [head(FORGET, 0, 0, number), task.as_raw(), 0, 0],
            Self::Watch(task) => [head(WATCH, 0, 0, number), task.as_raw(), 0, 0],
            Self::Credits(count) => [head(CREDITS, 0, count, number), 0, 0, 0],
            Self::Result {
                task,
                fence,
                outcome,
                result,
            } => [
                head(RESULT, 0, fence, number),
                task.as_raw(),
                outcome as u64,
                result,
            ],
            Self::Update { task, priority } => [
                head(UPDATE, 0, 0, number),
                task.as_raw(),
                priority as u64,
                0,
            ],
            Self::Acknowledge(tasks) => {
                let [first, second, third] = tasks;
                let (first, second, third) = (raw(first), raw(second), raw(third));
                let count = (first != 0) as u16 + (second != 0) as u16 + (third != 0) as u16;
                [head(ACKNOWLEDGE, 0, count, number), first, second, third]
            }
        }
    }

    /// What an entry says, with its number; no command if it says nothing that is known.
    #[must_use]
    pub fn decode(words: EntryWords) -> (u32, Option<Self>) {
        let ([what, _], count, number) = parts(words[0]);
        let task = TaskId::from_raw(words[1]);
        let command = match what {
            HELLO => Some(Self::Hello),
            SUBMIT => task.map(Self::Submit),
            CANCEL => task.map(Self::Cancel),
            FORGET => task.map(Self::Forget),
            WATCH => task.map(Self::Watch),
            CREDITS => Some(Self::Credits(count)),
            RESULT => task
                .zip(u16::try_from(words[2]).ok())
                .map(|(task, outcome)| Self::Result {
                    task,
                    fence: count,
                    outcome,
                    result: words[3],
                }),
            UPDATE => task
                .zip(u8::try_from(words[2]).ok())
                .map(|(task, priority)| Self::Update { task, priority }),
            ACKNOWLEDGE => {
                let [_, tasks @ ..] = words;
                Some(Self::Acknowledge(tasks.map(TaskId::from_raw)))
            }
            _ => None,
        };
        (number, command)
    }
}

/// What the core tells an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The command with this number is done. Of a journal task: and it is durable.
    Accepted {
        /// Number of the command.
        number: u32,
        /// The task; of a repeated submission the first one of its key.
        task: TaskId,
        /// The task that the command was about.
        asked: TaskId,
        /// Where the task stands; [`Phase::Free`] if its slot was freed.
        phase: Phase,
        /// A submission with a key that was known: the slot that was submitted is free again.
        is_repeat: bool,
        /// Of a repeat: the first one's result is not kept any more.
        result_expired: bool,
    },
    /// The command with this number is refused; a slot that was submitted is free again.
    Refused {
        /// Number of the command.
        number: u32,
        /// The task that it was about.
        task: Option<TaskId>,
        /// Why: the number of a `RejectReason` of the contract.
        reason: u16,
        /// When to ask again, in milliseconds from now; 0: the same would be refused again.
        retry_after_ms: u32,
    },
    /// An attempt for the owner of the lane. Not said yet.
    Assign {
        /// The task.
        task: TaskId,
        /// Which attempt.
        fence: u16,
    },
    /// The owner's worker is to stop an attempt. The flags stand in the state word too.
    Stop {
        /// The task.
        task: TaskId,
        /// Which attempt.
        fence: u16,
        /// [`crate::FLAG_CANCEL`] and the others.
        flags: u8,
    },
    /// A task of its own, or one that it watches, has ended.
    Ended {
        /// The task.
        task: TaskId,
        /// How. The slot may be free by now, if nobody wanted the result.
        phase: Phase,
    },
    /// The owner's worker was given up: it has to join anew.
    Lost,
    /// The owner is a client.
    Welcome {
        /// Number of the command.
        number: u32,
        /// Its client record, to be named in its submissions.
        client: ClientIndex,
        /// Ends of tasks with this record come to this lane; otherwise each is to be watched.
        has_ends: bool,
    },
}

impl Event {
    /// As it lies in an entry.
    #[must_use]
    pub const fn encode(self) -> EntryWords {
        match self {
            Self::Accepted {
                number,
                task,
                asked,
                phase,
                is_repeat,
                result_expired,
            } => {
                let flags = is_repeat as u8 * IS_REPEAT + result_expired as u8 * RESULT_EXPIRED;
                [
                    head(ACCEPTED, flags, 0, number),
                    task.as_raw(),
                    phase as u64,
                    asked.as_raw(),
                ]
            }
            Self::Refused {
                number,
                task,
                reason,
                retry_after_ms,
            } => {
                let task = match task {
                    Some(task) => task.as_raw(),
                    None => 0,
                };
                [
                    head(REFUSED, 0, 0, number),
                    task,
                    reason as u64,
                    retry_after_ms as u64,
                ]
            }
            Self::Assign { task, fence } => [head(ASSIGN, 0, fence, 0), task.as_raw(), 0, 0],
            Self::Stop { task, fence, flags } => {
                [head(STOP, 0, fence, 0), task.as_raw(), flags as u64, 0]
            }
            Self::Ended { task, phase } => [head(ENDED, 0, 0, 0), task.as_raw(), phase as u64, 0],
            Self::Lost => [head(LOST, 0, 0, 0), 0, 0, 0],
            Self::Welcome {
                number,
                client,
                has_ends,
            } => {
                let flags = if has_ends { 0 } else { NO_ENDS };
                [head(WELCOME, flags, 0, number), 0, client.get() as u64, 0]
            }
        }
    }

    /// What an entry says; `None` if nothing that is known.
    #[must_use]
    pub fn decode(words: EntryWords) -> Option<Self> {
        let ([what, flags], fence, number) = parts(words[0]);
        let task = TaskId::from_raw(words[1]);
        let phase = || u8::try_from(words[2]).map(Phase::from_number).ok();
        Some(match what {
            ACCEPTED => Self::Accepted {
                number,
                task: task?,
                asked: TaskId::from_raw(words[3])?,
                phase: phase()?,
                is_repeat: flags & IS_REPEAT != 0,
                result_expired: flags & RESULT_EXPIRED != 0,
            },
            REFUSED => Self::Refused {
                number,
                task,
                reason: u16::try_from(words[2]).ok()?,
                retry_after_ms: u32::try_from(words[3]).ok()?,
            },
            ASSIGN => Self::Assign { task: task?, fence },
            STOP => Self::Stop {
                task: task?,
                fence,
                flags: u8::try_from(words[2]).ok()?,
            },
            ENDED => Self::Ended {
                task: task?,
                phase: phase()?,
            },
            LOST => Self::Lost,
            WELCOME => Self::Welcome {
                number,
                client: ClientIndex::new_checked(
                    u16::try_from(words[2]).ok()?,
                    u32::from(u16::MAX),
                )?,
                has_ends: flags & NO_ENDS == 0,
            },
            _ => return None,
        })
    }
}

const fn raw(task: Option<TaskId>) -> u64 {
    match task {
        Some(task) => task.as_raw(),
        None => 0,
    }
}

const fn head(what: u8, flags: u8, count: u16, number: u32) -> u64 {
    ((what as u64) << 56) | ((flags as u64) << 48) | ((count as u64) << 32) | number as u64
}

/// What and flags, count, number.
const fn parts(head: u64) -> ([u8; 2], u16, u32) {
    let [what, flags, high, low, a, b, c, d] = head.to_be_bytes();
    (
        [what, flags],
        u16::from_be_bytes([high, low]),
        u32::from_be_bytes([a, b, c, d]),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::SlotIndex;

    fn task(number: u64) -> TaskId {
        TaskId::from_raw((number << 24) | 7).unwrap()
    }

    #[test]
    fn every_command_comes_back_as_it_was_said() {
        let task = task(9);
        for command in [
            Command::Hello,
            Command::Submit(task),
            Command::Cancel(task),
            Command::Forget(task),
            Command::Watch(task),
            Command::Credits(700),
            Command::Result {
                task,
                fence: 4_095,
                outcome: 0x1003,
                result: u64::MAX,
            },
            Command::Update {
                task,
                priority: 255,
            },
            Command::Acknowledge([Some(task), None, None]),
            Command::Acknowledge([Some(task); 3]),
        ] {
            let read = Command::decode(command.encode(u32::MAX));
            assert_eq!(read, (u32::MAX, Some(command)));
        }
    }

    #[test]
    fn every_event_comes_back_as_it_was_said() {
        let (first, second) = (task(9), task(10));
        let mut events = vec![
            Event::Refused {
                number: 8,
                task: None,
                reason: 21,
                retry_after_ms: u32::MAX,
            },
            Event::Refused {
                number: 8,
                task: Some(first),
                reason: 1,
                retry_after_ms: 0,
            },
            Event::Assign {
                task: first,
                fence: 3,
            },
            Event::Stop {
                task: first,
                fence: 4_095,
                flags: 3,
            },
            Event::Ended {
                task: first,
                phase: Phase::DeadLetter,
            },
            Event::Lost,
        ];
        for answer in 0..4_u8 {
            events.push(Event::Accepted {
                number: 1 << 31,
                task: first,
                asked: second,
                phase: Phase::Quarantine,
                is_repeat: answer & 1 != 0,
                result_expired: answer & 2 != 0,
            });
            events.push(Event::Welcome {
                number: answer.into(),
                client: ClientIndex::new_checked(400, 1_000).unwrap(),
                has_ends: answer & 1 != 0,
            });
        }
        for event in events {
            assert_eq!(Event::decode(event.encode()), Some(event));
        }
    }

    #[test]
    fn entries_of_random_words_are_read_without_a_panic_and_name_tasks_only() {
        let mut rng = fastrand::Rng::with_seed(3);
        for _ in 0..20_000 {
            let mut words: EntryWords = core::array::from_fn(|_| rng.u64(..));
            if rng.bool() {
                words[0] = head(rng.u8(0..11), rng.u8(..), rng.u16(..), rng.u32(..));
                words[1] >>= rng.u32(0..64);
                words[2] >>= rng.u32(0..64);
            }
            if let (_, Some(command)) = Command::decode(words)
                && let Some(task) = command.task()
            {
                let _: SlotIndex = task.slot();
            }
            let _ = Event::decode(words);
        }
        assert_eq!(Command::decode([0; 4]), (0, None));
        assert_eq!(Event::decode([0; 4]), None);
    }
}
