//! The tracked text files, and how a rule reports what it found.
//!
//! Rules look at a [`Tree`] only, so that tests can hand them a tree of samples.

use super::source::RustSource;
use anyhow::Context;
use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::process::Command;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    pub(crate) path: String,
    /// Counted from 1; 0 when the finding is about the whole file.
    pub(crate) line: usize,
    pub(crate) rule: &'static str,
    pub(crate) message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        write!(f, ": [{}] {}", self.rule, self.message)
    }
}

/// One tracked text file.
#[derive(Debug)]
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) text: String,
    parsed: OnceCell<RustSource>,
}

impl File {
    /// The name without folders.
    pub(crate) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    /// The folder, without a slash at its end; empty for the top.
    pub(crate) fn folder(&self) -> &str {
        self.path.rsplit_once('/').map_or("", |(folder, _)| folder)
    }

    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    pub(crate) fn is_markdown(&self) -> bool {
        self.path.ends_with(".md")
    }

    /// Whether the file as a whole is test code: integration tests, benches, a module whose
    /// name ends in `tests`.
    pub(crate) fn is_test(&self) -> bool {
        self.name().ends_with("tests.rs")
            || self
                .path
                .split('/')
                .any(|part| part == "tests" || part == "benches")
    }

    /// The file taken apart as Rust.
    pub(crate) fn rust(&self) -> &RustSource {
        self.parsed.get_or_init(|| RustSource::parse(&self.text))
    }

    /// A finding about this file.
    pub(crate) fn finding(
        &self,
        line: usize,
        rule: &'static str,
        message: impl Into<String>,
    ) -> Finding {
        Finding {
            path: self.path.clone(),
            line,
            rule,
            message: message.into(),
        }
    }
}

/// All tracked text files, in order of their paths.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    pub(crate) files: Vec<File>,
    /// Paths of everything tracked, text or not, and of their folders.
    pub(crate) paths: BTreeSet<String>,
}

impl Tree {
    /// A tree of the given files.
    pub(crate) fn of(files: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut tree = Self::default();
        for (path, text) in files {
            tree.add_path(&path);
            tree.files.push(File {
                path,
                text,
                parsed: OnceCell::new(),
            });
        }
        tree.files.sort_by(|a, b| a.path.cmp(&b.path));
        tree
    }

    /// Reads what git tracks below `root`; without git, everything but hidden folders and `target`.
    pub(crate) fn read(root: &Path) -> anyhow::Result<Self> {
        let paths = match tracked(root) {
            Some(paths) => paths,
            None => walk(root)?,
        };
        let mut files = Vec::new();
        let mut binary = Vec::new();
        for path in paths {
            let Ok(bytes) = std::fs::read(root.join(&path)) else {
                continue;
            };
            match String::from_utf8(bytes) {
                Ok(text) => files.push((path, text)),
                Err(_) => binary.push(path),
            }
        }
        let mut tree = Self::of(files);
        for path in binary {
            tree.add_path(&path);
        }
        Ok(tree)
    }

    /// The text file at `path`.
    pub(crate) fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    /// All Rust files.
    pub(crate) fn rust(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| file.is_rust())
    }

    /// All Markdown files.
    pub(crate) fn markdown(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| file.is_markdown())
    }

    fn add_path(&mut self, path: &str) {
        let mut path = path;
        self.paths.insert(path.to_owned());
        while let Some((folder, _)) = path.rsplit_once('/') {
            self.paths.insert(folder.to_owned());
            path = folder;
        }
    }
}

/// What git tracks, and what is new and not ignored; `None` where git cannot tell.
fn tracked(root: &Path) -> Option<Vec<String>> {
    let output = Command::new("git")
        // A fresh clone may belong to another user than the one who checks it.
        .args([
            "-c",
            "safe.directory=*",
            "ls-files",
            "-z",
            "--cached",
            "--others",
        ])
        .arg("--exclude-standard")
        .current_dir(root)
        .output()
        .ok()?;
    if !output.status.success() {
        return None;
    }
    let text = String::from_utf8(output.stdout).ok()?;
    Some(
        text.split('\0')
            .filter(|path| !path.is_empty())
            .map(str::to_owned)
            .collect(),
    )
}

/// Every file below `root` but those in `target`, `.git` and `.jj`.
fn walk(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut files = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        let here = root.join(&folder);
        for entry in std::fs::read_dir(&here).with_context(|| format!("cannot read {folder}/"))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = if folder.is_empty() {
                name.clone()
            } else {
                format!("{folder}/{name}")
            };
            if !entry.file_type()?.is_dir() {
                files.push(path);
            } else if !matches!(name.as_str(), "target" | ".git" | ".jj") {
                folders.push(path);
            }
        }
    }
    Ok(files)
}
