//! SEL: how tasks are named on the command line.
//!
//! `ID`, `ID[1-5,8]` (members of the array whose first member is ID), `last`, `all`, `-`; several of
//! them separated by commas. Resolving them against a daemon is in `commands/select.rs`.
//! Tested at the end of this file.

use qtf_shm::{ParseIdError, TaskId};

use crate::indexes::{IndexSet, IndexSetError};

/// One part of a SEL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Selector {
    /// One task.
    Task(TaskId),
    /// Members of an array.
    Members {
        /// The first member, which names the array.
        array: TaskId,
        /// The members that are meant.
        indexes: IndexSet,
    },
    /// The last submission to this daemon.
    Last,
    /// The tasks of the caller's identity.
    All,
    /// Ids on stdin.
    Stdin,
}

/// The parts of one argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selection(pub(crate) Vec<Selector>);

/// Why a text names no tasks.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SelectorError {
    /// A part that is none of the forms.
    #[error(
        "`{part}` is neither a task id (13 letters and digits, as `qtf submit` prints them) nor ID[1-5], last, all or -"
    )]
    Unknown { part: String },
    /// The form of an id, which no task ever has.
    #[error("`{part}` has the form of a task id, but no task is ever given it")]
    NoId { part: String },
    /// The id of a job of a grid.
    #[error(
        "`{part}` is a job of a grid, and this is a daemon of one machine: ask the grid that gave it"
    )]
    OfGrid { part: String },
    /// A bracket without its partner.
    #[error("the bracket in `{part}` is not closed; write members as ID[1-5,8]")]
    OpenBracket { part: String },
    /// Wrong indices within the brackets.
    #[error("in `{part}`: {source}")]
    Indexes { part: String, source: IndexSetError },
}

/// Reads one argument.
pub(crate) fn parse_selection(text: &str) -> Result<Selection, SelectorError> {
    split_outside_brackets(text)
        .map(parse_selector)
        .collect::<Result<_, _>>()
        .map(Selection)
}

/// Reads one id, as it comes on stdin.
pub(crate) fn parse_id(text: &str) -> Result<TaskId, SelectorError> {
    text.parse().map_err(|error| {
        let part = shortened(text);
        match error {
            ParseIdError::NoTask(_) => SelectorError::NoId { part },
            ParseIdError::OfGrid(_) => SelectorError::OfGrid { part },
            ParseIdError::Task(_) | ParseIdError::Worker(_) => SelectorError::Unknown { part },
        }
    })
}

fn parse_selector(part: &str) -> Result<Selector, SelectorError> {
    let part = part.trim();
    match part {
        "last" => return Ok(Selector::Last),
        "all" => return Ok(Selector::All),
        "-" => return Ok(Selector::Stdin),
        _ => {}
    }
    let Some((array, members)) = part.split_once('[') else {
        return parse_id(part).map(Selector::Task);
    };
    let Some(indexes) = members.strip_suffix(']') else {
        return Err(SelectorError::OpenBracket {
            part: shortened(part),
        });
    };
    let indexes = indexes.parse().map_err(|source| SelectorError::Indexes {
        part: shortened(part),
        source,
    })?;
    Ok(Selector::Members {
        array: parse_id(array)?,
        indexes,
    })
}

/// Splits at commas that do not stand within brackets.
fn split_outside_brackets(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_usize;
    text.split(move |c| {
        match c {
            '[' => depth = depth.saturating_add(1),
            ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
}

/// A text from the outside, short enough for a message.
fn shortened(text: &str) -> String {
    let mut shown: String = text.chars().take(40).collect();
    if shown.len() < text.len() {
        shown.push_str("..");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(raw: u64) -> TaskId {
        TaskId::from_raw(raw).unwrap()
    }

    fn selectors(text: &str) -> Result<Vec<Selector>, SelectorError> {
        parse_selection(text).map(|selection| selection.0)
    }

    #[test]
    fn all_forms_are_understood_and_may_be_mixed() {
        let (a, b) = (id(0x0123_4567_89ab_cdef), id(1 << 24));
        let text = format!("{a},{b}[1-5,8],last,all,-");
        let indexes = "1-5,8".parse().unwrap();
        assert_eq!(
            selectors(&text).unwrap(),
            [
                Selector::Task(a),
                Selector::Members { array: b, indexes },
                Selector::Last,
                Selector::All,
                Selector::Stdin,
            ]
        );
    }

    #[test]
    fn form_of_an_id_that_no_task_has_is_told_from_other_texts() {
        for text in ["0000000000000", "zzzzzzzzzzzzz"] {
            let refused = SelectorError::NoId { part: text.into() };
            assert_eq!(selectors(text), Err(refused));
        }
        let of_grid = selectors("g00000g000000").unwrap_err();
        assert!(matches!(of_grid, SelectorError::OfGrid { .. }), "{of_grid}");
        let unknown = selectors("000000000000!").unwrap_err();
        assert!(matches!(unknown, SelectorError::Unknown { .. }));
    }

    #[test]
    fn what_is_no_selector_is_refused_with_the_forms() {
        for text in [
            "",
            "7",
            "first",
            "al",
            "a,b",
            ",",
            "\u{1F600}",
            &"x".repeat(1000),
        ] {
            let error = selectors(text).unwrap_err();
            assert!(
                matches!(error, SelectorError::Unknown { .. }),
                "{text}: {error}"
            );
            assert!(error.to_string().len() < 200, "{error}");
        }
    }

    #[test]
    fn brackets_are_checked() {
        let array = id(1 << 24);
        let error = |text: String| selectors(&text).unwrap_err();
        assert!(matches!(
            error(format!("{array}[1-5")),
            SelectorError::OpenBracket { .. }
        ));
        assert!(matches!(
            error(format!("{array}[]")),
            SelectorError::Indexes { .. }
        ));
        assert!(matches!(
            error(format!("{array}[5-1]")),
            SelectorError::Indexes { .. }
        ));
        assert!(matches!(
            error("x[1-5]".to_owned()),
            SelectorError::Unknown { .. }
        ));
    }
}
