//! The commands that submit, watch and change tasks, against `qtf dev`.

use qtf_tests::{Place, Process};

/// A daemon with one worker of two slots.
fn dev() -> (Place, Process) {
    let place = Place::new();
    let dev = place.dev(&["--slots", "2"]);
    (place, dev)
}

/// A daemon without workers: tasks wait for ever.
fn dev_without_workers() -> (Place, Process) {
    let place = Place::new();
    let dev = place.dev(&["--workers", "0"]);
    (place, dev)
}

fn submit(place: &Place, arguments: &[&str]) -> Vec<String> {
    let line = ["submit"].iter().chain(arguments);
    place
        .qtf(line)
        .expect_code(0)
        .text()
        .lines()
        .map(str::to_owned)
        .collect()
}

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
fn task_tells_how_each_of_its_attempts_ended_with_the_last_lines_of_its_stderr() {
    let (place, _dev) = dev();
    let script = "echo out; echo first >&2; echo \"attempt $QTF_ATTEMPT\" >&2; \
                  test $QTF_ATTEMPT = 1 && kill -9 $$; \
                  test $QTF_ATTEMPT = 2 && head -c 200000 /dev/zero | tr '\\0' x && exit 4; exit 0";
    let ids = submit(&place, &["--retries", "2", "--", "sh", "-c", script]);
    place.qtf(["wait", &ids[0]]).expect_code(0);
    let shown = place.qtf(["task", &ids[0], "--json"]).expect_code(0).json();
    let ends = shown["ends"].as_array().unwrap();
    assert_eq!(ends.len(), 2, "{shown}");
    assert_eq!(shown["ends_not_kept"], 0);
    let expected = [("signalled", 9), ("exited", 4)];
    for (attempt, (end, (kind, code))) in (1..).zip(ends.iter().zip(expected)) {
        assert_eq!(end["attempt"], attempt);
        assert_eq!(
            (&end["outcome"]["kind"], &end["outcome"]["code"]),
            (&kind.into(), &code.into())
        );
        assert_eq!(end["lost"], false);
        assert_eq!(end["stderr_tail"], format!("first\nattempt {attempt}\n"));
        assert!(!end["worker_name"].as_str().unwrap().is_empty());
    }
    let text = place.qtf(["task", &ids[0]]).expect_code(0);
    for line in [
        "1: killed by SIGKILL, on w",
        "     | attempt 1",
        "2: exit code 4, on w",
        "     | attempt 2",
    ] {
        assert!(text.text().contains(line), "{line}: {}", text.text());
    }
    // A list says less.
    let listed = place.qtf(["ps", "--all", "--json"]).expect_code(0).json();
    assert!(listed["tasks"][0].get("ends").is_none());
}

#[test]
fn worker_that_keeps_more_than_its_daemon_takes_says_so_when_it_registers() {
    let place = Place::new();
    let _daemon = place.daemon(&[]);
    let mut worker = place.command("qtf-worker");
    worker.args(["--connect", &place.address(), "--output-limit", "40000000"]);
    let mut worker = Process::start(worker);
    let line = worker.line_with("the daemon takes less of each output");
    assert!(line.contains("payload_bytes_max"), "{line}");
}

#[test]
fn result_that_was_cut_is_no_success_and_names_the_limit_and_what_moves_it() {
    let place = Place::new();
    let _daemon = place.daemon(&[]);
    let mut worker = place.command("qtf-worker");
    let address = place.address();
    worker.args([
        "--connect",
        &address,
        "--slots",
        "1",
        "--output-limit",
        "1000",
    ]);
    let mut worker = Process::start(worker);
    worker.line_with("registered");
    let qtf = |arguments: &[&str]| place.qtf(["--addr", &address].iter().chain(arguments));
    let script = "head -c 1001 /dev/zero; echo fine >&2";
    let submitted = qtf(&["submit", "--", "sh", "-c", script]).expect_code(0);
    let id = submitted.text().trim();
    qtf(&["wait", id]).expect_code(0);
    let cut = qtf(&["result", id]).expect_code(1);
    assert_eq!(cut.text().len(), 1000);
    let told = "1 bytes of its stdout were cut off by its worker's limit of 1000 bytes: raise --output-limit of qtf-worker";
    assert!(cut.stderr.contains(told), "{}", cut.stderr);
    let json = qtf(&["result", "--json", id]).expect_code(1).json();
    assert_eq!(json["outcome"]["output_cut"], true);
    assert_eq!(
        qtf(&["task", "--json", id]).expect_code(0).json()["outcome"]["output_cut"],
        true
    );
    assert!(
        qtf(&["task", id])
            .expect_code(0)
            .text()
            .contains("output cut")
    );
    assert!(
        qtf(&["ps", "--all"])
            .expect_code(0)
            .text()
            .contains("done, output cut")
    );
}

