//! What a task leaves running is killed, and whoever asks for its output is told.

use qtf_tests::Place;

/// Leaves a process behind that holds the output open.
const LEAVE: [&str; 3] = ["sh", "-c", "echo out; sleep 1000 &"];

#[test]
fn map_tells_of_a_process_that_was_left_behind_and_killed() {
    let place = Place::new();
    let map = |output: &str| {
        let options = ["map", "-q", "--linger", "50ms", "--output", output];
        let words = options.iter().chain(&LEAVE).chain(&["x", ":::", "a"]);
        place.qtf(words).expect_code(0)
    };
    let done = map("table");
    assert_eq!(done.text(), "out\n");
    let lines: Vec<&str> = done.stderr.lines().collect();
    let [line] = lines[..] else {
        panic!("one line: {}", done.stderr)
    };
    for part in ["input a: ", "left behind", "50ms", "--linger"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    let record = map("jsonl").json();
    let message = record["message"].as_str().unwrap();
    assert!(message.contains("left behind"), "{record}");
    assert_eq!(record["state"], "done");
}

#[test]
fn longer_linger_lets_it_end_by_itself_and_nobody_is_told() {
    let place = Place::new();
    let script = "(sleep 1.2; echo late) & echo early";
    let done = place
        .qtf([
            "map", "-q", "--linger", "1min", "sh", "-c", script, "x", ":::", "a",
        ])
        .expect_code(0);
    assert_eq!((done.text(), &*done.stderr), ("early\nlate\n", ""));
}

#[test]
fn result_tells_of_a_process_that_was_left_behind_and_killed() {
    let place = Place::new();
    let _dev = place.dev(&["--slots", "1"]);
    let words = ["submit", "--"].iter().chain(&LEAVE);
    place.qtf(words).expect_code(0);
    place.qtf(["wait", "last"]).expect_code(0);
    let done = place.qtf(["result", "last"]).expect_code(0);
    assert_eq!(done.text(), "out\n");
    assert!(done.stderr.contains("left behind"), "{}", done.stderr);
    assert_eq!(done.stderr.lines().count(), 1, "{}", done.stderr);
    let record = place
        .qtf(["result", "last", "--json"])
        .expect_code(0)
        .json();
    let message = record["message"].as_str().unwrap();
    assert!(message.contains("left behind"), "{record}");
}

#[test]
fn both_helps_say_what_becomes_of_it() {
    let place = Place::new();
    for command in ["map", "result"] {
        let help = place.qtf([command, "--help"]).expect_code(0);
        let text = help.text().split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            text.contains("leaves running when it ends is killed"),
            "{text}"
        );
    }
}
