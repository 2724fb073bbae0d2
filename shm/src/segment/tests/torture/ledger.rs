//! The model outside of the segment: what the log says, and what must be true of it.
//!
//! | line | said | means |
//! |---|---|---|
//! | `try ID` | before publication | the id may exist |
//! | `acc ID` | after it returned | accepted: must end in exactly one outcome |
//! | `hol ID` | after it was held, or before it was submitted so | not to be executed from here on |
//! | `rel ID` | before it is released | it may be |
//! | `exe ID ATTEMPT NONCE` | after a take | an execution |
//! | `end ID ATTEMPT NONCE CODE` | after the end was recorded | with code 0 it is the task's outcome for ever |
//! | `out ID PHASE ATTEMPT NONCE` | before the slot is freed | the outcome that the client gets; again only if the daemon dies |
//! | `fre ID` | after that | the id never comes back |
//! | `kil PLACE` | just before a process kills itself | |
//! | `saw PLACES` | at the end of a process that lived | where it has written |

use std::collections::{BTreeMap, BTreeSet};

/// An outcome as delivered: phase, attempt, nonce.
type Outcome = (String, u8, String);

/// Everything known of a task.
#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own, and all combinations occur"
)]
struct Known {
    tried: bool,
    accepted: bool,
    held: bool,
    /// Nonce by attempt.
    executed: BTreeMap<u8, String>,
    /// Attempt and nonce of the end with code 0.
    ended_well: Option<(u8, String)>,
    delivered: Option<Outcome>,
    freed: bool,
}

/// The sum of all logs.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    tasks: BTreeMap<u64, Known>,
    pub(super) killed_at: BTreeSet<String>,
    pub(super) seen: BTreeSet<String>,
    pub(super) accepted: u64,
    pub(super) delivered: u64,
    pub(super) executed: u64,
}

impl Ledger {
    /// Takes lines in, and checks each against what is known.
    pub(super) fn read(&mut self, text: &str) {
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |index: usize| words[index].parse::<u64>().unwrap();
            match words[0] {
                "kil" => {
                    self.killed_at.insert(words[1].to_owned());
                }
                "saw" => {
                    let places = words[1..].iter().filter(|place| !place.is_empty());
                    self.seen.extend(places.map(|&place| place.to_owned()));
                }
                _ => self.read_task(line, &words, number(1)),
            }
        }
    }

    fn read_task(&mut self, line: &str, words: &[&str], id: u64) {
        let attempt = |index: usize| words[index].parse::<u8>().unwrap();
        let known = self.tasks.entry(id).or_default();
        match words[0] {
            "try" => assert!(
                !std::mem::replace(&mut known.tried, true),
                "{line}: an id came twice"
            ),
            "acc" => {
                assert!(
                    !std::mem::replace(&mut known.accepted, true),
                    "{line}: twice"
                );
                self.accepted += 1;
            }
            "exe" => {
                assert!(known.tried, "{line}: of a task that nobody submitted");
                assert!(!known.freed, "{line}: executed after it was freed");
                assert!(!known.held, "{line}: executed while it was held");
                self.executed += 1;
                let before = known.executed.insert(attempt(2), words[3].to_owned());
                assert_eq!(before, None, "{line}: an attempt was executed twice");
            }
            "hol" => known.held = true,
            "rel" => known.held = false,
            "end" if words[4] == "0" => {
                let end = (attempt(2), words[3].to_owned());
                let before = known.ended_well.replace(end);
                assert_eq!(before, None, "{line}: it had ended before");
            }
            "end" => {}
            "out" => {
                let outcome = (words[2].to_owned(), attempt(3), words[4].to_owned());
                match &known.delivered {
                    Some(before) => assert_eq!(*before, outcome, "{line}: two outcomes"),
                    None => {
                        self.delivered += 1;
                        known.delivered = Some(outcome);
                    }
                }
            }
            "fre" => assert!(
                !std::mem::replace(&mut known.freed, true),
                "{line}: freed twice"
            ),
            _ => panic!("{line}"),
        }
    }

    /// Places in the sources where a process has written, and that none was killed at.
    pub(super) fn missed(&self) -> Vec<String> {
        let missed = self.seen.difference(&self.killed_at);
        missed.cloned().collect()
    }

    /// To be called when nothing is left in the segment: every accepted task has its one outcome. Forgets them.
    pub(super) fn settle(&mut self) {
        for (id, known) in std::mem::take(&mut self.tasks) {
            let Some((phase, attempt, nonce)) = &known.delivered else {
                assert!(
                    !known.accepted,
                    "task {id} was accepted and is lost: {known:?}"
                );
                assert!(
                    known.executed.is_empty(),
                    "task {id} was executed and is lost: {known:?}"
                );
                continue;
            };
            assert!(known.tried, "task {id} came from nowhere: {known:?}");
            let executed = known.executed.get(attempt);
            assert_eq!(
                executed,
                Some(nonce),
                "task {id}: the result is not that attempt's: {known:?}"
            );
            if let Some((attempt_well, nonce_well)) = &known.ended_well {
                let recorded = (phase.as_str(), *attempt, nonce);
                assert_eq!(
                    recorded,
                    ("done", *attempt_well, nonce_well),
                    "task {id}: {known:?}"
                );
            }
        }
    }
}
