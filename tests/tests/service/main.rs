//! The programs as services of systemd: units, installation, package, and a boot of all of it.

mod boot;
mod operating;
mod told;
mod units;

use std::path::{Path, PathBuf};
use std::process::Command;

use qtf_tests::programs::program;

fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("it is in the workspace").to_owned()
}

/// `xtask`, which takes the programs that the tests have.
fn xtask(words: &[&str]) -> Command {
    let xtask = program("xtask");
    let built = xtask.parent().expect("it lies in a folder").to_owned();
    let mut command = Command::new(xtask);
    // That of this test, which is another crate.
    command.env_remove("CARGO_MANIFEST_DIR");
    command.args(words).arg("--built").arg(built);
    command
}

fn succeed(command: &mut Command) {
    let output = command.output().expect("the program is there");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

/// On a disk: programs with symbols are large.
fn folder() -> tempfile::TempDir {
    let target = workspace().join("target");
    std::fs::create_dir_all(&target).expect("a folder can be made");
    tempfile::tempdir_in(target).expect("a folder can be made")
}