#[test]
fn result_whose_time_is_over_is_told_of_as_expired_and_too_long_a_time_is_refused_by_the_setting() {
    let (place, _dev) = dev();
    let ids = submit(&place, &["--keep", "1s", "--", "sh", "-c", "exit 3"]);
    // It runs, is there for a second, and is gone then.
    let asked = std::iter::repeat_with(|| place.qtf(["result", &ids[0]]));
    let told = asked
        .map(|shown| shown.stderr)
        .find(|text| text.contains("its result expired"))
        .unwrap();
    assert!(
        told.contains("was failed, and its result expired at 20"),
        "{told}"
    );
    let refused = place
        .qtf(["submit", "--keep", "400days", "--", "true"])
        .expect_code(4);
    assert!(
        refused.stderr.contains("keep_max_ms allows 604800000"),
        "{}",
        refused.stderr
    );
}

#[test]
fn members_of_an_array_have_their_index_in_variables_and_in_the_name_of_their_input() {
    let (place, _dev) = dev();
    for index in [3, 4] {
        let file = place.work().join(format!("in-{index}"));
        std::fs::write(file, format!("input {index}")).unwrap();
    }
    let script = "echo \"$P $QTF_ARRAY_ID $QTF_ARRAY_INDEX $(cat)\"";
    let arguments = |indexes| {
        let stdin = place.work().join("in-%{index}");
        let stdin = stdin.into_os_string().into_string().unwrap();
        [
            "submit",
            "--array",
            indexes,
            "--env",
            "P=part-%{index}",
            "--stdin",
        ]
        .map(str::to_owned)
        .into_iter()
        .chain([stdin, "--".into(), "sh".into(), "-c".into(), script.into()])
    };
    let submitted = place.qtf(arguments("3-4")).expect_code(0);
    let first = submitted.text().lines().next().unwrap();
    place.qtf(["wait", "last"]).expect_code(0);
    let expected = format!("part-3 {first} 3 input 3\npart-4 {first} 4 input 4\n");
    assert_eq!(
        place.qtf(["result", "last"]).expect_code(0).text(),
        expected
    );

    // An input that is missing is told before anything is submitted.
    let refused = place.qtf(arguments("3-5")).expect_code(2);
    assert!(
        refused.stderr.contains("in-5: No such file"),
        "{}",
        refused.stderr
    );
    assert_eq!(refused.text(), "");
}

#[test]
fn index_without_an_array_is_refused_wherever_it_stands() {
    let (place, _dev) = dev_without_workers();
    for option in [["--env", "P=%{index}"], ["--stdin", "in-%{index}"]] {
        let arguments = ["submit", option[0], option[1], "--", "true"];
        let refused = place.qtf(arguments).expect_code(2);
        let told = format!("%{{index}} in {} needs --array", option[0]);
        assert!(refused.stderr.contains(&told), "{}", refused.stderr);
    }
}

#[test]
fn an_array_prints_its_ids_in_index_order_and_fills_the_index() {
    let (place, _dev) = dev();
    let ids = submit(
        &place,
        &["--array", "1-20", "--", "echo", "part %{index} of %{index}"],
    );
    assert_eq!(ids.len(), 20);
    place.qtf(["wait", "last"]).expect_code(0);
    let done = place.qtf(["result", "last"]).expect_code(0);
    let expected: String = (1..=20)
        .map(|index| format!("part {index} of {index}\n"))
        .collect();
    assert_eq!(done.text(), expected);
    let members = format!("{}[3,5-6]", ids[0]);
    assert_eq!(
        place
            .qtf(["result", &members])
            .expect_code(0)
            .text()
            .lines()
            .count(),
        3
    );
    let shown = place.qtf(["task", &ids[4], "--json"]).expect_code(0).json();
    assert_eq!(
        (&shown["array_index"], &shown["array_id"]),
        (&5.into(), &ids[0].as_str().into())
    );
    place
        .qtf(["wait", &format!("{}[21]", ids[0])])
        .expect_code(3);
    place
        .qtf(["forget", &format!("{}[1-10]", ids[0])])
        .expect_code(0);
    let left = place
        .qtf(["ps", "--all", "--mine", "--json"])
        .expect_code(0)
        .json();
    assert_eq!(left["tasks"].as_array().unwrap().len(), 10);
    place.qtf(["forget", "all"]).expect_code(0);
    let left = place.qtf(["ps", "--all", "--json"]).expect_code(0).json();
    assert_eq!(left["tasks"], serde_json::json!([]));
}

