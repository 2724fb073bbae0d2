//! Cuts and flipped bits at every byte; pages doubled, swapped, zeroed. Each ends in a prefix of what was written that holds
//! everything which the rest of the files proves to have been acknowledged, or in an error with a name.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use qtf_journal::{
    JournalConfig, JournalError, Lsn, Mapped, SimDisk, Storage, StorageFile, open_tail, recover,
};

use crate::daemon::{Daemon, config};
use crate::model::{Model, Op};

const HEADER: usize = 4096;

/// Files that can be read, and damaged in place.
#[derive(Debug, Clone, Default)]
struct CopiedFiles(BTreeMap<String, Arc<[u8]>>);

impl CopiedFiles {
    fn of(storage: &SimDisk) -> Self {
        let names = storage.list().unwrap();
        let content = |name: &String| storage.content(name).unwrap().into();
        Self(
            names
                .iter()
                .map(|name| (name.clone(), content(name)))
                .collect(),
        )
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut [u8])) {
        let bytes = self.0.get_mut(name).unwrap();
        change(Arc::get_mut(bytes).expect("nobody reads it now"));
    }
}

fn read_only<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

impl Storage for CopiedFiles {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.keys().cloned().collect())
    }

    fn create(&self, _: &str) -> io::Result<Box<dyn StorageFile>> {
        read_only()
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        Ok(Box::new(CopiedFile(Arc::clone(&self.0[name]))))
    }

    fn map(&self, name: &str) -> io::Result<Mapped> {
        Ok(Mapped::Bytes(Arc::clone(&self.0[name])))
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        read_only()
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        read_only()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(0)
    }

    fn sync_dir(&self) -> io::Result<()> {
        read_only()
    }
}

#[derive(Debug)]
struct CopiedFile(Arc<[u8]>);

impl StorageFile for CopiedFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let rest = &self.0[usize::try_from(offset).unwrap()..];
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<usize> {
        read_only()
    }

    fn sync_data(&self) -> io::Result<()> {
        read_only()
    }
}

/// Where a record lies, and what it proves.
struct Lies {
    file: String,
    from: usize,
    until: usize,
    lsn: u64,
    durable: u64,
}

/// A journal of several files and daemons, at least 64 KiB of it records.
struct Sample {
    files: CopiedFiles,
    history: Vec<Op>,
    records: Vec<Lies>,
    /// The states that a prefix can end in, made once.
    models: Vec<Option<Model>>,
}

fn sample(bytes_min: usize) -> Sample {
    let disk = SimDisk::new();
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    let mut rng = fastrand::Rng::with_seed(11);
    let mut daemon = Daemon::first(&storage, 1);
    let mut bytes = 0;
    for nonce in 2.. {
        let bytes_before = bytes;
        while bytes - bytes_before < bytes_min / 3 {
            for _ in 0..rng.usize(1..30) {
                daemon.push_random(&mut rng, 150);
            }
            bytes += daemon.appender.pending_bytes();
            daemon.commit().unwrap();
        }
        if bytes >= bytes_min {
            break;
        }
        let opened = open_tail(&*storage, &config(nonce)).unwrap();
        daemon = Daemon::start(&storage, &opened, (config(nonce), daemon.history)).unwrap();
    }
    let files = CopiedFiles::of(&disk);
    let records = records_of(&files);
    assert_eq!(records.len(), daemon.history.len());
    assert!(files.0.len() >= 3);
    let models = vec![None; records.len() + 1];
    Sample {
        files,
        history: daemon.history,
        records,
        models,
    }
}

/// An independent reading of where the records of an undamaged journal lie.
fn records_of(files: &CopiedFiles) -> Vec<Lies> {
    let mut records = Vec::new();
    for (file, bytes) in &files.0 {
        let number = |at: usize| u64::from_le_bytes(*bytes[at..].first_chunk().unwrap());
        let mut from = HEADER;
        loop {
            let length = usize::try_from(number(from) >> 32).unwrap();
            if length == 0 {
                break;
            }
            let until = from + length.next_multiple_of(8);
            records.push(Lies {
                file: file.clone(),
                from,
                until,
                lsn: number(from + 16),
                durable: number(from + 24),
            });
            from = until;
        }
    }
    records
}

