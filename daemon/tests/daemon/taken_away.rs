//! What others remove under a running daemon: it says so, and nothing that it promised depends on it.

use qtf_needs::Need;
use qtf_proto::v1::*;

use crate::process::{Home, Qtfd, refused};
use crate::support::{noop, run};

const SMALL: &str = "segment_bytes = 8388608\njournal_file_bytes = 524288\n";

fn serving(test: &str) -> (Home, Qtfd, String) {
    let home = Home::new(test);
    home.configure(SMALL);
    let data = home.data().to_str().unwrap().to_owned();
    let daemon = home.serving(&["--data-dir", &data]);
    (home, daemon, data)
}

fn submit(home: &Home) -> u64 {
    run(async {
        let mut peer = home.connect().await;
        peer.submit(noop(b"kept")).await.unwrap()
    })
}

#[test]
fn segment_that_is_removed_is_told_at_once_and_costs_no_journal_task() {
    let (home, mut daemon, data) = serving("gone-segment");
    let before = submit(&home);
    home.lose_segment();
    daemon.wait_for_line("the segment was removed from the system");
    let after = submit(&home);
    assert_eq!(daemon.stop(), Some(0));
    let daemon = home.serving(&["--data-dir", &data]);
    run(async {
        let mut peer = home.connect().await;
        for id in [before, after] {
            assert_eq!(peer.state(id).await, TaskState::Ready);
        }
    });
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn runtime_folder_that_is_removed_is_told_and_a_successor_takes_over() {
    let (home, mut daemon, data) = serving("gone-runtime");
    let task = submit(&home);
    std::fs::remove_dir_all(home.folder.path().join("qtf")).unwrap();
    let mut told = vec![daemon.wait_for_line("removed or replaced")];
    told.push(daemon.wait_for_line("removed or replaced"));
    assert!(
        told[0].contains(".lock") && told[1].contains(".sock"),
        "{told:#?}"
    );
    let second = home.serving(&["--data-dir", &data, "--take-over"]);
    assert_eq!(daemon.wait().code(), None, "killed");
    run(async {
        let mut peer = home.connect().await;
        assert_eq!(peer.state(task).await, TaskState::Ready);
    });
    assert_eq!(second.stop(), Some(0));
}

#[test]
fn journal_that_is_removed_or_moved_ends_the_daemon_before_it_acknowledges_much_more() {
    for moved in [false, true] {
        let (home, mut daemon, data) = serving("gone-journal");
        let task = submit(&home);
        let journal = home.data().join("journal");
        let aside = home.folder.path().join("aside");
        std::fs::rename(&journal, &aside).unwrap();
        if !moved {
            std::fs::remove_dir_all(&aside).unwrap();
        }
        assert_eq!(daemon.wait().code(), Some(74), "{:#?}", daemon.said);
        let text = daemon.said.join("\n");
        assert!(
            text.contains("log-0000000000000001.qtj") && text.contains("removed or replaced"),
            "{text}"
        );
        let (code, said) = refused(&home, &["--data-dir", &data]);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("gone from the data folder"), "{said}");
        if !moved {
            continue;
        }
        // The start has made the folder anew.
        std::fs::remove_dir(&journal).unwrap();
        std::fs::rename(&aside, &journal).unwrap();
        let daemon = home.serving(&["--data-dir", &data]);
        run(async {
            let mut peer = home.connect().await;
            assert_eq!(peer.state(task).await, TaskState::Ready);
        });
        assert_eq!(daemon.stop(), Some(0));
    }
}

#[test]
fn data_folder_whose_lock_file_was_removed_is_still_refused_to_others() {
    let (home, daemon, data) = serving("gone-lock");
    std::fs::remove_file(home.data().join("LOCK")).unwrap();
    // Another runtime folder and another IPC namespace: neither the name's lock nor the segment is seen there.
    let other = tempfile::tempdir().unwrap();
    if qtf_needs::lacks(Need::IpcNamespace) {
        return;
    }
    let mut command = home.command_under(&["unshare", "--ipc", "--"], &["--data-dir", &data]);
    command.env("XDG_RUNTIME_DIR", other.path());
    let mut second = Qtfd::of(command.spawn().unwrap());
    assert_eq!(second.wait().code(), Some(3), "{:#?}", second.said);
    assert!(
        second.has_said("in use by another daemon"),
        "{:#?}",
        second.said
    );
    assert_eq!(daemon.stop(), Some(0));
}
