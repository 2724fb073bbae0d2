//! Medians of rounds, and the table of a work.

/// What one run took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    /// Tasks a second.
    pub(crate) rate: f64,
    pub(crate) p50_us: Option<f64>,
    pub(crate) p99_us: Option<f64>,
    /// Processor time of daemon or broker for a task.
    pub(crate) processor_us: Option<f64>,
}

/// A line of a table: who, how it was run, what it took in each round.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) command: String,
    pub(crate) rounds: Vec<Figures>,
}

/// What is compared with the first row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compared {
    Rate,
    Median,
}

/// The middle of several, `None` of none.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.len().checked_sub(1)? / 2, values.len() / 2);
    Some(f64::midpoint(*values.get(low)?, *values.get(high)?))
}

/// The lines of a table. Ratios are medians of those of each round, so that what disturbed a whole round is in both.
pub(crate) fn lines(rows: &[Row], compared: Compared) -> Vec<String> {
    let head = match compared {
        Compared::Rate => "tasks/s against the first row",
        Compared::Median => "speed against the first row, by p50",
    };
    let mut lines = vec![
        format!("| program | tasks/s | p50 us | p99 us | broker's CPU us a task | {head} | how |"),
        "|---|---|---|---|---|---|---|".to_owned(),
    ];
    for row in rows {
        let of = |figure: fn(&Figures) -> Option<f64>| median(row.rounds.iter().filter_map(figure));
        let shown = |value: Option<f64>, digits: usize| {
            value.map_or_else(
                || "-".to_owned(),
                |value| {
                    // Below a microsecond each nanosecond counts.
                    let digits = if value < 1.0 { 3 } else { digits };
                    format!("{value:.digits$}")
                },
            )
        };
        let ratios = rows.first().map(|own| {
            let pairs = own.rounds.iter().zip(&row.rounds);
            median(pairs.filter_map(|(own, other)| ratio(own, other, compared)))
        });
        lines.push(format!(
            "| {} | {} | {} | {} | {} | {} | {} |",
            row.name,
            shown(of(|figures| Some(figures.rate)), 0),
            shown(of(|figures| figures.p50_us), 1),
            shown(of(|figures| figures.p99_us), 1),
            shown(of(|figures| figures.processor_us), 2),
            ratios
                .flatten()
                .map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")),
            row.command
        ));
    }
    lines
}

/// Above 1 the other one is better.
fn ratio(own: &Figures, other: &Figures, compared: Compared) -> Option<f64> {
    match compared {
        Compared::Rate => Some(other.rate / own.rate),
        Compared::Median => Some(own.p50_us? / other.p50_us?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(rate: f64) -> Figures {
        Figures {
            rate,
            p50_us: Some(1_000.0 / rate),
            p99_us: None,
            processor_us: None,
        }
    }

    #[test]
    fn the_median_is_the_middle_or_between_the_middle_two() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), Some(2.5));
        assert_eq!(median(std::iter::empty()), None);
    }

    #[test]
    fn ratios_are_those_of_rounds_and_not_of_medians() {
        let row = |name: &str, rates: [f64; 3]| Row {
            name: name.to_owned(),
            command: "-".to_owned(),
            rounds: rates.map(figures).to_vec(),
        };
        // In each round the other one is twice as fast; the machine was not the same.
        let rows = [
            row("own", [100.0, 10.0, 50.0]),
            row("other", [200.0, 20.0, 100.0]),
        ];
        for compared in [Compared::Rate, Compared::Median] {
            let lines = lines(&rows, compared);
            assert!(lines[2].contains("| 1.00 |"), "{lines:?}");
            assert!(lines[3].contains("| 2.00 |"), "{lines:?}");
        }
    }
}
