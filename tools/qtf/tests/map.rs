//! `qtf map` with its own daemon: what goes in comes out, byte for byte and in order.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt;

use qtf_tests::Place;

/// File names with everything a name may hold.
const ODD_NAMES: [&[u8]; 8] = [
    b"plain",
    b"a b",
    b"it's",
    b"\"q\"",
    b"new\nline",
    b"\xff\xfe",
    b"$(echo x) `y` *",
    b"-n",
];

fn arguments<'a>(first: &'a [&'a str], inputs: &[&'a [u8]]) -> Vec<&'a OsStr> {
    let first = first.iter().map(OsStr::new);
    first
        .chain(inputs.iter().map(|input| OsStr::from_bytes(input)))
        .collect()
}

#[test]
fn inputs_of_any_bytes_reach_the_command_whole() {
    let place = Place::new();
    let mut expected = Vec::new();
    for name in ODD_NAMES {
        place.file(
            OsStr::from_bytes(name),
            [b"content of ", name, b"\n"].concat(),
        );
        expected.extend([b"content of ", name, b"\n"].concat());
    }
    let done = place
        .qtf(arguments(&["map", "-q", "cat -- {}", ":::"], &ODD_NAMES))
        .expect_code(0);
    assert_eq!((done.stdout, done.stderr.as_str()), (expected.clone(), ""));
    // The same through stdin, where NUL separates them.
    let stdin = ODD_NAMES.join(&0);
    let done = place
        .qtf_with_stdin(["map", "-q0", "cat", "--"], stdin)
        .expect_code(0);
    assert_eq!((done.stdout, done.stderr.as_str()), (expected, ""));
}

#[test]
fn outputs_come_in_input_order_whatever_ends_first() {
    let place = Place::new();
    let script = "sleep 0.$1; echo $1; echo e$1 >&2";
    let done = place.qtf([
        "map", "-q", "-j", "4", "sh", "-c", script, "x", "{}", ":::", "4", "3", "2", "1",
    ]);
    let done = done.expect_code(0);
    assert_eq!(
        (done.text(), done.stderr.as_str()),
        ("4\n3\n2\n1\n", "e4\ne3\ne2\ne1\n")
    );
}

#[test]
fn ten_thousand_inputs_on_stdin_pass_as_a_stream() {
    let place = Place::new();
    let numbers: String = (1..=10_000).map(|number| format!("{number}\n")).collect();
    let done = place
        .qtf_with_stdin(["map", "-q", "echo {}"], numbers.clone().into_bytes())
        .expect_code(0);
    assert!(
        done.text() == numbers,
        "{} lines came back",
        done.text().lines().count()
    );
    assert_eq!(done.stderr, "");
}

#[test]
fn a_failed_task_is_named_and_the_others_go_on() {
    let place = Place::new();
    let done = place
        .qtf([
            "map",
            "-q",
            "sh -c 'echo out$1; exit $1' x {}",
            ":::",
            "0",
            "3",
            "0",
        ])
        .expect_code(1);
    assert_eq!(done.text(), "out0\nout3\nout0\n");
    assert_eq!(done.stderr, "qtf: input 3: exit code 3\n");
}

#[test]
fn a_missing_program_and_one_that_is_not_executable_are_told_apart() {
    let place = Place::new();
    let done = place
        .qtf(["map", "no-such-program-here", ":::", "a"])
        .expect_code(1);
    assert!(
        done.stderr
            .contains("input a: cannot start the program: no program \""),
        "{}",
        done.stderr
    );
    let file = place.file("data", "not a program");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    let done = place.qtf(["map", "./data", ":::", "a"]).expect_code(1);
    assert!(done.stderr.contains("not executable"), "{}", done.stderr);
}

