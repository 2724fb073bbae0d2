//! How values are written for people: sizes, durations, columns. Text of others is made visible on its way into them.

use qtf_shown::text::visible;
use std::io::{self, Write};

/// Rows of text, written in columns as wide as their widest cell.
#[derive(Debug)]
pub(crate) struct Columns<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Columns<N> {
    pub(crate) fn new(head: [&str; N]) -> Self {
        Self {
            rows: vec![head.map(str::to_owned)],
        }
    }

    pub(crate) fn row(&mut self, cells: [String; N]) {
        self.rows
            .push(cells.map(|cell| visible(&cell).into_owned()));
    }

    pub(crate) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut widths = [0_usize; N];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for row in &self.rows {
            let cells = row
                .iter()
                .zip(widths)
                .map(|(cell, width)| format!("{cell:<width$}"));
            writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        Ok(())
    }
}

/// Writes `name  value` lines, one a pair; a pair without value is left out.
pub(crate) fn pairs(out: &mut dyn Write, pairs: &[(&str, String)]) -> io::Result<()> {
    for (name, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
        writeln!(out, "{name:<20} {}", visible(value))?;
    }
    Ok(())
}

/// `1.5 s`, `23 ms`, `4 us`, `12 ns`: the largest unit of which there is one.
pub(crate) fn duration_ns(ns: u64) -> String {
    const UNITS: [(u64, &str); 7] = [
        (86_400_000_000_000, "d"),
        (3_600_000_000_000, "h"),
        (60_000_000_000, "min"),
        (1_000_000_000, "s"),
        (1_000_000, "ms"),
        (1_000, "us"),
        (1, "ns"),
    ];
    let (unit, name) = UNITS
        .into_iter()
        .find(|(unit, _)| ns >= *unit)
        .unwrap_or((1, "ns"));
    let whole = ns / unit;
    let tenth = (ns % unit).saturating_mul(10) / unit;
    match (whole, tenth) {
        (10.., _) | (_, 0) => format!("{whole} {name}"),
        _ => format!("{whole}.{tenth} {name}"),
    }
}

/// `256 MiB`, `4.5 KiB`, `17 B`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let Some((unit, name)) = UNITS.into_iter().find(|(unit, _)| bytes >= *unit) else {
        return format!("{bytes} B");
    };
    match (bytes / unit, (bytes % unit).saturating_mul(10) / unit) {
        (whole, 0) => format!("{whole} {name}"),
        (whole, tenth) => format!("{whole}.{tenth} {name}"),
    }
}

/// `yes` or `no`.
pub(crate) fn yes(is: bool) -> String {
    if is { "yes" } else { "no" }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_use_the_largest_unit() {
        let shown = [
            0,
            999,
            1_500,
            23_400_000,
            1_500_000_000,
            90_000_000_000,
            u64::MAX,
        ]
        .map(duration_ns);
        assert_eq!(
            shown,
            [
                "0 ns", "999 ns", "1.5 us", "23 ms", "1.5 s", "1.5 min", "213503 d"
            ]
        );
    }

    #[test]
    fn sizes_use_the_largest_unit() {
        assert_eq!(
            [17, 4608, 256 << 20].map(bytes),
            ["17 B", "4.5 KiB", "256 MiB"]
        );
    }

    #[test]
    fn text_of_others_cannot_move_the_cursor_or_make_lines() {
        let odd = "a\x1b[2J\n\u{9b}\u{202e}b";
        let mut columns = Columns::new(["name", "next"]);
        columns.row([odd.to_owned(), "x".to_owned()]);
        let mut out = Vec::new();
        columns.write(&mut out).unwrap();
        pairs(&mut out, &[("name", odd.to_owned())]).unwrap();
        let text = String::from_utf8(out).unwrap();
        let shown = r"a\u{1b}[2J\n\u{9b}\u{202e}b";
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], format!("{shown}  x"));
        assert_eq!(lines[2], format!("{:<20} {shown}", "name"));
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut columns = Columns::new(["id", "name"]);
        columns.row(["1".to_owned(), "long".to_owned()]);
        columns.row(["123".to_owned(), String::new()]);
        let mut out = Vec::new();
        columns.write(&mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "id   name\n1    long\n123\n"
        );
    }
}
