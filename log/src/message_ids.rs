//! `MESSAGE_ID` of the events that operators look for: an event whose `name:` stands here carries it, in whatever words it is told.
//!
//! An id never comes to mean something else. Those of [OPERATING](../../docs/OPERATING.md) are these; tested at the end.

/// Name of an event, and its id.
pub const MESSAGE_IDS: [(&str, &str); 9] = [
    ("daemon-serves", "915081bb9d3d41b4940e58452a7afbd2"),
    ("daemon-stopped", "affa9e2fbf9045c58a50c939c99d37de"),
    ("daemon-reloaded", "162a6ea71d9c449b9df207f347633c31"),
    ("loop-hangs", "aa4dd9546eb4434881614d81df2ccb0e"),
    ("segment-adopted", "aad4c35718f44c35a0430687346c75e8"),
    ("tasks-restored", "ec6bbbe7a3c34f3aa03bc306a1d92c24"),
    ("worker-registered", "6f23b8d070ee4ba5a5dd9358f60ec63d"),
    ("attempt-ended", "1c8fb8d54f494341ae69129c7d42ce4f"),
    ("result-refused", "9b3941a3fcfb43c29641b3d60e6ad37a"),
];

/// The id of an event of this name.
pub(crate) fn of(name: &str) -> Option<&'static str> {
    let found = MESSAGE_IDS.iter().find(|(known, _)| *known == name);
    found.map(|(_, id)| *id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_of_128_bits_and_each_is_of_one_event() {
        for (index, (name, id)) in MESSAGE_IDS.iter().enumerate() {
            assert_eq!(
                u128::from_str_radix(id, 16)
                    .map(|id| format!("{id:032x}"))
                    .as_deref(),
                Ok(*id)
            );
            let rest = &MESSAGE_IDS[index + 1..];
            assert!(
                rest.iter().all(|(other, of)| other != name && of != id),
                "{name}"
            );
            assert_eq!(of(name), Some(*id));
        }
        assert_eq!(of("event log/src/lib.rs:1"), None);
    }

    #[test]
    fn document_for_operators_names_each() {
        let text = include_str!("../../docs/OPERATING.md");
        for (name, id) in MESSAGE_IDS {
            assert!(text.contains(id), "{name} {id}");
        }
    }
}
