//! A storage in which one operation fails, once.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Mapped, Storage, StorageFile};

/// What kinds of operation there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Listing names.
    List,
    /// Making a file.
    Create,
    /// Opening one.
    Open,
    /// Mapping one.
    Map,
    /// Renaming one.
    Rename,
    /// Removing one.
    Remove,
    /// Looking how much room there is.
    FreeBytes,
    /// Syncing the directory.
    SyncDir,
    /// Asking for a length.
    Len,
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Syncing a file.
    SyncData,
}

/// How an operation fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// With this errno; nothing is done.
    Errno(i32),
    /// With this errno, but it was done all the same: the answer was lost.
    AfterAll(i32),
    /// A write does only half; other operations are done.
    Short,
}

#[derive(Debug, Default)]
struct Plan {
    count: u64,
    fails: Option<(u64, Fault)>,
    hit: Option<Operation>,
}

/// Lets operation number N of another storage fail once. Clones count together.
#[derive(Debug, Clone)]
pub struct FaultyStorage {
    inner: Arc<dyn Storage>,
    plan: Arc<Mutex<Plan>>,
}

impl FaultyStorage {
    /// Nothing fails yet; operations are counted from 0.
    #[must_use]
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        Self {
            inner,
            plan: Arc::default(),
        }
    }

    /// Lets the operation with this number fail. Starts the count anew.
    pub fn fail(&self, number: u64, fault: Fault) {
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        *plan = Plan {
            count: 0,
            fails: Some((number, fault)),
            hit: None,
        };
    }

    /// Operations so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.plan
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .count
    }

    /// The operation that failed.
    #[must_use]
    pub fn hit(&self) -> Option<Operation> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner).hit
    }
}

fn next(plan: &Mutex<Plan>, operation: Operation) -> Option<Fault> {
    let mut plan = plan.lock().unwrap_or_else(PoisonError::into_inner);
    let number = plan.count;
    plan.count = number.saturating_add(1);
    let fault = plan.fails.filter(|(fails, _)| *fails == number)?.1;
    plan.hit = Some(operation);
    Some(fault)
}

/// Does an operation, or not, or keeps its answer back.
fn run<T>(
    plan: &Mutex<Plan>,
    operation: Operation,
    act: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    match next(plan, operation) {
        None | Some(Fault::Short) => act(),
        Some(Fault::Errno(errno)) => Err(io::Error::from_raw_os_error(errno)),
        Some(Fault::AfterAll(errno)) => {
            act()?;
            Err(io::Error::from_raw_os_error(errno))
        }
    }
}

impl Storage for FaultyStorage {
    fn list(&self) -> io::Result<Vec<String>> {
        run(&self.plan, Operation::List, || self.inner.list())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        let file = run(&self.plan, Operation::Create, || self.inner.create(name))?;
        Ok(self.wrap(file))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        let file = run(&self.plan, Operation::Open, || self.inner.open(name))?;
        Ok(self.wrap(file))
    }

    fn map(&self, name: &str) -> io::Result<Mapped> {
        run(&self.plan, Operation::Map, || self.inner.map(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        run(&self.plan, Operation::Rename, || {
            self.inner.rename(from, to)
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        run(&self.plan, Operation::Remove, || self.inner.remove(name))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        run(&self.plan, Operation::FreeBytes, || self.inner.free_bytes())
    }

    fn sync_dir(&self) -> io::Result<()> {
        run(&self.plan, Operation::SyncDir, || self.inner.sync_dir())
    }
}

impl FaultyStorage {
    fn wrap(&self, inner: Box<dyn StorageFile>) -> Box<dyn StorageFile> {
        Box::new(FaultyFile {
            inner,
            plan: Arc::clone(&self.plan),
        })
    }
}

#[derive(Debug)]
struct FaultyFile {
    inner: Box<dyn StorageFile>,
    plan: Arc<Mutex<Plan>>,
}

impl StorageFile for FaultyFile {
    fn len(&self) -> io::Result<u64> {
        run(&self.plan, Operation::Len, || self.inner.len())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        run(&self.plan, Operation::Read, || {
            self.inner.read_at(offset, into)
        })
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        match next(&self.plan, Operation::Write) {
            None => self.inner.write_at(offset, bytes),
            Some(Fault::Short) => {
                let half = bytes.len().div_ceil(2);
                self.inner
                    .write_at(offset, bytes.get(..half).unwrap_or_default())
            }
            Some(Fault::Errno(errno)) => Err(io::Error::from_raw_os_error(errno)),
            Some(Fault::AfterAll(errno)) => {
                self.inner.write_at(offset, bytes)?;
                Err(io::Error::from_raw_os_error(errno))
            }
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        run(&self.plan, Operation::SyncData, || self.inner.sync_data())
    }
}
