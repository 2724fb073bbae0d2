//! Where the programs are: next to the test executable, built by one `cargo build` for each test
//! executable, which is quick when nothing has changed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const PACKAGES: [&str; 7] = [
    "qtf-daemon",
    "qtf-worker",
    "qtf",
    "shm-inspect",
    "qtf-examples",
    "qtf-pages",
    "xtask",
];

/// The path of a program of this workspace.
///
/// # Panics
/// When it cannot be built.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = folder();
        build(&folder);
        folder
    });
    let path = folder.join(name);
    assert!(
        path.exists(),
        "{} is not there after cargo build",
        path.display()
    );
    path
}

/// `target/PROFILE`, of which the test executable is in `deps`.
fn folder() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let deps = test.parent().expect("a test executable lies in a folder");
    deps.parent().unwrap_or(deps).to_owned()
}

fn build(folder: &Path) {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--bins"]);
    for package in PACKAGES {
        cargo.args(["--package", package]);
    }
    if folder
        .file_name()
        .is_some_and(|profile| profile == "release")
    {
        cargo.arg("--release");
    }
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    let status = cargo.status().expect("cargo can be started");
    assert!(status.success(), "cargo build: {status}");
}
