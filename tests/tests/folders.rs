//! Folders of a daemon: which one a segment belongs to, and where large payloads go.

use qtf_tests::{Place, Process};

/// Ends at once, as it does not fit what was left.
fn refused(place: &Place, arguments: &[&str]) -> String {
    let mut command = place.command("qtfd");
    command.args(["--instance", place.instance(), "--core", "none"]);
    command.args(arguments);
    place.finish(command, Vec::new()).expect_code(2).stderr
}

#[test]
fn segment_of_another_data_folder_is_refused_with_the_name_of_that_folder() {
    let place = Place::new();
    let (first, second) = (place.work().join("first"), place.work().join("second"));
    let first = first.display().to_string();
    let mut daemon = place.daemon(&["--data-dir", &first]);
    let address = place.address();
    place
        .qtf(["--addr", &address, "submit", "--", "true"])
        .expect_code(0);
    assert_eq!(daemon.terminate(), Some(0));
    let second = second.display().to_string();
    for arguments in [&[][..], &["--data-dir", &second]] {
        let said = refused(&place, arguments);
        assert!(
            said.contains(&format!("belongs to the data folder {first}")),
            "{said}"
        );
    }
}

#[test]
fn without_a_data_folder_the_start_says_where_large_payloads_go_and_a_flag_names_the_place() {
    let place = Place::new();
    let folder = place.work().join("large");
    let mut command = place.command("qtfd");
    command.args(["--instance", place.instance(), "--core", "none"]);
    command.arg("--spill-dir").arg(&folder);
    let mut daemon = Process::start(command);
    place.remember_maker(daemon.pid());
    let said = daemon.line_with("too large for the segment");
    assert!(said.contains(&folder.display().to_string()), "{said}");
    daemon.line_with("serving");
    let address = place.address();
    let submit = ["--addr", &address, "submit", "--stdin", "-", "--", "cat"];
    place
        .qtf_with_stdin(submit, vec![b'x'; 8 << 20])
        .expect_code(0);
    let files = std::fs::read_dir(&folder).expect("it was made").count();
    assert_eq!(files, 1, "the payload lies there");
}
