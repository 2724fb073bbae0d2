//! How attempts of a task ended that failed or were lost, as they are shown.
//!
//! Tested at the end of this file and in `tests/tasks/`.

use std::io::{self, Write};

use qtf_proto::v1::{AttemptEnd, OutcomeKind, TaskInfo, TaskState};
use qtf_shown::text::visible;
use serde::{Serialize, Serializer};

use super::{OutcomeRecord, explain, worker_text};
use crate::durations::age;
use crate::output::JsonBytes;

/// LIMIT: lines of standard error that people are shown; the JSON has all that is kept.
const LINES_MAX: usize = 10;

/// The ends of a task's attempts that are kept.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Ends {
    /// The first first.
    ends: Vec<EndRecord>,
    /// Others that failed or were lost.
    ends_not_kept: u32,
}

/// The end of one attempt, in JSON and for people.
#[derive(Clone, Debug, Serialize)]
struct EndRecord {
    attempt: u32,
    worker: Option<String>,
    worker_name: String,
    age_ms: u64,
    outcome: Option<OutcomeRecord>,
    /// It was lost with its worker; else it failed.
    lost: bool,
    /// The outcome in words.
    ending: String,
    message: String,
    stderr_tail: Tail,
}

/// The end of an output.
#[derive(Clone, Debug)]
struct Tail(Vec<u8>);

impl Serialize for Tail {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        JsonBytes(&self.0).serialize(serializer)
    }
}

impl Tail {
    /// Without the rest of a character that was cut.
    fn of(bytes: &[u8]) -> Self {
        let is_rest = |byte: &&u8| **byte & 0xC0 == 0x80;
        let rest = bytes.iter().take(3).take_while(is_rest).count();
        Self(bytes[rest..].to_vec())
    }

    fn lines(&self) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.0);
        let mut last: Vec<String> = text
            .lines()
            .rev()
            .take(LINES_MAX)
            .map(str::to_owned)
            .collect();
        last.reverse();
        last
    }
}

impl From<&AttemptEnd> for EndRecord {
    fn from(end: &AttemptEnd) -> Self {
        let outcome = end.outcome.as_ref();
        EndRecord {
            attempt: end.attempt,
            worker: worker_text(end.worker_id),
            worker_name: end.worker_name.clone(),
            age_ms: end.age_ms,
            outcome: outcome.map(OutcomeRecord::from),
            lost: outcome.is_some_and(|outcome| outcome.kind() == OutcomeKind::WorkerLost),
            // An attempt that was put off says nothing of whether another one followed.
            ending: explain(TaskState::Delayed, outcome, &end.message),
            message: end.message.clone(),
            stderr_tail: Tail::of(&end.stderr_tail),
        }
    }
}

impl From<&TaskInfo> for Ends {
    fn from(info: &TaskInfo) -> Self {
        let ends: Vec<EndRecord> = info.ends.iter().map(EndRecord::from).collect();
        let kept = u32::try_from(ends.len()).unwrap_or(u32::MAX);
        Ends {
            ends,
            ends_not_kept: info
                .failures
                .saturating_add(info.losses)
                .saturating_sub(kept),
        }
    }
}

impl Ends {
    /// For people: a line each, and below it the last lines of its standard error.
    pub(crate) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        match (self.ends.len(), self.ends_not_kept) {
            (0, 0) => return Ok(()),
            (_, 0) => writeln!(out, "\nattempts that failed or were lost:")?,
            (0, lost) => writeln!(out, "\nattempts that failed or were lost: {lost}, not kept")?,
            (_, lost) => writeln!(
                out,
                "\nattempts that failed or were lost ({lost} others are not kept):"
            )?,
        }
        for end in &self.ends {
            let by = match (&end.worker, end.worker_name.as_str()) {
                (None, _) => String::new(),
                (Some(id), "") => format!(", on {id}"),
                (Some(id), name) => format!(", on {id} {name}"),
            };
            let line = format!(
                "  {}: {}{by}, {} ago",
                end.attempt,
                end.ending,
                age(end.age_ms)
            );
            writeln!(out, "{}", visible(&line))?;
            for line in end.stderr_tail.lines() {
                writeln!(out, "     | {}", visible(&line))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qtf_proto::v1::Outcome;

    fn info(ends: Vec<AttemptEnd>, failures: u32) -> TaskInfo {
        TaskInfo {
            ends,
            failures,
            ..TaskInfo::default()
        }
    }

    fn end(kind: OutcomeKind, code: u32, stderr: &'static [u8]) -> AttemptEnd {
        AttemptEnd {
            attempt: 2,
            worker_id: (1 << 16) | 3,
            worker_name: "builder".to_owned(),
            age_ms: 3_000,
            outcome: Some(Outcome {
                kind: kind.into(),
                code,
                result_dropped: false,
                output_cut: false,
                ..Outcome::default()
            }),
            stderr_tail: stderr.into(),
            ..AttemptEnd::default()
        }
    }

    fn written(info: &TaskInfo) -> String {
        let mut out = Vec::new();
        Ends::from(info).write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn end_is_shown_with_its_worker_and_the_last_lines_of_its_stderr() {
        let text = written(&info(vec![end(OutcomeKind::Exited, 3, b"a\n\x1bb\n")], 1));
        let expected = "\nattempts that failed or were lost:\n  2: exit code 3, on w3.1 builder, 3.0s ago\n     | a\n";
        assert!(text.starts_with(expected), "{text}");
        assert!(!text.contains('\u{1b}'));
        let many: &'static [u8] = b"1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n12\n";
        let text = written(&info(vec![end(OutcomeKind::Exited, 3, many)], 1));
        assert!(text.contains("| 3\n") && !text.contains("| 2\n"), "{text}");
    }

    #[test]
    fn those_that_are_not_kept_are_counted_and_nothing_is_said_of_none() {
        assert_eq!(written(&info(Vec::new(), 0)), "");
        assert!(written(&info(Vec::new(), 3)).ends_with("lost: 3, not kept\n"));
        let text = written(&info(vec![end(OutcomeKind::WorkerLost, 0, b"")], 4));
        assert!(text.contains("(3 others are not kept)"), "{text}");
        assert!(text.contains("2: its worker was lost, on"), "{text}");
    }

    #[test]
    fn character_that_was_cut_does_not_make_the_rest_unreadable() {
        let cut: &'static [u8] = &"ä€ok".as_bytes()[1..];
        let json = |stderr| {
            let ends = Ends::from(&info(vec![end(OutcomeKind::Exited, 1, stderr)], 1));
            serde_json::to_value(ends).unwrap()["ends"][0]["stderr_tail"].clone()
        };
        assert_eq!(json(cut), "€ok");
        assert_eq!(json(b"\xff\xfe")["base64"], "//4=");
    }
}
