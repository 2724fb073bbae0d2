//! A disk in memory that can crash.
//!
//! What a file system promises is kept, and nothing else: bytes written survive a crash only after a sync of their file; before
//! that each sector of 512 bytes survives or not, by lot. Names made, changed or removed survive, in order, as far as a lot
//! says, unless the directory was synced. A sync that fails forgets the bytes: they can still be read, a later sync does not
//! write them, and a crash loses them (as Linux does).
//!
//! Tested at the end of this file.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Mapped, Storage, StorageFile};

const SECTOR: usize = 512;
const ENOSPC: i32 = 28;
const EIO: i32 = 5;

#[derive(Debug, Default, Clone)]
struct Content {
    /// What a reader sees.
    seen: Vec<u8>,
    /// What a crash leaves for certain.
    stable: Vec<u8>,
    /// Sectors seen and perhaps not stable.
    dirty: BTreeSet<usize>,
}

impl Content {
    fn sector(&self, sector: usize) -> core::ops::Range<usize> {
        let start = (sector * SECTOR).min(self.seen.len());
        start..(start + SECTOR).min(self.seen.len())
    }

    fn make_stable(&mut self, sector: usize) {
        let range = self.sector(sector);
        if self.stable.len() < range.end {
            self.stable.resize(range.end, 0);
        }
        self.stable[range.clone()].copy_from_slice(&self.seen[range]);
    }

    fn sync(&mut self) {
        for sector in core::mem::take(&mut self.dirty) {
            self.make_stable(sector);
        }
    }
}

#[derive(Debug, Clone)]
enum NameChange {
    Made(String, u64),
    Renamed(String, String),
    Removed(String),
}

fn apply(names: &mut BTreeMap<String, u64>, change: &NameChange) {
    match change {
        NameChange::Made(name, file) => {
            names.insert(name.clone(), *file);
        }
        NameChange::Renamed(from, to) => {
            if let Some(file) = names.remove(from) {
                names.insert(to.clone(), file);
            }
        }
        NameChange::Removed(name) => {
            names.remove(name);
        }
    }
}

#[derive(Debug, Default)]
struct Disk {
    files: BTreeMap<u64, Content>,
    names: BTreeMap<String, u64>,
    stable_names: BTreeMap<String, u64>,
    changes: Vec<NameChange>,
    next_file: u64,
    capacity: Option<usize>,
    is_sync_broken: bool,
    crashes: u64,
}

impl Disk {
    fn used(&self) -> usize {
        self.names
            .values()
            .filter_map(|file| self.files.get(file))
            .map(|content| content.seen.len())
            .sum()
    }

    fn change(&mut self, change: NameChange) {
        apply(&mut self.names, &change);
        self.changes.push(change);
    }

    fn drop_unnamed(&mut self) {
        let named: BTreeSet<u64> = self
            .names
            .values()
            .chain(self.stable_names.values())
            .copied()
            .collect();
        if self.changes.is_empty() {
            self.files.retain(|file, _| named.contains(file));
        }
    }
}

/// A directory in memory. Clones are the same directory.
#[derive(Debug, Clone, Default)]
pub struct SimDisk {
    disk: Arc<Mutex<Disk>>,
}

