//! What clients and runs of tasks have written down, in files that are only ever appended to.
//!
//! | file | line | means |
//! |---|---|---|
//! | `client-N.ledger` | `life` | the client was started |
//! | | `accepted NUMBER ID` | the answer to a submission has come |
//! | | `answered NUMBER ID ANSWER` | the answer to a cancellation has come: a state, or `refused` and the reason |
//! | | `told NUMBER ID ATTEMPT STATE KIND CODE DROPPED OUTPUT` | the end of the task has come, and is acknowledged after this line |
//! | | `lost NUMBER ID` | nobody knows the task any more |
//! | `runs` | `ID ATTEMPT NUMBER` | an attempt of the task has run |
//!
//! A line is one `write`, so a killed process leaves it whole or not at all. What must hold of it all is in
//! [`crate::books`]. Tested at the end of this file.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

/// The end of a task as a client has written it down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The task.
    pub id: String,
    /// The attempt whose outcome was recorded.
    pub attempt: u32,
    /// How it ended.
    pub state: String,
    /// Kind and code of the outcome.
    pub outcome: String,
    /// Its output could not be kept.
    pub is_dropped: bool,
    /// What it printed, see [`brief`].
    pub output: String,
}

impl Told {
    /// Told by a daemon whose slot was freed between the question and the answer: the state alone.
    #[must_use]
    pub const fn is_bare(&self) -> bool {
        self.attempt == 0
    }
}

/// What is known of one task of a client.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Its ids, one for each answer.
    pub accepted: Vec<String>,
    /// Answers to its cancellation.
    pub answers: Vec<String>,
    /// Its ends, with the life of the client that was told.
    pub told: Vec<(u32, Told)>,
    /// Ids that nobody knew any more.
    pub lost: Vec<String>,
}

impl Page {
    /// The client wants to know nothing more of it.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        !self.told.is_empty() || !self.lost.is_empty()
    }
}

/// What else is known of a task that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Story<'a> {
    /// Answers to its cancellation.
    pub answers: &'a [String],
    /// Attempts of it that ran, with the number each was given.
    pub runs: &'a [(u32, u64)],
}

impl Story<'_> {
    /// A client was answered that the task will be stopped.
    #[must_use]
    pub fn is_flagged(&self) -> bool {
        let flagged = ["cancelled", "assigned", "running", "ended"];
        self.answers
            .iter()
            .any(|answer| flagged.contains(&answer.as_str()))
    }
}

/// The ledger of one client.
#[derive(Debug, Default)]
pub struct Ledger {
    /// How often the client was started.
    pub lives: u32,
    /// By number.
    pub pages: HashMap<u64, Page>,
}

impl Ledger {
    /// Reads a ledger; one that does not exist is empty.
    ///
    /// # Errors
    /// It cannot be read, or a line of it means nothing.
    pub fn read(file: &Path) -> io::Result<Self> {
        let mut ledger = Self::default();
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(ledger),
            Err(error) => return Err(error),
        };
        for line in text.lines() {
            ledger
                .take_line(line)
                .ok_or_else(|| io::Error::other(format!("{}: {line:?}", file.display())))?;
        }
        Ok(ledger)
    }

    /// Takes in one line; `None` when it means nothing.
    pub fn take_line(&mut self, line: &str) -> Option<()> {
        if line == "life" {
            self.lives += 1;
            return Some(());
        }
        let mut words = line.splitn(9, ' ');
        let (what, number, id) = (words.next()?, words.next()?, words.next()?);
        let page = self.pages.entry(number.parse().ok()?).or_default();
        let id = id.to_owned();
        match what {
            "accepted" => page.accepted.push(id),
            "answered" => page.answers.push(words.collect::<Vec<_>>().join(" ")),
            "lost" => page.lost.push(id),
            "told" => {
                let told = Told {
                    id,
                    attempt: words.next()?.parse().ok()?,
                    state: words.next()?.to_owned(),
                    outcome: format!("{} {}", words.next()?, words.next()?),
                    is_dropped: words.next()?.parse().ok()?,
                    output: words.next()?.to_owned(),
                };
                page.told.push((self.lives, told));
            }
            _ => return None,
        }
        Some(())
    }

    /// A file to append lines to.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn append_to(file: &Path) -> io::Result<File> {
        OpenOptions::new().create(true).append(true).open(file)
    }
}

/// Appends one line by one call.
///
/// # Errors
/// It cannot be written whole.
pub fn append(mut file: &File, line: &str) -> io::Result<()> {
    let line = format!("{line}\n");
    let written = file.write(line.as_bytes())?;
    if written == line.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

/// An output in one short line: its first line, and behind it the number of zero bytes that follow, or that something
/// else does.
#[must_use]
pub fn brief(output: &[u8]) -> String {
    let end = output.iter().position(|byte| *byte == b'\n');
    let (line, rest) = output.split_at(end.unwrap_or(output.len()));
    let rest = rest.get(1..).unwrap_or_default();
    let line = String::from_utf8_lossy(line).into_owned();
    if rest.is_empty() {
        line
    } else if rest.iter().all(|byte| *byte == 0) {
        format!("{line} +{}", rest.len())
    } else {
        format!("{line} and {} other bytes", rest.len())
    }
}

/// The runs of all tasks: by id, the attempts and the number each was told.
///
/// # Panics
/// When a line means nothing.
#[must_use]
pub fn runs(file: &Path) -> HashMap<String, Vec<(u32, u64)>> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let mut runs: HashMap<String, Vec<(u32, u64)>> = HashMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [id, attempt, number] = words.as_slice() else {
            panic!("{}: {line:?}", file.display());
        };
        let run = (
            attempt.parse().expect("attempts are numbers"),
            number.parse().expect("numbers are numbers"),
        );
        runs.entry((*id).to_owned()).or_default().push(run);
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_back_with_the_life_in_which_they_were_written() {
        let mut ledger = Ledger::default();
        for line in [
            "life",
            "accepted 3 a.1",
            "life",
            "answered 3 a.1 refused WRONG_STATE",
            "told 3 a.1 2 done exited 0 false a.1 2 3 +70",
            "lost 4 b.1",
        ] {
            ledger.take_line(line).unwrap();
        }
        let page = &ledger.pages[&3];
        assert_eq!(page.answers, ["refused WRONG_STATE"]);
        let (life, told) = &page.told[0];
        assert_eq!((*life, told.attempt), (2, 2));
        assert_eq!(told.outcome, "exited 0");
        assert_eq!(told.output, "a.1 2 3 +70");
        assert!(ledger.pages[&4].is_closed());
        assert_eq!(ledger.take_line("nonsense 1 a"), None);
    }

    #[test]
    fn an_output_is_written_in_one_line_that_shows_every_change_of_it() {
        assert_eq!(brief(b""), "");
        assert_eq!(brief(b"a 1 2\n"), "a 1 2");
        assert_eq!(brief(b"a 1 2\n\0\0"), "a 1 2 +2");
        assert_eq!(brief(b"a 1 2\n\0x"), "a 1 2 and 2 other bytes");
    }
}
