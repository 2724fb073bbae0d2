//! Runs every committed input through its target, so that what once broke stays mended.

use std::path::{Path, PathBuf};

use qtf_fuzz::TARGETS;

fn inputs_of(target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    let entries =
        std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("the folder is read").path())
        .collect();
    files.sort();
    files
}

fn run_all(name: &str) {
    let target = qtf_fuzz::target(name).expect("it is one of ours");
    let files = inputs_of(name);
    assert!(
        files.len() > 5,
        "a corpus of {} files shows little",
        files.len()
    );
    for file in files {
        let bytes = std::fs::read(&file).expect("the file is read");
        assert!(
            bytes.len() <= target.bytes_max,
            "{} is too long",
            file.display()
        );
        let result = std::panic::catch_unwind(|| (target.run)(&bytes));
        assert!(result.is_ok(), "{} breaks {name}", file.display());
    }
}

#[test]
fn committed_journals_open_and_go_on_or_are_refused() {
    run_all("journal");
}

#[test]
fn committed_records_are_replayed_or_refused() {
    run_all("record");
}

#[test]
fn committed_segments_are_read_without_a_crash() {
    run_all("segment");
}

#[test]
fn committed_requests_are_answered_or_refused() {
    run_all("request");
}

#[test]
fn committed_configurations_are_refused_or_mean_the_same_when_printed() {
    run_all("config");
}

#[test]
fn committed_command_lines_are_understood_or_refused() {
    run_all("arguments");
}

#[test]
fn committed_lists_of_calls_leave_an_engine_in_which_every_task_ends() {
    run_all("commands");
}

#[test]
fn every_seed_is_committed_as_it_is_generated() {
    for seed in qtf_fuzz::seeds() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(seed.target)
            .join(&seed.name);
        let committed = std::fs::read(&file).unwrap_or_default();
        assert!(
            committed == seed.bytes,
            "{}: run `cargo run -p qtf-fuzz --bin qtf-fuzz-corpus`",
            file.display()
        );
    }
}

#[test]
fn every_folder_of_the_corpus_belongs_to_a_target() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for entry in std::fs::read_dir(corpus).unwrap() {
        let name = entry.unwrap().file_name();
        let name = name.to_str().unwrap();
        assert!(TARGETS.iter().any(|target| target.name == name), "{name}");
    }
}
