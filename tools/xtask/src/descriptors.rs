//! Descriptors: keeps today's contract for the test that later ones go on serving it.
//!
//! `proto/descriptors/NAME.binpb` is what was given out under that name; it is written once and never changed.
//! `proto/tests/compatible.rs` compares today's contract with each, `tests/tests/conformance` runs programs made from each.

use std::process::Stdio;

use anyhow::{Context, bail};

use crate::cargo::{self, Tally, workspace_root};

/// Writes today's descriptors under a name that is not taken, or compares.
pub(crate) fn run(name: Option<&str>) -> anyhow::Result<Tally> {
    if let Some(name) = name {
        keep(name)?;
    }
    let mut command = cargo::cargo();
    command.args([
        "test",
        "--quiet",
        "--package",
        "qtf-proto",
        "--test",
        "compatible",
    ]);
    cargo::run(&mut command)?;
    Ok(Tally::default())
}

fn keep(name: &str) -> anyhow::Result<()> {
    if !is_name(name) {
        bail!(
            "{name:?} is no name for a contract: one like v1.2, the version of the protocol and a count within it"
        );
    }
    let path = workspace_root()
        .join("proto/descriptors")
        .join(format!("{name}.binpb"));
    if path.exists() {
        bail!(
            "{} is there: what was given out is never changed, take the next name",
            path.display()
        );
    }
    let mut command = cargo::cargo();
    command
        .args(["run", "--quiet", "--package", "qtf-proto"])
        .args(["--example", "descriptors"])
        .stderr(Stdio::inherit());
    let output = command
        .output()
        .context("cannot start cargo run for today's descriptors")?;
    if !output.status.success() || output.stdout.is_empty() {
        bail!("today's descriptors could not be made: {}", output.status);
    }
    std::fs::write(&path, &output.stdout)
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!(
        "descriptors: {} ({} bytes)",
        path.display(),
        output.stdout.len()
    );
    Ok(())
}

/// `v`, the version of the protocol, a dot, a count.
fn is_name(name: &str) -> bool {
    let is_number =
        |text: &str| !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
    name.strip_prefix('v')
        .and_then(|rest| rest.split_once('.'))
        .is_some_and(|(version, count)| is_number(version) && is_number(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_of_a_contract_is_a_version_and_a_count_and_no_path() {
        for good in ["v1.0", "v1.12", "v20.3"] {
            assert!(is_name(good), "{good}");
        }
        for bad in [
            "", "v1", "1.0", "v1.", "v.1", "v1.0/..", "../v1.0", "v1.0.1",
        ] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn contract_that_was_given_out_is_not_written_again() {
        let told = keep("v1.0").unwrap_err().to_string();
        assert!(told.contains("never changed"), "{told}");
    }
}
