//! Text of others, through the programs that show it: people see every character that is hidden, programs get the very text.

use qtf_tests::{Place, Process};
use serde_json::Value;

/// What drives a terminal, makes lines and turns directions, between what is seen; none that a shell could do without.
const ODD: &str =
    "\u{e4}\\n\u{1b}[2J\n\u{7f}\u{9b}1m\u{202e}\u{2067}\u{200f}\u{61c}\u{2028}\u{4e2d}'\"";

/// A worker of that name, and a task of that command which has ended.
fn crowd() -> (Place, Process, Process, String) {
    let place = Place::new();
    let daemon = place.daemon(&[]);
    let worker = place.worker(&place.address(), NAME, 2);
    let submitted = qtf(&place, &["submit", "--", "printf", "%s", ODD]);
    let id = submitted.trim_end().to_owned();
    qtf(&place, &["wait", &id]);
    (place, daemon, worker, id)
}

/// As much of it as a worker's name has room for.
const NAME: &str = "n\u{e4}\u{1b}[2J\n\u{7f}\u{9b}1m\u{202e}\u{2067}\u{200f}\u{4e2d}\\";

fn qtf(place: &Place, words: &[&str]) -> String {
    let address = place.address();
    let words = ["--addr", &address]
        .into_iter()
        .chain(words.iter().copied());
    place.qtf(words).expect_code(0).text().to_owned()
}

fn inspect(place: &Place, words: &[&str]) -> String {
    let mut command = place.command("shm-inspect");
    command.args(["--instance", place.instance()]).args(words);
    let ended = place.finish(command, Vec::new());
    ended.expect_code(0).text().to_owned()
}

/// The characters that must not be written as they are; here by their numbers, not by the rule that is under test.
fn is_hidden(c: char) -> bool {
    matches!(u32::from(c), 0..=0x1f | 0x7f..=0x9f | 0x61c | 0x200e | 0x200f | 0x2028..=0x202e | 0x2066..=0x2069)
}

fn assert_all_is_seen(text: &str) {
    for line in text.lines() {
        assert!(!line.contains(is_hidden), "{line:?}");
    }
}

#[test]
fn people_see_hidden_characters_and_each_thing_on_a_line_of_its_own() {
    let (place, _daemon, _worker, id) = crowd();
    for words in [&["ps", "--all"][..], &["worker", "ls"]] {
        let table = qtf(&place, words);
        assert_all_is_seen(&table);
        assert_eq!(table.lines().count(), 2, "{table}");
    }
    let shown = qtf(&place, &["task", &id]);
    assert_all_is_seen(&shown);
    assert!(
        shown.contains(r"\x1b[2J\n\x7f\xc2\x9b1m\xe2\x80\xae"),
        "{shown}"
    );
    assert!(
        shown.contains(r"\u{1b}[2J\n\u{7f}\u{9b}1m\u{202e}"),
        "{shown}"
    );
    for words in [
        &["task", &id][..],
        &["worker", "w0"],
        &["assignments"],
        &["heap", "worker"],
    ] {
        let shown = inspect(&place, words);
        assert_all_is_seen(&shown);
        assert!(shown.contains("\u{4e2d}"), "{shown}");
        assert!(
            shown.contains(r"\u{202e}\u{2067}") || words[0] == "task",
            "{shown}"
        );
    }
}

#[test]
fn messages_and_logs_are_lines_in_which_all_is_seen() {
    let (place, mut daemon, _worker, _) = crowd();
    let name = format!("no {ODD}");
    let id = qtf(&place, &["submit", "--", &name]);
    let address = place.address();
    for command in ["wait", "result"] {
        place
            .qtf(["--addr", &address, command, id.trim_end()])
            .expect_code(1);
    }
    let told = place.qtf(["--addr", &address, "result", id.trim_end()]);
    assert_all_is_seen(&told.stderr);
    assert_eq!(told.stderr.lines().count(), 1, "{}", told.stderr);
    assert!(
        told.stderr.contains(r"\u{1b}[2J\n\u{7f}"),
        "{}",
        told.stderr
    );
    let logged = daemon.line_with("worker joined");
    assert_all_is_seen(&logged);
    assert!(logged.contains(r"\u{202e}\u{2067}"), "{logged}");
}

#[test]
fn programs_get_the_very_text_and_documents_hold_no_hidden_character() {
    let (place, _daemon, _worker, id) = crowd();
    let document = |text: String| -> Value {
        assert_all_is_seen(&text);
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(
            text.contains('\u{4e2d}'),
            "what can be seen is not escaped: {text}"
        );
        serde_json::from_str(&text).expect("it is JSON")
    };
    let command = format!("printf %s '{}'", ODD.replace('\'', r"'\''"));
    let task = document(qtf(&place, &["task", &id, "--json"]));
    assert_eq!(
        (&task["command"], &task["worker_name"]),
        (&command.as_str().into(), &NAME.into())
    );
    assert_eq!(
        document(qtf(&place, &["result", &id, "--json"]))["stdout"],
        ODD
    );
    let workers = document(qtf(&place, &["worker", "ls", "--json"]));
    assert_eq!(workers["workers"][0]["name"], NAME);
    let task = document(inspect(&place, &["--json", "task", &id]));
    assert_eq!(
        (&task["command"], &task["worker"]["name"]),
        (&command.as_str().into(), &NAME.into())
    );
    let worker = document(inspect(&place, &["--json", "worker", "w0"]));
    assert_eq!(worker["name"], NAME);
    let heap = document(inspect(&place, &["--json", "heap", "worker"]));
    assert_eq!(heap["entries"][0]["name"], NAME);
    let mapping = document(inspect(&place, &["--json", "assignments"]));
    assert_eq!(mapping["workers"][0]["name"], NAME);
}
