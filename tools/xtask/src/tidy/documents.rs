//! Rules on Markdown documents: one title each, and links that lead somewhere.

use super::tree::{File, Finding, Tree};

/// Each document has exactly one `#` title.
pub(crate) fn titles(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.markdown() {
        let titles: Vec<usize> = text_lines(file)
            .filter(|(_, line)| line.starts_with("# "))
            .map(|(number, _)| number)
            .collect();
        match titles.as_slice() {
            [_] => {}
            [] => findings.push(file.finding(1, "title", "the document has no `#` title")),
            [_, second, ..] => {
                findings.push(file.finding(*second, "title", "the document has a second title"));
            }
        }
    }
    findings
}

/// Links to files of the repository and to headings lead somewhere; the web is not asked.
pub(crate) fn links(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.markdown() {
        for (number, line) in text_lines(file) {
            for target in targets(&without_code(line)) {
                if let Some(problem) = problem_of(tree, file, &target) {
                    findings.push(file.finding(number, "link", problem));
                }
            }
        }
    }
    findings
}

fn problem_of(tree: &Tree, file: &File, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = match target.split_once('#') {
        Some((path, anchor)) => (path, Some(anchor)),
        None => (target, None),
    };
    let path = if path.is_empty() {
        file.path.clone()
    } else {
        resolve(file.folder(), path)
    };
    if !tree.paths.contains(&path) {
        return Some(format!("{target}: there is no {path}"));
    }
    let anchor = anchor?;
    let document = tree.file(&path).filter(|document| document.is_markdown())?;
    let found = text_lines(document).any(|(_, line)| {
        line.starts_with('#') && anchor_of(line.trim_start_matches('#').trim()) == anchor
    });
    (!found).then(|| format!("{target}: {path} has no such heading"))
}

/// A heading as the part after `#` in a link to it.
fn anchor_of(heading: &str) -> String {
    heading
        .chars()
        .filter_map(|c| match c {
            ' ' | '-' => Some('-'),
            '_' => Some('_'),
            c if c.is_alphanumeric() => Some(c.to_ascii_lowercase()),
            _ => None,
        })
        .collect()
}

/// `path` as seen from `folder`, with `.` and `..` taken away.
fn resolve(folder: &str, path: &str) -> String {
    let mut parts: Vec<&str> = match path.strip_prefix('/') {
        Some(_) => Vec::new(),
        None => folder.split('/').filter(|part| !part.is_empty()).collect(),
    };
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The targets of `[text](target)` in a line.
fn targets(line: &str) -> Vec<String> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| {
            target
                .split_whitespace()
                .next()
                .unwrap_or_default()
                .to_owned()
        })
        .filter(|target| !target.is_empty())
        .collect()
}

/// Lines with their numbers, without fenced code.
fn text_lines(file: &File) -> impl Iterator<Item = (usize, &str)> {
    let mut in_fence = false;
    file.text
        .lines()
        .enumerate()
        .filter_map(move |(index, line)| {
            let fence = line.trim_start().starts_with("```");
            if fence {
                in_fence = !in_fence;
            }
            (!fence && !in_fence).then_some((index.saturating_add(1), line))
        })
}

/// A line with its code spans taken out.
pub(crate) fn without_code(line: &str) -> String {
    let spans = line.split('`').enumerate();
    spans
        .filter(|(index, _)| index % 2 == 0)
        .map(|(_, text)| text)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::samples::{many, one, places};
    use super::*;

    #[test]
    fn document_without_title_or_with_two_is_found() {
        assert_eq!(
            places(&titles(&one("a.md", "text\n"))),
            [("a.md", 1, "title")]
        );
        assert_eq!(
            places(&titles(&one("a.md", "# A\n\n# B\n"))),
            [("a.md", 3, "title")]
        );
        assert!(titles(&one("a.md", "# A\n\n```sh\n# not a title\n```\n## B\n")).is_empty());
    }

    #[test]
    fn dead_links_are_found() {
        let tree = many(&[
            (
                "docs/A.md",
                "# A\n[b](B.md) [c](C.md) [h](B.md#one-two) [x](B.md#three)\n[w](https://a.b/c) `[i](j)`\n",
            ),
            (
                "docs/B.md",
                "# B\n## One, two\n[up](../docs/A.md) [folder](../docs) [self](#b)\n",
            ),
        ]);
        let findings = links(&tree);
        assert_eq!(
            places(&findings),
            [("docs/A.md", 2, "link"), ("docs/A.md", 2, "link")]
        );
        assert!(
            findings
                .iter()
                .any(|finding| finding.message.contains("docs/C.md"))
        );
        assert!(
            findings
                .iter()
                .any(|finding| finding.message.contains("no such heading"))
        );
    }
}