impl SimDisk {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The machine stops and starts again: what was not synced is lost, kept or torn, as `seed` says. Open files are dead.
    pub fn crash(&self, seed: u64) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut disk = self.disk();
        let kept = rng.usize(..=disk.changes.len());
        for change in core::mem::take(&mut disk.changes).iter().take(kept) {
            apply(&mut disk.stable_names, change);
        }
        disk.names = disk.stable_names.clone();
        // Most of what is written at once is lost or kept together.
        let share = [0, 20, 128, 236, 255][rng.usize(..5)];
        for content in disk.files.values_mut() {
            for sector in core::mem::take(&mut content.dirty) {
                if share == 255 || rng.u8(..) < share {
                    content.make_stable(sector);
                }
            }
            content.seen = content.stable.clone();
        }
        disk.crashes += 1;
        disk.is_sync_broken = false;
        disk.drop_unnamed();
    }

    /// Only the process stopped: everything written is still seen, nothing more is stable than before. Open files are dead.
    pub fn process_died(&self) {
        self.disk().crashes += 1;
    }

    /// All files together may hold that many bytes; `None` is no limit.
    pub fn set_capacity(&self, bytes: Option<usize>) {
        self.disk().capacity = bytes;
    }

    /// Bytes that all files hold together.
    #[must_use]
    pub fn used(&self) -> usize {
        self.disk().used()
    }

    /// The next sync of a file fails with EIO and forgets what it should have written.
    pub fn break_next_sync(&self) {
        self.disk().is_sync_broken = true;
    }

    /// The content of a file, as a reader sees it.
    #[must_use]
    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        let disk = self.disk();
        let file = disk.names.get(name)?;
        disk.files.get(file).map(|content| content.seen.clone())
    }

    /// Puts a file there, on stable storage, in the place of what it held: for tests that damage one.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let mut disk = self.disk();
        let file = disk.next_file;
        disk.next_file += 1;
        let content = Content {
            seen: bytes.to_vec(),
            stable: bytes.to_vec(),
            dirty: BTreeSet::new(),
        };
        disk.files.insert(file, content);
        disk.names.insert(name.to_owned(), file);
        disk.stable_names.insert(name.to_owned(), file);
    }

    /// A copy that goes its own way.
    #[must_use]
    pub fn copy(&self) -> Self {
        let disk = self.disk();
        let copy = Disk {
            files: disk.files.clone(),
            names: disk.names.clone(),
            stable_names: disk.stable_names.clone(),
            changes: disk.changes.clone(),
            next_file: disk.next_file,
            capacity: disk.capacity,
            is_sync_broken: disk.is_sync_broken,
            crashes: disk.crashes,
        };
        Self {
            disk: Arc::new(Mutex::new(copy)),
        }
    }

    fn file(&self, file: u64, crashes: u64) -> Box<dyn StorageFile> {
        Box::new(SimFile {
            disk: self.clone(),
            file,
            crashes,
        })
    }
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Storage for SimDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.disk().names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        let mut disk = self.disk();
        if disk.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = disk.next_file;
        disk.next_file += 1;
        disk.files.insert(file, Content::default());
        disk.change(NameChange::Made(name.to_owned(), file));
        let crashes = disk.crashes;
        drop(disk);
        Ok(self.file(file, crashes))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        let disk = self.disk();
        let file = *disk.names.get(name).ok_or_else(not_found)?;
        let crashes = disk.crashes;
        drop(disk);
        Ok(self.file(file, crashes))
    }

    fn map(&self, name: &str) -> io::Result<Mapped> {
        let bytes = self.content(name).ok_or_else(not_found)?;
        Ok(Mapped::Bytes(bytes.into()))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.disk();
        if !disk.names.contains_key(from) {
            return Err(not_found());
        }
        disk.change(NameChange::Renamed(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.disk();
        if !disk.names.contains_key(name) {
            return Err(not_found());
        }
        disk.change(NameChange::Removed(name.to_owned()));
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let disk = self.disk();
        let free = disk
            .capacity
            .map(|capacity| capacity.saturating_sub(disk.used()));
        Ok(free.map_or(u64::MAX, |free| free as u64))
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut disk = self.disk();
        disk.changes.clear();
        disk.stable_names = disk.names.clone();
        disk.drop_unnamed();
        Ok(())
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    file: u64,
    crashes: u64,
}

impl SimFile {
    fn with<T>(&self, act: impl FnOnce(&mut Disk, u64) -> io::Result<T>) -> io::Result<T> {
        let mut disk = self.disk.disk();
        if disk.crashes != self.crashes {
            return Err(io::Error::other("the file was opened before the crash"));
        }
        act(&mut disk, self.file)
    }
}

impl StorageFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        self.with(|disk, file| {
            let content = disk.files.get(&file).ok_or_else(not_found)?;
            Ok(content.seen.len() as u64)
        })
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.with(|disk, file| {
            let content = disk.files.get(&file).ok_or_else(not_found)?;
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            let rest = content.seen.get(start..).unwrap_or_default();
            let count = rest.len().min(into.len());
            into[..count].copy_from_slice(&rest[..count]);
            Ok(count)
        })
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        self.with(|disk, file| {
            let start = usize::try_from(offset).map_err(io::Error::other)?;
            let used = disk.used();
            let capacity = disk.capacity;
            let content = disk.files.get_mut(&file).ok_or_else(not_found)?;
            let mut end = start.saturating_add(bytes.len());
            let grows = end.saturating_sub(content.seen.len());
            let free = capacity.map_or(usize::MAX, |capacity| capacity.saturating_sub(used));
            if grows > free {
                end -= grows - free;
            }
            if end <= start {
                return Err(io::Error::from_raw_os_error(ENOSPC));
            }
            if content.seen.len() < end {
                content.seen.resize(end, 0);
            }
            content.seen[start..end].copy_from_slice(&bytes[..end - start]);
            content.dirty.extend(start / SECTOR..end.div_ceil(SECTOR));
            Ok(end - start)
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|disk, file| {
            let is_broken = core::mem::take(&mut disk.is_sync_broken);
            let content = disk.files.get_mut(&file).ok_or_else(not_found)?;
            if is_broken {
                content.dirty.clear();
                return Err(io::Error::from_raw_os_error(EIO));
            }
            content.sync();
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crash_keeps_what_was_synced_and_some_of_the_rest() {
        let (mut kept, mut lost, mut named) = (false, false, false);
        for seed in 0..50 {
            let disk = SimDisk::new();
            let file = disk.create("a").unwrap();
            file.write_at(0, &[1; 2048]).unwrap();
            file.sync_data().unwrap();
            disk.sync_dir().unwrap();
            file.write_at(512, &[2; 1024]).unwrap();
            disk.create("b").unwrap();
            disk.crash(seed);
            let content = disk.content("a").unwrap();
            assert_eq!((content.len(), content[0], content[2047]), (2048, 1, 1));
            kept |= content[512] == 2;
            lost |= content[512] == 1;
            named |= disk.content("b").is_some();
            assert!(file.len().is_err(), "opened before the crash");
        }
        assert!(kept && lost && named);
    }

    #[test]
    fn failed_sync_forgets_what_it_did_not_write() {
        let disk = SimDisk::new();
        let file = disk.create("a").unwrap();
        disk.sync_dir().unwrap();
        file.write_at(0, &[1; 512]).unwrap();
        disk.break_next_sync();
        file.sync_data().unwrap_err();
        file.sync_data().unwrap();
        assert_eq!(disk.content("a").unwrap(), [1; 512]);
        disk.crash(3);
        assert_eq!(disk.content("a").unwrap(), [0_u8; 0]);
    }

    #[test]
    fn full_disk_takes_what_fits() {
        let disk = SimDisk::new();
        disk.set_capacity(Some(1000));
        let file = disk.create("a").unwrap();
        assert_eq!(file.write_at(0, &[1; 2000]).unwrap(), 1000);
        let refused = file.write_at(1000, &[1; 1]).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(ENOSPC));
        assert_eq!(file.write_at(0, &[2; 10]).unwrap(), 10);
    }
}