impl Sample {
    fn model(&mut self, end: u64) -> &Model {
        let end = usize::try_from(end).unwrap();
        self.models[end].get_or_insert_with(|| Model::of(&self.history[..end]))
    }

    /// What the records that `touches` does not touch prove to have been stable.
    fn proven(&self, touches: impl Fn(&Lies) -> bool) -> u64 {
        let whole = self.records.iter().filter(|lies| !touches(lies));
        whole.map(|lies| lies.durable).max().unwrap_or(0)
    }

    /// Opens what was damaged. An end is a prefix that holds everything proven; an error has a name.
    fn assert_prefix_or_error(&mut self, proven: u64, what: &str) -> Option<u64> {
        match recover(&self.files, &config(0)) {
            Ok(recovered) => {
                let end = recovered.opened.end;
                assert!(
                    end.get() >= proven,
                    "{what}: ends at {end}, {proven} was stable"
                );
                let tail = open_tail(&self.files, &config(0)).unwrap();
                assert_eq!(tail.end, end, "{what}");
                self.model(end.get()).assert_is(&recovered, what);
                Some(end.get())
            }
            Err(
                error @ (JournalError::Damaged { .. }
                | JournalError::Version { .. }
                | JournalError::Instance { .. }),
            ) => {
                let text = error.to_string();
                assert!(
                    text.contains("log-") && text.contains(".qtj"),
                    "{what}: {text}"
                );
                None
            }
            Err(error) => panic!("{what}: {error}"),
        }
    }
}

#[test]
fn bit_flipped_at_every_byte_is_found_or_cuts_the_last_group() {
    let mut sample = sample(72 * 1024);
    let whole = sample.records.len() as u64;
    let last_group = sample.records.last().unwrap().durable + 1;
    let names: Vec<String> = sample.files.0.keys().cloned().collect();
    let (mut errors, mut cuts) = (0, 0);
    for name in names {
        let until = sample
            .records
            .iter()
            .filter(|lies| lies.file == name)
            .map(|lies| lies.until)
            .max();
        let until = until.unwrap();
        let length = sample.files.0[&name].len();
        // Behind the records some bytes, and then samples, up to the end of the file.
        let places = (0..until + 200).chain((until + 200..length).step_by(4093));
        for at in places {
            let flip = |bytes: &mut [u8]| bytes[at] ^= 1 << (at % 8);
            sample.files.change(&name, flip);
            let hit = sample
                .records
                .iter()
                .find(|lies| lies.file == name && (lies.from..lies.until).contains(&at))
                .map(|lies| lies.lsn);
            let proven = sample.proven(|lies| Some(lies.lsn) == hit);
            let what = format!("{name} byte {at}");
            let end = sample.assert_prefix_or_error(proven, &what);
            match hit {
                Some(lsn) if lsn >= last_group => {
                    assert_eq!(
                        end,
                        Some(lsn - 1),
                        "{what}: only what was hit and what follows"
                    );
                    let cut = open_tail(&sample.files, &config(0)).unwrap().cut;
                    assert_eq!(
                        cut.map(|cut| cut.lsn.get()),
                        Some(lsn),
                        "{what}: the cut is told"
                    );
                    cuts += 1;
                }
                Some(_) => {
                    assert_eq!(end, None, "{what}: it was stable");
                    errors += 1;
                }
                None if at < HEADER => assert_eq!(end, None, "{what}: a header"),
                None => assert_eq!(end, Some(whole), "{what}: nothing lies there"),
            }
            sample.files.change(&name, flip);
        }
    }
    assert!(errors > 60_000 && cuts > 500, "{errors} {cuts}");
}

