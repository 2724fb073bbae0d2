//! The labels of memory orderings: code and docs/ORDERING.md name the same ones, and each has a mutant or a reason why it has none.
//!
//! A label stands in brackets in an `// ORDERING:` comment, and in backticks in the first cell of a row of the document. The row's last
//! cell names mutants in backticks, or says `none: why`. That a model notices a mutant is proved by `cargo xtask loom --mutants`.

use super::tree::{File, Finding, Tree};
use crate::loom::{LIST, mutants_in};
use std::collections::{BTreeMap, BTreeSet};

const DOCUMENT: &str = "docs/ORDERING.md";

/// A cell that names no mutant begins so, and goes on with the reason.
const NONE: &str = "none:";

/// Labels in pairs, rows with mutants that there are.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let used = labels_in_code(tree);
    let Some(document) = tree.file(DOCUMENT) else {
        let places = used.first_key_value();
        return places
            .map(|(label, (file, line))| {
                file.finding(*line, "label", format!("[{label}], and no {DOCUMENT}"))
            })
            .into_iter()
            .collect();
    };
    let rows = rows_of(document);
    let mut findings = Vec::new();
    let explained: BTreeSet<&str> = rows.iter().flat_map(|row| row.labels.clone()).collect();
    for (label, (file, line)) in &used {
        if !explained.contains(label.as_str()) {
            let message = format!("{DOCUMENT} has no row for [{label}]");
            findings.push(file.finding(*line, "label", message));
        }
    }
    let declared = declared_mutants(tree);
    let mut seen = BTreeSet::new();
    for row in &rows {
        for label in &row.labels {
            if !used.contains_key(*label) {
                let message = format!("no `// ORDERING:` comment names [{label}]");
                findings.push(document.finding(row.line, "label", message));
            }
            if !seen.insert(*label) {
                let message = format!("a second row for `{label}`");
                findings.push(document.finding(row.line, "label", message));
            }
        }
        for message in problems_of(row, &declared) {
            findings.push(document.finding(row.line, "mutant", message));
        }
    }
    findings
}

/// Every label of an `// ORDERING:` comment outside tests, with the first place that names it.
fn labels_in_code(tree: &Tree) -> BTreeMap<String, (&File, usize)> {
    let mut labels = BTreeMap::new();
    for file in tree.rust().filter(|file| !file.is_test()) {
        let mut argues = false;
        for (number, line) in file.rust().numbered() {
            let begins = line.comment.contains("ORDERING:");
            argues = begins || argues && line.has_no_code() && !line.comment.is_empty();
            if !argues || line.in_test {
                continue;
            }
            for label in between(&line.comment, '[', ']').filter(|text| is_label(text)) {
                labels.entry(label.to_owned()).or_insert((file, number));
            }
        }
    }
    labels
}

/// `subject.point`, in lower case.
fn is_label(text: &str) -> bool {
    let is_word =
        |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    text.split_once('.')
        .is_some_and(|(subject, point)| is_word(subject) && is_word(point))
}

/// What stands between two characters, each time.
fn between(text: &str, open: char, close: char) -> impl Iterator<Item = &str> {
    let parts = text.split(open).skip(1);
    parts.filter_map(move |part| part.split_once(close).map(|(inner, _)| inner))
}

/// What stands in backticks, each time.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

struct Row<'d> {
    line: usize,
    labels: Vec<&'d str>,
    mutant: &'d str,
}

/// Rows of the document's tables whose first cell has a label.
fn rows_of(document: &File) -> Vec<Row<'_>> {
    let mut rows = Vec::new();
    for (index, line) in document.text.lines().enumerate() {
        let Some(row) = line.strip_prefix('|') else {
            continue;
        };
        let cells: Vec<&str> = row.trim_end().trim_end_matches('|').split('|').collect();
        let (Some(first), Some(last)) = (cells.first(), cells.last()) else {
            continue;
        };
        let labels: Vec<&str> = quoted(first).filter(|text| is_label(text)).collect();
        if !labels.is_empty() {
            rows.push(Row {
                line: index.saturating_add(1),
                labels,
                mutant: last.trim(),
            });
        }
    }
    rows
}