#[test]
fn a_signal_and_a_timeout_are_told_apart() {
    let place = Place::new();
    let done = place
        .qtf(["map", "sh -c 'kill -9 $$'", ":::", "a"])
        .expect_code(1);
    assert!(
        done.stderr.contains("input a: killed by SIGKILL"),
        "{}",
        done.stderr
    );
    let done = place
        .qtf(["map", "--timeout", "100ms", "sleep", ":::", "1000"])
        .expect_code(1);
    assert!(
        done.stderr.contains("longer than its --timeout"),
        "{}",
        done.stderr
    );
}

#[test]
fn no_inputs_are_no_tasks() {
    let place = Place::new();
    for line in [&["map", "-q", "echo", ":::"][..], &["map", "-q", "echo"]] {
        let done = place.qtf(line).expect_code(0);
        assert_eq!((done.text(), done.stderr.as_str()), ("", ""));
    }
}

#[test]
fn tasks_run_in_the_current_directory_with_the_environment_of_the_shell() {
    let place = Place::new();
    let mut command = place.command("qtf");
    command
        .env("FROM_SHELL", "yes")
        .args(["map", "--env", "EXTRA=a=b"]);
    command.args([
        "sh",
        "-c",
        "pwd; echo $FROM_SHELL $EXTRA $1",
        "x",
        ":::",
        "1",
    ]);
    let done = place.finish(command, Vec::new()).expect_code(0);
    let work = place.work().canonicalize().unwrap();
    assert_eq!(done.text(), format!("{}\nyes a=b 1\n", work.display()));
}

#[test]
fn inputs_may_come_from_files() {
    let place = Place::new();
    place.file("one", "a\nb\n");
    place.file("two", "c");
    let done = place.qtf_with_stdin(["map", "echo", "::::", "one", "-", "two"], b"x\n".to_vec());
    assert_eq!(done.expect_code(0).text(), "a\nb\nx\nc\n");
    let done = place.qtf(["map", "echo", "::::", "missing"]).expect_code(2);
    assert!(done.stderr.contains("missing"), "{}", done.stderr);
}

#[test]
fn an_input_that_cannot_be_an_argument_stops_the_intake_after_what_came_before() {
    let place = Place::new();
    let done = place
        .qtf_with_stdin(["map", "echo"], b"a\nb\0\nc\n".to_vec())
        .expect_code(2);
    assert_eq!(done.text(), "a\n");
    assert!(
        done.stderr.contains("input 2 from stdin holds a NUL byte"),
        "{}",
        done.stderr
    );
    let long = vec![b'x'; 200_000];
    let done = place.qtf_with_stdin(["map", "echo"], long).expect_code(2);
    assert!(done.stderr.contains("longer than"), "{}", done.stderr);
}

#[test]
fn an_output_of_100_mb_comes_whole_as_the_own_daemon_has_no_limit_below_the_disk() {
    let place = Place::new();
    let done = place.qtf(["map", "head -c 100000000 /dev/zero", ":::", "a"]);
    // head takes the input for a file of that name, which is not there.
    assert_eq!(done.code, 1);
    let script = "head -c 100000000 /dev/zero";
    let done = place
        .qtf(["map", "sh", "-c", script, "x", ":::", "a"])
        .expect_code(0);
    assert_eq!(done.stdout.len(), 100_000_000);
    assert!(!done.stderr.contains("cut off"), "{}", done.stderr);
}

#[test]
fn large_outputs_come_whole_and_in_order() {
    let place = Place::new();
    let sizes = [3_000_000, 10, 200_000, 70_000, 0, 65_536];
    let inputs: Vec<OsString> = sizes
        .iter()
        .map(|size: &usize| size.to_string().into())
        .collect();
    let script = "head -c $1 /dev/zero | tr '\\0' a; echo";
    let line = ["map", "sh", "-c", script, "x", ":::"]
        .into_iter()
        .map(OsString::from);
    let done = place.qtf(line.chain(inputs)).expect_code(0);
    let lengths: Vec<usize> = done.text().lines().map(str::len).collect();
    assert_eq!(lengths, sizes);
}