#[test]
fn journal_cut_at_every_byte_ends_in_a_prefix_or_an_error() {
    let mut sample = sample(66 * 1024);
    let names: Vec<String> = sample.files.0.keys().cloned().collect();
    let last_group = sample.records.last().unwrap().durable + 1;
    let last = names.last().unwrap().clone();
    let mut prefixes = std::collections::BTreeSet::new();
    for name in names {
        let original = Arc::clone(&sample.files.0[&name]);
        let mine = |lies: &&Lies| lies.file == name;
        let until = sample
            .records
            .iter()
            .filter(mine)
            .map(|lies| lies.until)
            .max()
            .unwrap();
        // From the back to the front: what was written last is lost, and the file keeps its length.
        for at in (HEADER..until).rev() {
            sample.files.0.remove(&name);
            let mut bytes = original.to_vec();
            bytes[at..].fill(0);
            // A cut where a byte was zero anyway changes nothing.
            let hit: Vec<bool> = vec![bytes[..] != original[..]];
            sample.files.0.insert(name.clone(), bytes.into());
            let lost = |lies: &Lies| lies.file == name && lies.until > at;
            let first_lost = sample
                .records
                .iter()
                .filter(|lies| lost(lies))
                .map(|lies| lies.lsn)
                .min();
            let proven = sample.proven(lost);
            let what = format!("{name} cut at {at}");
            let end = sample.assert_prefix_or_error(proven, &what);
            if name != last && hit[0] {
                assert_eq!(end, None, "{what}: later files follow what is gone");
            } else if name == last && first_lost.unwrap() >= last_group {
                prefixes.insert(end.expect("the last group may be torn"));
            }
        }
        // A file that is shorter than it was made is damaged, wherever it ends.
        for at in (0..original.len()).step_by(509) {
            sample.files.0.insert(name.clone(), original[..at].into());
            let what = format!("{name} has {at} bytes");
            assert_eq!(sample.assert_prefix_or_error(0, &what), None, "{what}");
        }
        sample.files.0.insert(name, original);
    }
    assert!(prefixes.len() > 3, "{prefixes:?}");
}

#[test]
fn doubled_swapped_and_zeroed_pages_end_in_a_prefix_or_an_error() {
    const PAGE: usize = 4096;
    let mut sample = sample(120 * 1024);
    let pristine: BTreeMap<String, Vec<u8>> = sample
        .files
        .0
        .iter()
        .map(|(name, bytes)| (name.clone(), bytes.to_vec()))
        .collect();
    let names: Vec<String> = pristine.keys().cloned().collect();
    let mut rng = fastrand::Rng::with_seed(5);
    let mut outcomes = [0; 2];
    for round in 0..3000 {
        let mut damaged = pristine.clone();
        let mut touched = Vec::new();
        for _ in 0..rng.usize(1..3) {
            let (from, to) = (
                &names[rng.usize(..names.len())],
                &names[rng.usize(..names.len())],
            );
            let page = |rng: &mut fastrand::Rng| rng.usize(0..16) * PAGE;
            let (source, target) = (page(&mut rng), page(&mut rng));
            let copy = damaged[from][source..source + PAGE].to_vec();
            let before = damaged[to][target..target + PAGE].to_vec();
            match rng.u8(0..3) {
                0 => damaged.get_mut(to).unwrap()[target..target + PAGE].fill(0),
                1 => damaged.get_mut(to).unwrap()[target..target + PAGE].copy_from_slice(&copy),
                _ => {
                    damaged.get_mut(to).unwrap()[target..target + PAGE].copy_from_slice(&copy);
                    damaged.get_mut(from).unwrap()[source..source + PAGE].copy_from_slice(&before);
                    touched.push((from.clone(), source));
                }
            }
            touched.push((to.clone(), target));
        }
        let hits = |lies: &Lies| {
            damaged[&lies.file][lies.from..lies.until]
                != pristine[&lies.file][lies.from..lies.until]
        };
        let proven = sample.proven(hits);
        sample.files.0 = damaged
            .iter()
            .map(|(name, bytes)| (name.clone(), bytes.as_slice().into()))
            .collect();
        let end = sample.assert_prefix_or_error(proven, &format!("round {round}: {touched:?}"));
        outcomes[usize::from(end.is_some())] += 1;
    }
    assert!(outcomes.iter().all(|&count| count > 100), "{outcomes:?}");
}

