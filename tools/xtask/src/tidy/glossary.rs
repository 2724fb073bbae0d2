//! The glossary holds the words of the project, and every phase of a task.

use super::tree::{Finding, Tree};

const GLOSSARY: &str = "docs/GLOSSARY.md";

/// Where the phases of a task are named in code.
const PHASES: &str = "shm/src/task/state.rs";

/// Words that every reader of code or documents meets.
const WORDS: [&str; 24] = [
    "Arena",
    "Assignment",
    "Attach record",
    "Attempt",
    "Credit",
    "Duty cycle",
    "Edge",
    "Effect",
    "Epoch",
    "Generation",
    "Instance",
    "Kind",
    "Lease",
    "Min-tree",
    "Outcome",
    "Phase",
    "PLM",
    "Probe",
    "Register",
    "Scheduler",
    "Segment",
    "Side record",
    "Slot",
    "State word",
];

/// Each of [`WORDS`] and each phase has an entry `**Word**`.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let Some(glossary) = tree.file(GLOSSARY) else {
        return vec![Finding {
            path: GLOSSARY.to_owned(),
            line: 0,
            rule: "glossary",
            message: "the glossary is missing".to_owned(),
        }];
    };
    let entries: Vec<String> = bold_words(&glossary.text);
    let has_entry = |word: &str| entries.iter().any(|entry| entry.eq_ignore_ascii_case(word));
    let mut findings = Vec::new();
    for word in WORDS.iter().copied().filter(|word| !has_entry(word)) {
        findings.push(glossary.finding(0, "glossary", format!("no entry for {word}")));
    }
    for phase in phases(tree)
        .into_iter()
        .filter(|phase| !glossary.text.contains(phase))
    {
        let message = format!("the phase {phase} of {PHASES} is not explained");
        findings.push(glossary.finding(0, "glossary", message));
    }
    findings
}

/// Every `**word**`.
fn bold_words(text: &str) -> Vec<String> {
    let parts = text.split("**").enumerate();
    parts
        .filter(|(index, _)| index % 2 == 1)
        .map(|(_, word)| word.to_owned())
        .collect()
}

/// The variants of `enum Phase`, written as in the documents (`DeadLetter` is `DEAD_LETTER`).
fn phases(tree: &Tree) -> Vec<String> {
    let Some(file) = tree.file(PHASES) else {
        return Vec::new();
    };
    let mut phases = Vec::new();
    let mut inside = false;
    for line in &file.rust().lines {
        let code = line.code.trim();
        if code.contains("enum Phase ") {
            inside = true;
        } else if inside && code.starts_with('}') {
            break;
        } else if inside && code.starts_with(|c: char| c.is_ascii_uppercase()) {
            let name = code.split([' ', ',', '=']).next().unwrap_or_default();
            if name != "Reserved" {
                phases.push(screaming(name));
            }
        }
    }
    phases
}

fn screaming(name: &str) -> String {
    let mut text = String::new();
    for (index, c) in name.chars().enumerate() {
        if c.is_ascii_uppercase() && index > 0 {
            text.push('_');
        }
        text.push(c.to_ascii_uppercase());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::samples::{many, one, places};
    use super::*;

    fn full_glossary() -> String {
        let entries: String = WORDS
            .iter()
            .map(|word| format!("- **{word}**: text\n"))
            .collect();
        format!("# Glossary\n{entries}")
    }

    #[test]
    fn missing_glossary_and_missing_word_are_found() {
        assert_eq!(
            places(&check(&one("a.md", "# A\n"))),
            [(GLOSSARY, 0, "glossary")]
        );
        let text = full_glossary().replace("**Lease**", "Lease");
        let findings = check(&one(GLOSSARY, &text));
        assert_eq!(findings.len(), 1);
        assert!(findings[0].message.contains("Lease"));
    }

    #[test]
    fn phase_without_explanation_is_found() {
        let code =
            "/// Phases.\npub enum Phase {\n    /// Free.\n    Free = 0,\n    DeadLetter = 1,\n}\n";
        let text = format!("{}FREE\n", full_glossary());
        let tree = many(&[(PHASES, code), (GLOSSARY, &text)]);
        let findings = check(&tree);
        assert_eq!(findings.len(), 1);
        assert!(findings[0].message.contains("DEAD_LETTER"));
    }
}
