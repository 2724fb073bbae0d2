//! Whether the books balance: what must hold of the ledgers of all clients and of the runs, once the system has come to
//! rest.
//!
//! Each task was accepted under one id, and no id is another's; it has one end, which is one that it can have, of an
//! attempt that really ran; a client was told of it once in each of its lives, and always the same; what was answered to a
//! cancellation came true; no attempt ran twice, and a task that may run once ran once. With the segment lost now and
//! then, a memory task may be lost, and the number of an attempt may be given twice. Tested at the end of this file.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::ledger::{Ledger, Page, Story, Told};
use crate::workload::{Act, Work};

/// What the clients were to do.
#[derive(Clone, Copy, Debug)]
pub struct Orders {
    /// Chooses the work of each task.
    pub seed: u64,
    /// Tasks of each client.
    pub tasks: u64,
    /// The segment was lost with the daemon.
    pub is_cold: bool,
}

/// Attempts that ran, by task: number of the attempt and number of the task.
pub type Runs = HashMap<String, Vec<(u32, u64)>>;

/// How many tasks ended in which way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ends(BTreeMap<String, u64>);

impl Ends {
    fn count(&mut self, state: &str) {
        *self.0.entry(state.to_owned()).or_default() += 1;
    }

    /// So many ended in this state.
    #[must_use]
    pub fn of(&self, state: &str) -> u64 {
        self.0.get(state).copied().unwrap_or(0)
    }

    /// All of them, as `cargo xtask soak` counts.
    #[must_use]
    pub fn said(&self) -> String {
        let parts: Vec<String> = self
            .0
            .iter()
            .map(|(state, count)| format!("{count} {}", state.replace('_', " ")))
            .collect();
        parts.join(", ")
    }
}

/// Checks the ledgers of all clients, by name.
///
/// # Errors
/// Everything that is not as it must be, one line each.
pub fn check(
    orders: &Orders,
    ledgers: &[(String, Ledger)],
    runs: &Runs,
) -> Result<Ends, Vec<String>> {
    let mut ids = HashSet::new();
    let mut ends = Ends::default();
    let mut faults = Vec::new();
    for (client, ledger) in ledgers {
        for number in 0..orders.tasks {
            let work = Work::of(orders.seed, client, number);
            let nothing = Page::default();
            let page = ledger.pages.get(&number).unwrap_or(&nothing);
            let mut fault = |what: String| {
                faults.push(format!(
                    "task {number} of {client}, {work:?}: {what}; {page:?}"
                ));
            };
            match check_page(orders, &work, (number, page), runs) {
                Ok(state) => ends.count(&state),
                Err(what) => fault(what),
            }
            for id in page.accepted.iter().collect::<HashSet<_>>() {
                if !ids.insert(id.clone()) {
                    fault(format!("{id} is another task's, too"));
                }
                let ran = runs.get(id).map_or(&[][..], Vec::as_slice);
                if let Err(what) = check_runs(orders, &work, number, ran) {
                    fault(what);
                }
            }
        }
    }
    if faults.is_empty() {
        Ok(ends)
    } else {
        Err(faults)
    }
}

/// Returns the state in which the task has ended.
fn check_page(
    orders: &Orders,
    work: &Work,
    (number, page): (u64, &Page),
    runs: &Runs,
) -> Result<String, String> {
    let may_be_lost = work.is_memory && orders.is_cold;
    let Some(first) = page.accepted.first() else {
        return Err("it was not accepted".to_owned());
    };
    if !may_be_lost && page.accepted.iter().any(|again| again != first) {
        return Err("it has two ids".to_owned());
    }
    let Some((_, told)) = page.told.first() else {
        return match page.lost.is_empty() {
            true => Err("it has no end".to_owned()),
            false if may_be_lost => Ok("lost".to_owned()),
            false => Err("it is lost".to_owned()),
        };
    };
    if !may_be_lost && !page.lost.is_empty() {
        return Err("it was lost, too".to_owned());
    }
    check_told(page)?;
    let story = Story {
        answers: &page.answers,
        runs: runs.get(&told.id).map_or(&[][..], Vec::as_slice),
    };
    if told.is_dropped {
        return Err("its output was dropped".to_owned());
    }
    if page.answers.iter().any(|answer| answer == "cancelled") && told.state != "cancelled" {
        return Err("its cancellation was final".to_owned());
    }
    work.check(number, told, &story)?;
    Ok(told.state.clone())
}

/// Once in each life, and always the same.
fn check_told(page: &Page) -> Result<(), String> {
    let mut lives = HashSet::new();
    let mut first: Option<&Told> = None;
    for (life, told) in &page.told {
        if !lives.insert(life) {
            return Err(format!("told twice in life {life}"));
        }
        if !page.accepted.contains(&told.id) {
            return Err("its end is of another task".to_owned());
        }
        let first = *first.get_or_insert(told);
        // Acknowledged in an earlier life, and forgotten while it was asked for again.
        let is_forgotten = told.is_bare() && !first.is_bare() && told.state == first.state;
        if first != told && !is_forgotten {
            return Err("its end has changed".to_owned());
        }
    }
    Ok(())
}

