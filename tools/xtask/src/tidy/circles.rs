//! No circle across folders: the folders of a crate are floors, and look only down.
//!
//! In each folder its files and its subfolders are taken as members, a subfolder with everything in it. No circle of uses
//! may lead through a subfolder. Files beside each other may use each other. The head file of a folder (`mod.rs`) is
//! what its subfolders have in common, and no member; that of a whole crate is one, but for what it only hands on.

use super::imports::{self, Use};
use super::tree::{Finding, Tree};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Where the circles stand that are not mended yet, as `FROM TO REASON`; a ratchet: lines may go and never come.
const EXCEPTIONS: &str = ".config/tidy-circles";

/// What a member uses of another one, by their paths; the first of the uses each.
type Graph<'a> = BTreeMap<&'a str, BTreeMap<&'a str, &'a Use>>;

/// No circles but those of [`EXCEPTIONS`], and none there that is not one any more.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let exceptions = exceptions(tree, &mut findings);
    let mut needed = vec![false; exceptions.len()];
    for src in imports::crates(tree) {
        let uses = imports::uses(tree, &src);
        for folder in folders(&src, &uses) {
            let mut graph = graph_of(&src, folder, &uses);
            let members = in_circles(&graph);
            for (exception, needed) in exceptions.iter().zip(&mut needed) {
                let is_circle = members
                    .iter()
                    .any(|circle| circle.contains(exception.from) && circle.contains(exception.to));
                let targets = graph.get_mut(exception.from);
                *needed |= targets
                    .and_then(|targets| targets.remove(exception.to))
                    .is_some()
                    && is_circle;
            }
            findings.extend(in_circles(&graph).iter().filter_map(|circle| {
                let shortest = shortest(&graph, circle)?;
                Some(finding(&shortest))
            }));
        }
    }
    for (exception, _) in exceptions.iter().zip(needed).filter(|(_, needed)| !needed) {
        let message = format!(
            "{} and {} are in no circle any more: drop the exception",
            exception.from, exception.to
        );
        findings.push(Finding {
            path: EXCEPTIONS.to_owned(),
            line: exception.number,
            rule: "circle",
            message,
        });
    }
    findings
}

fn finding(circle: &[&Use]) -> Finding {
    let steps: Vec<String> = circle
        .iter()
        .map(|step| format!("{}:{} uses {}", step.from, step.line, step.to))
        .collect();
    let first = circle.first();
    Finding {
        path: first.map(|step| step.from.clone()).unwrap_or_default(),
        line: first.map_or(0, |step| step.line),
        rule: "circle",
        message: format!("folders use each other in a circle: {}", steps.join("; ")),
    }
}

/// `src` and every folder below it that has subfolders or files.
fn folders<'a>(src: &'a str, uses: &'a [Use]) -> BTreeSet<&'a str> {
    let mut folders = BTreeSet::from([src]);
    for path in uses.iter().flat_map(|step| [&step.from, &step.to]) {
        let mut path = path.as_str();
        while let Some((folder, _)) = path.rsplit_once('/') {
            if folder.len() <= src.len() {
                break;
            }
            folders.insert(folder);
            path = folder;
        }
    }
    folders
}

/// The member of `folder` in which `path` lies, if it lies in one.
fn member<'a>(src: &str, folder: &str, path: &'a str) -> Option<&'a str> {
    let below = path.strip_prefix(folder)?.strip_prefix('/')?;
    if below == "mod.rs" && folder != src {
        return None;
    }
    let name = below.split('/').next()?;
    path.get(..folder.len().saturating_add(1).saturating_add(name.len()))
}

fn graph_of<'a>(src: &str, folder: &str, uses: &'a [Use]) -> Graph<'a> {
    let mut graph = Graph::new();
    for step in uses {
        let members = (
            member(src, folder, &step.from),
            member(src, folder, &step.to),
        );
        if let (Some(from), Some(to)) = members
            && from != to
        {
            graph.entry(from).or_default().entry(to).or_insert(step);
        }
    }
    graph
}