/// Mutants that the sources have and the list of models names.
fn declared_mutants(tree: &Tree) -> BTreeSet<String> {
    let listed: BTreeSet<&str> = tree
        .file(LIST)
        .into_iter()
        .flat_map(|file| file.text.lines())
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let files = tree.rust().filter(|file| !file.is_test());
    let mut mutants: BTreeSet<String> = files.flat_map(|file| mutants_in(&file.text)).collect();
    mutants.retain(|name| listed.contains(name.as_str()));
    mutants
}

fn problems_of(row: &Row<'_>, declared: &BTreeSet<String>) -> Vec<String> {
    if let Some(why) = row.mutant.strip_prefix(NONE) {
        let is_said = why.split_whitespace().nth(2).is_some();
        let problem = "`none:` without a reason".to_owned();
        return (!is_said).then_some(problem).into_iter().collect();
    }
    let named: Vec<&str> = quoted(row.mutant).collect();
    if named.is_empty() {
        return vec!["the last cell names no mutant, and does not say `none: why`".to_owned()];
    }
    let unknown = named.iter().filter(|name| !declared.contains(**name));
    unknown
        .map(|name| format!("there is no mutant `{name}` in the sources and in {LIST}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::samples::{many, one, places};
    use super::*;

    const CODE: &str = "// ORDERING: Release pairs with `read`: [a.used],\n// [b.used] too.\nif !cfg!(qtf_mutant = \"m\") { fence(Ordering::Release) }\n";
    const ROWS: &str =
        "# O\n| label | what | mutant |\n|---|---|---|\n| `a.used`, `b.used` | x | `m` |\n";

    fn sample(code: &str, rows: &str, list: &str) -> Tree {
        many(&[("shm/src/a.rs", code), (DOCUMENT, rows), (LIST, list)])
    }

    #[test]
    fn labels_in_pairs_with_a_mutant_or_a_reason_pass() {
        assert!(check(&sample(CODE, ROWS, "# why\nm loom_a text\n")).is_empty());
        let reasoned = ROWS.replace("`m` |", "none: one process, two lives |");
        assert!(check(&sample(CODE, &reasoned, "")).is_empty());
    }

    #[test]
    fn label_of_the_code_without_a_row_is_found() {
        let rows = ROWS.replace("`a.used`, `b.used`", "`a.used`");
        let findings = check(&sample(CODE, &rows, "m loom_a text\n"));
        assert_eq!(places(&findings), [("shm/src/a.rs", 2, "label")]);
        let no_document = one("shm/src/a.rs", CODE);
        assert_eq!(places(&check(&no_document)), [("shm/src/a.rs", 1, "label")]);
    }

    #[test]
    fn row_without_a_label_in_the_code_and_second_row_are_found() {
        let rows = format!("{ROWS}| `c.gone` | x | `m` |\n| `a.used` | x | `m` |\n");
        let findings = check(&sample(CODE, &rows, "m loom_a text\n"));
        let expected = [(DOCUMENT, 5, "label"), (DOCUMENT, 6, "label")];
        assert_eq!(places(&findings), expected);
    }

    #[test]
    fn mutant_that_is_missing_in_the_sources_or_in_the_list_is_found() {
        let found = [(DOCUMENT, 4, "mutant")];
        let unlisted = check(&sample(CODE, ROWS, "# m\nother loom_a text\n"));
        assert_eq!(places(&unlisted), found);
        let planted = CODE.replace("\"m\"", "\"n\"");
        let missing = check(&sample(&planted, ROWS, "m loom_a text\n"));
        assert_eq!(places(&missing), found);
    }

    #[test]
    fn row_without_mutant_and_without_reason_is_found() {
        for cell in ["", "the model", "none:", "none: so"] {
            let rows = ROWS.replace("`m` |", &format!("{cell} |"));
            let findings = check(&sample(CODE, &rows, "m loom_a text\n"));
            assert_eq!(places(&findings), [(DOCUMENT, 4, "mutant")], "{cell}");
        }
    }

    #[test]
    fn brackets_outside_such_comments_and_labels_of_tests_are_not_labels() {
        let text = "// see [x.y]\nlet a = logs[end.log];\n#[cfg(test)]\nmod tests {\n  // ORDERING: [t.s]\n}\n";
        assert!(labels_in_code(&one("shm/src/a.rs", text)).is_empty());
    }
}
