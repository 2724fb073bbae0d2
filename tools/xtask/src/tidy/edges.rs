//! The crates depend in one direction, as docs/ARCHITECTURE.md draws it.
//!
//! Checked on what cargo itself says of the workspace, for ordinary, build and test dependencies.

use super::tree::Finding;
use crate::cargo;
use anyhow::{Context, bail};
use serde_json::Value;

/// One dependency between two crates of the workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Edge {
    pub(crate) from: String,
    pub(crate) to: String,
    /// Only for tests and examples.
    pub(crate) dev: bool,
}

/// What each crate may depend on. Tools and whole-system tests may use everything but tools.
const ALLOWED: [(&str, &[&str]); 14] = [
    ("qtf-shm", &[]),
    ("qtf-proto", &[]),
    ("qtf-shown", &[]),
    ("qtf-log", &["qtf-shown"]),
    ("qtf-service", &[]),
    ("qtf-journal", &["qtf-shm"]),
    ("qtf-engine", &["qtf-shm", "qtf-journal"]),
    ("qtf-fake-daemon", &["qtf-proto"]),
    ("qtf-world", &["qtf-engine", "qtf-journal", "qtf-shm"]),
    ("qtf-records", &["qtf-shm", "qtf-proto"]),
    ("qtf-local", &["qtf-shm", "qtf-proto", "qtf-records"]),
    ("qtf-client", &["qtf-shm", "qtf-proto", "qtf-local"]),
    (
        "qtf-worker",
        &[
            "qtf-shm",
            "qtf-proto",
            "qtf-local",
            "qtf-log",
            "qtf-service",
        ],
    ),
    (
        "qtf-daemon",
        &[
            "qtf-engine",
            "qtf-journal",
            "qtf-shm",
            "qtf-proto",
            "qtf-records",
            "qtf-log",
            "qtf-service",
        ],
    ),
];

/// What tests and examples of a crate may use besides: an example of a worker submits to itself.
const ALLOWED_IN_TESTS: [(&str, &[&str]); 3] = [
    ("qtf-engine", &["qtf-world"]),
    ("qtf-client", &["qtf-worker", "qtf-fake-daemon"]),
    ("qtf-worker", &["qtf-client", "qtf-fake-daemon"]),
];

/// Nobody depends on these, but for the fuzz targets, which are handed command lines and images.
const TOOLS: [&str; 4] = ["qtf", "qtf-pages", "shm-inspect", "xtask"];

/// What tests need of the machine: for tests, and for the tool that counts those which were skipped.
const NEEDS: &str = "qtf-needs";

/// The crate of the fuzz targets.
const FUZZ_TARGETS: &str = "qtf-fuzz";

/// The edges that break the rule.
pub(crate) fn check(edges: &[Edge]) -> Vec<Finding> {
    let broken = edges.iter().filter(|edge| !is_allowed(edge));
    broken
        .map(|edge| Finding {
            path: "Cargo.toml".to_owned(),
            line: 0,
            rule: "edges",
            message: format!("{} may not depend on {}", edge.from, edge.to),
        })
        .collect()
}

fn is_allowed(edge: &Edge) -> bool {
    if TOOLS.contains(&edge.to.as_str()) {
        return edge.from == FUZZ_TARGETS;
    }
    if edge.to == NEEDS {
        return edge.dev || TOOLS.contains(&edge.from.as_str());
    }
    let listed = |list: &[(&str, &[&str])]| {
        let targets = list
            .iter()
            .find(|(from, _)| *from == edge.from)
            .map(|(_, targets)| *targets);
        targets.map(|targets| targets.contains(&edge.to.as_str()))
    };
    match listed(&ALLOWED) {
        None => true,
        Some(true) => true,
        Some(false) => edge.dev && listed(&ALLOWED_IN_TESTS) == Some(true),
    }
}

/// Asks cargo for the edges of the workspace.
pub(crate) fn from_cargo() -> anyhow::Result<Vec<Edge>> {
    let mut command = cargo::cargo();
    command.args(["metadata", "--no-deps", "--format-version", "1"]);
    let output = command.output().context("cannot start cargo metadata")?;
    if !output.status.success() {
        bail!(
            "cargo metadata: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let metadata = serde_json::from_slice(&output.stdout).context("cargo metadata is no JSON")?;
    Ok(edges_of(&metadata))
}

fn edges_of(metadata: &Value) -> Vec<Edge> {
    let packages = metadata["packages"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let name = |value: &Value| value["name"].as_str().unwrap_or_default().to_owned();
    let members: Vec<String> = packages.iter().map(name).collect();
    let mut edges = Vec::new();
    for package in packages {
        let dependencies = package["dependencies"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        for dependency in dependencies.iter().filter(|d| members.contains(&name(d))) {
            let dev = dependency["kind"].as_str() == Some("dev");
            edges.push(Edge {
                from: name(package),
                to: name(dependency),
                dev,
            });
        }
    }
    edges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(from: &str, to: &str, dev: bool) -> Edge {
        Edge {
            from: from.to_owned(),
            to: to.to_owned(),
            dev,
        }
    }

    #[test]
    fn edges_against_the_direction_are_found() {
        for (from, to) in [
            ("qtf-shm", "qtf-proto"),
            ("qtf-shown", "qtf-shm"),
            ("qtf-engine", "qtf-proto"),
            ("qtf-journal", "qtf-engine"),
            ("qtf-client", "qtf-daemon"),
            ("qtf-worker", "qtf-engine"),
            ("qtf-daemon", "qtf-client"),
            ("qtf", "shm-inspect"),
            ("qtf-tests", "qtf"),
            ("qtf-tests", "shm-inspect"),
        ] {
            assert_eq!(check(&[edge(from, to, false)]).len(), 1, "{from} -> {to}");
            assert_eq!(
                check(&[edge(from, to, true)]).len(),
                1,
                "{from} -> {to} in tests"
            );
        }
    }

    #[test]
    fn drawn_edges_pass() {
        for (from, to) in [
            ("qtf-engine", "qtf-shm"),
            ("qtf-engine", "qtf-journal"),
            ("qtf-client", "qtf-shm"),
            ("qtf-worker", "qtf-proto"),
            ("qtf-daemon", "qtf-engine"),
            ("qtf", "qtf-daemon"),
            ("qtf-tests", "qtf-daemon"),
            ("qtf-fuzz", "shm-inspect"),
        ] {
            assert_eq!(check(&[edge(from, to, false)]), [], "{from} -> {to}");
        }
        assert_eq!(check(&[edge("qtf-worker", "qtf-client", true)]), []);
    }

    #[test]
    fn edges_are_read_from_metadata() {
        let metadata = serde_json::json!({ "packages": [
            { "name": "a", "dependencies": [
                { "name": "b", "kind": null }, { "name": "c", "kind": "dev" },
                { "name": "serde", "kind": null } ] },
            { "name": "b", "dependencies": [] },
            { "name": "c", "dependencies": [{ "name": "b", "kind": "build" }] },
        ] });
        let expected = [
            edge("a", "b", false),
            edge("a", "c", true),
            edge("c", "b", false),
        ];
        assert_eq!(edges_of(&metadata), expected);
    }

    #[test]
    fn workspace_has_only_drawn_edges() {
        let edges = from_cargo().unwrap();
        assert!(
            edges
                .iter()
                .any(|edge| edge.from == "qtf-daemon" && edge.to == "qtf-engine")
        );
        assert_eq!(check(&edges), []);
    }
}
