//! The environment of a program: what it gets of the worker's, what the worker says of the attempt, what its task says.
//!
//! Invariants:
//! - V1: a name stands there once; of the three, the last that has it counts.
//! - V2: the worker's own part is read once, when the first program is run, and lent to all: a copy for each would be most of what a
//!   worker does for a short one.
//!
//! Tested in `exec/tests.rs`.

use core::ffi::CStr;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::{CString, NulError};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::sync::LazyLock;

use qtf_proto::v1::ExecSpec;

use super::{ExecPolicy, Identity};

/// Of the worker's environment, what each program gets.
pub(super) const BASE: [&str; 7] = ["PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR"];

const PATH: &[u8] = b"PATH";

/// The worker's, by name, as `NAME=VALUE`.
static OWN: LazyLock<BTreeMap<Vec<u8>, CString>> = LazyLock::new(|| {
    let own = std::env::vars_os().filter_map(|(name, value)| {
        let name = name.into_vec();
        // The kernel gave it as a string that ends with NUL, so there is none in it.
        let text = text(&name, value.as_bytes()).ok()?;
        Some((name, text))
    });
    own.collect()
});

fn text(name: &[u8], value: &[u8]) -> Result<CString, NulError> {
    CString::new([name, b"=", value].concat())
}

/// The environment of one program.
#[derive(Debug)]
pub(super) struct Environment {
    /// `NAME=VALUE`, all of them.
    pub(super) variables: Vec<Cow<'static, CStr>>,
    /// The value of `PATH`.
    pub(super) path: Option<Vec<u8>>,
}

impl Environment {
    pub(super) fn of(
        spec: &ExecSpec,
        identity: Identity,
        policy: &ExecPolicy,
    ) -> Result<Self, NulError> {
        let more = more(spec, identity);
        let is_base = |name: &[u8]| BASE.iter().any(|base| base.as_bytes() == name);
        let inherited = OWN.iter().filter(|(name, _)| {
            !more.contains_key(&name[..]) && (policy.inherit_environment || is_base(name))
        });
        let mut variables: Vec<_> = inherited
            .map(|(_, text)| Cow::Borrowed(text.as_c_str()))
            .collect();
        let path = match more.get(PATH) {
            Some(value) => value.as_deref().map(<[u8]>::to_vec),
            None => OWN.get(PATH).map(|text| {
                let value = text.as_bytes().get(PATH.len() + 1..);
                value.unwrap_or_default().to_vec()
            }),
        };
        for (name, value) in &more {
            if let Some(value) = value {
                variables.push(Cow::Owned(text(name, value)?));
            }
        }
        Ok(Self { variables, path })
    }

    /// Where a program of that name may be: as `execvp` looks for it, in the `PATH` that the program will have.
    pub(super) fn files(&self, name: &[u8]) -> Result<Vec<CString>, NulError> {
        if name.contains(&b'/') {
            return Ok(vec![CString::new(name)?]);
        }
        let path = self.path.as_deref().unwrap_or(b"/bin:/usr/bin");
        let in_folder = |folder: &[u8]| match folder {
            [] => CString::new(name),
            folder => CString::new([folder, b"/", name].concat()),
        };
        path.split(|byte| *byte == b':').map(in_folder).collect()
    }
}

/// What stands over the worker's own; what has no value is not there at all.
fn more(spec: &ExecSpec, identity: Identity) -> BTreeMap<&[u8], Option<Cow<'_, [u8]>>> {
    let said = |value: String| Some(Cow::Owned(value.into_bytes()));
    // Also where the worker runs in a member of an array itself, and inherits.
    let (first, index) = identity.array.unzip();
    let mut more = BTreeMap::from([
        (&b"QTF_TASK_ID"[..], said(identity.task.to_string())),
        (b"QTF_ATTEMPT", said(identity.attempt.to_string())),
        (
            b"QTF_ARRAY_ID",
            first.and_then(|first| said(first.to_string())),
        ),
        (
            b"QTF_ARRAY_INDEX",
            index.and_then(|index| said(index.to_string())),
        ),
    ]);
    for variable in &spec.environment {
        let value = Some(Cow::Borrowed(&variable.value[..]));
        more.insert(&variable.name, value);
    }
    more
}
