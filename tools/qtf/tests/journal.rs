//! `qtf journal verify|dump` over what a killed daemon left behind.
#![expect(clippy::unwrap_used, reason = "what cannot be set up is a failed test")]

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use qtf_tests::Place;

/// A place with the journal of a daemon that was killed, and the ids of its tasks.
fn journal() -> (Place, PathBuf, Vec<String>) {
    let place = Place::new();
    let data = place.work().join("data");
    let mut daemon = place.daemon(&["--data-dir", data.to_str().unwrap()]);
    let submitted = place
        .qtf([
            "--addr",
            &place.address(),
            "submit",
            "--array",
            "1-50",
            "--durability",
            "journal",
            "--",
            "echo",
            "%{index}",
        ])
        .expect_code(0);
    daemon.kill();
    let ids = submitted.text().lines().map(str::to_owned).collect();
    (place, data, ids)
}

/// The log with the records.
fn log_of(data: &Path) -> PathBuf {
    data.join("journal").join("log-0000000000000001.qtj")
}

fn flip(file: &Path, offset: u64) {
    let mut file = fs::File::options()
        .read(true)
        .write(true)
        .open(file)
        .unwrap();
    let mut byte = [0];
    file.seek(SeekFrom::Start(offset)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(offset)).unwrap();
    file.write_all(&[byte[0] ^ 0x10]).unwrap();
}

#[test]
fn journal_of_a_killed_daemon_is_intact_and_shows_every_submission() {
    let (place, data, ids) = journal();
    assert_eq!(ids.len(), 50);
    let found = place
        .qtf(["journal", "verify", "--json", data.to_str().unwrap()])
        .expect_code(0)
        .json();
    assert_eq!(found["schema"], "qtf.journals/1");
    let found = &found["journals"][0];
    assert_eq!(
        (&found["intact"], &found["tasks"]),
        (&true.into(), &50.into())
    );
    let log = log_of(&data);
    let file = place
        .qtf(["journal", "verify", log.to_str().unwrap()])
        .expect_code(0);
    assert!(file.text().contains("intact"), "{}", file.text());

    let table = place
        .qtf(["journal", "dump", data.to_str().unwrap()])
        .expect_code(0);
    for (number, id) in ids.iter().enumerate() {
        let line = table.text().lines().find(|line| line.contains(id)).unwrap();
        assert!(line.ends_with(&format!("echo {}", number + 1)), "{line}");
    }
    let lines = place
        .qtf([
            "journal",
            "dump",
            "--output",
            "jsonl",
            log.to_str().unwrap(),
        ])
        .expect_code(0);
    let submits = lines.text().lines().filter(|line| {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        entry["schema"] == "qtf.journal_entry/1" && entry["kind"] == "submit"
    });
    assert_eq!(submits.count(), 50);
    let document = place
        .qtf(["journal", "dump", "--json", data.to_str().unwrap()])
        .expect_code(0)
        .json();
    assert_eq!(document["schema"], "qtf.journal_dump/1");
    let entries = document["files"][0]["entries"].as_array().unwrap();
    assert_eq!(entries[0]["lsn"], 1);
}

#[test]
fn damage_in_the_middle_is_named_with_file_offset_and_lsn() {
    let (place, data, _) = journal();
    let log = log_of(&data);
    let dump = place
        .qtf(["journal", "dump", "--json", log.to_str().unwrap()])
        .expect_code(0)
        .json();
    // A record of which a later group proves that it had been on stable storage.
    let second = dump["files"][0]["entries"][1].clone();
    let (offset, lsn) = (second["offset"].as_u64().unwrap(), second["lsn"].clone());
    flip(&log, offset + 70);
    for path in [&data, &log] {
        let done = place
            .qtf(["journal", "verify", "--json", path.to_str().unwrap()])
            .expect_code(1);
        let found = &done.json()["journals"][0];
        assert_eq!(found["intact"], false);
        assert_eq!(found["damage"]["file"], "log-0000000000000001.qtj");
        assert_eq!(found["damage"]["offset"], offset);
        assert_eq!(found["damage"]["lsn"], lsn);
        assert!(
            done.stderr.contains(&format!("offset {offset}")),
            "{}",
            done.stderr
        );
    }
    let done = place
        .qtf(["journal", "dump", log.to_str().unwrap()])
        .expect_code(1);
    assert!(done.stderr.contains("damaged at offset"), "{}", done.stderr);
}

