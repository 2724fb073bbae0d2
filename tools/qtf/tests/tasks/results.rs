//! What is kept of a task that has ended: its output whole, cut, expired or not kept, and how its attempts ended.

use qtf_tests::{Place, Process};

use super::{dev, submit};

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
fn results_in_json_hold_any_bytes() {
    let (place, _dev) = dev();
    let id = submit(&place, &["--", "printf", r"\377"]).remove(0);
    place.qtf(["wait", &id]).expect_code(0);
    let result = place.qtf(["result", &id, "--json"]).expect_code(0).json();
    assert_eq!(result["schema"], "qtf.result/1");
    assert_eq!(result["stdout"]["base64"], "/w==");
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
    let none = place.qtf(["result", "last"]).expect_code(3).stderr;
    assert_eq!(
        none,
        "qtf: 3 tasks have succeeded and were to keep no result (--no-result)\n"
    );
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
fn success_whose_result_expired_is_a_success_to_wait_for_and_every_command_says_that_it_expired() {
    let (place, _dev) = dev();
    let id = submit(&place, &["--keep", "1s", "--", "true"]).remove(0);
    let is_expired = || {
        let shown = place.qtf(["task", &id]);
        shown.code == 3 && shown.stderr.contains("its result expired")
    };
    place.qtf(["wait", &id]).expect_code(0);
    while !is_expired() {}
    assert_eq!(place.qtf(["wait", &id]).expect_code(0).stderr, "");
    for words in [
        &["cancel"][..],
        &["dead", "requeue"],
        &["hold"],
        &["forget"],
    ] {
        let done = place.qtf([words, &[&id]].concat()).expect_code(3);
        assert!(
            done.stderr.contains("its result expired"),
            "{}",
            done.stderr
        );
    }
}

#[test]
fn key_is_shown_where_somebody_chose_it() {
    let (place, _dev) = dev();
    let key_of = |id: &str| place.qtf(["task", "--json", id]).expect_code(0).json()["key"].clone();
    let chosen = submit(&place, &["--key", "mine", "--", "true"]).remove(0);
    assert!(key_of(&chosen).is_string());
    let automatic = submit(&place, &["--", "true"]).remove(0);
    assert!(key_of(&automatic).is_null());
    assert!(
        !place
            .qtf(["task", &automatic])
            .expect_code(0)
            .text()
            .contains("key")
    );
}

#[test]
fn states_that_are_named_are_listed_with_all_too() {
    let (place, _dev) = dev();
    let failed = submit(&place, &["--", "false"]).remove(0);
    let _done = submit(&place, &["--", "true"]);
    place.qtf(["wait", "last"]).expect_code(0);
    place.qtf(["wait", &failed]).expect_code(1);
    let listed = place
        .qtf(["ps", "--all", "--state", "failed", "--json"])
        .expect_code(0)
        .json();
    let tasks = listed["tasks"].as_array().unwrap();
    assert_eq!((tasks.len(), &tasks[0]["id"]), (1, &failed.into()));
}

#[test]
fn task_for_a_handler_is_given_the_bytes_of_a_file_or_of_stdin() {
    let (place, _dev) = dev();
    let printed = |id: &str| {
        place.qtf(["wait", id]).expect_code(0);
        place.qtf(["result", id]).expect_code(0).stdout
    };
    // A kind that every worker has: it gives back what it was given.
    let file = place.file("payload", b"\xff from a file");
    let id = submit(
        &place,
        &["--kind", "echo", "--payload", file.to_str().unwrap()],
    );
    assert_eq!(printed(&id[0]), b"\xff from a file");
    let line = ["submit", "--kind", "echo", "--payload", "-"];
    let piped = place
        .qtf_with_stdin(line, b"from stdin".to_vec())
        .expect_code(0);
    assert_eq!(printed(piped.text().trim()), b"from stdin");
    let id = submit(&place, &["--kind", "echo"]);
    assert_eq!(printed(&id[0]), b"");
    // Each member of an array its own.
    for index in 1..=2 {
        place.file(format!("in-{index}"), index.to_string());
    }
    let ids = submit(
        &place,
        &[
            "--array",
            "1-2",
            "--kind",
            "echo",
            "--payload",
            "in-%{index}",
        ],
    );
    assert_eq!([printed(&ids[0]), printed(&ids[1])], [b"1", b"2"]);
}
