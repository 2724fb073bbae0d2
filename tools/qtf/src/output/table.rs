//! Tables for people.
//!
//! On a terminal a line is cut at its width, so that rows stay rows; in a pipe nothing is cut or wrapped,
//! so that `grep` and `awk` see whole lines. Invariant: a cell holds no hidden character, whatever a
//! peer sent. Tested at the end of this file.

use std::io::{self, Write};

use qtf_shown::text::visible;

/// Columns of the terminal on stdout; `None` when stdout is none.
pub(crate) fn terminal_width() -> Option<usize> {
    terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| width.0.into())
}

/// Writes a table; lines are cut at `width`.
pub(crate) fn write_table(
    heads: &[&str],
    rows: &[Vec<String>],
    width: Option<usize>,
    out: &mut dyn Write,
) -> io::Result<()> {
    let heads: Vec<String> = heads.iter().map(|head| (*head).to_owned()).collect();
    let rows = rows
        .iter()
        .map(|row| row.iter().map(|cell| visible(cell).into_owned()).collect());
    let lines: Vec<Vec<String>> = std::iter::once(heads).chain(rows).collect();
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width_of = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width_of).collect();
    for line in &lines {
        let mut text = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            text.push_str(&format!("{cell:width$}  "));
        }
        writeln!(out, "{}", cut(text.trim_end(), width))?;
    }
    Ok(())
}

/// The text, at most `width` characters long, with a mark where something is missing.
fn cut(text: &str, width: Option<usize>) -> String {
    match width {
        Some(width) if text.chars().count() > width => {
            let head = text.chars().take(width.saturating_sub(1));
            head.chain(std::iter::once('\u{2026}')).collect()
        }
        _ => text.to_owned(),
    }
}

/// Writes names and values below each other; empty values are left out.
pub(crate) fn write_fields(fields: &[(&str, String)], out: &mut dyn Write) -> io::Result<()> {
    let width = fields
        .iter()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or(0);
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
        writeln!(out, "{name:width$}  {}", visible(value))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(rows: &[Vec<String>], width: Option<usize>) -> String {
        let mut out = Vec::new();
        write_table(&["ID", "COMMAND"], rows, width, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn rows(rows: &[[&str; 2]]) -> Vec<Vec<String>> {
        rows.iter()
            .map(|row| row.iter().map(|cell| (*cell).to_owned()).collect())
            .collect()
    }

    #[test]
    fn a_pipe_gets_aligned_columns_without_cuts() {
        let long = "x".repeat(500);
        let text = written(&rows(&[["a", "ls"], ["bbb", &long]]), None);
        assert_eq!(text, format!("ID   COMMAND\na    ls\nbbb  {long}\n"));
    }

    #[test]
    fn a_terminal_gets_a_line_for_each_row() {
        let text = written(
            &rows(&[["a", "echo \u{e4}\u{f6}\u{fc}"], ["b", "ls"]]),
            Some(10),
        );
        assert_eq!(text, "ID  COMMA\u{2026}\na   echo \u{2026}\nb   ls\n");
    }

    #[test]
    fn hidden_characters_of_a_peer_do_not_reach_the_terminal() {
        let odd = "\u{1b}[2J\n\u{7f}\u{9b}\u{202e}\u{2067}\u{61c}";
        for width in [None, Some(80)] {
            let text = written(&rows(&[[odd, "ls"]]), width);
            assert_eq!(text.lines().count(), 2, "{text:?}");
            for line in text.lines() {
                assert!(!line.contains(qtf_shown::text::is_hidden), "{line:?}");
            }
        }
    }

    #[test]
    fn fields_without_a_value_are_left_out() {
        let mut out = Vec::new();
        let fields = [
            ("id", "a".to_owned()),
            ("worker", String::new()),
            ("state", "done".to_owned()),
        ];
        write_fields(&fields, &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "id      a\nstate   done\n");
    }
}
