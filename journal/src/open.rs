//! Opening a journal: where it ends, and how to go on.
//!
//! A new daemon never appends to a file of its predecessor. It brings the last records, of which nothing proves that they are
//! stable, to the disk once more (the predecessor may have died before its sync, or after a sync that failed), then begins a
//! new file whose header says which record it follows. Tested in `journal/tests/files.rs` and `crashes.rs`.

use crate::Lsn;
use crate::error::{JournalError, Why};
use crate::file::{
    FileKey, HEADER_BYTES, Header, JournalConfig, VERSION, epoch_of, is_unfinished, mix,
    snapshot_name, snapshot_of_name,
};
use crate::record::Record;
use crate::record::decode;
use crate::record::frame::Kind;
use crate::spare::{demote, make_spare};
use crate::storage::{Mapped, Storage, write_all};
use crate::walk::{End, Log, TornTail, Walk, logs};
use crate::writer::{FilePlan, Writer};

/// A journal whose end is known.
#[derive(Debug, Clone)]
pub struct Opened {
    /// Its last record; [`Lsn::NONE`] if it has none.
    pub end: Lsn,
    /// Up to which generation ids may be given, if a record that was read says so.
    pub gen_limit: Option<u64>,
    /// What was cut off.
    pub cut: Option<TornTail>,
    /// Logs that are there.
    pub files: usize,
    /// One of them was written by the version before: a snapshot that begins behind it makes it superfluous.
    pub has_files_of_the_version_before: bool,
    end_crc: u32,
    lineage: Option<u64>,
    last_sequence: u64,
    /// Written and perhaps not synced: name, from, to.
    unproven: Option<(String, u64, u64)>,
    /// Logs without records.
    leftovers: Vec<FileKey>,
    /// How many of them, the first one or none, must stay until the new file is there: one that a daemon began holds the
    /// cut of a torn tail, and the only log says which journal this is.
    leftovers_kept: usize,
}

impl Opened {
    pub(crate) fn nothing() -> Self {
        Self {
            end: Lsn::NONE,
            gen_limit: None,
            cut: None,
            files: 0,
            has_files_of_the_version_before: false,
            end_crc: 0,
            lineage: None,
            last_sequence: 0,
            unproven: None,
            leftovers: Vec::new(),
            leftovers_kept: 0,
        }
    }

    pub(crate) fn at(logs: &[Log], end: End, gen_limit: Option<u64>) -> Self {
        let Some(newest) = logs.last() else {
            return Self::nothing();
        };
        let is_empty = end.offset == HEADER_BYTES;
        let kept = if is_empty { end.log } else { end.log + 1 };
        let holds_a_cut = logs
            .get(kept)
            .is_some_and(|log| log.header.follows.is_some());
        let unproven = (end.unproven < end.offset).then(|| {
            (
                logs[end.log].name.clone(),
                end.unproven as u64,
                end.offset as u64,
            )
        });
        Self {
            end: end.lsn,
            gen_limit,
            cut: end.cut,
            files: logs.len(),
            has_files_of_the_version_before: logs.iter().any(|log| log.header.version < VERSION),
            end_crc: end.crc,
            lineage: Some(newest.header.lineage),
            last_sequence: newest.key.0,
            unproven,
            leftovers: logs.iter().skip(kept).map(|log| log.key).collect(),
            leftovers_kept: usize::from(holds_a_cut || kept == 0),
        }
    }

    /// Which journal this is: the same number for as long as it has a file.
    #[must_use]
    pub fn lineage(&self, config: &JournalConfig) -> u64 {
        self.lineage.unwrap_or_else(|| mix(config.nonce))
    }

    /// Makes the end stable, begins a new file after it, and gives the writer. From here on the cut of a torn tail holds for
    /// ever. Blocks.
    ///
    /// # Errors
    /// An operation failed; start again.
    pub fn start(
        &self,
        storage: &dyn Storage,
        config: &JournalConfig,
    ) -> Result<Writer, JournalError> {
        match self.start_or_wait(storage, config)? {
            (writer, None) => Ok(writer),
            (_, Some(error)) => Err(error),
        }
    }

    /// The same, but where the disk has no room for the new file the writer waits for it ([`Writer::has_begun`]), and the second
    /// value says what failed: nothing can be written until [`Writer::file_plan`] was made and added. The journal stays as
    /// it is meanwhile, with its torn tail. Blocks.
    ///
    /// # Errors
    /// Another operation failed; start again.
    pub fn start_or_wait(
        &self,
        storage: &dyn Storage,
        config: &JournalConfig,
    ) -> Result<(Writer, Option<JournalError>), JournalError> {
        config.check()?;
        self.secure(storage)?;
        remove_unfinished(storage)?;
        // They become spares before a file is made, so that it need not be filled with zeros, for which a full disk has no
        // room; and on stable storage before one of them gets another header, which does not fit its old name.
        for &key in self.leftovers.iter().skip(self.leftovers_kept) {
            demote(storage, key)?;
        }
        storage
            .sync_dir()
            .map_err(JournalError::io("sync the directory of", "the journal"))?;
        let plan = self.first_plan(config);
        let mut writer = Writer::new(config.clone(), (self.end, self.end_crc), plan.clone());
        match make_spare(storage, plan) {
            Ok(file) => {
                // Nothing is under way yet that could wait for it.
                let _ = writer.add_file(file);
                Ok((writer, None))
            }
            Err(error) if error.is_disk_full() => Ok((writer, Some(error))),
            Err(error) => Err(error),
        }
    }

