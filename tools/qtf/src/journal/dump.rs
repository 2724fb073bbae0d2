//! `qtf journal dump`.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use qtf_journal::{Dump, Entry, FileInfo, JournalError};
use serde_json::json;

use super::{entry, exit_of, files_of, is_spare};
use crate::args::{GlobalArgs, OutputMode};
use crate::exit::{Ending, Exit, Failure};
use crate::output::{message, write_json};
use qtf_shown::json;
use qtf_shown::text::visible;

const ENTRY_SCHEMA: &str = "qtf.journal_entry/1";
const DUMP_SCHEMA: &str = "qtf.journal_dump/1";

/// Prints the records of files.
pub(super) fn run(paths: &[PathBuf], global: &GlobalArgs) -> Ending {
    let mut files = Vec::new();
    for path in paths {
        files.extend(files_of(path)?);
    }
    let mut out = BufWriter::new(io::stdout().lock());
    let mode = global.mode();
    let mut exit = Exit::Ok;
    if mode == OutputMode::Json {
        write!(out, r#"{{"schema":"{DUMP_SCHEMA}","files":["#)?;
    }
    let mut is_first = true;
    for file in &files {
        match Dump::open(file) {
            Ok(dump) => {
                let told = print_file(&dump, mode, is_first, &mut out)?;
                exit = exit.worse(told);
                is_first = false;
            }
            Err(JournalError::Damaged { why, .. }) if is_spare(file) => {
                message(format!(
                    "{}: a spare without records ({why})",
                    file.display()
                ));
            }
            Err(error) => {
                message(&error);
                exit = exit.worse(exit_of(&error));
            }
        }
    }
    if mode == OutputMode::Json {
        out.write_all(b"]}\n")?;
    }
    out.flush()?;
    Ok(exit)
}

/// Prints one file and tells on stderr how it ends, when that is worth telling.
fn print_file(
    dump: &Dump,
    mode: OutputMode,
    is_first: bool,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    let info = dump.info();
    match mode {
        OutputMode::Table => {
            if !is_first {
                out.write_all(b"\n")?;
            }
            writeln!(out, "{}", head(info))?;
            let heads = entry::COLUMNS.map(|(name, _)| name.to_owned());
            write_row(&heads, out)?;
        }
        OutputMode::Json => {
            let comma = if is_first { "" } else { "," };
            let head = head_json(info);
            write!(out, r#"{comma}{{"file":"#)?;
            json::write(out, &head)?;
            out.write_all(br#","entries":["#)?;
        }
        OutputMode::Jsonl => {}
    }
    let mut entries = dump.entries();
    for (number, entry) in entries.by_ref().enumerate() {
        print_entry(&entry, info, (mode, number == 0), out)?;
    }
    let stop = entries.stop();
    if mode == OutputMode::Json {
        let stop = stop.as_ref().map(|stop| {
            json!({
                "offset": stop.offset, "why": stop.why.to_string(),
                "valid_lsn_beyond": stop.beyond.map(qtf_journal::Lsn::get), "damage": stop.is_damage,
            })
        });
        out.write_all(br#"],"end":"#)?;
        json::write(out, &stop)?;
        out.write_all(b"}")?;
    }
    let Some(stop) = stop.filter(|stop| stop.is_damage || stop.beyond.is_some()) else {
        return Ok(Exit::Ok);
    };
    out.flush()?;
    let (name, offset, why) = (&info.name, stop.offset, stop.why);
    if stop.is_damage {
        message(format!("{name}: damaged at offset {offset}: {why}"));
        return Ok(Exit::TaskFailed);
    }
    message(format!(
        "{name}: torn at offset {offset}: {why}; what follows was never acknowledged"
    ));
    Ok(Exit::Ok)
}

fn print_entry(
    entry: &Entry<'_>,
    info: &FileInfo,
    (mode, is_first): (OutputMode, bool),
    out: &mut dyn Write,
) -> io::Result<()> {
    match mode {
        OutputMode::Table => write_row(&entry::cells(entry), out),
        OutputMode::Json => {
            let comma = if is_first { "" } else { "," };
            out.write_all(comma.as_bytes())?;
            json::write(out, &entry::json_of(entry))
        }
        OutputMode::Jsonl => {
            let mut value = entry::json_of(entry);
            if let Some(fields) = value.as_object_mut() {
                fields.insert("file".to_owned(), json!(info.name));
            }
            write_json(ENTRY_SCHEMA, &value, out)
        }
    }
}

/// Columns of fixed width: what is printed need not be gathered first.
fn write_row(cells: &[String; 6], out: &mut dyn Write) -> io::Result<()> {
    let mut line = String::new();
    for (cell, (_, width)) in cells.iter().zip(entry::COLUMNS) {
        line.push_str(&format!("{:width$}  ", visible(cell)));
    }
    writeln!(out, "{}", line.trim_end())
}

fn head(info: &FileInfo) -> String {
    let (name, instance) = (visible(&info.name), visible(&info.instance));
    let kind = if info.is_snapshot {
        format!("snapshot, replay starts at lsn {}", info.number)
    } else {
        match info.follows {
            Some(lsn) => format!("log {}, first of a daemon, follows lsn {lsn}", info.number),
            None => format!("log {}", info.number),
        }
    };
    format!("# {name}: {kind}, instance {instance}")
}

fn head_json(info: &FileInfo) -> serde_json::Value {
    json!({
        "name": info.name,
        "is_snapshot": info.is_snapshot,
        "number": info.number,
        "follows_lsn": info.follows.map(qtf_journal::Lsn::get),
        "instance": info.instance,
        "epoch": info.epoch,
        "lineage": format!("{:016x}", info.lineage),
    })
}
