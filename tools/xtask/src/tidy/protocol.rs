//! Each field of the `.proto` files is explained in the page for those who write clients and workers, or stands in a list of fields whose
//! name and comment say all. An entry of the list that nothing needs any more goes.

use std::collections::BTreeSet;

use super::tree::{File, Finding, Tree};

const FILES: &str = "proto/proto/";
const PAGE: &str = "docs/PROTOCOL.md";
/// `Message.field`, one a line.
const LIST: &str = ".config/protocol-fields";

/// A field of a message.
struct Field<'a> {
    message: &'a str,
    name: &'a str,
    line: usize,
}

/// See the head of this file.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let explained = tree
        .file(PAGE)
        .map_or_else(BTreeSet::new, |page| words_of_code(&page.text));
    let listed: Vec<(usize, &str)> = tree
        .file(LIST)
        .map_or_else(Vec::new, |list| entries(&list.text));
    let mut needed = BTreeSet::new();
    let mut findings = Vec::new();
    let files = tree.files.iter();
    for file in files.filter(|file| file.path.starts_with(FILES) && file.path.ends_with(".proto")) {
        for field in fields(file) {
            if explained.contains(field.name) {
                continue;
            }
            let entry = format!("{}.{}", field.message, field.name);
            if !listed.iter().any(|(_, listed)| *listed == entry) {
                let message = format!(
                    "{entry}: {PAGE} does not explain `{}`, and {LIST} does not say that it explains itself",
                    field.name
                );
                findings.push(file.finding(field.line, "protocol", message));
            }
            needed.insert(entry);
        }
    }
    let Some(list) = tree.file(LIST) else {
        return findings;
    };
    for (line, entry) in listed {
        if !needed.contains(entry) {
            let message = format!("{entry} is explained in {PAGE}, or is no field");
            findings.push(list.finding(line, "protocol", message));
        }
    }
    findings
}

/// Lines of the list with their numbers, without comments.
fn entries(text: &str) -> Vec<(usize, &str)> {
    let lines = text
        .lines()
        .zip(1..)
        .map(|(line, number)| (number, line.trim()));
    lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .collect()
}

/// The fields of all messages of a file; numbers of enums are none.
fn fields(file: &File) -> Vec<Field<'_>> {
    let mut found = Vec::new();
    let mut message = None;
    for (line, number) in file.text.lines().zip(1..) {
        let line = line.split("//").next().unwrap_or_default().trim();
        if let Some(rest) = line.strip_prefix("message ") {
            // An empty one ends where it begins.
            message = (!line.ends_with('}')).then(|| rest.trim_end_matches([' ', '{']));
        } else if line == "}" {
            message = None;
        } else if let (Some(message), Some((before, _))) = (message, line.split_once(" = ")) {
            found.push(Field {
                message,
                name: before.split_whitespace().next_back().unwrap_or_default(),
                line: number,
            });
        }
    }
    found
}

/// Every word inside of code: spans and drawings.
fn words_of_code(text: &str) -> BTreeSet<&str> {
    let mut words = BTreeSet::new();
    let mut in_fence = false;
    for line in text.lines() {
        if line.starts_with("```") {
            in_fence = !in_fence;
            continue;
        }
        for (index, part) in line.split('`').enumerate() {
            if in_fence || index % 2 == 1 {
                words.extend(part.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
            }
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::super::samples::{many, places};
    use super::*;

    const PROTO: &str = "proto/proto/a.proto";

    fn tree(page: &str, list: &str) -> Tree {
        let proto = "syntax = \"proto3\";\nmessage Empty {}\nenum E {\n  E_ZERO = 0;\n}\nmessage M {\n  // Text = more.\n  \
                     repeated bytes keep_ms = 1;\n  optional uint32 seen = 2; // Why.\n}\n";
        many(&[(PROTO, proto), (PAGE, page), (LIST, list)])
    }

    #[test]
    fn field_that_is_neither_explained_nor_listed_is_found() {
        let found = check(&tree("# P\nkeep_ms in words, `M.seen`\n", ""));
        assert_eq!(places(&found), [(PROTO, 8, "protocol")]);
        assert!(found[0].message.contains("M.keep_ms"), "{found:?}");
    }

    #[test]
    fn spans_drawings_and_the_list_explain() {
        let page = "# P\n```text\n|--- seen, more -|\n```\n";
        assert_eq!(check(&tree(page, "# Why.\nM.keep_ms\n")), []);
    }

    #[test]
    fn entry_of_the_list_that_nothing_needs_is_found() {
        let found = check(&tree("# P\n`keep_ms`\n", "M.keep_ms\nM.seen\nM.gone\n"));
        assert_eq!(
            places(&found),
            [(LIST, 1, "protocol"), (LIST, 3, "protocol")]
        );
    }
}
