//! Whoever follows docs/OPERATING.md as an operator types what was tried: each command that it names for services is one of `acceptance.sh`, or is
//! tried here.

use std::fs;

#[test]
fn each_command_for_operators_is_run_by_the_acceptance() {
    let text = fs::read_to_string(super::workspace().join("docs/OPERATING.md"));
    let text = text.expect("the document is there");
    let (_, section) = text
        .split_once("\n## As a service\n")
        .expect("the section is there");
    let section = section.split("\n## ").next().unwrap_or_default();
    let mut commands = Vec::new();
    for block in section.split("```sh\n").skip(1) {
        let block = block.split("```").next().unwrap_or_default();
        let lines = block
            .lines()
            .map(|line| line.split("  #").next().unwrap_or_default().trim());
        commands.extend(lines.filter(|line| !line.is_empty()).map(str::to_owned));
    }
    assert!(commands.len() >= 10, "{commands:?}");
    let script = include_str!("acceptance.sh");
    let missing: Vec<_> = commands
        .iter()
        .filter(|command| !script.contains(command.as_str()))
        .collect();
    assert!(missing.is_empty(), "not in acceptance.sh: {missing:#?}");
}
