//! What clients and runs of tasks have written down, in files that are only ever appended to, and what must hold of it.
//!
//! | file | line | means |
//! |---|---|---|
//! | `client-N.ledger` | `accepted NUMBER ID` | the answer to a submission has come |
//! | | `delivered NUMBER ID ATTEMPT STATE OUTPUT` | the end of the task has come, and is acknowledged after this line |
//! | `runs` | `ID ATTEMPT NUMBER` | an attempt of the task has run |
//!
//! A line is one `write`, so a killed process leaves it whole or not at all.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

/// The end of a task as a client has written it down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The task.
    pub id: String,
    /// The attempt whose outcome was recorded.
    pub attempt: u32,
    /// How it ended.
    pub state: String,
    /// What it printed, without the line's end.
    pub output: String,
}

/// The ledger of one client.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Ids by number, one for each answer.
    pub accepted: HashMap<u64, Vec<String>>,
    /// Ends by number.
    pub delivered: HashMap<u64, Vec<Delivery>>,
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

    fn take_line(&mut self, line: &str) -> Option<()> {
        let mut words = line.splitn(6, ' ');
        let (what, number, id) = (words.next()?, words.next()?, words.next()?);
        let number = number.parse().ok()?;
        match what {
            "accepted" => self.accepted.entry(number).or_default().push(id.to_owned()),
            "delivered" => {
                let delivery = Delivery {
                    id: id.to_owned(),
                    attempt: words.next()?.parse().ok()?,
                    state: words.next()?.to_owned(),
                    output: words.next()?.to_owned(),
                };
                self.delivered.entry(number).or_default().push(delivery);
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

/// Checks the ledgers of all clients against the runs: each of `count` tasks of each client was accepted under one id,
/// ended once, well, and as an attempt that really ran; no id belongs to two tasks.
///
/// # Panics
/// When that is not so; says of which task.
pub fn check(ledgers: &[Ledger], count: u64, runs: &HashMap<String, Vec<(u32, u64)>>) {
    let mut ids = HashSet::new();
    for (client, ledger) in ledgers.iter().enumerate() {
        assert_eq!(
            ledger.delivered.len() as u64,
            count,
            "ends of client {client}"
        );
        for number in 0..count {
            let who = format!("task {number} of client {client}");
            let accepted = ledger
                .accepted
                .get(&number)
                .unwrap_or_else(|| panic!("{who} was not accepted"));
            let id = &accepted[0];
            assert!(
                accepted.iter().all(|again| again == id),
                "{who} has two ids: {accepted:?}"
            );
            assert!(ids.insert(id.clone()), "{who}: {id} is another task's, too");
            let [end] = ledger.delivered.get(&number).map_or(&[][..], Vec::as_slice) else {
                panic!(
                    "{who}, {id}: its ends are {:?}",
                    ledger.delivered.get(&number)
                );
            };
            assert_eq!(&end.id, id, "{who}");
            assert_eq!(end.state, "done", "{who}, {id}");
            assert_eq!(
                end.output,
                format!("{id} {} {number}", end.attempt),
                "{who}"
            );
            let ran = runs.get(id).map_or(&[][..], Vec::as_slice);
            assert!(
                ran.contains(&(end.attempt, number)),
                "{who}, {id}: the end is of attempt {}, and what ran is {ran:?}",
                end.attempt
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(lines: &[&str]) -> Ledger {
        let mut ledger = Ledger::default();
        for line in lines {
            ledger.take_line(line).unwrap();
        }
        ledger
    }

    fn ran(runs: &[(&str, u32, u64)]) -> HashMap<String, Vec<(u32, u64)>> {
        let mut all: HashMap<String, Vec<(u32, u64)>> = HashMap::new();
        for (id, attempt, number) in runs {
            all.entry((*id).to_owned())
                .or_default()
                .push((*attempt, *number));
        }
        all
    }

    const GOOD: [&str; 3] = ["accepted 0 a", "accepted 0 a", "delivered 0 a 2 done a 2 0"];

    #[test]
    fn a_repeated_answer_and_a_second_attempt_are_no_faults() {
        check(&[ledger(&GOOD)], 1, &ran(&[("a", 1, 0), ("a", 2, 0)]));
    }

    #[test]
    fn every_kind_of_loss_and_doubling_is_found() {
        let runs = [("a", 1, 0), ("a", 2, 0), ("b", 1, 0)];
        let bad: [&[&str]; 6] = [
            &["accepted 0 a"],
            &["accepted 0 a", "accepted 0 b", "delivered 0 a 2 done a 2 0"],
            &["accepted 0 a", "delivered 0 b 1 done b 1 0"],
            &["accepted 0 a", "delivered 0 a 2 dead_letter a 2 0"],
            &["accepted 0 a", "delivered 0 a 3 done a 3 0"],
            &[
                "accepted 0 a",
                "delivered 0 a 1 done a 1 0",
                "delivered 0 a 2 done a 2 0",
            ],
        ];
        for lines in bad {
            let found = std::panic::catch_unwind(|| check(&[ledger(lines)], 1, &ran(&runs)));
            assert!(found.is_err(), "{lines:?}");
        }
        let twice =
            std::panic::catch_unwind(|| check(&[ledger(&GOOD), ledger(&GOOD)], 1, &ran(&runs)));
        assert!(twice.is_err(), "two tasks have one id");
    }
}