fn check_runs(orders: &Orders, work: &Work, number: u64, ran: &[(u32, u64)]) -> Result<(), String> {
    if ran.iter().any(|(_, of)| *of != number) {
        return Err(format!("attempts of it did another task's work: {ran:?}"));
    }
    let attempts: HashSet<u32> = ran.iter().map(|(attempt, _)| *attempt).collect();
    if !orders.is_cold && attempts.len() != ran.len() {
        return Err(format!("an attempt of it ran twice: {ran:?}"));
    }
    let is_remembered = !(work.is_memory && orders.is_cold);
    if work.act == Act::Once && is_remembered && ran.len() > 1 {
        return Err(format!("it may run once, and what ran is {ran:?}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: &str = "client-0";

    /// A seed under which task 0 does this.
    fn seed_of(wanted: impl Fn(&Work) -> bool) -> u64 {
        (0..100_000)
            .find(|&seed| wanted(&Work::of(seed, CLIENT, 0)))
            .unwrap()
    }

    fn plain(work: &Work) -> bool {
        work.act == Act::Succeed && work.cancel_after.is_none() && !work.is_memory
    }

    fn balance(seed: u64, lines: &[&str], ran: &[(u32, u64)]) -> Result<Ends, Vec<String>> {
        let mut ledger = Ledger::default();
        for line in lines {
            ledger.take_line(line).unwrap();
        }
        let orders = Orders {
            seed,
            tasks: 1,
            is_cold: false,
        };
        let runs = Runs::from([("a".to_owned(), ran.to_vec())]);
        check(&orders, &[(CLIENT.to_owned(), ledger)], &runs)
    }

    const TOLD: &str = "told 0 a 2 done exited 0 false a 2 0";

    #[test]
    fn a_repeated_answer_a_second_attempt_and_a_second_telling_are_no_faults() {
        let lines = [
            "life",
            "accepted 0 a",
            "life",
            "accepted 0 a",
            TOLD,
            "life",
            TOLD,
        ];
        let ends = balance(seed_of(plain), &lines, &[(1, 0), (2, 0)]).unwrap();
        assert_eq!(ends.said(), "1 done");
        let forgotten = [
            lines[0],
            lines[1],
            TOLD,
            "life",
            "told 0 a 0 done exited 0 false ",
        ];
        assert!(balance(seed_of(plain), &forgotten, &[(2, 0)]).is_ok());
        let first = [lines[0], lines[1], forgotten[4]];
        assert!(balance(seed_of(plain), &first, &[(2, 0)]).is_err());
    }

    #[test]
    fn every_kind_of_loss_and_doubling_is_found() {
        let seed = seed_of(plain);
        let bad: [&[&str]; 10] = [
            &["life", "accepted 0 a"],
            &["life", TOLD],
            &["life", "accepted 0 a", "lost 0 a"],
            &["life", "accepted 0 a", "accepted 0 b", TOLD],
            &["life", "accepted 0 b", TOLD],
            &["life", "accepted 0 a", TOLD, TOLD],
            &[
                "life",
                "accepted 0 a",
                "told 0 a 3 done exited 0 false a 3 0",
            ],
            &[
                "life",
                "accepted 0 a",
                "told 0 a 2 done exited 0 true a 2 0",
            ],
            &[
                "life",
                "accepted 0 a",
                "told 0 a 2 cancelled cancelled 0 false ",
            ],
            &[
                "life",
                "accepted 0 a",
                TOLD,
                "life",
                "told 0 a 2 done exited 0 false a 2 1",
            ],
        ];
        for lines in bad {
            let found = balance(seed, lines, &[(1, 0), (2, 0)]);
            assert!(found.is_err(), "{lines:?}");
        }
        let good = ["life", "accepted 0 a", TOLD];
        assert!(
            balance(seed, &good, &[(2, 0), (2, 0)]).is_err(),
            "an attempt ran twice"
        );
        assert!(
            balance(seed, &good, &[(2, 0), (3, 1)]).is_err(),
            "another's work"
        );
    }

    #[test]
    fn an_answered_cancellation_comes_true() {
        let seed = seed_of(|work| {
            matches!(work.act, Act::SucceedLate { .. })
                && work.cancel_after.is_some()
                && !work.is_memory
        });
        let cancelled = "told 0 a 2 cancelled cancelled 0 false ";
        for (answer, told, is_good) in [
            ("running", TOLD, true),
            ("running", cancelled, true),
            ("cancelled", cancelled, true),
            ("cancelled", TOLD, false),
            ("refused WRONG_STATE", TOLD, true),
            (
                "running",
                "told 0 a 4 dead_letter worker_lost 0 false ",
                false,
            ),
            (
                "refused UNAVAILABLE",
                "told 0 a 4 dead_letter worker_lost 0 false ",
                true,
            ),
            (
                "refused UNAVAILABLE",
                "told 0 a 3 dead_letter worker_lost 0 false ",
                false,
            ),
        ] {
            let answer = format!("answered 0 a {answer}");
            let lines = ["life", "accepted 0 a", &answer, told];
            let found = balance(seed, &lines, &[(2, 0)]);
            assert_eq!(found.is_ok(), is_good, "{lines:?} {found:?}");
        }
    }

    #[test]
    fn what_may_run_once_is_found_when_it_runs_twice() {
        let seed = seed_of(|work| work.act == Act::Once && !work.is_memory);
        let lines = ["life", "accepted 0 a", TOLD];
        assert!(balance(seed, &lines, &[(2, 0)]).is_ok());
        assert!(balance(seed, &lines, &[(1, 0), (2, 0)]).is_err());
    }
}