/// A snapshot behind which the older files are gone, or still there.
fn snapshot_sample(reclaims: bool) -> (CopiedFiles, Model, JournalConfig, String) {
    let disk = SimDisk::new();
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    let mut rng = fastrand::Rng::with_seed(23);
    let mut daemon = Daemon::first(&storage, 1);
    for _ in 0..120 {
        daemon.push_random(&mut rng, 150);
    }
    daemon.commit().unwrap();
    let opened = open_tail(&*storage, &config(2)).unwrap();
    daemon = Daemon::start(&storage, &opened, (config(2), daemon.history)).unwrap();
    if reclaims {
        daemon.snapshot_and_reclaim().unwrap();
    } else {
        let mut snapshot = daemon.snapshot(|_| {}).unwrap();
        snapshot.publish(daemon.writer.durable()).unwrap();
    }
    for _ in 0..30 {
        daemon.push_random(&mut rng, 150);
    }
    daemon.commit().unwrap();
    let mut files = CopiedFiles::of(&disk);
    files.0.retain(|name, _| !name.starts_with("spare-"));
    let name = files
        .0
        .keys()
        .find(|name| name.starts_with("snapshot-"))
        .unwrap()
        .clone();
    (files, daemon.model, config(2), name)
}

#[test]
fn damaged_snapshot_is_an_error_when_nothing_stands_in_for_it() {
    let (mut files, model, config, name) = snapshot_sample(true);
    model.assert_is(&recover(&files, &config).unwrap(), "undamaged");
    let original = Arc::clone(&files.0[&name]);
    let length = original.len();
    assert!(length > 5000);
    files.0.insert(name.clone(), original.to_vec().into());
    let assert_named = |files: &CopiedFiles, what: &str| match recover(files, &config) {
        Err(error @ (JournalError::Damaged { .. } | JournalError::Version { .. })) => {
            assert!(error.to_string().contains(&name), "{what}: {error}");
        }
        other => panic!("{what}: {other:?}"),
    };
    for at in 0..length {
        let flip = |bytes: &mut [u8]| bytes[at] ^= 1 << (at % 8);
        files.change(&name, flip);
        assert_named(&files, &format!("byte {at}"));
        files.change(&name, flip);
    }
    for at in 0..length {
        files.0.insert(name.clone(), original[..at].into());
        assert_named(&files, &format!("cut at {at}"));
    }
}

#[test]
fn damaged_snapshot_is_passed_over_when_the_whole_journal_is_there() {
    let (mut files, model, config, name) = snapshot_sample(false);
    let length = files.0[&name].len();
    let mut notes = 0;
    for at in (0..length).step_by(7) {
        let flip = |bytes: &mut [u8]| bytes[at] ^= 1 << (at % 8);
        files.change(&name, flip);
        let recovered = recover(&files, &config).unwrap();
        model.assert_is(&recovered, "without the snapshot");
        assert_eq!(recovered.snapshot, None);
        notes += recovered.notes.len();
        files.change(&name, flip);
    }
    assert_eq!(notes, length.div_ceil(7));
    assert!(recover(&files, &config).unwrap().snapshot.is_some());
}

#[test]
fn journal_that_ends_below_what_a_snapshot_shows_has_lost_records() {
    let (mut files, _, config, _) = snapshot_sample(true);
    let log = files
        .0
        .keys()
        .find(|name| name.starts_with("log-"))
        .unwrap()
        .clone();
    // The header still says which record this file follows; the snapshot shows that one, so the records behind may be torn.
    files.change(&log, |bytes| bytes[HEADER..].fill(0));
    assert_eq!(recover(&files, &config).unwrap().opened.end, Lsn::new(120));
    files.0.remove(&log);
    // A snapshot is never alone: the log that it belongs to is missing.
    for error in [
        recover(&files, &config).unwrap_err(),
        open_tail(&files, &config).unwrap_err(),
    ] {
        assert!(matches!(error, JournalError::Damaged { .. }), "{error}");
        let said = error.to_string();
        assert!(
            said.contains("snapshot-") && said.contains("no log"),
            "{said}"
        );
    }
}
