//! The parts of the PLM have doors, and call only what stands below them.
//!
//! The PLM is one type whose methods stand in many files, so its parts can call each other without a `use`. The table in the head of
//! the PLM says which part stands on which floor; the paragraph `Door:` in the head of a part names the calls by which others enter:
//! all methods that others can see, and no others.

use super::imports::{Token, tokens_of};
use super::tree::{File, Finding, Tree};
use std::collections::{BTreeMap, BTreeSet};

/// The folder of the PLM.
const PLM: &str = "engine/src/plm";
/// How a method begins that other parts can see.
const VISIBLE: [&str; 2] = ["pub(crate)", "pub(in crate::plm)"];

/// A method of the PLM.
struct Method<'a> {
    file: &'a File,
    line: usize,
    part: &'a str,
    is_visible: bool,
}

/// No part calls one that stands above it, and each head names what the part's methods are for others.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Some(head) = tree.file(&format!("{PLM}/mod.rs")) else {
        return findings;
    };
    let floors = floors(head);
    let files: Vec<(&str, &File)> = tree
        .rust()
        .filter(|file| !file.is_test())
        .filter_map(|file| Some((part_of(file)?, file)))
        .collect();
    let methods: BTreeMap<String, Method<'_>> = files
        .iter()
        .flat_map(|&(part, file)| methods(part, file))
        .collect();
    for &(part, file) in &files {
        if !floors.contains_key(part) {
            let message =
                format!("part {part}/ stands on no floor: the table in {PLM}/mod.rs names each");
            findings.push(file.finding(0, "door", message));
        }
        findings.extend(calls_upwards(part, file, &floors, &methods));
    }
    let parts: BTreeSet<&str> = files.iter().map(|&(part, _)| part).collect();
    for part in parts {
        if let Some(head) = tree.file(&format!("{PLM}/{part}/mod.rs")) {
            findings.extend(door_that_is_wrong(part, head, &methods));
        }
    }
    findings
}

/// The floors of the parts, by the rows `| NUMBER | PARTS |` in the head of the PLM.
fn floors(head: &File) -> BTreeMap<String, u32> {
    let mut floors = BTreeMap::new();
    for (_, line) in head.rust().numbered() {
        let mut cells = line.comment.split('|').skip(1).map(str::trim);
        let floor = cells.next().and_then(|cell| cell.parse().ok());
        if let (Some(floor), Some(parts)) = (floor, cells.next()) {
            let parts = quoted(parts).filter_map(|part| part.strip_suffix('/'));
            floors.extend(parts.map(|part| (part.to_owned(), floor)));
        }
    }
    floors
}

/// Words between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn part_of(file: &File) -> Option<&str> {
    let (part, _) = file
        .path
        .strip_prefix(PLM)?
        .strip_prefix('/')?
        .split_once('/')?;
    Some(part)
}

/// The methods in the `impl Plm` of a file, which end at the brace in the first column.
fn methods<'a>(part: &'a str, file: &'a File) -> Vec<(String, Method<'a>)> {
    let mut found = Vec::new();
    let mut inside = false;
    for (number, line) in file.rust().numbered() {
        match line.code.trim_end() {
            "impl Plm {" => inside = true,
            "}" => inside = false,
            // Not what is declared within a method.
            code if inside && code.starts_with("    ") && !code.starts_with("     ") => {
                let Some((before, after)) = code.split_once("fn ") else {
                    continue;
                };
                let is_name = |c: char| c.is_alphanumeric() || c == '_';
                let name = after.split(|c| !is_name(c)).next().unwrap_or_default();
                let method = Method {
                    file,
                    line: number,
                    part,
                    is_visible: VISIBLE.iter().any(|how| before.trim().starts_with(how)),
                };
                found.push((name.to_owned(), method));
            }
            _ => {}
        }
    }
    found
}

fn calls_upwards(
    part: &str,
    file: &File,
    floors: &BTreeMap<String, u32>,
    methods: &BTreeMap<String, Method<'_>>,
) -> Vec<Finding> {
    let tokens = tokens_of(file.rust());
    let calls = tokens.windows(4).filter_map(|four| match four {
        [this, dot, name, open] if this.text == "self" && dot.text == "." && open.text == "(" => {
            Some(name)
        }
        _ => None,
    });
    let is_upwards = |called: &&Token| {
        let target = methods.get(&called.text).map(|method| method.part);
        target.is_some_and(|target| floors.get(target) > floors.get(part))
    };
    calls
        .filter(is_upwards)
        .map(|called| {
            let name = &called.text;
            let target = methods.get(name).map_or("", |method| method.part);
            let message = format!("{part}/ calls {name} of {target}/, which stands above it");
            file.finding(called.line, "door", message)
        })
        .collect()
}

