//! The data folder: one daemon at a time, the right segment, and damage that is named and never papered over.

use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use qtf_needs::Need;
use qtf_proto::v1::TaskState;

use crate::process::{Home, refused};
use crate::support::{noop, run};

const SMALL: &str = "segment_bytes = 8388608\njournal_file_bytes = 524288\n";

fn home(test: &str) -> (Home, String) {
    let home = Home::new(test);
    home.configure(SMALL);
    let data = home.data().to_str().unwrap().to_owned();
    (home, data)
}

fn submit(home: &Home, count: usize) -> Vec<u64> {
    run(async {
        let mut peer = home.connect().await;
        let mut ids = Vec::new();
        for _ in 0..count {
            ids.push(peer.submit(noop(b"kept")).await.unwrap());
        }
        ids
    })
}

fn are_ready(home: &Home, ids: &[u64]) {
    run(async {
        let mut peer = home.connect().await;
        for id in ids {
            assert_eq!(peer.state(*id).await, TaskState::Ready);
        }
    });
}

/// The file of the journal that has records.
fn log_with_records(home: &Home) -> PathBuf {
    let mut logs: Vec<PathBuf> = std::fs::read_dir(home.data().join("journal"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_str().unwrap().contains("log-"))
        .collect();
    logs.sort();
    let has_records = |path: &PathBuf| std::fs::read(path).unwrap()[4096..].iter().any(|b| *b != 0);
    logs.into_iter().find(has_records).unwrap()
}

#[test]
fn second_daemon_on_a_data_folder_is_refused_with_the_pid_of_the_first() {
    let (home, data) = home("data-first");
    let other = Home::new("data-other");
    other.configure(SMALL);
    let first = home.serving(&["--data-dir", &data]);
    let (code, said) = refused(&other, &["--data-dir", &data]);
    assert_eq!(code, Some(3), "{said}");
    assert!(
        said.contains(&data) && said.contains(&format!("pid {}", first.pid())),
        "{said}"
    );
    assert_eq!(first.stop(), Some(0));
    let (code, said) = refused(&other, &["--data-dir", &data]);
    assert_eq!(code, Some(2), "another name's: {said}");
    assert!(said.contains(&home.name), "{said}");
}

#[test]
fn damage_in_the_middle_stops_the_start_and_changes_nothing() {
    let (home, data) = home("damage");
    let daemon = home.serving(&["--data-dir", &data]);
    submit(&home, 20);
    daemon.kill();
    let log = log_with_records(&home);
    let file = std::fs::File::options()
        .write(true)
        .read(true)
        .open(&log)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 4096 + 100).unwrap();
    file.write_all_at(&[byte[0] ^ 4], 4096 + 100).unwrap();
    let before = std::fs::read(&log).unwrap();
    home.lose_segment();
    for _ in 0..2 {
        let (code, said) = refused(&home, &["--data-dir", &data]);
        assert_eq!(code, Some(65), "{said}");
        let name = log.file_name().unwrap().to_str().unwrap();
        assert!(
            said.contains(name) && said.contains("offset") && said.contains("qtf journal verify"),
            "{said}"
        );
        assert_eq!(std::fs::read(&log).unwrap(), before, "nothing was changed");
    }
}

#[test]
fn segment_that_holds_tasks_goes_only_with_the_folder_that_it_was_made_with() {
    let (home, data) = home("whose");
    let daemon = home.serving(&["--data-dir", &data]);
    let ids = submit(&home, 3);
    assert_eq!(daemon.stop(), Some(0));
    let elsewhere = home.folder.path().join("elsewhere");
    for arguments in [&[][..], &["--data-dir", elsewhere.to_str().unwrap()][..]] {
        let (code, said) = refused(&home, arguments);
        assert_eq!(code, Some(2), "{said}");
        assert!(
            said.contains("data folder") && said.contains("ipcrm"),
            "{said}"
        );
    }
    let daemon = home.serving(&["--data-dir", &data]);
    are_ready(&home, &ids);
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn segment_that_missed_records_is_put_aside_and_the_journal_believed() {
    let (home, data) = home("stale");
    let daemon = home.serving(&["--data-dir", &data]);
    let first = submit(&home, 3);
    assert_eq!(daemon.stop(), Some(0));
    // The journal goes on under another segment, and the first one comes back: as in another IPC namespace.
    let theirs = home.name.clone();
    let unshared = ["unshare", "--ipc", "--"];
    if qtf_needs::lacks(Need::IpcNamespace) {
        return;
    }
    let mut other = crate::process::Qtfd::of(
        home.command_under(&unshared, &["--data-dir", &data])
            .spawn()
            .unwrap(),
    );
    other.wait_for_line("serving");
    let second = submit(&home, 3);
    are_ready(&home, &first);
    assert_eq!(other.stop(), Some(0));
    let mut daemon = home.serving(&["--data-dir", &data]);
    assert!(
        daemon.has_said("saved to a file"),
        "{theirs}: {:#?}",
        daemon.said
    );
    are_ready(&home, &first);
    are_ready(&home, &second);
    assert_eq!(daemon.stop(), Some(0));
}
