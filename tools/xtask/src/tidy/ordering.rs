//! Rules on atomics: each memory ordering is argued, and atomics come from one module.

use super::tree::{Finding, Tree};

/// Code lines that may stand between the comment and the call, since one comment may argue a short
/// group of accesses.
const CODE_LINES_BETWEEN: usize = 8;

/// The orderings of atomics (`core::cmp::Ordering` has other names).
const NAMES: [&str; 5] = ["Relaxed", "Acquire", "Release", "AcqRel", "SeqCst"];

/// The one module that may name the atomics of `core` and of loom.
const DOOR: &str = "shm/src/sync";

/// Each line with an `Ordering::` has `// ORDERING:` on it or shortly above.
pub(crate) fn comments(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.rust().filter(|file| !file.is_test()) {
        let source = file.rust();
        for (number, line) in source.numbered() {
            if line.in_test || !NAMES.iter().any(|name| names_ordering(&line.code, name)) {
                continue;
            }
            if !source
                .comments_near(number, CODE_LINES_BETWEEN)
                .contains("ORDERING:")
            {
                let message = "memory ordering without an `// ORDERING:` comment above it";
                findings.push(file.finding(number, "ordering", message));
            }
        }
    }
    findings
}

fn names_ordering(code: &str, name: &str) -> bool {
    code.match_indices("Ordering::").any(|(at, found)| {
        let after = code
            .get(at.saturating_add(found.len())..)
            .unwrap_or_default();
        after.starts_with(name)
    })
}

/// Atomics of `core`, `std` and loom only behind `qtf_shm::sync`.
pub(crate) fn door(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let others = tree.rust().filter(|file| !file.path.starts_with(DOOR));
    for file in others {
        for (number, line) in file.rust().numbered() {
            let named = [
                "core::sync::atomic",
                "std::sync::atomic",
                "loom::sync::atomic",
            ]
            .into_iter()
            .find(|path| line.code.contains(path));
            if let Some(path) = named {
                let message = format!("{path} by name: atomics come from qtf_shm::sync");
                findings.push(file.finding(number, "atomics", message));
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
    fn ordering_without_argument_is_found() {
        let text = "//! Head.\nfn f(a: &A) {\n    a.load(Ordering::Acquire);\n}\n";
        let tree = one("shm/src/a.rs", text);
        assert_eq!(places(&comments(&tree)), [("shm/src/a.rs", 3, "ordering")]);
    }

    #[test]
    fn argued_ordering_and_comparison_pass() {
        let text = "// ORDERING: [a.b] Acquire pairs with the Release in `g`.\na.compare_exchange(\n  x,\n  y,\n  Ordering::Acquire,\n  Ordering::Relaxed,\n);\n";
        assert!(comments(&one("shm/src/a.rs", text)).is_empty());
        assert!(comments(&one("shm/src/a.rs", "a == Ordering::Less\n")).is_empty());
    }

    #[test]
    fn tests_need_no_argument_for_an_ordering() {
        let text = "#[cfg(test)]\nmod tests {\n  a.load(Ordering::Acquire);\n}\n";
        assert!(comments(&one("shm/src/a.rs", text)).is_empty());
        assert!(comments(&one("shm/tests/a.rs", "a.load(Ordering::Acquire);")).is_empty());
    }

    #[test]
    fn atomics_past_the_door_are_found() {
        let text = "use std::sync::atomic::AtomicU64;\n";
        let tree = one("daemon/src/a.rs", text);
        assert_eq!(places(&door(&tree)), [("daemon/src/a.rs", 1, "atomics")]);
        assert!(door(&one("shm/src/sync.rs", text)).is_empty());
        assert!(door(&one("shm/src/a.rs", "use crate::sync::AtomicU64;\n")).is_empty());
    }
}