/// What the door of a part does not name, and what it names that is none of its methods for others.
fn door_that_is_wrong(
    part: &str,
    head: &File,
    methods: &BTreeMap<String, Method<'_>>,
) -> Vec<Finding> {
    let (line, door) = door_of(head);
    let named: BTreeSet<&str> = quoted(&door)
        .filter(|name| name.chars().all(|c| c.is_alphanumeric() || c == '_'))
        .collect();
    let mut findings = Vec::new();
    let of_part = |method: &Method<'_>| method.part == part && method.is_visible;
    for (name, method) in methods.iter().filter(|(_, method)| of_part(method)) {
        if !named.contains(name.as_str()) {
            let message =
                format!("{name} can be called by others, and the door of {part}/ does not name it");
            findings.push(method.file.finding(method.line, "door", message));
        }
    }
    for name in named {
        if !methods.get(name).is_some_and(of_part) {
            let message =
                format!("the door names {name}, which is no method of {part}/ for others");
            findings.push(head.finding(line, "door", message));
        }
    }
    findings
}

/// The paragraph `Door:` of a head, up to `State:`, and its line.
fn door_of(head: &File) -> (usize, String) {
    let mut door = String::new();
    let mut begin = 0_usize;
    for (number, line) in head.rust().numbered() {
        let text = line.comment.trim_start_matches('!').trim();
        if text.starts_with("State:") {
            break;
        }
        if text.starts_with("Door:") {
            begin = number;
        }
        if begin > 0 {
            door.push_str(text);
            door.push(' ');
        }
    }
    (begin, door)
}

#[cfg(test)]
mod tests {
    use super::super::samples::{many, places};
    use super::*;

    const HEAD: &str = "//! The PLM.\n//!\n//! | floor | part | does |\n//! |---:|---|---|\n//! | 2 | `high/` | a |\n//! | 1 | `low/` | b |\n";

    fn found(door: &str, high: &str, low: &str) -> Vec<(String, usize)> {
        let head = format!("//! Low.\n//!\n//! Door: {door}\n//! State: none, `nothing`.\n");
        let tree = many(&[
            ("engine/src/plm/mod.rs", HEAD),
            (
                "engine/src/plm/high/mod.rs",
                "//! High.\n//!\n//! Door: `top`.\n",
            ),
            ("engine/src/plm/high/a.rs", high),
            ("engine/src/plm/low/mod.rs", &head),
            ("engine/src/plm/low/b.rs", low),
        ]);
        let findings = check(&tree);
        let short = |path: &str| path.replace("engine/src/plm/", "");
        places(&findings)
            .into_iter()
            .map(|(path, line, _)| (short(path), line))
            .collect()
    }

    const HIGH: &str = "impl Plm {\n    pub(crate) fn top(&mut self) {\n        self\n            .step();\n    }\n}\n";
    const LOW: &str = "impl Plm {\n    pub(in crate::plm) fn step(&self) {\n        self.own();\n    }\n\n    fn own(&self) {}\n}\n";

    #[test]
    fn calls_downwards_through_a_door_pass() {
        assert_eq!(found("`step`, and [`x::y`] of `b.rs`.", HIGH, LOW), []);
    }

    #[test]
    fn call_upwards_is_found() {
        let low = LOW.replace("self.own()", "self.top()");
        assert_eq!(found("`step`.", HIGH, &low), [("low/b.rs".to_owned(), 3)]);
    }

    #[test]
    fn method_that_the_door_does_not_name_is_found() {
        assert_eq!(found("none.", HIGH, LOW), [("low/b.rs".to_owned(), 2)]);
    }

    #[test]
    fn door_that_names_what_is_not_there_or_not_for_others_is_found() {
        let found = found("`step`, `own`,\n//! `gone`.", HIGH, LOW);
        assert_eq!(
            found,
            [("low/mod.rs".to_owned(), 3), ("low/mod.rs".to_owned(), 3)]
        );
    }

    #[test]
    fn part_without_a_floor_is_found() {
        let tree = many(&[
            ("engine/src/plm/mod.rs", HEAD),
            ("engine/src/plm/other/a.rs", "struct A;\n"),
        ]);
        assert_eq!(
            places(&check(&tree)),
            [("engine/src/plm/other/a.rs", 0, "door")]
        );
    }

    #[test]
    fn calls_in_tests_and_of_other_types_are_let_be() {
        let low = "impl Other {\n    pub(crate) fn elsewhere(&self) {}\n}\nimpl Plm {\n    pub(in crate::plm) fn step(&self) {}\n}\n\
                   #[cfg(test)]\nmod tests {\n    fn f() { self.top() }\n}\n";
        assert_eq!(found("`step`.", HIGH, low), []);
    }
}
