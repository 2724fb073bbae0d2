//! `--env NAME=VALUE` and `--env NAME`.
//!
//! `%{index}` is filled into a value that was written here, never into one that is passed on.
//! Tested at the end of this file.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use crate::exit::Failure;
use crate::template::fill_index;

/// A variable for a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Variable {
    /// Its name; not empty.
    pub(crate) name: OsString,
    value: OsString,
    /// The value is that of this program's own variable.
    is_passed_on: bool,
}

impl Variable {
    /// With the value that this program's own variable has.
    pub(crate) const fn passed_on(name: OsString, value: OsString) -> Self {
        Self {
            name,
            value,
            is_passed_on: true,
        }
    }

    /// The value for a task that is no member of an array.
    pub(crate) fn value(&self) -> &OsStr {
        &self.value
    }

    /// The value for a member of an array.
    pub(crate) fn value_for(&self, index: u64) -> OsString {
        if self.is_passed_on {
            self.value.clone()
        } else {
            OsString::from_vec(fill_index(self.value.as_bytes(), index))
        }
    }

    /// The value, if it was written here and so may have holes.
    pub(crate) fn written(&self) -> Option<&[u8]> {
        (!self.is_passed_on).then(|| self.value.as_bytes())
    }
}

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
    let is_passed_on = value.is_none();
    let value = value.or_else(|| inherited(name)).ok_or_else(|| {
        Failure::usage(format!(
            "--env {0}: no such variable here to pass on; write --env {0}=VALUE",
            name.display()
        ))
    })?;
    Ok(Variable {
        name: name.to_owned(),
        value,
        is_passed_on,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<(String, String), Failure> {
        let inherited = |name: &OsStr| (name == "HOME").then(|| OsString::from("/home/x"));
        parse_variable(OsStr::new(text), inherited).map(|variable| {
            let Variable { name, value, .. } = variable;
            (name.into_string().unwrap(), value.into_string().unwrap())
        })
    }

    #[test]
    fn the_index_is_filled_into_a_value_that_is_written_and_not_into_one_that_is_passed_on() {
        let holed = |_: &OsStr| Some(OsString::from("%{index}"));
        let written = parse_variable(OsStr::new("P=a-%{index}"), holed).unwrap();
        assert_eq!(written.written(), Some(&b"a-%{index}"[..]));
        assert_eq!(written.value_for(7), "a-7");
        let passed_on = parse_variable(OsStr::new("P"), holed).unwrap();
        assert_eq!(passed_on.written(), None);
        assert_eq!(passed_on.value_for(7), "%{index}");
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