#[test]
fn json_has_a_schema_and_all_that_happened() {
    let place = Place::new();
    let script = "printf '\\377'; echo $1 >&2; exit $1";
    let line = ["map", "--json", "sh", "-c", script, "x", ":::", "0", "7"];
    let done = place.qtf(line).expect_code(1).json();
    assert_eq!(done["schema"], "qtf.map/1");
    assert_eq!(done["results"][0]["stdout"]["base64"], "/w==");
    assert_eq!(done["results"][1]["outcome"]["code"], 7);
    assert_eq!(done["results"][1]["stderr"], "7\n");
    let done = place
        .qtf(["map", "--output", "jsonl", "echo", ":::", "a", "b"])
        .expect_code(0);
    let lines: Vec<serde_json::Value> = done
        .text()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines[1]["schema"], "qtf.mapped/1");
    assert_eq!(
        (&lines[1]["input"], &lines[1]["stdout"]),
        (&"b".into(), &"b\n".into())
    );
    let done = place
        .qtf(["map", "--json", "echo", ":::"])
        .expect_code(0)
        .json();
    assert_eq!(done["results"], serde_json::json!([]));
}

#[test]
fn wrong_command_lines_end_with_2_and_the_fix() {
    let place = Place::new();
    for (line, text) in [
        (&["map"][..], "required"),
        (&["map", "", ":::", "a"], "no command given"),
        (&["map", "echo 'a", ":::", "a"], "quote"),
        (&["map", "echo", "::::"], "needs the name of a file"),
        (&["map", "echo", ":::", "a", ":::", "b"], "second time"),
        (&["map", "-j", "0", "echo"], "--slots"),
        (&["map", "--env", "=x", "echo", ":::", "a"], "NAME=VALUE"),
    ] {
        let done = place.qtf(line).expect_code(2);
        assert!(done.stderr.contains(text), "{line:?}: {}", done.stderr);
    }
}

#[test]
fn a_thousand_files_give_what_a_plain_loop_gives() {
    let place = Place::new();
    let names: Vec<String> = (0..1_000).map(|number| format!("file {number}")).collect();
    for (number, name) in names.iter().enumerate() {
        place.file(name, name.repeat(number));
    }
    let line = ["map", "sha256sum {}", ":::"].map(str::to_owned);
    let done = place
        .qtf(line.into_iter().chain(names.clone()))
        .expect_code(0);
    let mut sums = std::process::Command::new("sha256sum");
    let plain = place.finish(
        {
            sums.args(&names).current_dir(place.work());
            sums
        },
        Vec::new(),
    );
    assert!(done.stdout == plain.expect_code(0).stdout);
}

#[test]
fn a_command_of_which_a_part_would_be_a_comment_is_refused() {
    let place = Place::new();
    let refused = place
        .qtf(["map", "echo task #{} of all", ":::", "7"])
        .expect_code(2);
    assert!(refused.stderr.contains("comment"), "{}", refused.stderr);
    let quoted = place
        .qtf(["map", r"echo task \#{} of all", ":::", "7"])
        .expect_code(0);
    assert_eq!(quoted.text(), "task #7 of all\n");
}

#[test]
fn exit_codes_end_a_task_for_good_or_put_it_off_as_they_do_for_submit() {
    let place = Place::new();
    // A retry would succeed; the code says that none is to be tried.
    let once = "test -e $1 && exit 0; touch $1; exit 65";
    let line = ["map", "-q", "--retries", "3", "--final-exit", "65"];
    let line = [&line[..], &["sh", "-c", once, "x", ":::", "final"]].concat();
    place.qtf(line).expect_code(1);
    // There is no retry, and "not now" is no failure.
    let again = "test -e $1 && exit 0; touch $1; exit 75";
    let line = ["map", "-q", "--again-exit", "75", "--again-after", "1ms"];
    let line = [&line[..], &["sh", "-c", again, "x", ":::", "again"]].concat();
    place.qtf(line).expect_code(0);
}
