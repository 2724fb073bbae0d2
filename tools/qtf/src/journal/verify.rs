//! `qtf journal verify`.

use std::path::{Path, PathBuf};

use qtf_journal::{Content, Dump, JournalError, Report};
use serde::Serialize;

use super::{exit_of, folder_of, is_spare, nothing_in};
use crate::args::GlobalArgs;
use crate::exit::{Ending, Exit};
use crate::output::{Listed, message, print_list};

/// What was found in one folder or file.
#[derive(Debug, Default, Serialize)]
struct Finding {
    path: String,
    /// "journal", "log", "snapshot" or "spare"; empty when it could not be told.
    kind: &'static str,
    intact: bool,
    records: u64,
    /// Live tasks; only of a folder and of a snapshot.
    tasks: Option<u64>,
    /// Of the last record.
    end_lsn: u64,
    /// Where the snapshot that would be used starts.
    snapshot_lsn: Option<u64>,
    /// What would be cut off at the next start: never acknowledged.
    torn: Option<Place>,
    /// What is wrong.
    problem: Option<String>,
    /// Where, when it is damage.
    damage: Option<Place>,
    /// The folder has no file of a journal.
    missing: bool,
}

#[derive(Debug, Clone, Serialize)]
struct Place {
    file: String,
    offset: u64,
    /// Which record should be there, if that is known.
    lsn: Option<u64>,
}

impl Listed for Finding {
    const SCHEMA: &'static str = "qtf.journal/1";
    const LIST_SCHEMA: &'static str = "qtf.journals/1";
    const LIST: &'static str = "journals";
    const COLUMNS: &'static [&'static str] =
        &["PATH", "KIND", "STATE", "RECORDS", "TASKS", "LAST-LSN"];

    fn cells(&self) -> Vec<String> {
        let state = match (self.intact, &self.damage, &self.torn) {
            (true, _, None) => "intact",
            (true, _, Some(_)) => "intact, torn end",
            (false, Some(_), _) => "DAMAGED",
            (false, None, _) if self.missing => "nothing there",
            (false, None, _) => "unreadable",
        };
        let tasks = self.tasks.map_or_else(|| "-".to_owned(), |n| n.to_string());
        vec![
            self.path.clone(),
            if self.kind.is_empty() { "-" } else { self.kind }.to_owned(),
            state.to_owned(),
            self.records.to_string(),
            tasks,
            match self.end_lsn {
                0 => "-".to_owned(),
                lsn => lsn.to_string(),
            },
        ]
    }
}

/// Tells of each path whether it is intact.
pub(super) fn run(paths: &[PathBuf], global: &GlobalArgs) -> Ending {
    let mut exit = Exit::Ok;
    let mut findings = Vec::new();
    for path in paths {
        let mut finding = if path.is_dir() {
            of_folder(path, &mut exit)
        } else {
            of_file(path, &mut exit)
        };
        finding.path = path.display().to_string();
        if let Some(problem) = &finding.problem {
            // The journal names its files without their folder.
            if problem.contains(&finding.path) {
                message(problem);
            } else {
                message(format!("{}: {problem}", finding.path));
            }
        }
        findings.push(finding);
    }
    print_list(global.mode(), &findings)?;
    // Damage must not hide behind another path that is merely not there.
    if findings.iter().any(|finding| finding.damage.is_some()) {
        exit = Exit::TaskFailed;
    }
    Ok(exit)
}

fn of_folder(path: &Path, exit: &mut Exit) -> Finding {
    let folder = folder_of(path);
    let report = match qtf_journal::verify(&folder) {
        Ok(report) => report,
        Err(error) => return failed(&error, exit),
    };
    if report.is_nothing() {
        *exit = exit.worse(Exit::NotFound);
        return Finding {
            problem: Some(nothing_in(&folder)),
            missing: true,
            ..Finding::default()
        };
    }
    let Report {
        snapshot,
        end,
        records,
        tasks,
        cut,
        notes,
        ..
    } = report;
    for note in notes {
        message(format!("{}: {note}", path.display()));
    }
    let torn = cut.map(|cut| Place {
        file: cut.file,
        offset: cut.offset,
        lsn: Some(cut.lsn.get()),
    });
    if let Some(torn) = &torn {
        message(format!(
            "{}: {} is torn at {}: what follows was never acknowledged and is cut off at the next start",
            path.display(),
            torn.file,
            torn.text()
        ));
    }
    Finding {
        kind: "journal",
        intact: true,
        records,
        tasks: u64::try_from(tasks).ok(),
        end_lsn: end.get(),
        snapshot_lsn: snapshot.map(qtf_journal::Lsn::get),
        torn,
        ..Finding::default()
    }
}

impl Place {
    fn text(&self) -> String {
        match self.lsn {
            Some(lsn) => format!("offset {}, lsn {lsn}", self.offset),
            None => format!("offset {}", self.offset),
        }
    }
}

/// One file by itself: what files before and after it say of it is not known.
fn of_file(path: &Path, exit: &mut Exit) -> Finding {
    if is_spare(path) {
        return Finding {
            kind: "spare",
            intact: true,
            ..Finding::default()
        };
    }
    let dump = match Dump::open(path) {
        Ok(dump) => dump,
        Err(error) => return failed(&error, exit),
    };
    let is_snapshot = dump.info().is_snapshot;
    let mut finding = Finding {
        kind: if is_snapshot { "snapshot" } else { "log" },
        intact: true,
        ..Finding::default()
    };
    let mut is_closed = false;
    let mut place = Place {
        file: dump.info().name.clone(),
        offset: 0,
        lsn: None,
    };
    let mut entries = dump.entries();
    for entry in entries.by_ref() {
        finding.records += 1;
        finding.end_lsn = entry.lsn.get();
        place.offset = entry.offset;
        place.lsn = Some(entry.lsn.get());
        match &entry.content {
            Content::End { tasks, shown, .. } => {
                is_closed = true;
                finding.tasks = Some(*tasks);
                finding.end_lsn = shown.get();
            }
            Content::Unreadable(bad) => {
                let why = bad.to_string();
                return damaged(finding, place, &why, exit);
            }
            Content::Record(_) => {}
        }
    }
    if let Some(stop) = entries.stop() {
        place.offset = stop.offset;
        place.lsn = stop.lsn.map(qtf_journal::Lsn::get);
        if stop.is_damage || (is_snapshot && !is_closed) {
            return damaged(finding, place, &stop.why.to_string(), exit);
        }
        if stop.beyond.is_some() {
            finding.torn = Some(place);
        }
    }
    finding
}

fn damaged(finding: Finding, place: Place, why: &str, exit: &mut Exit) -> Finding {
    *exit = exit.worse(Exit::TaskFailed);
    Finding {
        intact: false,
        problem: Some(format!(
            "{} is damaged at {}: {why}",
            place.file,
            place.text()
        )),
        damage: Some(place),
        ..finding
    }
}

fn failed(error: &JournalError, exit: &mut Exit) -> Finding {
    *exit = exit.worse(exit_of(error));
    let mut damage = None;
    if let JournalError::Damaged {
        file, offset, lsn, ..
    } = error
    {
        damage = Some(Place {
            file: file.clone(),
            offset: *offset,
            lsn: Some(lsn.get()).filter(|&lsn| lsn != 0),
        });
    }
    Finding {
        problem: Some(error.to_string()),
        damage,
        ..Finding::default()
    }
}
