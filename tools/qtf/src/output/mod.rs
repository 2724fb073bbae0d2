//! How results are written: tables for people, JSON for programs, bytes as they are.
//!
//! What others have written is made visible in tables and messages, and escaped in JSON, by `qtf-shown`.
//! Every JSON document carries a `schema` field with name and version. Data goes to stdout only.
//! Tested at the end of this file and in the files of this folder.

mod bytes;
mod command_text;
mod table;

use std::io::{self, Write};

use serde::Serialize;

use crate::args::OutputMode;
pub(crate) use bytes::JsonBytes;
pub(crate) use command_text::command_of_payload;
pub(crate) use table::{terminal_width, write_fields, write_table};

use qtf_shown::text::visible;

/// A thing that commands list.
pub(crate) trait Listed: Serialize {
    /// Schema of one thing.
    const SCHEMA: &'static str;
    /// Schema of the list.
    const LIST_SCHEMA: &'static str;
    /// Name of the list in its JSON document.
    const LIST: &'static str;
    /// Heads of the table.
    const COLUMNS: &'static [&'static str];

    /// One text for each column.
    fn cells(&self) -> Vec<String>;
}

/// A JSON document with its schema in front.
#[derive(Serialize)]
struct Document<'a, T: Serialize> {
    schema: &'a str,
    #[serde(flatten)]
    body: T,
}

/// Writes a list in the form that was asked for.
pub(crate) fn print_list<T: Listed>(mode: OutputMode, items: &[T]) -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    write_list(mode, items, terminal_width(), &mut out)?;
    out.flush()
}

fn write_list<T: Listed>(
    mode: OutputMode,
    items: &[T],
    width: Option<usize>,
    out: &mut dyn Write,
) -> io::Result<()> {
    match mode {
        OutputMode::Table => {
            let rows: Vec<Vec<String>> = items.iter().map(Listed::cells).collect();
            write_table(T::COLUMNS, &rows, width, out)
        }
        OutputMode::Json => {
            let body = std::collections::BTreeMap::from([(T::LIST, items)]);
            write_json(T::LIST_SCHEMA, &body, out)
        }
        OutputMode::Jsonl => items
            .iter()
            .try_for_each(|item| write_json(T::SCHEMA, item, out)),
    }
}

/// Writes one JSON document and a newline.
pub(crate) fn write_json<T: Serialize>(
    schema: &str,
    body: &T,
    out: &mut dyn Write,
) -> io::Result<()> {
    qtf_shown::json::write(out, &Document { schema, body })?;
    out.write_all(b"\n")
}

/// Writes one JSON document to stdout.
pub(crate) fn print_json<T: Serialize>(schema: &str, body: &T) -> io::Result<()> {
    let mut out = io::stdout().lock();
    write_json(schema, body, &mut out)?;
    out.flush()
}

/// Writes lines to stdout, of each what can be seen.
pub(crate) fn print_lines<T: std::fmt::Display>(
    lines: impl IntoIterator<Item = T>,
) -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    for line in lines {
        writeln!(out, "{}", visible(&line.to_string()))?;
    }
    out.flush()
}

/// Writes a line for people to stderr. If nobody can read it, nothing is left to tell it to.
pub(crate) fn message(text: impl std::fmt::Display) {
    let _unheard = io::stderr().lock().write_all(message_line(text).as_bytes());
}

/// The line that [`message`] writes: one, whatever names and reasons of others the text holds.
pub(crate) fn message_line(text: impl std::fmt::Display) -> String {
    format!("qtf: {}\n", visible(&text.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Thing {
        id: &'static str,
        count: u64,
    }

    impl Listed for Thing {
        const SCHEMA: &'static str = "qtf.thing/1";
        const LIST_SCHEMA: &'static str = "qtf.things/1";
        const LIST: &'static str = "things";
        const COLUMNS: &'static [&'static str] = &["ID", "COUNT"];

        fn cells(&self) -> Vec<String> {
            vec![self.id.to_owned(), self.count.to_string()]
        }
    }

    fn written(mode: OutputMode) -> String {
        let mut out = Vec::new();
        let things = [Thing { id: "a", count: 1 }, Thing { id: "b", count: 2 }];
        write_list(mode, &things, None, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn json_is_one_document_with_its_schema() {
        let document: serde_json::Value = serde_json::from_str(&written(OutputMode::Json)).unwrap();
        assert_eq!(document["schema"], "qtf.things/1");
        assert_eq!(document["things"][1]["count"], 2);
    }

    #[test]
    fn jsonl_is_one_document_a_line_each_with_its_schema() {
        let text = written(OutputMode::Jsonl);
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 2);
        assert!(lines.iter().all(|line| line["schema"] == "qtf.thing/1"));
    }

    #[test]
    fn an_empty_list_is_an_empty_list() {
        let mut out = Vec::new();
        write_list::<Thing>(OutputMode::Json, &[], None, &mut out).unwrap();
        assert_eq!(out, b"{\"schema\":\"qtf.things/1\",\"things\":[]}\n");
    }
}
