//! Reads of spill files for streams that fetch: in the order in which they were asked for, a few under way at a time.
//!
//! Invariants: a stream has one read, which goes with it if it has not begun; one that has begun keeps its place until the spill
//! thread has answered. So no more wait than there are streams. Tested at the end of this file and in `tests/daemon/spill.rs`.

use std::collections::BTreeMap;
use std::rc::Rc;

use tokio::sync::oneshot;

use crate::spill::jobs::{READS_MAX, SpillJobs};
use crate::spill::thread::{Range, ReadAnswer, ReadKey};

/// All reads.
#[derive(Debug)]
pub(crate) struct Reads {
    jobs: Rc<SpillJobs>,
    under_way: BTreeMap<ReadKey, oneshot::Sender<ReadAnswer>>,
    waiting: BTreeMap<ReadKey, (Range, oneshot::Sender<ReadAnswer>)>,
    last_key: u64,
}

impl Reads {
    /// None yet.
    pub(super) fn new(jobs: Rc<SpillJobs>) -> Self {
        Self {
            jobs,
            under_way: BTreeMap::new(),
            waiting: BTreeMap::new(),
            last_key: 0,
        }
    }

    /// Has a part of a blob read. The answer comes to the receiver; nothing, if the daemon ends before.
    pub(crate) fn ask(&mut self, range: Range) -> (ReadKey, oneshot::Receiver<ReadAnswer>) {
        self.last_key = self.last_key.saturating_add(1);
        let key = ReadKey(self.last_key);
        let (answer, asked) = oneshot::channel();
        self.waiting.insert(key, (range, answer));
        self.go_on();
        (key, asked)
    }

    /// Whoever asked does not want it any more.
    pub(crate) fn leave(&mut self, key: ReadKey) {
        self.waiting.remove(&key);
    }

    /// The spill thread has read, or could not.
    pub(super) fn done(&mut self, key: ReadKey, answer: ReadAnswer) {
        if let Some(waiting) = self.under_way.remove(&key) {
            // Whoever asked may be gone.
            let _ = waiting.send(answer);
        }
        self.go_on();
    }

    fn go_on(&mut self) {
        while self.under_way.len() < READS_MAX
            && let Some((key, (range, answer))) = self.waiting.pop_first()
        {
            if self.jobs.read(key, range) {
                self.under_way.insert(key, answer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use qtf_shm::spill::SpillStore;

    use super::*;
    use crate::spill::thread::{self, Done, Told};

    struct World {
        reads: Reads,
        told: Told,
        range: Range,
        _folder: tempfile::TempDir,
    }

    fn world() -> World {
        let folder = tempfile::tempdir().unwrap();
        let store = SpillStore::open(folder.path(), 1 << 20);
        let blob = store.store(&[7; 100]).unwrap();
        let (jobs, told) = thread::start(store, 1, None).unwrap();
        World {
            reads: Reads::new(Rc::new(jobs)),
            told,
            range: Range {
                blob,
                offset: 90,
                length: 64,
            },
            _folder: folder,
        }
    }

    impl World {
        fn take_one(&mut self) {
            match self.told.done.blocking_recv() {
                Some(Done::Read(key, answer)) => self.reads.done(key, answer),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn reads_beyond_those_under_way_wait_and_come_in_the_order_of_asking() {
        let mut world = world();
        let mut asked: Vec<_> = (0..100).map(|_| world.reads.ask(world.range).1).collect();
        assert_eq!(world.reads.under_way.len(), READS_MAX);
        for asked in &mut asked {
            assert!(asked.try_recv().is_err());
            world.take_one();
            assert!(world.reads.under_way.len() <= READS_MAX);
            assert_eq!(asked.try_recv().unwrap().unwrap(), vec![7; 10]);
        }
        assert!(world.reads.under_way.is_empty() && world.reads.waiting.is_empty());
    }

    #[test]
    fn streams_that_come_and_go_while_nothing_is_read_leave_nothing_that_waits() {
        let mut world = world();
        for _ in 0..10_000 {
            let (key, _) = world.reads.ask(world.range);
            world.reads.leave(key);
            assert!(world.reads.under_way.len() <= READS_MAX);
            assert!(world.reads.waiting.is_empty());
        }
        while !world.reads.under_way.is_empty() {
            world.take_one();
        }
    }

    #[test]
    fn file_that_is_gone_is_an_error_of_its_read_alone() {
        let mut world = world();
        let gone = qtf_shm::BlobRef::Spill {
            number: 0,
            len: 100,
        };
        let range = Range {
            blob: gone,
            ..world.range
        };
        let (_, mut bad) = world.reads.ask(range);
        let (_, mut good) = world.reads.ask(world.range);
        world.take_one();
        world.take_one();
        assert!(bad.try_recv().unwrap().is_err());
        assert!(good.try_recv().unwrap().is_ok());
    }
}