#[test]
fn header_that_is_damaged_and_file_that_is_none_are_told_apart() {
    let (place, data, _) = journal();
    let log = log_of(&data);
    flip(&log, 9);
    place
        .qtf(["journal", "verify", log.to_str().unwrap()])
        .expect_code(1);
    place
        .qtf(["journal", "dump", log.to_str().unwrap()])
        .expect_code(1);
    for command in ["verify", "dump"] {
        place
            .qtf(["journal", command, "no-such-file.qtj"])
            .expect_code(2);
    }
}

#[test]
fn folder_without_a_journal_is_not_called_intact() {
    let place = Place::new();
    let empty = place.work().join("empty");
    fs::create_dir(&empty).unwrap();
    fs::write(empty.join("notes.txt"), "none of ours").unwrap();
    for command in ["verify", "dump"] {
        let done = place
            .qtf(["journal", command, empty.to_str().unwrap()])
            .expect_code(3);
        let said = &done.stderr;
        assert!(said.contains("empty: no journal is there"), "{said}");
    }
}

/// What `verify` of a path says, with its code.
fn verify(place: &Place, path: &Path, code: i32) -> String {
    let done = place
        .qtf(["journal", "verify", path.to_str().unwrap()])
        .expect_code(code);
    assert!(!done.stderr.contains("lsn 0"), "{}", done.stderr);
    done.stderr
}

#[test]
fn each_thing_that_is_wrong_with_a_folder_names_the_file_and_no_lsn_that_is_not_known() {
    let (place, data, _) = journal();
    let log = log_of(&data);
    let whole = fs::read(&log).unwrap();
    let stray = data.join("journal").join("log-00000000000000ff.qtj");
    let cases: [(&[u8], &str); 4] = [
        (b"", "offset 0: its header is damaged: the file is empty"),
        (&[0; 9_000], "it is zeros: a file made ahead"),
        (&[7; 9_000], "does not begin as a journal or snapshot does"),
        (&whole, "it belongs to another file"),
    ];
    for (content, why) in cases {
        fs::write(&stray, content).unwrap();
        let said = verify(&place, &data, 1);
        assert!(
            said.contains("log-00000000000000ff.qtj") && said.contains(why),
            "{said}"
        );
    }
    let empty = place.work().join("empty");
    fs::create_dir(&empty).unwrap();
    let both = [
        "journal",
        "verify",
        data.to_str().unwrap(),
        empty.to_str().unwrap(),
    ];
    let said = place.qtf(both).expect_code(1).stderr;
    assert!(said.contains("no journal is there"), "{said}");
    fs::remove_file(&stray).unwrap();
    fs::create_dir(&stray).unwrap();
    let said = verify(&place, &data, 2);
    assert!(
        said.contains("log-00000000000000ff.qtj") && said.contains("directory"),
        "{said}"
    );
    fs::remove_dir(&stray).unwrap();
    // Another journal's file, under a name that fits.
    let (_other, theirs, _) = journal();
    let next = data.join("journal").join("log-0000000000000002.qtj");
    fs::copy(
        theirs.join("journal").join("log-0000000000000002.qtj"),
        &next,
    )
    .unwrap();
    let said = verify(&place, &data, 1);
    assert!(
        said.contains("another journal than the first file"),
        "{said}"
    );
    let spare = data.join("journal").join("spare-9.qtj");
    fs::write(&spare, [0; 9_000]).unwrap();
    verify(&place, &spare, 0);
    place
        .qtf(["journal", "dump", spare.to_str().unwrap()])
        .expect_code(0);
}

#[test]
fn a_reader_that_goes_away_ends_the_dump_quietly() {
    let (place, data, _) = journal();
    let mut command = place.command("qtf");
    command
        .args(["journal", "dump"])
        // Often enough that it does not fit the pipe.
        .args(std::iter::repeat_n(log_of(&data), 200))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut first = [0; 64];
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut first).unwrap();
    drop(stdout);
    let ended = child.wait_with_output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(String::from_utf8_lossy(&ended.stderr), "");
}
