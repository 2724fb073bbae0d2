//! What people are shown of a journal.

use std::fs;
use std::sync::Arc;

use qtf_journal::{BadFrame, Content, Dump, Lsn, Record, StdStorage, Storage, verify};

use crate::daemon::Daemon;
use crate::model::Op;

fn sample(dir: &std::path::Path) -> Daemon {
    let storage: Arc<dyn Storage> = Arc::new(StdStorage::open_dir(dir).unwrap());
    let mut daemon = Daemon::first(&storage, 1);
    let mut rng = fastrand::Rng::with_seed(3);
    for _ in 0..30 {
        daemon.push_random(&mut rng, 50);
    }
    daemon.commit().unwrap();
    daemon
        .push(Op::Plain(Record::Reserve { gen_limit: 77 }))
        .unwrap();
    daemon.commit().unwrap();
    daemon
}

#[test]
fn dump_shows_each_record_and_where_they_end() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = sample(dir.path());
    let dump = Dump::open(&dir.path().join(daemon.writer.file().name())).unwrap();
    let info = dump.info();
    assert_eq!(
        (info.is_snapshot, info.number, info.follows),
        (false, 1, Some(Lsn::NONE))
    );
    assert_eq!(info.instance, "tests");
    let mut entries = dump.entries();
    assert_eq!(entries.stop(), None);
    let shown: Vec<_> = entries.by_ref().collect();
    assert_eq!(shown.len(), daemon.history.len());
    for ((entry, op), lsn) in shown.iter().zip(&daemon.history).zip(1..) {
        assert_eq!(entry.lsn, Lsn::new(lsn));
        assert_eq!(entry.content, Content::Record(op.record()));
    }
    let last = shown.last().unwrap();
    let stop = entries.stop().unwrap();
    assert_eq!(stop.offset, last.offset + last.bytes);
    assert_eq!(
        (stop.why, stop.beyond, stop.is_damage),
        (BadFrame::Nothing, None, false)
    );
}

#[test]
fn damage_of_the_first_record_of_a_log_that_goes_on_is_found_without_knowing_its_lsn() {
    let dir = tempfile::tempdir().unwrap();
    let storage: Arc<dyn Storage> = Arc::new(StdStorage::open_dir(dir.path()).unwrap());
    let mut daemon = Daemon::first(&storage, 1);
    let mut rng = fastrand::Rng::with_seed(3);
    while daemon.writer.file().0 < 2 {
        daemon.push_random(&mut rng, 2_000);
        daemon.commit().unwrap();
    }
    for _ in 0..5 {
        daemon.push_random(&mut rng, 50);
        daemon.commit().unwrap();
    }
    let path = dir.path().join(daemon.writer.file().name());
    let whole = Dump::open(&path).unwrap();
    assert!(whole.entries().count() > 5);
    assert!(whole.entries().next().unwrap().lsn > Lsn::new(100));
    let mut bytes = fs::read(&path).unwrap();
    bytes[4096 + 60] ^= 4;
    fs::write(&path, &bytes).unwrap();
    let dump = Dump::open(&path).unwrap();
    assert_eq!(dump.entries().count(), 0);
    let stop = dump.entries().stop().unwrap();
    assert_eq!((stop.offset, stop.lsn, stop.is_damage), (4096, None, true));
}

#[test]
fn dump_tells_damage_from_a_torn_tail() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = sample(dir.path());
    let path = dir.path().join(daemon.writer.file().name());
    let pristine = fs::read(&path).unwrap();
    let offsets: Vec<u64> = Dump::open(&path)
        .unwrap()
        .entries()
        .map(|entry| entry.offset)
        .collect();
    for (hit, is_damage) in [(4, true), (30, false)] {
        let mut bytes = pristine.clone();
        bytes[usize::try_from(offsets[hit]).unwrap() + 60] ^= 4;
        fs::write(&path, &bytes).unwrap();
        let dump = Dump::open(&path).unwrap();
        let mut entries = dump.entries();
        assert_eq!(entries.by_ref().count(), hit);
        let stop = entries.stop().unwrap();
        assert_eq!((stop.offset, stop.why), (offsets[hit], BadFrame::Checksum));
        assert_eq!(stop.is_damage, is_damage);
        assert_eq!(verify(dir.path()).is_err(), is_damage);
    }
}

#[test]
fn verify_counts_what_a_cold_start_would_find() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = sample(dir.path());
    daemon.snapshot_and_reclaim().unwrap();
    let report = verify(dir.path()).unwrap();
    assert_eq!(report.end, Lsn::new(31));
    assert_eq!(report.snapshot, Some(Lsn::new(31)));
    assert_eq!(
        (report.tasks, report.records),
        (daemon.model.tasks.len(), 0)
    );
    assert_eq!(report.logs, [daemon.writer.file().name()]);
    let names = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let snapshot = names
        .into_iter()
        .find(|path| path.extension().is_some_and(|end| end == "qts"));
    let dump = Dump::open(&snapshot.unwrap()).unwrap();
    assert!(dump.info().is_snapshot);
    let last = dump.entries().last().unwrap();
    let end = Content::End {
        tasks: daemon.model.tasks.len() as u64,
        gen_limit: daemon.model.gen_limit,
        shown: Lsn::new(31),
    };
    assert_eq!(last.content, end);
}
