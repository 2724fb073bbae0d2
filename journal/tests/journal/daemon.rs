//! A daemon as far as the journal knows one: it appends, writes groups, makes files, takes snapshots.

use std::sync::Arc;

use qtf_journal::{
    Appender, AppenderLimits, JournalConfig, JournalError, Lsn, Opened, PushError, SnapshotWriter,
    Step, Storage, Write, Writer, make_spare, open_tail, reclaim, recover, write_group,
};

use crate::model::{Model, Op};

pub(crate) const FILE_BYTES: u64 = 512 * 1024;
/// Of a record that reserves ids: the head, what stands before the fixed part, and that.
pub(crate) const RESERVE_BYTES: usize = 56 + 8 + 8;

pub(crate) fn config(nonce: u64) -> JournalConfig {
    JournalConfig {
        file_bytes: FILE_BYTES,
        ..JournalConfig::new("tests", nonce)
    }
}

/// What a driver does with a write.
pub(crate) type Execute<'a> =
    dyn FnMut(&dyn Storage, Write) -> (Vec<u8>, std::io::Result<usize>) + 'a;

pub(crate) struct Daemon {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) config: JournalConfig,
    pub(crate) writer: Writer,
    pub(crate) appender: Appender,
    /// Everything appended that can still become durable; the record with lsn n lies at n - 1.
    pub(crate) history: Vec<Op>,
    pub(crate) model: Model,
    /// What was told to be durable.
    pub(crate) acknowledged: Lsn,
}

impl Daemon {
    /// Starts where `opened` ends; what the history holds beyond was lost.
    pub(crate) fn start(
        storage: &Arc<dyn Storage>,
        opened: &Opened,
        (config, mut history): (JournalConfig, Vec<Op>),
    ) -> Result<Self, JournalError> {
        let writer = opened.start(&**storage, &config)?;
        history.truncate(usize::try_from(opened.end.get()).unwrap());
        Ok(Self {
            storage: Arc::clone(storage),
            config,
            writer,
            appender: Appender::new(opened.end.next(), AppenderLimits::default()),
            model: Model::of(&history),
            history,
            acknowledged: opened.end,
        })
    }

    pub(crate) fn first(storage: &Arc<dyn Storage>, nonce: u64) -> Self {
        let config = config(nonce);
        let opened = open_tail(&**storage, &config).unwrap();
        assert_eq!(opened.end, Lsn::NONE);
        Self::start(storage, &opened, (config, Vec::new())).unwrap()
    }

    pub(crate) fn push(&mut self, op: Op) -> Result<Lsn, PushError> {
        let lsn = self.appender.push_always(&op.record())?;
        self.model.apply(&op, lsn);
        self.history.push(op);
        assert_eq!(self.history.len() as u64, lsn.get());
        Ok(lsn)
    }

    pub(crate) fn push_random(&mut self, rng: &mut fastrand::Rng, payload_max: usize) {
        let op = self.model.random_op(rng, payload_max);
        self.push(op).unwrap();
    }

    /// Starts to write what waits.
    pub(crate) fn begin(&mut self) -> Option<Step> {
        let group = self.appender.take_group()?;
        Some(self.writer.begin(group))
    }

    /// Writes what waits. An error if a file cannot be made; `Ok(false)` if a write failed.
    pub(crate) fn commit(&mut self) -> Result<bool, JournalError> {
        let Some(step) = self.begin() else {
            return Ok(true);
        };
        self.drive(step, &mut write_group)
    }

    pub(crate) fn drive(
        &mut self,
        mut step: Step,
        execute: &mut Execute<'_>,
    ) -> Result<bool, JournalError> {
        loop {
            step = match step {
                Step::Write(write) => {
                    let (buffer, result) = execute(&*self.storage, write);
                    self.writer.written(buffer, result)
                }
                Step::NeedFile => {
                    let file = make_spare(&*self.storage, self.writer.file_plan())?;
                    self.writer.add_file(file).expect("the group waits for it")
                }
                Step::Durable(lsn) => {
                    assert_eq!(lsn, self.writer.durable());
                    self.acknowledged = lsn;
                    self.appender.give_back(self.writer.take_buffer().unwrap());
                    return Ok(true);
                }
                Step::Failed => return Ok(false),
            };
            self.acknowledged = self.writer.durable();
        }
    }

    /// A snapshot as the engine makes one, with `meanwhile` between its start and its whole tasks.
    pub(crate) fn snapshot(
        &mut self,
        meanwhile: impl FnOnce(&mut Self),
    ) -> Result<SnapshotWriter, JournalError> {
        let start = self.appender.last_lsn();
        let mut snapshot = SnapshotWriter::create(
            Arc::clone(&self.storage),
            &self.config,
            self.writer.lineage(),
            start,
        )?;
        meanwhile(self);
        for task in self.model.tasks.values() {
            snapshot.push(&task.whole())?;
        }
        for &(key, task, expiry) in &self.model.keys {
            snapshot.push_key(key, task, expiry)?;
        }
        snapshot.reserve(self.model.gen_limit);
        Ok(snapshot)
    }

    /// A snapshot, published and used.
    pub(crate) fn snapshot_and_reclaim(&mut self) -> Result<(), JournalError> {
        let mut snapshot = self.snapshot(|_| {})?;
        if !self.commit()? {
            return Ok(());
        }
        let start = snapshot.publish(self.writer.durable())?;
        reclaim(&*self.storage, start, 2).map(|_| ())
    }
}

/// A cold start finds a prefix of the history that holds everything acknowledged.
pub(crate) fn assert_cold_start(
    storage: &dyn Storage,
    config: &JournalConfig,
    (history, acknowledged): (&[Op], Lsn),
    what: &str,
) -> Opened {
    let recovered = match recover(storage, config) {
        Ok(recovered) => recovered,
        Err(error) => panic!("{what}: {error}"),
    };
    let end = recovered.opened.end;
    assert!(
        end >= acknowledged,
        "{what}: lsn {acknowledged} was acknowledged, the journal ends at {end}"
    );
    let prefix = &history[..usize::try_from(end.get()).unwrap()];
    Model::of(prefix).assert_is(&recovered, what);
    recovered.opened
}
