//! `--env NAME=VALUE` and `--env NAME`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use crate::exit::Failure;

/// A variable and its value.
pub(crate) type Variable = (OsString, OsString);

/// Reads the variables; a name alone takes the value from the environment of this program.
pub(crate) fn parse_variables(texts: &[OsString]) -> Result<Vec<Variable>, Failure> {
    texts
        .iter()
        .map(|text| parse_variable(text, |name| std::env::var_os(name)))
        .collect()
}

fn parse_variable(
    text: &OsStr,
    inherited: impl FnOnce(&OsStr) -> Option<OsString>,
) -> Result<Variable, Failure> {
    let bytes = text.as_bytes();
    let equals = bytes.iter().position(|byte| *byte == b'=');
    let (name, value) = match equals {
        Some(at) => (
            &bytes[..at],
            Some(OsString::from_vec(bytes[at + 1..].to_vec())),
        ),
        None => (bytes, None),
    };
    let name = OsStr::from_bytes(name);
    if name.is_empty() {
        return Err(Failure::usage(format!(
            "--env {} has no name; write --env NAME=VALUE",
            text.display()
        )));
    }
    let value = value.or_else(|| inherited(name)).ok_or_else(|| {
        Failure::usage(format!(
            "--env {0}: no such variable here to pass on; write --env {0}=VALUE",
            name.display()
        ))
    })?;
    Ok((name.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<(String, String), Failure> {
        let inherited = |name: &OsStr| (name == "HOME").then(|| OsString::from("/home/x"));
        parse_variable(OsStr::new(text), inherited)
            .map(|(name, value)| (name.into_string().unwrap(), value.into_string().unwrap()))
    }

    #[test]
    fn a_value_may_be_empty_or_hold_equal_signs() {
        assert_eq!(parsed("A=b=c").unwrap(), ("A".to_owned(), "b=c".to_owned()));
        assert_eq!(parsed("A=").unwrap(), ("A".to_owned(), String::new()));
    }

    #[test]
    fn a_name_alone_passes_the_value_on() {
        assert_eq!(parsed("HOME").unwrap().1, "/home/x");
        assert!(
            parsed("NOT_SET")
                .unwrap_err()
                .message()
                .unwrap()
                .contains("NOT_SET=VALUE")
        );
    }

    #[test]
    fn a_variable_without_a_name_is_refused() {
        for text in ["", "=x"] {
            assert!(parsed(text).is_err());
        }
    }
}
