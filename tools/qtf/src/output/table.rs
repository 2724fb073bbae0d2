//! Tables for people.
//!
//! On a terminal the columns fit its width; in a pipe nothing is cut or wrapped, so that `grep` and
//! `awk` see whole lines. Invariant: a cell holds no control character, whatever a peer sent.
//! Tested at the end of this file.

use std::io::{self, Write};

use super::visible;

/// Writes a table.
pub(crate) fn write_table(
    heads: &[&str],
    rows: &[Vec<String>],
    terminal: bool,
    out: &mut dyn Write,
) -> io::Result<()> {
    if terminal {
        write_fitted(heads, rows, out)
    } else {
        write_aligned(heads, rows, out)
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

fn write_fitted(heads: &[&str], rows: &[Vec<String>], out: &mut dyn Write) -> io::Result<()> {
    let mut table = comfy_table::Table::new();
    table
        .load_preset(comfy_table::presets::NOTHING)
        .set_content_arrangement(comfy_table::ContentArrangement::Dynamic)
        .set_header(heads);
    for row in rows {
        table.add_row(row.iter().map(|cell| visible(cell)));
    }
    for line in table.lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn write_aligned(heads: &[&str], rows: &[Vec<String>], out: &mut dyn Write) -> io::Result<()> {
    let heads: Vec<String> = heads.iter().map(|head| (*head).to_owned()).collect();
    let rows = rows
        .iter()
        .map(|row| row.iter().map(|cell| visible(cell)).collect::<Vec<_>>());
    let lines: Vec<Vec<String>> = std::iter::once(heads).chain(rows).collect();
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for line in &lines {
        let mut text = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            text.push_str(&format!("{cell:width$}  "));
        }
        writeln!(out, "{}", text.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(rows: &[Vec<String>], terminal: bool) -> String {
        let mut out = Vec::new();
        write_table(&["ID", "COMMAND"], rows, terminal, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_pipe_gets_aligned_columns_without_cuts() {
        let long = "x".repeat(500);
        let rows = [
            vec!["a".to_owned(), "ls".to_owned()],
            vec!["bbb".to_owned(), long.clone()],
        ];
        assert_eq!(
            written(&rows, false),
            format!("ID   COMMAND\na    ls\nbbb  {long}\n")
        );
    }

    #[test]
    fn control_characters_of_a_peer_do_not_reach_the_terminal() {
        for terminal in [false, true] {
            let text = written(&[vec!["\u{1b}[2J\n".to_owned(), "ls".to_owned()]], terminal);
            assert_eq!(text.lines().count(), 2, "{text:?}");
            assert!(!text.contains('\u{1b}'), "{text:?}");
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