#[test]
fn a_large_array_is_submitted_and_waited_for() {
    let (place, _dev) = dev();
    let ids = submit(&place, &["--array", "1-500", "--no-result", "--", "true"]);
    assert_eq!(ids.len(), 500);
    // Tasks that free their slots count as done, also when they were gone before the waiting began.
    place.qtf(["wait", "last"]).expect_code(0);
    place.qtf(["wait", "last"]).expect_code(0);
    let left = place.qtf(["ps", "--all", "--json"]).expect_code(0).json();
    assert_eq!(left["tasks"], serde_json::json!([]));
}

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
fn results_in_json_hold_any_bytes() {
    let (place, _dev) = dev();
    let id = submit(&place, &["--", "printf", r"\377"]).remove(0);
    place.qtf(["wait", &id]).expect_code(0);
    let result = place.qtf(["result", &id, "--json"]).expect_code(0).json();
    assert_eq!(result["schema"], "qtf.result/1");
    assert_eq!(result["stdout"]["base64"], "/w==");
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
fn dead_letters_are_shown_requeued_and_purged_and_nothing_else_is() {
    let place = Place::new();
    let dev = place.dev(&["--workers", "0"]);
    let started = place.fifo("started");
    let script = format!("echo > {}; exec sleep 1000", started.path().display());
    let id = submit(&place, &["--", "sh", "-c", &script]).remove(0);
    // Each worker that takes it dies, until it has taken down as many as a task may.
    let pipe = started.path().to_owned();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            place.qtf(["wait", &id]).expect_code(1);
            std::fs::write(&pipe, "buried\n").unwrap();
        });
        loop {
            let mut worker = place.worker(&place.default_address(), "doomed", 1);
            let line = started.line();
            worker.kill();
            if line == "buried" {
                return;
            }
        }
    });
    let dead = place.qtf(["dead", "ls", "--json"]).expect_code(0).json();
    assert_eq!(dead["tasks"][0]["id"], id.as_str());
    assert_eq!(dead["tasks"][0]["outcome"]["kind"], "worker_lost");
    let table = place.qtf(["dead", "ls"]).expect_code(0);
    assert!(
        table.text().contains("its worker was lost"),
        "{}",
        table.text()
    );
    let other = submit(&place, &["--", "true"]).remove(0);
    for command in ["show", "requeue", "purge"] {
        let done = place.qtf(["dead", command, &other]).expect_code(4);
        assert!(done.stderr.contains(&other), "{}", done.stderr);
    }
    let shown = place
        .qtf(["dead", "show", &id, "--json"])
        .expect_code(0)
        .json();
    assert_eq!(shown["state"], "dead_letter");
    place
        .qtf(["dead", "requeue", "--reason", "test", "all"])
        .expect_code(0);
    let waiting = place.qtf(["task", &id, "--json"]).expect_code(0).json();
    assert_ne!(waiting["state"], "dead_letter");
    place.qtf(["dead", "purge", &id]).expect_code(4);
    drop(dev);
}

#[test]
fn members_that_are_not_there_are_named() {
    let (place, _dev) = dev_without_workers();
    let first = submit(&place, &["--array", "1-5", "--", "true"]).remove(0);
    let members = |text: &str| format!("{first}[{text}]");
    place.qtf(["cancel", &members("1,4-9")]).expect_code(0);
    for (text, missing) in [("1-3,99", "99"), ("7-9", "7-9")] {
        let done = place.qtf(["wait", &members(text)]).expect_code(3);
        assert!(
            done.stderr.contains(&format!("no member {missing},")),
            "{}",
            done.stderr
        );
    }
    // The first member is gone, the array has its name still.
    place.qtf(["forget", &first]).expect_code(0);
    place.qtf(["wait", &members("4-5")]).expect_code(1);
    place
        .qtf(["wait", "--timeout", "0", &members("1-4")])
        .expect_code(6);
}

