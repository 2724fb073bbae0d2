//! The package in a machine of its own, booted with the real systemd: `systemd-nspawn` over an overlay of this machine's root.
//!
//! The machine has nothing but what `acceptance.sh` needs: no network, no other services. What it writes goes into the overlay, which is in a
//! mount namespace of its own and goes with the test. Limits of memory and processes are not enforced in there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use qtf_needs::{Need, lacks};

/// For all of it; a boot takes seconds.
const LIMIT_S: &str = "300";
const TARGET: &str = "[Unit]\nDescription=Acceptance\nRequires=sysinit.target sockets.target systemd-journald.service acceptance.service\nAfter=sysinit.target\nAllowIsolate=yes\n";
const SERVICE: &str = "[Unit]\nDescription=Acceptance\nAfter=sysinit.target sockets.target systemd-journald.service\nDefaultDependencies=no\nSuccessAction=poweroff-force\nFailureAction=poweroff-force\n[Service]\nType=oneshot\nStandardOutput=file:/acceptance/report\nStandardError=inherit\nExecStart=/bin/sh /acceptance/acceptance.sh /acceptance/old.deb /acceptance/new.deb\n";

fn package(folder: &Path, version: &str) -> PathBuf {
    let mut command = super::xtask(&["deb", "--version", version]);
    command.arg("--output").arg(folder);
    super::succeed(&mut command);
    let mut files = fs::read_dir(folder).expect("the folder is there");
    let is_it = |path: &PathBuf| path.to_string_lossy().contains(&format!("_{version}_"));
    let found = files.find_map(|file| Some(file.ok()?.path()).filter(is_it));
    found.expect("the package is there")
}

#[test]
fn package_installs_starts_hangs_dies_reloads_upgrades_and_stops_without_losing_a_task() {
    if lacks(Need::Nspawn) || lacks(Need::Strace) {
        return;
    }
    let folder = super::folder();
    let inside = folder.path().join("upper/acceptance");
    let units = folder.path().join("upper/etc/systemd/system");
    for made in [
        &inside,
        &units,
        &folder.path().join("work"),
        &folder.path().join("root"),
    ] {
        fs::create_dir_all(made).expect("folders can be made");
    }
    for (name, version) in [("old.deb", "0.0.1"), ("new.deb", "0.0.2")] {
        let package = package(folder.path(), version);
        fs::rename(package, inside.join(name)).expect("a file can be moved");
    }
    let script = include_str!("acceptance.sh");
    fs::write(inside.join("acceptance.sh"), script).expect("a file can be written");
    fs::write(units.join("acceptance.target"), TARGET).expect("a file can be written");
    fs::write(units.join("acceptance.service"), SERVICE).expect("a file can be written");
    // Not this machine's: journals of two machines must not be mixed.
    fs::write(
        folder.path().join("upper/etc/machine-id"),
        "0123456789abcdef0123456789abcdef\n",
    )
    .expect("a file can be written");
    let boot = "mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root && \
        exec timeout --kill-after=10 $LIMIT systemd-nspawn -D root --register=no --keep-unit --private-network --console=pipe \
        --quiet -b -- --unit=acceptance.target";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", boot]);
    command.env("LIMIT", LIMIT_S).current_dir(folder.path());
    let output = command.stdin(Stdio::null()).output().expect("unshare runs");
    let console = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    let report = fs::read_to_string(inside.join("report")).unwrap_or_default();
    assert!(report.ends_with("end\n"), "{console}\n{report}");
    let failed = report.lines().any(|line| line.starts_with("FAILED"));
    assert!(!failed, "{report}");
    // A check that is left out is none.
    let said = report
        .lines()
        .filter(|line| line.starts_with("ok "))
        .count();
    let asked = |line: &&str| line.starts_with("check ") || line.starts_with("until_true ");
    assert_eq!(said, script.lines().filter(asked).count(), "{report}");
}