/// Who reaches whom and is reached by them, in groups; only groups with a subfolder among them.
fn in_circles<'a>(graph: &Graph<'a>) -> Vec<BTreeSet<&'a str>> {
    let reached: BTreeMap<&str, BTreeSet<&'a str>> = graph
        .keys()
        .map(|&member| (member, reachable(graph, member)))
        .collect();
    let reaches = |from: &str, to: &str| reached.get(from).is_some_and(|all| all.contains(to));
    let mut groups: Vec<BTreeSet<&'a str>> = Vec::new();
    for &member in graph.keys() {
        let is_grouped = groups.iter().any(|group| group.contains(member));
        if is_grouped || !reaches(member, member) {
            continue;
        }
        let group = graph
            .keys()
            .copied()
            .filter(|&other| other == member || (reaches(member, other) && reaches(other, member)));
        groups.push(group.collect());
    }
    groups.retain(|group| group.iter().any(|member| is_folder(member)));
    groups
}

fn is_folder(member: &str) -> bool {
    !member.ends_with(".rs")
}

/// What `from` uses over any number of steps.
fn reachable<'a>(graph: &Graph<'a>, from: &str) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut open: VecDeque<&str> = VecDeque::from([from]);
    while let Some(member) = open.pop_front() {
        for &next in graph.get(member).into_iter().flat_map(BTreeMap::keys) {
            if found.insert(next) {
                open.push_back(next);
            }
        }
    }
    found
}

/// The shortest circle of a group that leads through a subfolder.
fn shortest<'a>(graph: &Graph<'a>, group: &BTreeSet<&'a str>) -> Option<Vec<&'a Use>> {
    let through = group.iter().filter(|member| is_folder(member));
    let circles = through.filter_map(|folder| circle_through(graph, folder));
    circles.min_by_key(Vec::len)
}

/// The shortest way from a member back to it.
fn circle_through<'a>(graph: &Graph<'a>, start: &str) -> Option<Vec<&'a Use>> {
    let mut ways: VecDeque<(&str, Vec<&'a Use>)> = VecDeque::from([(start, Vec::new())]);
    let mut seen = BTreeSet::new();
    while let Some((member, way)) = ways.pop_front() {
        for (&next, &step) in graph.get(member).into_iter().flatten() {
            let way = [way.as_slice(), &[step]].concat();
            if next == start {
                return Some(way);
            }
            if seen.insert(next) {
                ways.push_back((next, way));
            }
        }
    }
    None
}

struct Exception<'a> {
    number: usize,
    from: &'a str,
    to: &'a str,
}

fn exceptions<'a>(tree: &'a Tree, findings: &mut Vec<Finding>) -> Vec<Exception<'a>> {
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
        match (words.next(), words.next(), words.next()) {
            (Some(from), Some(to), Some(reason)) if !reason.trim().is_empty() => {
                exceptions.push(Exception { number, from, to });
            }
            _ => {
                let message = "an exception is `FROM TO REASON`, with two files or folders";
                findings.push(file.finding(number, "circle", message));
            }
        }
    }
    exceptions
}

#[cfg(test)]
mod tests {
    use super::super::samples::{many, places};
    use super::*;

    const ROOT: (&str, &str) = ("x/src/lib.rs", "mod high; mod low; mod third;\n");

    #[test]
    fn floors_that_look_down_pass() {
        let tree = many(&[
            ROOT,
            ("x/src/high/mod.rs", "use crate::low::Low;\n"),
            (
                "x/src/high/part.rs",
                "use super::other::Part;\nuse crate::third::Third;\n",
            ),
            ("x/src/high/other.rs", "use super::part::Part;\n"),
            ("x/src/low/mod.rs", "use crate::third::Third;\n"),
            ("x/src/third.rs", ""),
        ]);
        assert_eq!(check(&tree), []);
    }

