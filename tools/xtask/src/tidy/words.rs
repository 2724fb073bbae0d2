//! Rules on words: module names that say something, no leftovers, no paths of one machine.

use super::tree::{File, Finding, Tree};

/// Module names that say nothing.
const EMPTY_NAMES: [&str; 11] = [
    "util",
    "utils",
    "common",
    "helper",
    "helpers",
    "manager",
    "managers",
    "misc",
    "stuff",
    "functions",
    "types",
];

/// What is left over in a comment; each must name an issue or not be there.
const LEFTOVERS: [(&str, bool); 3] = [("TODO", true), ("FIXME", false), ("XXX", false)];

/// No module is named after nothing, and no comment holds a leftover.
pub(crate) fn modules_and_leftovers(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in &tree.files {
        if file.is_rust() {
            let name = file.path.strip_suffix(".rs").unwrap_or_default();
            let parts = || name.split('/');
            if let Some(name) = parts().find(|part| EMPTY_NAMES.contains(part)) {
                let message = format!("`{name}` does not say what it is about");
                findings.push(file.finding(0, "words", message));
            }
        }
        for (number, text) in prose(file) {
            for (word, allowed_with_issue) in LEFTOVERS {
                let Some(at) = super::source::position_of_word(&text, word) else {
                    continue;
                };
                let after = text.get(at..).unwrap_or_default();
                if allowed_with_issue && names_issue(after) {
                    continue;
                }
                let message = format!("{word} is a leftover; do it, or open an issue and name it");
                findings.push(file.finding(number, "words", message));
            }
        }
    }
    findings
}

/// `TODO(#12)` and `TODO #12`.
fn names_issue(text: &str) -> bool {
    text.char_indices().take(8).any(|(at, c)| {
        let next = text
            .get(at.saturating_add(1)..)
            .and_then(|rest| rest.chars().next());
        c == '#' && next.is_some_and(|c| c.is_ascii_digit())
    })
}

/// The text that people write for people: comments of sources, and documents without code spans.
fn prose(file: &File) -> Vec<(usize, String)> {
    if file.is_rust() {
        return file
            .rust()
            .numbered()
            .map(|(n, line)| (n, line.comment.clone()))
            .collect();
    }
    let lines = file
        .text
        .lines()
        .enumerate()
        .map(|(index, line)| (index.saturating_add(1), line));
    if file.is_markdown() {
        return lines
            .map(|(n, line)| (n, super::documents::without_code(line)))
            .collect();
    }
    let mark = match file.path.rsplit_once('.').map(|(_, ending)| ending) {
        Some("proto") => "//",
        _ => "#",
    };
    lines
        .filter_map(|(n, line)| {
            line.split_once(mark)
                .map(|(_, comment)| (n, comment.to_owned()))
        })
        .collect()
}

/// No tracked text names a folder that exists on one machine only.
pub(crate) fn machine_paths(tree: &Tree) -> Vec<Finding> {
    // In parts, so that this file does not find itself.
    let folders = [
        ["/", "work/"],
        ["/", "home/"],
        ["/", "root/"],
        ["/", "Users/"],
    ]
    .map(|p| p.concat());
    let mut findings = Vec::new();
    for file in &tree.files {
        for (index, line) in file.text.lines().enumerate() {
            let found = folders.iter().find(|folder| has_path(line, folder));
            if let Some(folder) = found {
                let message = format!("{folder} exists on one machine only");
                findings.push(file.finding(index.saturating_add(1), "machine-path", message));
            }
        }
    }
    findings
}

/// Whether `folder` starts a path in `line`, and is not a part of a longer one. What follows must be a
/// name of more than one letter, so that samples can write `x`.
fn has_path(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        let before = line.get(..at).and_then(|text| text.chars().next_back());
        let after = line
            .get(at.saturating_add(folder.len())..)
            .unwrap_or_default();
        let is_part = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '}' | '~');
        let name = after
            .chars()
            .take_while(|&c| c.is_alphanumeric() || c == '_')
            .count();
        !before.is_some_and(is_part) && name > 1
    })
}

#[cfg(test)]
mod tests {
    use super::super::samples::{one, places};
    use super::*;

    #[test]
    fn module_that_says_nothing_is_found() {
        for path in ["engine/src/util.rs", "engine/src/common/mod.rs"] {
            let tree = one(path, "//! Head.\n");
            assert_eq!(places(&modules_and_leftovers(&tree)), [(path, 0, "words")]);
        }
        assert!(modules_and_leftovers(&one("engine/src/utility_curve.rs", "//! A.\n")).is_empty());
    }

    #[test]
    fn leftovers_in_comments_are_found() {
        let text = "//! Head.\n// TODO later\nlet a = \"TODO\"; // FIXME\n/* XXX */\n";
        let tree = one("engine/src/a.rs", text);
        let found = modules_and_leftovers(&tree);
        let lines: Vec<usize> = found.iter().map(|finding| finding.line).collect();
        assert_eq!(lines, [2, 3, 4]);
    }

    #[test]
    fn leftover_with_an_issue_passes() {
        let text = "// TODO(#17): when the journal is there\n// TODO #18 too\n";
        assert!(modules_and_leftovers(&one("engine/src/a.rs", text)).is_empty());
        assert_eq!(
            modules_and_leftovers(&one("a.toml", "a = 1 # TODO\n")).len(),
            1
        );
        assert!(modules_and_leftovers(&one("a.md", "No `TODO` without an issue.\n")).is_empty());
    }

    #[test]
    fn path_of_one_machine_is_found() {
        let path = ["/", "home/", "ana/x"].concat();
        let tree = one("docs/A.md", &format!("# A\n\nsee {path}\n"));
        assert_eq!(
            places(&machine_paths(&tree)),
            [("docs/A.md", 3, "machine-path")]
        );
        let sample = ["/", "home/", "x/y"].concat();
        assert!(machine_paths(&one("docs/A.md", &sample)).is_empty());
        let longer = ["target", "/", "work/", "x"].concat();
        assert!(machine_paths(&one("docs/A.md", &longer)).is_empty());
    }
}