    fn first_plan(&self, config: &JournalConfig) -> FilePlan {
        let number = self.last_sequence.saturating_add(1);
        let kept = self.leftovers.first();
        FilePlan {
            header: Header {
                version: VERSION,
                is_snapshot: false,
                number,
                file_bytes: config.file_bytes,
                epoch: epoch_of(config.nonce, number),
                follows: Some((self.end, self.end_crc)),
                lineage: self.lineage(config),
                instance: config.instance_text().to_owned(),
            },
            replaces: kept.filter(|_| self.leftovers_kept > 0).copied(),
        }
    }

    /// Whether there is a journal at all.
    #[must_use]
    pub const fn is_new(&self) -> bool {
        self.lineage.is_none()
    }

    /// Writes the unproven records again, byte for byte, and syncs: after a failed sync the kernel holds bytes to be clean that
    /// are not on the disk.
    fn secure(&self, storage: &dyn Storage) -> Result<(), JournalError> {
        let Some((name, from, to)) = &self.unproven else {
            return Ok(());
        };
        if cfg!(qtf_mutant = "sim_tail_is_not_secured") {
            return Ok(());
        }
        let file = storage.open(name).map_err(JournalError::io("open", name))?;
        let len = usize::try_from(to.saturating_sub(*from)).unwrap_or(0);
        let mut bytes = vec![0; len];
        let read = file
            .read_at(*from, &mut bytes)
            .map_err(JournalError::io("read", name))?;
        if read != len {
            return Err(JournalError::io("read", name)(
                std::io::ErrorKind::UnexpectedEof.into(),
            ));
        }
        write_all(&*file, *from, &bytes).map_err(JournalError::io("write", name))?;
        file.sync_data().map_err(JournalError::io("sync", name))
    }
}

fn remove_unfinished(storage: &dyn Storage) -> Result<(), JournalError> {
    let names = storage
        .list()
        .map_err(JournalError::io("list", "the journal's directory"))?;
    for name in names.iter().filter(|name| is_unfinished(name)) {
        storage
            .remove(name)
            .map_err(JournalError::io("remove", name))?;
    }
    Ok(())
}

/// Finds the end of a journal for a hot restart, where the segment knows the tasks: reads the last file that has records, and
/// nothing else. A journal that does not exist yet is empty.
///
/// # Errors
/// The end is damaged, of another version or instance, or cannot be read.
pub fn open_tail(storage: &dyn Storage, config: &JournalConfig) -> Result<Opened, JournalError> {
    let logs = logs(storage, Some(config))?;
    let names = storage
        .list()
        .map_err(JournalError::io("list", "the journal's directory"))?;
    let snapshot = names.iter().filter_map(|name| snapshot_of_name(name)).max();
    let newest = logs.iter().rposition(|log| log.first.is_some());
    let opened = if logs.is_empty() {
        Opened::nothing()
    } else {
        let from = newest.unwrap_or(0);
        let maps = map_from(storage, &logs, from)?;
        let mut gen_limit = None;
        let end = walk(&logs, &maps, from, &mut |limit| {
            gen_limit = gen_limit.max(Some(limit));
        })?;
        Opened::at(&logs, end, gen_limit)
    };
    match snapshot {
        Some(start) if start > opened.end => Err(behind(&opened, start)),
        _ => Ok(opened),
    }
}

/// What a snapshot starts with was durable before it was published.
fn behind(opened: &Opened, start: Lsn) -> JournalError {
    let why = if opened.end == Lsn::NONE {
        "no log with records is there, only this snapshot; files are missing".to_owned()
    } else {
        format!(
            "the journal ends at lsn {}, below the start of its snapshot; files are missing",
            opened.end
        )
    };
    JournalError::damaged(&snapshot_name(start), 0, opened.end.next(), Why::Gap(why))
}

/// Maps of the logs from `from` on.
pub(crate) fn map_from(
    storage: &dyn Storage,
    logs: &[Log],
    from: usize,
) -> Result<Vec<Mapped>, JournalError> {
    logs.iter()
        .skip(from)
        .map(|log| {
            storage
                .map(&log.name)
                .map_err(JournalError::io("map", &log.name))
        })
        .collect()
}

fn walk(
    logs: &[Log],
    maps: &[Mapped],
    from: usize,
    reserve: &mut dyn FnMut(u64),
) -> Result<End, JournalError> {
    let content = |at: usize| maps.get(at.checked_sub(from)?);
    let walk = Walk {
        logs,
        content: &content,
    };
    walk.run(from, &mut |_, _, frame| {
        if frame.kind == Kind::Reserve
            && let Record::Reserve { gen_limit } = decode::record(frame)?
        {
            reserve(gen_limit);
        }
        Ok(())
    })
}

/// Logs that a snapshot with this start makes superfluous, oldest first.
pub(crate) fn superfluous(storage: &dyn Storage, start: Lsn) -> Result<Vec<FileKey>, JournalError> {
    let logs = logs(storage, None)?;
    let needed = logs
        .iter()
        .rposition(|log| log.first.is_some_and(|first| first <= start.next()));
    Ok(logs
        .iter()
        .take(needed.unwrap_or(0))
        .map(|log| log.key)
        .collect())
}
