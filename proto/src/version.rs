//! The version of the protocol, which both hellos ask for and both welcomes answer.
//!
//! A peer says the version that it needs, the daemon the newest that it speaks. What may be added without a new version, and what may
//! not, is said in docs/PROTOCOL.md; that it is kept to is tested in `tests/compatible`. Tested at the end.

/// What this project speaks, and all that it speaks.
pub const PROTOCOL_VERSION: u32 = 1;

/// Whether a peer, of this kind, that needs version `needed` can be served; 0 is one from before versions were said, and means 1.
///
/// # Errors
/// For people: why not, with both versions.
pub fn check(kind: &str, needed: u32) -> Result<(), String> {
    let needed = needed.max(1);
    if needed <= PROTOCOL_VERSION {
        return Ok(());
    }
    Err(format!(
        "the {kind} needs version {needed} of the protocol, and this daemon speaks version {PROTOCOL_VERSION}: \
         use a newer daemon, or an older {kind}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_version_is_refused_with_both_and_none_means_the_first() {
        assert_eq!(check("worker", 0), Ok(()));
        assert_eq!(check("worker", 1), Ok(()));
        for newer in [PROTOCOL_VERSION + 1, u32::MAX] {
            let told = check("worker", newer).unwrap_err();
            assert!(told.contains("the worker needs version"), "{told}");
            assert!(told.contains(&newer.to_string()), "{told}");
            assert!(told.contains("speaks version 1"), "{told}");
        }
    }
}
