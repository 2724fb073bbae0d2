//! The units as they are installed: systemd understands each line, and they are as closed as they are said to be.

use std::fs;
use std::path::Path;
use std::process::Command;

use qtf_needs::{Need, lacks};

/// Unit, and the exposure that it may have, as `systemd-analyze security` counts.
const EXPOSURE: [(&str, &str); 3] = [
    ("qtfd.service", "12"),
    ("qtfd@.service", "12"),
    ("qtf-worker@.service", "25"),
];

fn analyze(words: &[&str]) -> (bool, String) {
    let output = Command::new("systemd-analyze").args(words).output();
    let output = output.expect("systemd-analyze is there, as was tried");
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said)
}

fn units() -> String {
    super::workspace()
        .join("systemd")
        .to_string_lossy()
        .into_owned()
}

#[test]
fn units_are_as_closed_as_they_are_said_to_be() {
    if lacks(Need::Systemd) {
        return;
    }
    for (unit, threshold) in EXPOSURE {
        let file = format!("{}/{unit}", units());
        let threshold = format!("--threshold={threshold}");
        let (is_below, said) = analyze(&["security", "--offline=true", &threshold, &file]);
        assert!(is_below, "{unit}: {said}");
    }
    let open = super::folder();
    let file = open.path().join("open.service");
    fs::write(&file, "[Service]\nExecStart=/bin/true\n").expect("a file can be written");
    let file = file.to_string_lossy();
    let (is_below, said) = analyze(&["security", "--offline=true", "--threshold=12", &file]);
    assert!(!is_below, "the threshold is looked at: {said}");
}

/// Verifies the installed units below a root, each with its drop-ins.
fn verify(root: &Path) -> (bool, String) {
    let names = [
        "qtfd.service",
        "qtfd@a.service",
        "qtfd.socket",
        "qtfd@a.socket",
        "qtfd-tcp.socket",
        "qtf-worker@a.service",
    ];
    let root = format!("--root={}", root.display());
    let mut words = vec!["verify", "--recursive-errors=no", "--man=no", root.as_str()];
    words.extend(names);
    analyze(&words)
}

#[test]
fn systemd_understands_every_line_of_the_installed_units_and_drop_ins() {
    if lacks(Need::Systemd) {
        return;
    }
    let folder = super::folder();
    let root = folder.path();
    let mut command = super::xtask(&["install"]);
    command.arg("--destdir");
    super::succeed(command.arg(root));
    for program in ["kill", "sh"] {
        let to = root.join("bin").join(program);
        fs::create_dir_all(root.join("bin")).expect("a folder can be made");
        fs::copy("/bin/true", to).expect("a file can be copied");
    }
    let drop_ins = root.join("usr/lib/systemd/system/qtfd.service.d");
    fs::create_dir_all(&drop_ins).expect("a folder can be made");
    for name in ["private-ipc.conf", "huge-pages.conf", "real-time.conf"] {
        let from = root.join("usr/share/qtf/drop-ins").join(name);
        fs::copy(from, drop_ins.join(name)).expect("a file can be copied");
    }
    let (is_good, said) = verify(root);
    assert!(is_good && said.is_empty(), "{said}");
    let unit = root.join("usr/lib/systemd/system/qtfd.service");
    let text = fs::read_to_string(&unit).expect("the unit is there");
    fs::write(&unit, text.replace("NoNewPrivileges", "NoNewPrivilege")).expect("it can be written");
    let (is_good, said) = verify(root);
    assert!(
        !is_good && said.contains("NoNewPrivilege"),
        "a mistyped key is found: {said}"
    );
    for page in [
        "qtfd.1",
        "qtf.1",
        "qtf-submit.1",
        "qtf-worker.1",
        "shm-inspect.1",
    ] {
        let page = root.join("usr/share/man/man1").join(page);
        assert!(
            fs::metadata(&page).is_ok_and(|file| file.len() > 100),
            "{}",
            page.display()
        );
    }
    for program in ["qtfd", "qtf", "qtf-worker", "shm-inspect"] {
        let file = root
            .join("usr/share/bash-completion/completions")
            .join(program);
        let text = fs::read_to_string(file).expect("completions are there");
        assert!(text.contains(program), "{program}");
    }
}

#[test]
fn prefix_of_an_installation_stands_in_its_units_too() {
    let folder = super::folder();
    let mut command = super::xtask(&["install", "--prefix", "/opt/qtf"]);
    command.arg("--destdir");
    super::succeed(command.arg(folder.path()));
    let root = folder.path().join("opt/qtf");
    let unit = root.join("lib/systemd/system/qtfd.service");
    let unit = fs::read_to_string(unit).expect("the unit is there");
    assert!(unit.contains("ExecStart=/opt/qtf/bin/qtfd "), "{unit}");
    assert!(root.join("bin/qtfd").exists() && folder.path().join("etc/qtf/qtfd.toml").exists());
}
