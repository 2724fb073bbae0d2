//! What Quantum Taskflow is meant to reach beside the others, with what it has reached in this run.

use super::contest::Work;
use super::peer::Peer;
use super::table::{Figures, Row, median};

/// What the row of Quantum Taskflow is called in every table where it is one.
pub(crate) const OWN: &str = "Quantum Taskflow";
/// And that of another build of it.
pub(crate) const EARLIER: &str = "an earlier build";
pub(crate) const BARE_PROGRAMS: &str = "start and wait, nothing between";
pub(crate) const FEW_WAITING: &str = "Quantum Taskflow, nothing waits";
pub(crate) const MEMORY: &str = "Quantum Taskflow in memory";
pub(crate) const SYNC: &str = "a synced write, nothing between";

type Figure = fn(&Figures) -> Option<f64>;

const RATE: Figure = |figures| Some(figures.rate);
const P50: Figure = |figures| figures.p50_us;
const P99: Figure = |figures| figures.p99_us;
const PROCESSOR: Figure = |figures| figures.processor_us;

/// The lines of a work. What was not measured has none.
pub(crate) fn lines(work: Work, rows: &[Row]) -> Vec<String> {
    let of = Rows(rows);
    let lines = match work {
        Work::AloneOneCore => of.alone_on_one_core(),
        Work::Alone => vec![at_most(
            "p50 against NATS core's",
            of.ratio(P50, Peer::Nats.name()),
            1.0,
        )],
        Work::Window => vec![of.rate_against_earlier(1.8)],
        Work::Many => of.many(),
        Work::Waiting => of.waiting(),
        Work::JournalAlone => vec![of.journal_alone()],
        Work::JournalWindow | Work::JournalMany => vec![of.rate_against_earlier(2.0)],
        Work::Programs => of.programs(),
        Work::EngineFew => vec![of.time_against_earlier(0.45)],
        Work::EngineMany => vec![of.time_against_earlier(0.6)],
        Work::Own => Vec::new(),
    };
    lines.into_iter().flatten().collect()
}

struct Rows<'a>(&'a [Row]);

impl Rows<'_> {
    fn row(&self, name: &str) -> Option<&Row> {
        self.0.iter().find(|row| row.name == name)
    }

    /// The median over the rounds of something about the own row.
    fn each(&self, of: impl Fn(&Figures) -> Option<f64>) -> Option<f64> {
        median(self.row(OWN)?.rounds.iter().filter_map(of))
    }

    /// The median over the rounds of something about the own row and others of the same round.
    fn against(
        &self,
        of: impl Fn(&Figures, &dyn Fn(&str, Figure) -> Option<f64>) -> Option<f64>,
    ) -> Option<f64> {
        let rounds = self.row(OWN)?.rounds.iter().enumerate();
        median(rounds.filter_map(|(round, own)| {
            of(own, &|name, figure| {
                figure(self.row(name)?.rounds.get(round)?)
            })
        }))
    }

    fn ratio(&self, figure: Figure, name: &str) -> Option<f64> {
        self.against(|own, of| Some(figure(own)? / of(name, figure)?))
    }
}

impl Rows<'_> {
    fn alone_on_one_core(&self) -> Vec<Option<String>> {
        let gearmand = self.ratio(P50, Peer::Gearmand.name());
        let nats = self.ratio(P50, Peer::Nats.name());
        let spread = self.each(|own| Some(P99(own)? / P50(own)?));
        vec![
            at_most("p50 against gearmand's", gearmand, 1.0),
            at_most("p50 against NATS core's", nats, 1.2),
            at_most("p99 against the p50", spread, 2.0),
        ]
    }

    fn many(&self) -> Vec<Option<String>> {
        let gearmand = self.ratio(RATE, Peer::Gearmand.name());
        let nats = self.ratio(RATE, Peer::Nats.name());
        let processor = self.each(PROCESSOR);
        vec![
            at_least("tasks/s against gearmand's", gearmand, 1.6),
            at_least("tasks/s against NATS core's", nats, 0.6),
            at_most("us of the daemon's processor for a task", processor, 0.9),
        ]
    }

    fn waiting(&self) -> Vec<Option<String>> {
        let redis = self.ratio(RATE, Peer::RedisSorted.name());
        let few = self.ratio(RATE, FEW_WAITING);
        vec![
            at_least("tasks/s against a redis sorted set's", redis, 4.0),
            at_least("tasks/s against those where nothing waits", few, 0.6),
        ]
    }

    fn journal_alone(&self) -> Option<String> {
        let what = "p50 against 2 synced writes and 1.2 x the own in memory";
        let ratio = self
            .against(|own, of| Some(P50(own)? / (2.0 * of(SYNC, P50)? + 1.2 * of(MEMORY, P50)?)));
        at_most(what, ratio, 1.0)
    }

    fn programs(&self) -> Vec<Option<String>> {
        let bare = self.ratio(RATE, BARE_PROGRAMS);
        let xargs = self.ratio(RATE, "xargs");
        vec![
            at_least("programs/s against bare starts", bare, 0.85),
            at_least("programs/s against xargs", xargs, 1.4),
        ]
    }

    fn rate_against_earlier(&self, bound: f64) -> Option<String> {
        let ratio = self.ratio(RATE, EARLIER);
        at_least("tasks/s against the earlier build's", ratio, bound)
    }

    fn time_against_earlier(&self, bound: f64) -> Option<String> {
        let ratio = self.ratio(P50, EARLIER);
        at_most("time against the earlier build's", ratio, bound)
    }
}

fn at_most(what: &str, value: Option<f64>, bound: f64) -> Option<String> {
    let value = value?;
    Some(line(what, value, ("at most", bound), value <= bound))
}

fn at_least(what: &str, value: Option<f64>, bound: f64) -> Option<String> {
    let value = value?;
    Some(line(what, value, ("at least", bound), value >= bound))
}

fn line(what: &str, value: f64, (side, bound): (&str, f64), is_met: bool) -> String {
    let met = if is_met { "met" } else { "not met" };
    format!("- {what}: {value:.2}, meant to be {side} {bound}: {met}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, p50: [f64; 2]) -> Row {
        let figures = p50.map(|p50_us| Figures {
            rate: 1_000_000.0 / p50_us,
            p50_us: Some(p50_us),
            p99_us: Some(3.0 * p50_us),
            processor_us: None,
        });
        Row {
            name: name.to_owned(),
            command: String::new(),
            rounds: figures.to_vec(),
        }
    }

    #[test]
    fn goal_is_judged_by_the_ratios_of_the_rounds_and_left_out_where_somebody_is_missing() {
        let rows = [row(OWN, [10.0, 100.0]), row("nats", [10.0, 100.0])];
        let lines = lines(Work::AloneOneCore, &rows);
        assert_eq!(lines.len(), 2, "gearmand took no part: {lines:?}");
        assert!(lines[0].contains("NATS core's: 1.00") && lines[0].ends_with(": met"));
        assert!(lines[1].contains("p99 against the p50: 3.00") && lines[1].ends_with("not met"));
    }

    #[test]
    fn journal_is_compared_with_its_syncs_and_with_the_way_without_it() {
        let rows = [
            row(OWN, [340.0, 34.0]),
            row(MEMORY, [50.0, 5.0]),
            row(SYNC, [140.0, 14.0]),
        ];
        let lines = lines(Work::JournalAlone, &rows);
        assert!(lines[0].contains(": 1.00, meant"), "{lines:?}");
    }
}
