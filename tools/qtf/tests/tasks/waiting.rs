//! Tasks that wait: `wait` itself, `update`, `cancel`, `hold` and `release`.

use qtf_tests::{Place, Process};

use super::{dev, dev_without_workers, submit};

#[test]
fn wait_tells_failure_from_success_and_from_too_late() {
    let (place, _dev) = dev();
    let good = submit(&place, &["--", "true"]).remove(0);
    let bad = submit(&place, &["--", "sh", "-c", "exit 3"]).remove(0);
    let done = place.qtf(["wait", &good, &bad]).expect_code(1);
    assert!(
        done.stderr
            .contains(&format!("task {bad} failed: exit code 3")),
        "{}",
        done.stderr
    );
    let ends = place
        .qtf(["wait", &format!("{good},{bad}"), "--json"])
        .expect_code(1)
        .json();
    assert_eq!(ends["schema"], "qtf.ends/1");
    assert_eq!(ends["ends"].as_array().unwrap().len(), 2);
    place.qtf(["result", &bad]).expect_code(1);
    let slow = submit(&place, &["--", "sleep", "1000"]).remove(0);
    let done = place
        .qtf(["wait", &slow, "--timeout", "100ms"])
        .expect_code(6);
    assert!(
        done.stderr
            .contains("1 of 1 tasks have not ended after 100ms"),
        "{}",
        done.stderr
    );
    let done = place.qtf(["result", &slow]).expect_code(6);
    assert!(done.stderr.contains("qtf wait"), "{}", done.stderr);
    place.qtf(["cancel", &slow]).expect_code(0);
    place.qtf(["wait", &slow]).expect_code(1);
}

#[test]
fn waiting_tasks_are_listed_updated_and_cancelled() {
    let (place, _dev) = dev_without_workers();
    let id = submit(&place, &["-p", "7", "--", "echo", "a b"]).remove(0);
    let table = place.qtf(["ps"]).expect_code(0);
    let lines: Vec<&str> = table.text().lines().collect();
    assert!(
        lines[0].starts_with("ID ") && lines[0].ends_with("COMMAND"),
        "{lines:?}"
    );
    assert!(
        lines[1].starts_with(&id) && lines[1].ends_with("echo 'a b'"),
        "{lines:?}"
    );
    place.qtf(["update", &id, "-p", "200"]).expect_code(0);
    let shown = place.qtf(["task", "last", "--json"]).expect_code(0).json();
    assert_eq!(shown["priority"], 200);
    place.qtf(["forget", &id]).expect_code(4);
    place.qtf(["cancel", "all"]).expect_code(0);
    let done = place.qtf(["wait", &id]).expect_code(1);
    assert!(done.stderr.contains("cancelled"), "{}", done.stderr);
    assert_eq!(place.qtf(["ps"]).expect_code(0).text().lines().count(), 1);
    place.qtf(["update", &id, "-p", "1"]).expect_code(4);
    let cancelled = place
        .qtf(["ps", "--state", "cancelled", "--output", "jsonl"])
        .expect_code(0);
    let line: serde_json::Value = serde_json::from_str(cancelled.text()).unwrap();
    assert_eq!(
        (&line["schema"], &line["id"]),
        (&"qtf.task/1".into(), &id.as_str().into())
    );
}

#[test]
fn ids_come_from_stdin_too() {
    let (place, _dev) = dev();
    let ids = submit(&place, &["--array", "1-3", "--", "true"]);
    place
        .qtf_with_stdin(["wait", "-"], ids.join("\n").into_bytes())
        .expect_code(0);
    place
        .qtf_with_stdin(["wait", "-"], b"nonsense".to_vec())
        .expect_code(2);
}

#[test]
fn wait_names_the_program_that_there_is_not() {
    let (place, _dev) = dev();
    submit(&place, &["--", "no-such-program-here", "x"]);
    let done = place.qtf(["wait", "last"]).expect_code(1);
    assert!(
        done.stderr.contains("\"no-such-program-here\""),
        "{}",
        done.stderr
    );
    let record = place
        .qtf(["wait", "last", "--output", "jsonl"])
        .expect_code(1)
        .json();
    let message = record["message"].as_str().unwrap();
    assert!(message.contains("no-such-program-here"), "{record}");
}

#[test]
fn held_tasks_wait_for_their_release_and_say_so() {
    let (place, _dev) = dev();
    let held = submit(
        &place,
        &["--hold", "--array", "1-3", "--", "echo", "%{index}"],
    );
    let shown = place
        .qtf(["task", &held[0], "--json"])
        .expect_code(0)
        .json();
    assert_eq!(
        (&shown["state"], &shown["blocked_on"]),
        (&"held".into(), &"its release".into())
    );
    let info = place.qtf(["info", "--json"]).expect_code(0).json();
    assert_eq!(info["tasks"]["held"], 3);
    let listed = place.qtf(["ps", "--state", "held"]).expect_code(0);
    assert_eq!(
        listed.text().matches(" held ").count(),
        3,
        "{}",
        listed.text()
    );
    let waited = place
        .qtf(["wait", "--timeout", "100ms", "last"])
        .expect_code(6);
    assert!(
        waited.stderr.contains("3 tasks are held")
            && waited
                .stderr
                .contains("3 of 3 tasks have not ended after 100ms, 3 of them held"),
        "{}",
        waited.stderr
    );
    let waited = place
        .qtf(["wait", "--timeout", "0", &held[1]])
        .expect_code(6);
    let hint = format!(
        "task {0} is held: it does not start before `qtf release {0}`",
        held[1]
    );
    assert!(waited.stderr.contains(&hint), "{}", waited.stderr);
    // One of them goes, one is cancelled, the last is released with all.
    place
        .qtf(["release", &format!("{}[2]", held[0])])
        .expect_code(0);
    place.qtf(["wait", &held[1]]).expect_code(0);
    place.qtf(["cancel", &held[2]]).expect_code(0);
    place.qtf(["update", &held[0], "-p", "7"]).expect_code(0);
    place.qtf(["release", "all"]).expect_code(0);
    place.qtf(["wait", &held[0]]).expect_code(0);
    assert_eq!(place.qtf(["result", &held[1]]).expect_code(0).text(), "2\n");
    for command in ["hold", "release"] {
        let refused = place.qtf([command, &held[0]]).expect_code(4);
        assert!(
            refused.stderr.contains("it has ended"),
            "{}",
            refused.stderr
        );
    }
}

