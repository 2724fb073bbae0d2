//! Arrays: the index wherever it is filled in, members by name, as many as are wanted, and an end in between.

use qtf_tests::Process;

use super::{dev, dev_without_workers, submit};

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
