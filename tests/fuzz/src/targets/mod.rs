//! The bodies of the targets, one file each, with the seeds of their corpora.

pub(crate) mod arguments;
pub(crate) mod commands;
pub(crate) mod config;
pub(crate) mod journal;
pub(crate) mod request;
mod request_seeds;
pub(crate) mod segment;
mod world;

/// One input of a committed corpus.
#[derive(Debug, Clone)]
pub struct Seed {
    /// The target it is for.
    pub target: &'static str,
    /// The name of its file: what it shows.
    pub name: String,
    /// The input.
    pub bytes: Vec<u8>,
}

/// A folder in memory where there is such a place: files are written for each input.
fn folder_in_memory() -> tempfile::TempDir {
    let memory = std::path::Path::new("/dev/shm");
    let folder = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    folder.expect("a folder can be made")
}

/// Every input that the committed corpus is made of, but for inputs that were once found to break something.
#[must_use]
pub fn seeds() -> Vec<Seed> {
    let mut all = Vec::new();
    let mut add = |target, seeds: Vec<(String, Vec<u8>)>| {
        all.extend(seeds.into_iter().map(|(name, bytes)| Seed {
            target,
            name,
            bytes,
        }));
    };
    add("journal", journal::seeds());
    add("record", journal::record_seeds());
    add("segment", segment::seeds());
    add("request", request_seeds::seeds());
    add("config", config::seeds());
    add("commands", commands::seeds());
    add("arguments", arguments::seeds());
    all
}