#[test]
fn wait_says_once_why_a_task_does_not_start() {
    let (place, _dev) = dev();
    let until_blocked = |count: usize| {
        let listed = || place.qtf(["ps", "--state", "blocked", "--json"]).json();
        while listed()["tasks"].as_array().unwrap().len() < count {}
    };
    // The line that a waiting begins with, and the waiting.
    let wait_until = |selection: &str, text: &str| {
        let mut command = place.command("qtf");
        command.args(["wait", selection]);
        let mut waiting = Process::start(command);
        let line = waiting.line_with(text);
        (line, waiting)
    };
    let blocked = submit(&place, &["--kind", "nobody"]).remove(0);
    let delayed = submit(&place, &["--delay", "2h", "--", "true"]).remove(0);
    let why = "it is blocked on a worker that offers its kind";
    until_blocked(1);
    let (line, on_blocked) = wait_until(&blocked, &blocked);
    assert!(
        line.contains(&format!(
            "task {blocked} of kind nobody does not start: {why}"
        )),
        "{line}"
    );
    let (line, on_delayed) = wait_until(&delayed, &delayed);
    assert!(
        line.contains(&format!(
            "task {delayed} is delayed: it is not due for 1h59m"
        )),
        "{line}"
    );
    // Of several one is named, of delayed ones the one that is due first.
    let mut blocked_ones = submit(&place, &["--array", "1-2", "--kind", "nobody"]);
    blocked_ones.push(blocked);
    let sooner = submit(&place, &["--delay", "1h", "--", "true"]).remove(0);
    until_blocked(3);
    let (line, mut on_all) = wait_until("all", "3 tasks do not start");
    let named =
        |id: &String| line.contains(&format!(" start, {id} of kind nobody among them: {why}"));
    assert!(blocked_ones.iter().any(named), "{line}");
    on_all.line_with(&format!(
        "2 tasks are delayed: the first of them, {sooner}, is not due for 59m"
    ));
    place.qtf(["cancel", "all"]).expect_code(0);
    for (mut waiting, count) in [(on_blocked, 1), (on_delayed, 1), (on_all, 2)] {
        let lines = waiting.lines_to_the_end();
        let told = lines
            .iter()
            .filter(|line| line.contains(" not start") || line.contains(" not due "))
            .count();
        assert_eq!(told, count, "{lines:?}");
    }
}

#[test]
fn what_waits_is_held_and_what_runs_is_refused() {
    let (place, _dev) = dev();
    let gate = place.gate("gate");
    let path = gate.path().to_str().unwrap().to_owned();
    let running = submit(&place, &["--array", "1-2", "--", "head", "-n1", &path]);
    let mut running_ones = 0;
    while running_ones < 2 {
        let listed = place
            .qtf(["ps", "--state", "running", "--json"])
            .expect_code(0)
            .json();
        running_ones = listed["tasks"].as_array().unwrap().len();
    }
    let waiting = submit(&place, &["--", "true"]).remove(0);
    let refused = place.qtf(["hold", &running[0], &waiting]).expect_code(4);
    assert!(
        refused
            .stderr
            .contains("only a task that waits can be held"),
        "{}",
        refused.stderr
    );
    let shown = place
        .qtf(["task", &waiting, "--json"])
        .expect_code(0)
        .json();
    assert_eq!(shown["state"], "held");
    // All that waits: it is held already, and what runs is not meant.
    place
        .qtf(["hold", "--reason", "a test", "all"])
        .expect_code(0);
    place.qtf(["cancel", "all"]).expect_code(0);
    place.qtf(["wait", &waiting]).expect_code(1);
}

#[test]
fn log_tells_of_the_tasks_that_were_held_and_released_and_of_none_where_nothing_changed() {
    let place = Place::new();
    let mut daemon = place.daemon(&[]);
    let address = place.address();
    let run = |words: &[&str], code: i32| {
        let words = [&["--addr", address.as_str()], words].concat();
        place.qtf(words).expect_code(code).text().trim().to_owned()
    };
    let task = run(&["submit", "--", "true"], 0);
    run(&["release", "--reason", "too early", &task], 0);
    for reason in ["first", "second"] {
        run(&["hold", "--reason", reason, &task], 0);
    }
    run(&["hold", "--reason", "unknown", "0983810gg000q"], 3);
    for reason in ["third", "fourth"] {
        place.qtf(["--addr", &address, "release", "--reason", reason, &task]);
    }
    let held = daemon.line_with("held");
    assert!(held.contains("tasks are held") && held.contains("first") && held.contains("tasks=1"));
    let released = daemon.line_with("held");
    assert!(
        released.contains("are released") && released.contains("third"),
        "{released}"
    );
    assert_eq!(daemon.terminate(), Some(0));
}
