//! A data folder that a daemon of an earlier version has left: its tasks are there, and its files are replaced.
//!
//! `earlier/` holds the log of a daemon that wrote version 1 of the journal and was killed, without the zeros at its end: a waiting
//! task, three members of an array that are held, one with a chosen key, and a cancelled one.

use std::path::Path;

use qtf_proto::v1::TaskState;
use qtf_shm::TaskId;

use crate::process::Home;
use crate::support::{run, until};

const LOG: &str = "log-0000000000000001.qtj";
const FILE_BYTES: usize = 524_288;
const HEADER_BYTES: usize = 4096;

const TASKS: [(&str, TaskState); 6] = [
    ("09z68fe6g0000", TaskState::Ready),
    ("09z68fe6g0001", TaskState::Held),
    ("09z68fe6g0002", TaskState::Held),
    ("09z68fe6g0003", TaskState::Held),
    ("09z68fe6g0004", TaskState::Ready),
    ("09z68fe6g0005", TaskState::Cancelled),
];

fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ (0x82F6_3B78 * (crc & 1));
    !bytes
        .iter()
        .fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

/// Puts the committed log where this test's daemon looks, as one of its instance.
fn leave_log(home: &Home) {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/daemon/earlier");
    let mut log = std::fs::read(committed.join(LOG)).unwrap();
    log.resize(FILE_BYTES, 0);
    let mut instance = [0; 64];
    instance[..home.name.len()].copy_from_slice(home.name.as_bytes());
    log[64..128].copy_from_slice(&instance);
    let crc = crc32c(&log[..HEADER_BYTES - 4]);
    log[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    let folder = home.data().join("journal");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(LOG), log).unwrap();
}

fn are_as_they_were(home: &Home) {
    run(async {
        let mut peer = home.connect().await;
        for (id, state) in TASKS {
            let id: TaskId = id.parse().unwrap();
            assert_eq!(peer.state(id.as_raw()).await, state, "{id}");
        }
    });
}

#[test]
fn tasks_of_a_data_folder_of_the_version_before_are_there_and_its_files_go() {
    let home = Home::new("earlier");
    home.configure("segment_bytes = 8388608\njournal_file_bytes = 524288\n");
    leave_log(&home);
    let data = home.data().to_str().unwrap().to_owned();
    let mut daemon = home.serving(&["--data-dir", &data]);
    are_as_they_were(&home);
    assert!(daemon.has_said("files of the version before"));
    // Nothing else asks for a snapshot: nothing is submitted.
    let log = home.data().join("journal").join(LOG);
    run(until(|| std::future::ready(!log.exists())));
    daemon.kill();
    home.lose_segment();
    let mut daemon = home.serving(&["--data-dir", &data]);
    are_as_they_were(&home);
    assert!(!daemon.has_said("files of the version before"));
    assert_eq!(daemon.stop(), Some(0));
}
