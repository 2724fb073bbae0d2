//! Attempts that are the last, or not: dead letters, and exit codes with a meaning.

use qtf_tests::Place;

use super::{dev, submit};

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
