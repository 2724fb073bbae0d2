//! Tidy: the rules of the repository that no compiler checks.
//!
//! Each rule is a function from the [`Tree`](tree::Tree) of tracked files to findings, lies in a file
//! named after what it guards, and has a sample there that it must reject.
//!
//! | rule | says |
//! |---|---|
//! | `unsafe-place`, `safety` | `unsafe` only in three folders, each block argued |
//! | `ordering`, `atomics` | each memory ordering argued, atomics through one door |
//! | `label`, `mutant` | labels of orderings stand in code and document, each with a mutant or a reason |
//! | `length`, `head` | files stay readable and say what they are |
//! | `words`, `machine-path` | no names that say nothing, no leftovers, no paths of one machine |
//! | `edges`, `circle` | crates depend in one direction, and so do the folders of a crate |
//! | `door` | parts of the PLM call what stands below them, by what their heads name |
//! | `title`, `link` | documents have one title and no dead link |
//! | `clippy-copy`, `glossary`, `protocol` | what must agree agrees |

mod circles;
mod documents;
mod doors;
mod edges;
mod glossary;
mod imports;
mod labels;
mod lints;
mod ordering;
mod protocol;
mod size;
mod source;
mod tree;
mod unsafety;
mod words;

use crate::cargo::{self, Tally};
use anyhow::bail;
use tree::{Finding, Tree};

/// Checks the working tree and prints each finding.
pub(crate) fn run() -> anyhow::Result<Tally> {
    let root = cargo::workspace_root();
    let tree = Tree::read(&root)?;
    let mut findings = check(&tree);
    findings.extend(edges::check(&edges::from_cargo()?));
    findings.sort();
    for finding in &findings {
        println!("{finding}");
    }
    if !findings.is_empty() {
        bail!("{} findings", findings.len());
    }
    println!("tidy: {} files, nothing found", tree.files.len());
    Ok(Tally::default())
}

/// All rules that need only the files.
fn check(tree: &Tree) -> Vec<Finding> {
    let rules: [fn(&Tree) -> Vec<Finding>; 16] = [
        unsafety::place,
        unsafety::comments,
        ordering::comments,
        ordering::door,
        labels::check,
        size::length,
        size::heads,
        circles::check,
        doors::check,
        words::modules_and_leftovers,
        words::machine_paths,
        documents::titles,
        documents::links,
        lints::copies,
        glossary::check,
        protocol::check,
    ];
    rules.iter().flat_map(|rule| rule(tree)).collect()
}

#[cfg(test)]
mod samples {
    //! Trees for the tests of the rules.

    use super::tree::{Finding, Tree};

    /// A tree of one file.
    pub(crate) fn one(path: &str, text: &str) -> Tree {
        many(&[(path, text)])
    }

    /// A tree of several files.
    pub(crate) fn many(files: &[(&str, &str)]) -> Tree {
        Tree::of(
            files
                .iter()
                .map(|&(path, text)| (path.to_owned(), text.to_owned())),
        )
    }

    /// Where findings are, without their messages.
    pub(crate) fn places(findings: &[Finding]) -> Vec<(&str, usize, &str)> {
        findings
            .iter()
            .map(|f| (f.path.as_str(), f.line, f.rule))
            .collect()
    }
}
