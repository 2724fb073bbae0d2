//! A task from its submission to its end, by all that `submit` takes, and what is listed beside it.

use super::{dev, dev_without_workers, submit};

#[test]
fn a_task_goes_from_submission_to_its_forgotten_result() {
    let (place, _dev) = dev();
    let ids = submit(&place, &["--", "sh", "-c", "echo out; echo err >&2"]);
    assert_eq!(ids.len(), 1);
    assert_eq!(ids[0].len(), 13);
    place.qtf(["wait", &ids[0]]).expect_code(0);
    for _ in 0..2 {
        let done = place.qtf(["result", &ids[0]]).expect_code(0);
        assert_eq!((done.text(), done.stderr.as_str()), ("out\n", "err\n"));
    }
    let shown = place.qtf(["task", &ids[0], "--json"]).expect_code(0).json();
    assert_eq!(shown["schema"], "qtf.task/1");
    assert_eq!(shown["state"], "done");
    assert_eq!(shown["attempt"], 1);
    assert_eq!(shown["command"], "sh -c 'echo out; echo err >&2'");
    place.qtf(["forget", &ids[0]]).expect_code(0);
    for command in ["result", "wait", "task", "cancel", "forget"] {
        place.qtf([command, &ids[0]]).expect_code(3);
    }
}

#[test]
fn a_task_gets_stdin_environment_directory_and_retries() {
    let (place, _dev) = dev();
    place.file("input", b"from file\xff");
    let id = submit(
        &place,
        &[
            "--stdin",
            "input",
            "--env",
            "A=b",
            "--",
            "sh",
            "-c",
            "cat; pwd; echo $A",
        ],
    );
    place.qtf(["wait", &id[0]]).expect_code(0);
    let done = place.qtf(["result", &id[0]]).expect_code(0);
    let work = place.work().canonicalize().unwrap();
    let expected = [
        b"from file\xff",
        work.display().to_string().as_bytes(),
        b"\nb\n",
    ]
    .concat();
    assert_eq!(done.stdout, expected);
    let id = submit(&place, &["--retries", "2", "--", "false"]);
    place.qtf(["wait", &id[0]]).expect_code(1);
    let shown = place.qtf(["task", &id[0], "--json"]).expect_code(0).json();
    assert_eq!(
        (&shown["attempt"], &shown["max_attempts"]),
        (&3.into(), &3.into())
    );
}

#[test]
fn workers_and_clients_are_listed() {
    let (place, _dev) = dev();
    let workers = place.qtf(["worker", "ls", "--json"]).expect_code(0).json();
    assert_eq!(workers["schema"], "qtf.workers/1");
    assert_eq!(
        (
            &workers["workers"][0]["capacity"],
            &workers["workers"][0]["state"]
        ),
        (&2.into(), &"live".into())
    );
    let id = workers["workers"][0]["id"].as_str().unwrap().to_owned();
    let clients = place.qtf(["client", "ls"]).expect_code(0);
    assert!(
        clients
            .text()
            .lines()
            .nth(1)
            .is_some_and(|line| line.contains("qtf")),
        "{}",
        clients.text()
    );
    place.qtf(["worker", "drain", "w77"]).expect_code(3);
    place.qtf(["worker", "evict", "w77"]).expect_code(3);
    place.qtf(["worker", "drain", "x"]).expect_code(2);
    place
        .qtf(["worker", "drain", &id, "--reason", "test"])
        .expect_code(0);
}

#[test]
fn a_daemon_without_a_journal_refuses_it_and_says_what_was_reached() {
    let (place, _dev) = dev();
    let done = place
        .qtf(["submit", "--durability", "journal", "--", "true"])
        .expect_code(4);
    assert!(done.stderr.contains("journal"), "{}", done.stderr);
    let done = place
        .qtf(["map", "--durability", "journal", "echo", ":::", "a"])
        .expect_code(4);
    assert!(done.stderr.contains("journal"), "{}", done.stderr);
    let line = ["submit", "--durability", "memory", "--json", "--", "true"];
    let done = place.qtf(line).expect_code(0).json();
    assert_eq!(done["accepted"][0]["durability"], "memory");
    assert_eq!(done["accepted"][0]["id"], done["ids"][0]);
}