    #[test]
    fn circle_of_folders_is_found_though_no_two_files_use_each_other() {
        let tree = many(&[
            ROOT,
            ("x/src/high/a.rs", "\nuse crate::low::b::B;\n"),
            ("x/src/high/c.rs", ""),
            ("x/src/low/b.rs", ""),
            ("x/src/low/d.rs", "use crate::high::c::C;\n"),
        ]);
        let found = check(&tree);
        assert_eq!(places(&found), [("x/src/high/a.rs", 2, "circle")]);
        let expected =
            "x/src/high/a.rs:2 uses x/src/low/b.rs; x/src/low/d.rs:1 uses x/src/high/c.rs";
        assert!(found[0].message.ends_with(expected), "{}", found[0].message);
    }

    #[test]
    fn shortest_circle_is_named() {
        let tree = many(&[
            ROOT,
            (
                "x/src/high/a.rs",
                "use crate::low::b::B;\nuse crate::third::Third;\n",
            ),
            ("x/src/low/b.rs", "use crate::third::Third;\n"),
            ("x/src/third.rs", "use crate::high::a::A;\n"),
        ]);
        let found = check(&tree);
        assert_eq!(found.len(), 1);
        assert!(!found[0].message.contains("low"), "{}", found[0].message);
    }

    #[test]
    fn circle_over_the_root_of_the_crate_is_found_unless_the_root_only_hands_on() {
        let tree = |root| {
            let a = ("x/src/high/a.rs", "use crate::Thing;\n");
            many(&[("x/src/lib.rs", root), a, ("x/src/high/mod.rs", "mod a;\n")])
        };
        assert_eq!(check(&tree("pub use high::a::Other;\nstruct Thing;\n")), []);
        let found = check(&tree("use high::a::Other;\nstruct Thing;\n"));
        assert_eq!(places(&found), [("x/src/high/a.rs", 1, "circle")]);
    }

    #[test]
    fn files_beside_each_other_may_use_each_other() {
        let tree = many(&[
            ROOT,
            ("x/src/a.rs", "use crate::b::B;\n"),
            ("x/src/b.rs", "use crate::a::A;\n"),
        ]);
        assert_eq!(check(&tree), []);
    }

    #[test]
    fn subfolders_are_floors_too_and_the_head_of_their_folder_is_common() {
        let tree = |two| {
            many(&[
                ROOT,
                ("x/src/high/mod.rs", "use one::a::A;\nuse two::b::B;\n"),
                (
                    "x/src/high/one/a.rs",
                    "use super::super::Head;\nuse crate::high::two::b::B;\n",
                ),
                ("x/src/high/two/b.rs", two),
            ])
        };
        assert_eq!(check(&tree("")), []);
        let found = check(&tree("use crate::high::one::a::A;\n"));
        assert_eq!(places(&found), [("x/src/high/one/a.rs", 2, "circle")]);
    }

    #[test]
    fn file_and_a_folder_beside_it_are_a_circle() {
        let tree = many(&[
            ROOT,
            ("x/src/high/a.rs", "use super::inner::b::B;\n"),
            ("x/src/high/inner/b.rs", "use crate::high::a::A;\n"),
        ]);
        assert_eq!(
            places(&check(&tree)),
            [("x/src/high/inner/b.rs", 1, "circle")]
        );
    }

    #[test]
    fn exception_lets_one_use_pass_and_goes_with_its_circle() {
        let tree = |low, exception| {
            many(&[
                ROOT,
                ("x/src/high/a.rs", "use crate::low::b::B;\n"),
                ("x/src/low/b.rs", low),
                (EXCEPTIONS, exception),
            ])
        };
        let looks_up = "use crate::high::a::A;\n";
        let exception = "# why\nx/src/low x/src/high it grew so\n";
        assert_eq!(check(&tree(looks_up, exception)), []);
        assert_eq!(
            places(&check(&tree("", exception))),
            [(EXCEPTIONS, 2, "circle")]
        );
        let other = "x/src/high x/src/third it grew so\n";
        let found = check(&tree(looks_up, other));
        let expected = [("x/src/high/a.rs", 1, "circle"), (EXCEPTIONS, 1, "circle")];
        assert_eq!(places(&found), expected);
        let found = check(&tree("", "x/src/low x/src/high\n"));
        assert_eq!(places(&found), [(EXCEPTIONS, 1, "circle")]);
    }
}
