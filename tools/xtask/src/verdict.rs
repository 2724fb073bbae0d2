//! What a run of tests says about a planted bug: it survived, or it was caught; anything else proves nothing and is an error.
//!
//! Invariant: a mutant counts as caught only where a test began and failed, or the process of the tests was ended by a signal. A build that
//! fails, a folder that is taken away in the middle or a cargo that cannot start is no proof.
//!
//! Tested at the end of this file.

use std::process::Output;

use anyhow::bail;

/// Whether the mutant survived the tests that `cargo test` ran.
///
/// # Errors
/// No test ran to an end that says anything.
pub(crate) fn survived(mutant: &str, output: &Output) -> anyhow::Result<bool> {
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    if !has_begun(&said) {
        bail!("mutant {mutant}: no test was run:\n{errors}");
    }
    if output.status.success() {
        return Ok(true);
    }
    if said.contains("test result: FAILED") || errors.contains("(signal: ") {
        return Ok(false);
    }
    bail!("mutant {mutant}: its tests neither passed nor failed:\n{errors}");
}

/// `running 0 tests` is none.
fn has_begun(said: &str) -> bool {
    said.lines().any(|line| {
        let count = line
            .strip_prefix("running ")
            .and_then(|rest| rest.split(' ').next());
        count.is_some_and(|count| count.parse().is_ok_and(|count: u64| count > 0))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    fn ended(code: i32, said: &str, errors: &str) -> anyhow::Result<bool> {
        let output = Output {
            status: ExitStatus::from_raw(code << 8),
            stdout: said.into(),
            stderr: errors.into(),
        };
        survived("m", &output)
    }

    #[test]
    fn mutant_is_caught_by_a_test_that_failed_or_was_ended_by_a_signal_and_by_nothing_else() {
        let failed = "running 3 tests\n..F\ntest result: FAILED. 2 passed; 1 failed";
        assert!(!ended(101, failed, "").unwrap());
        let signal = "process didn't exit successfully: `x` (signal: 6, SIGABRT)";
        assert!(!ended(101, "\nrunning 3 tests\n", signal).unwrap());
        let passed = "running 3 tests\n...\ntest result: ok. 3 passed";
        assert!(ended(0, passed, "").unwrap());
        for (said, errors) in [
            ("", "error: could not compile `x`"),
            ("", "error: failed to read Cargo.toml"),
            ("running 0 tests\n\ntest result: ok. 0 passed", ""),
            ("running 3 tests\n", "error: no space left on device"),
        ] {
            assert!(ended(101, said, errors).is_err(), "{said} {errors}");
        }
        assert!(ended(0, "running 0 tests\ntest result: ok. 0 passed", "").is_err());
    }
}