#[test]
fn the_same_key_gives_the_same_task_and_another_one_does_not() {
    let (place, _dev) = dev();
    let line = |key| ["--key", key, "--key-ttl", "10min", "--", "true"];
    let first = submit(&place, &line("nightly")).remove(0);
    let again = place
        .qtf(["submit"].into_iter().chain(line("nightly")))
        .expect_code(0);
    assert_eq!(again.text().trim_end(), first);
    assert!(
        again.stderr.contains("the key is known"),
        "{}",
        again.stderr
    );
    assert_ne!(submit(&place, &line("weekly")).remove(0), first);
    // Hexadecimal digits are the key itself, in both cases of letters.
    let digits = "00112233445566778899aabbccddeeff";
    let one = submit(&place, &line(digits)).remove(0);
    let capitals = digits.to_uppercase();
    assert_eq!(submit(&place, &line(&capitals)).remove(0), one);
    // What was forgotten is still known by its key.
    place.qtf(["wait", &first]).expect_code(0);
    place.qtf(["forget", &first]).expect_code(0);
    let line = ["submit", "--json", "--key", "nightly", "--", "true"];
    let gone = place.qtf(line).expect_code(0);
    assert!(gone.stderr.contains("no longer kept"), "{}", gone.stderr);
    let gone = gone.json();
    assert_eq!(gone["accepted"][0]["id"], first.as_str());
    assert_eq!(gone["accepted"][0]["result_expired"], true);
    place
        .qtf(["submit", "--key-ttl", "1h", "--", "true"])
        .expect_code(2);
}

#[test]
fn an_unknown_worker_is_named_with_the_way_to_find_others() {
    let (place, _dev) = dev_without_workers();
    let done = place.qtf(["worker", "drain", "w99"]).expect_code(3);
    assert!(
        done.stderr.contains("no worker w99 is at"),
        "{}",
        done.stderr
    );
    assert!(done.stderr.contains("worker ls"), "{}", done.stderr);
}

#[test]
fn input_that_a_submission_does_not_take_is_told_of() {
    let (place, _dev) = dev();
    let script = || b"echo hi".to_vec();
    let told = place
        .qtf_with_stdin(["submit", "--", "sh"], script())
        .expect_code(0);
    assert!(told.stderr.contains("--stdin -"), "{}", told.stderr);
    place.qtf(["wait", "last"]).expect_code(0);
    assert_eq!(place.qtf(["result", "last"]).expect_code(0).text(), "");
    let taken = place.qtf_with_stdin(["submit", "--stdin", "-", "--", "sh"], script());
    assert_eq!(taken.expect_code(0).stderr, "");
    place.qtf(["wait", "last"]).expect_code(0);
    assert_eq!(place.qtf(["result", "last"]).expect_code(0).text(), "hi\n");
    // As in a loop of a shell that reads lines and submits a task for each.
    let loop_body = place.qtf_with_stdin(["submit", "--", "echo", "a"], script());
    assert_eq!(loop_body.expect_code(0).stderr, "");
    assert_eq!(place.qtf(["submit", "--", "sh"]).expect_code(0).stderr, "");
}

#[test]
fn ended_task_is_not_said_to_be_of_the_worker_that_has_the_place_of_its_own_now() {
    let (place, _dev) = dev_without_workers();
    let mut first = place.worker(&place.default_address(), "first", 1);
    let id = submit(&place, &["--", "true"]).remove(0);
    place.qtf(["wait", &id]).expect_code(0);
    let worker = || {
        let listed = place.qtf(["ps", "--all", "--json"]).expect_code(0).json();
        listed["tasks"][0]["worker_name"].clone()
    };
    assert_eq!(worker(), "first");
    assert_eq!(first.terminate(), Some(0));
    let _second = place.worker(&place.default_address(), "second", 1);
    assert_eq!(worker(), "", "the first is not known any more");
}
