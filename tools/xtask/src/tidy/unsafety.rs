//! Rules on `unsafe`: where it may stand, and that each use is argued.

use super::tree::{File, Finding, Tree};

/// The folders where `unsafe` may stand, each with its reason.
const PLACES: [(&str, &str); 4] = [
    ("shm/", "memory that other processes write"),
    ("daemon/src/sys/", "system calls without a safe face"),
    ("journal/src/sys/", "memory maps of files"),
    ("worker/src/sys/", "starting processes"),
];

/// Lines of code that may stand between a comment and the block it argues: the head of a statement
/// that rustfmt broke.
const CODE_LINES_BETWEEN: usize = 2;

/// `unsafe` only in [`PLACES`], tests included.
pub(crate) fn place(tree: &Tree) -> Vec<Finding> {
    let allowed = |file: &&File| {
        !PLACES
            .iter()
            .any(|(folder, _)| file.path.starts_with(folder))
    };
    let mut findings = Vec::new();
    for file in tree.rust().filter(allowed) {
        for (number, line) in file.rust().numbered() {
            if line.has_word("unsafe") {
                let folders = PLACES.map(|(folder, reason)| format!("{folder} ({reason})"));
                let message = format!("unsafe may stand only in {}", folders.join(", "));
                findings.push(file.finding(number, "unsafe-place", message));
            }
        }
    }
    findings
}

/// Each unsafe block and unsafe impl is preceded by a comment that argues it.
pub(crate) fn comments(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.rust() {
        let source = file.rust();
        for (number, line) in source.numbered() {
            let Some(at) = super::source::position_of_word(&line.code, "unsafe") else {
                continue;
            };
            let after = line.code.get(at..).unwrap_or_default();
            let after = after
                .strip_prefix("unsafe")
                .unwrap_or_default()
                .trim_start();
            let needs_argument = after.starts_with('{') || after.starts_with("impl");
            let argued = || {
                source
                    .comments_near(number, CODE_LINES_BETWEEN)
                    .contains("SAFETY:")
            };
            if needs_argument && !argued() {
                let message = "unsafe without a comment above it that argues it";
                findings.push(file.finding(number, "safety", message));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::samples::{one, places};
    use super::*;

    #[test]
    fn unsafe_outside_its_folders_is_found() {
        let tree = one("engine/src/a.rs", "fn f() {\n unsafe { g() }\n}\n");
        assert_eq!(
            places(&place(&tree)),
            [("engine/src/a.rs", 2, "unsafe-place")]
        );
        for path in [
            "shm/tests/a.rs",
            "daemon/src/sys/a.rs",
            "worker/src/sys/a.rs",
        ] {
            assert!(place(&one(path, "unsafe { g() }")).is_empty());
        }
    }

    #[test]
    fn words_about_unsafe_are_no_unsafe() {
        let text = "#![forbid(unsafe_code)]\n// no unsafe here\nlet a = \"unsafe\";\n";
        assert!(place(&one("engine/src/a.rs", text)).is_empty());
    }

    #[test]
    fn unsafe_block_without_argument_is_found() {
        let tree = one("shm/src/a.rs", "fn f() {\n    let a = unsafe { g() };\n}\n");
        assert_eq!(places(&comments(&tree)), [("shm/src/a.rs", 2, "safety")]);
        let tree = one("shm/src/a.rs", "// Fine.\nunsafe impl Send for A {}\n");
        assert_eq!(places(&comments(&tree)), [("shm/src/a.rs", 2, "safety")]);
    }

    #[test]
    fn argued_block_passes() {
        let text = "// SAFETY: the pointer comes from `shmat`.\nlet a =\n    unsafe { g() };\n";
        assert!(comments(&one("shm/src/a.rs", text)).is_empty());
        assert!(comments(&one("shm/src/a.rs", "unsafe fn f() {}\n")).is_empty());
    }
}
