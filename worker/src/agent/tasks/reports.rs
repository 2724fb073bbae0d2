//! Which results went with which report, until all of them have their verdicts.
//!
//! A daemon may say of all results of a report at once that they are recorded, by the number of the report. Numbers rise as long as the
//! process lives, so that none means two reports. Tested in `tests`.

use std::collections::VecDeque;

use super::RunNumber;

#[derive(Debug)]
struct Sent {
    number: u64,
    runs: Vec<RunNumber>,
    /// How many of them have no verdict of their own.
    open: usize,
}

/// The reports over this link, in the order of their numbers.
#[derive(Debug, Default)]
pub(super) struct Reports {
    sent: VecDeque<Sent>,
    last_number: u64,
}

impl Reports {
    /// A number that no report had.
    pub(super) fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// These results go with the report of this number, the last that was given.
    pub(super) fn add(&mut self, number: u64, runs: Vec<RunNumber>) {
        let open = runs.len();
        self.sent.push_back(Sent { number, runs, open });
    }

    /// All results of this report have their verdict; nothing if it is none of this link.
    pub(super) fn take(&mut self, number: u64) -> Vec<RunNumber> {
        let sent = self.position(number).and_then(|at| self.sent.remove(at));
        sent.map(|sent| sent.runs).unwrap_or_default()
    }

    /// One of its results has a verdict of its own.
    pub(super) fn note_one(&mut self, number: u64) {
        let Some(at) = self.position(number) else {
            return;
        };
        let open = &mut self.sent[at].open;
        *open = open.saturating_sub(1);
        if *open == 0 {
            self.sent.remove(at);
        }
    }

    /// The link is gone: what had no verdict is reported again.
    pub(super) fn clear(&mut self) {
        self.sent.clear();
    }

    fn position(&self, number: u64) -> Option<usize> {
        self.sent
            .binary_search_by_key(&number, |sent| sent.number)
            .ok()
    }
}