#[test]
fn results_of_several_tasks_are_one_json_document() {
    let (place, _dev) = dev();
    let ids = submit(&place, &["--array", "1-2", "--", "echo", "%{index}"]);
    place.qtf(["wait", "last"]).expect_code(0);
    let listed = place
        .qtf(["result", "--json", "last"])
        .expect_code(0)
        .json();
    assert_eq!(listed["schema"], "qtf.results/1");
    assert_eq!(listed["results"][1]["stdout"], "2\n");
    assert_eq!(listed["results"][1]["schema"], "qtf.result/1");
    let one = place
        .qtf(["result", "--json", &ids[0]])
        .expect_code(0)
        .json();
    assert_eq!(
        (&one["schema"], &one["stdout"]),
        (&"qtf.result/1".into(), &"1\n".into())
    );
    place.qtf(["forget", "last"]).expect_code(0);
    let none = place
        .qtf(["result", "--json", "last"])
        .expect_code(3)
        .json();
    assert_eq!(none["results"], serde_json::json!([]));
}

#[test]
fn an_interrupted_array_is_remembered_as_far_as_it_was_accepted() {
    let (place, _dev) = dev_without_workers();
    let mut command = place.command("qtf");
    command.args(["submit", "--array", "1-1000000", "--", "true"]);
    let mut submitting = Process::start(command);
    submitting.line_with("0");
    submitting.signal(nix::sys::signal::Signal::SIGINT);
    assert_eq!(submitting.wait().code(), Some(130));
    place.qtf(["wait", "--timeout", "0", "last"]).expect_code(6);
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
fn a_task_that_keeps_no_result_has_succeeded_when_it_is_gone_however_it_is_named() {
    let (place, _dev) = dev();
    let is_gone = |id: &str| while place.qtf(["task", id]).code != 3 {};
    let ids = submit(&place, &["--no-result", "--", "true"]);
    is_gone(&ids[0]);
    for words in [&["wait", &ids[0]][..], &["wait", "last"]] {
        assert_eq!(place.qtf(words).expect_code(0).stderr, "");
    }
    let ids = submit(&place, &["--no-result", "--array", "1-3", "--", "true"]);
    ids.iter().for_each(|id| is_gone(id));
    let named = place.qtf_with_stdin(["wait", "-"], ids.join("\n").into_bytes());
    assert_eq!(named.expect_code(0).stderr, "");
    // One that fails is kept and told of; one that was forgotten is not known.
    let failed = submit(&place, &["--no-result", "--", "false"]);
    place.qtf(["wait", &failed[0]]).expect_code(1);
    place.qtf(["wait", &ids[0]]).expect_code(0);
    let kept = submit(&place, &["--", "true"]);
    place.qtf(["wait", &kept[0]]).expect_code(0);
    place.qtf(["forget", &kept[0]]).expect_code(0);
    place.qtf(["wait", &kept[0]]).expect_code(3);
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
fn exit_codes_end_a_task_for_good_or_put_it_off_with_a_reason_that_is_shown() {
    let (place, _dev) = dev();
    let script = "echo the server is full >&2; exit 75";
    let put_off = submit(
        &place,
        &[
            "--again-exit",
            "75",
            "--again-after",
            "1h",
            "--",
            "sh",
            "-c",
            script,
        ],
    );
    let ended = submit(
        &place,
        &[
            "--retries",
            "9",
            "--final-exit",
            "65",
            "--",
            "sh",
            "-c",
            "exit 65",
        ],
    );
    place.qtf(["wait", &ended[0]]).expect_code(1);
    let shown = place
        .qtf(["task", &ended[0], "--json"])
        .expect_code(0)
        .json();
    assert_eq!(
        (&shown["attempt"], &shown["failures"]),
        (&1.into(), &1.into())
    );
    assert_eq!(shown["outcome"]["kind"], "failed_for_good");
    assert_eq!(shown["ending"], "failed for good: exit code 65");
    // It began before the other, and has one of two slots.
    let shown = loop {
        let shown = place
            .qtf(["task", &put_off[0], "--json"])
            .expect_code(0)
            .json();
        if shown["state"] == "delayed" {
            break shown;
        }
    };
    assert_eq!(shown["again_reason"], "exit code 75: the server is full");
    assert!(
        shown["due_in_ms"].as_u64().is_some_and(|ms| ms > 3_000_000),
        "{shown}"
    );
    assert_eq!(
        (&shown["failures"], &shown["losses"]),
        (&0.into(), &0.into())
    );
    let text = place.qtf(["task", &put_off[0]]).expect_code(0);
    assert!(
        text.text().contains("the server is full"),
        "{}",
        text.text()
    );
}
