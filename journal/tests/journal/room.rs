//! A small disk: whatever was written, the next snapshot has room, so older files can always go.

use std::sync::Arc;

use qtf_journal::{
    JournalError, Lsn, SimDisk, Storage, make_room_for_snapshot, make_spare, reclaim,
};

use crate::daemon::{Daemon, FILE_BYTES, assert_cold_start};

/// As the daemon keeps them.
const FILES_AHEAD: usize = 3;

fn small_disk(files: u64) -> (SimDisk, Daemon) {
    let disk = SimDisk::new();
    disk.set_capacity(Some(usize::try_from(files * FILE_BYTES).unwrap()));
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    let daemon = Daemon::first(&storage, 1);
    (disk, daemon)
}

/// Has files ahead as far as the disk allows it.
fn make_files(daemon: &mut Daemon) -> Result<(), JournalError> {
    while daemon.writer.files_prepared() < FILES_AHEAD {
        let file = make_spare(&*daemon.storage, daemon.writer.file_plan())?;
        assert!(daemon.writer.add_file(file).is_none());
    }
    Ok(())
}

fn snapshot(daemon: &mut Daemon) {
    make_room_for_snapshot(&*daemon.storage).unwrap();
    daemon.snapshot_and_reclaim().expect("a snapshot has room");
}

#[test]
fn whatever_was_written_the_next_snapshot_has_room() {
    let (mut made_room, mut filled) = (0, 0);
    for seed in 0..16 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (_, mut daemon) = small_disk(rng.u64(12..40));
        for _ in 0..400 {
            if make_files(&mut daemon).is_err() {
                snapshot(&mut daemon);
                if make_files(&mut daemon).is_ok() {
                    made_room += 1;
                } else if daemon.writer.room_bytes() < 2 * FILE_BYTES {
                    filled += 1;
                    break;
                }
            }
            for _ in 0..rng.usize(1..6) {
                daemon.push_random(&mut rng, 60_000);
            }
            assert!(daemon.commit().unwrap());
            if rng.u8(0..40) == 0 {
                snapshot(&mut daemon);
            }
        }
        snapshot(&mut daemon);
        assert_cold_start(
            &*daemon.storage,
            &daemon.config,
            (&daemon.history, daemon.acknowledged),
            &format!("seed {seed}"),
        );
    }
    assert!(made_room >= 10, "{made_room} snapshots made room");
    assert!(filled >= 1, "live tasks filled {filled} disks");
}

#[test]
fn file_that_would_take_the_room_of_the_next_snapshot_is_not_made_and_the_error_says_what_is_needed()
 {
    let (disk, mut daemon) = small_disk(8);
    make_files(&mut daemon).unwrap();
    let refused = make_spare(&disk, daemon.writer.file_plan()).unwrap_err();
    assert!(refused.is_disk_full());
    let JournalError::NoRoomForSnapshot {
        file_bytes,
        snapshot_bytes,
        free_bytes,
    } = refused
    else {
        panic!("{refused}");
    };
    assert_eq!(
        (file_bytes, snapshot_bytes, free_bytes),
        (FILE_BYTES, 5 * FILE_BYTES, 4 * FILE_BYTES)
    );
}

#[test]
fn spares_make_room_for_a_snapshot_and_are_kept_where_there_is_room() {
    let (disk, mut daemon) = small_disk(8);
    make_files(&mut daemon).unwrap();
    let mut rng = fastrand::Rng::with_seed(1);
    while daemon.writer.files_prepared() > 0 {
        daemon.push_random(&mut rng, 2_000);
        daemon.commit().unwrap();
    }
    daemon.snapshot_and_reclaim().unwrap();
    let spares = |disk: &SimDisk| {
        let names = disk.list().unwrap();
        names
            .iter()
            .filter(|name| name.starts_with("spare"))
            .count()
    };
    assert_eq!(spares(&disk), 2);
    assert_eq!(make_room_for_snapshot(&disk).unwrap(), 0);
    // Others take the room.
    disk.set_capacity(Some(disk.used()));
    assert_eq!(make_room_for_snapshot(&disk).unwrap(), 2);
    assert_eq!(spares(&disk), 0);
    // Nothing that holds records has gone.
    reclaim(&disk, Lsn::NONE, 2).unwrap();
    assert_cold_start(
        &disk,
        &daemon.config,
        (&daemon.history, daemon.acknowledged),
        "spares given up",
    );
}
