//! The copies of `clippy.toml` agree: the nearest one replaces the root's, so it must repeat it.

use super::tree::{Finding, Tree};

/// Each `clippy.toml` below the top holds every line of the one at the top.
pub(crate) fn copies(tree: &Tree) -> Vec<Finding> {
    let Some(root) = tree.file("clippy.toml") else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    let below = tree
        .files
        .iter()
        .filter(|file| file.name() == "clippy.toml");
    for copy in below.filter(|file| !file.folder().is_empty()) {
        let lines: Vec<&str> = settings(&copy.text).collect();
        for setting in settings(&root.text).filter(|setting| !lines.contains(setting)) {
            let message = format!("lacks a line of the clippy.toml at the top: {setting}");
            findings.push(copy.finding(0, "clippy-copy", message));
        }
    }
    findings
}

/// The lines that say something.
fn settings(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use super::super::samples::{many, places};
    use super::*;

    #[test]
    fn copy_that_lacks_a_line_is_found() {
        let root = "too-many-lines-threshold = 70\n# why\nallow-unwrap-in-tests = true\n";
        let tree = many(&[
            ("clippy.toml", root),
            ("engine/clippy.toml", "too-many-lines-threshold = 70\n"),
            ("shm/clippy.toml", &format!("{root}more = 1\n")),
        ]);
        assert_eq!(
            places(&copies(&tree)),
            [("engine/clippy.toml", 0, "clippy-copy")]
        );
    }
}
