//! Rules on files: not too long, and each with a head that says what it is.

use super::tree::{Finding, Tree};

/// Lines without tests that a source file may have.
const LINES_MAX: usize = 600;

/// Where the files stand that may be longer, as `PATH LINES REASON`; a ratchet: the number may only
/// fall.
const EXCEPTIONS: &str = ".config/tidy-length";

/// A file that has become this much shorter than its exception says must have the number lowered.
const SLACK: usize = 40;

/// No source file is longer than [`LINES_MAX`] without its tests, except those in [`EXCEPTIONS`].
pub(crate) fn length(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let exceptions = exceptions(tree, &mut findings);
    for file in tree.rust().filter(|file| !file.is_test()) {
        let lines = file.rust().count_without_tests();
        let exception = exceptions
            .iter()
            .find(|exception| exception.path == file.path);
        let limit = exception.map_or(LINES_MAX, |exception| exception.lines);
        if lines > limit {
            let message = format!("{lines} lines without tests, {limit} are allowed: split it");
            findings.push(file.finding(0, "length", message));
        }
        if let Some(exception) = exception
            && (lines.saturating_add(SLACK) < limit || lines <= LINES_MAX)
        {
            let message = format!(
                "{} has {lines} lines now: lower the exception of {limit} or drop it",
                file.path
            );
            findings.push(Finding {
                path: EXCEPTIONS.to_owned(),
                line: exception.number,
                rule: "length",
                message,
            });
        }
    }
    findings
}

struct Exception {
    number: usize,
    path: String,
    lines: usize,
}

fn exceptions(tree: &Tree, findings: &mut Vec<Finding>) -> Vec<Exception> {
    let Some(file) = tree.file(EXCEPTIONS) else {
        return Vec::new();
    };
    let mut exceptions = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        let number = index.saturating_add(1);
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let mut words = line.splitn(3, ' ');
        let path = words.next().unwrap_or_default().to_owned();
        let lines = words.next().and_then(|word| word.parse().ok());
        let reason = words.next().unwrap_or_default().trim();
        match lines {
            Some(lines) if !reason.is_empty() && tree.file(&path).is_some() => {
                exceptions.push(Exception {
                    number,
                    path,
                    lines,
                });
            }
            _ => {
                let message = "an exception is `PATH LINES REASON`, and its file must exist";
                findings.push(file.finding(number, "length", message));
            }
        }
    }
    exceptions
}

/// Each Rust file starts with a `//!` head.
pub(crate) fn heads(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.rust() {
        let first = file
            .text
            .lines()
            .map(str::trim)
            .find(|line| !line.is_empty() && !line.starts_with("#!["))
            .unwrap_or_default();
        let says_something = first
            .strip_prefix("//!")
            .is_some_and(|rest| rest.trim().len() > 3);
        if !says_something || first.contains("Placeholder") {
            let message = "the file does not start with a `//!` head that says what it is";
            findings.push(file.finding(1, "head", message));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::samples::{many, one, places};
    use super::*;

    fn lines(count: usize) -> String {
        "x();\n".repeat(count)
    }

    #[test]
    fn file_over_the_limit_is_found() {
        let tree = one("engine/src/a.rs", &lines(601));
        assert_eq!(places(&length(&tree)), [("engine/src/a.rs", 0, "length")]);
        assert!(length(&one("engine/src/a.rs", &lines(600))).is_empty());
    }

    #[test]
    fn tests_do_not_count_for_the_length() {
        let text = format!(
            "{}#[cfg(test)]\nmod tests {{\n{}}}\n",
            lines(590),
            lines(500)
        );
        assert!(length(&one("engine/src/a.rs", &text)).is_empty());
        assert!(length(&one("tests/tests/a.rs", &lines(900))).is_empty());
    }

    #[test]
    fn exception_allows_what_it_says_and_no_more() {
        let exception = "# why\nengine/src/a.rs 700 one table that is read as a whole\n";
        let tree = |count| many(&[("engine/src/a.rs", &lines(count)), (EXCEPTIONS, exception)]);
        assert!(length(&tree(690)).is_empty());
        assert_eq!(
            places(&length(&tree(701))),
            [("engine/src/a.rs", 0, "length")]
        );
    }

    #[test]
    fn exception_is_a_ratchet() {
        let exception = "engine/src/a.rs 700 one table\n";
        let tree = many(&[("engine/src/a.rs", &lines(610)), (EXCEPTIONS, exception)]);
        assert_eq!(places(&length(&tree)), [(EXCEPTIONS, 1, "length")]);
    }

    #[test]
    fn exception_without_reason_or_file_is_found() {
        let tree = many(&[
            ("a.rs", "//! A.\n"),
            (EXCEPTIONS, "a.rs 700\nb.rs 700 a reason\n"),
        ]);
        assert_eq!(
            places(&length(&tree)),
            [(EXCEPTIONS, 1, "length"), (EXCEPTIONS, 2, "length")]
        );
    }

    #[test]
    fn file_without_a_head_is_found() {
        assert_eq!(
            places(&heads(&one("a.rs", "fn main() {}\n"))),
            [("a.rs", 1, "head")]
        );
        assert_eq!(
            places(&heads(&one("a.rs", "//!\nfn f() {}\n"))),
            [("a.rs", 1, "head")]
        );
        assert!(
            heads(&one(
                "a.rs",
                "#![forbid(unsafe_code)]\n\n//! Counts things.\n"
            ))
            .is_empty()
        );
    }
}
