//! Which segment, and which tasks: hot restart, cold start, or a first start.
//!
//! | the segment of the name | the journal | then |
//! |---|---|---|
//! | is there, of this journal | ends at or before what the segment knows | hot restart: the segment is the truth |
//! | is there, of this journal | goes further | the segment is stale: saved to a file; cold start |
//! | is there, of another or of none | any | refused while it holds tasks; else removed, and as below |
//! | is not there, or cannot be used | has records | cold start: the journal is the truth |
//! | is not there | is empty | first start |
//!
//! A segment is made known by its name only when everything restored is in it, so one that is found is whole. Nothing
//! is served before all this is done. Tested in `tests/daemon/journal.rs` and `tests/daemon/data_dir.rs`.

use std::collections::VecDeque;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use qtf_engine::{Restored, WallTime};
use qtf_journal::{FileKey, JournalError, Lsn, Opened, Recovered, Storage, Writer};
use qtf_shm::segment::{Adoption, Earlier};
use qtf_shm::{Phase, Segment, SegmentSpec};

use super::BootError;
use super::data_dir::DataDir;
use crate::config::settings::Settings;
use crate::core::info::StartKind;
use crate::core::shortage;

/// LIMIT: files that are ready beside the first one when the daemon begins to serve, so that nothing is refused.
const FILES_AT_START: usize = 2;
/// LIMIT: a hot restart does not wait longer for them, and refuses submissions until the chores thread has made them. On a disk that
/// is not held up they are there after two syncs each.
const FILES_HOT_MAX: Duration = Duration::from_millis(250);

/// Segment and journal of a daemon that may serve.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) segment: Segment,
    pub(crate) start: StartKind,
    pub(crate) journal: OpenJournal,
}

/// A journal that can be written.
#[derive(Debug)]
pub(crate) struct OpenJournal {
    pub(crate) dir: DataDir,
    pub(crate) writer: Writer,
    /// The files that the writer may name, in its order.
    pub(crate) files: VecDeque<(FileKey, Arc<File>)>,
    /// Its last record.
    pub(crate) end: Lsn,
    pub(crate) newest_snapshot: Lsn,
    /// Bytes of the files that a cold start would have to read.
    pub(crate) bytes_since: u64,
    /// Files of the version before are among them: a snapshot is due.
    pub(crate) has_files_of_the_version_before: bool,
    /// Why there is no file to begin with, if there is none.
    pub(crate) shortage: Option<String>,
}

/// Opens the journal, and adopts or restores the segment that goes with it.
pub(crate) fn open(
    settings: &Settings,
    spec: SegmentSpec,
    dir: DataDir,
) -> Result<Opening, BootError> {
    let folder = &settings.runtime_dir;
    let (adopted, opened) = look(&dir, || super::adopt(&spec, folder));
    let found = match adopted? {
        Earlier::None(adoption) => {
            super::report_put_aside(&adoption);
            None
        }
        Earlier::Adopted(segment, adoption) => Some((*segment, adoption)),
    };
    if let Some((segment, adoption)) = found {
        let opened = opened?;
        match fit(settings, &segment, &opened, &dir)? {
            Fit::Fits => return hot(segment, &adoption, &opened, dir),
            Fit::Stale => put_aside(settings, &segment)?,
            Fit::Empty => remove(&segment)?,
        }
    }
    cold(settings, spec, dir)
}

/// Adopts the segment, and looks for the end of the journal meanwhile: both read some hundred megabytes.
fn look<T>(dir: &DataDir, adopt: impl FnOnce() -> T) -> (T, Result<Opened, JournalError>) {
    let open_tail = || qtf_journal::open_tail(&*dir.storage, &dir.config);
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, open_tail);
        let adopted = adopt();
        let opened = match thread.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(opened)) => opened,
            Ok(Err(cause)) => std::panic::resume_unwind(cause),
            // Without a thread, one after the other.
            Err(_) => open_tail(),
        };
        (adopted, opened)
    })
}

/// Whether a segment goes with a journal.
enum Fit {
    Fits,
    /// It does not know all records.
    Stale,
    /// It does not, and nobody misses it.
    Empty,
}

fn fit(
    settings: &Settings,
    segment: &Segment,
    opened: &Opened,
    dir: &DataDir,
) -> Result<Fit, BootError> {
    let lineage = opened.lineage(&dir.config);
    if segment.header().spill_id == lineage {
        return Ok(if segment.journal_end() >= opened.end.get() {
            Fit::Fits
        } else {
            Fit::Stale
        });
    }
    if holds_tasks(segment) {
        return Err(BootError::OtherSegment {
            instance: settings.instance.clone(),
            shm_id: segment.shm_id().unwrap_or(-1),
            whose: if let Some(folder) = super::other_data_dir(settings) {
                format!("belongs to the data folder {}", folder.display())
            } else if is_of_a_journal(segment) && opened.is_new() {
                "belongs to a journal that is gone from the data folder (restore DATA_DIR/journal)"
                    .to_owned()
            } else if is_of_a_journal(segment) {
                "belongs to another data folder".to_owned()
            } else {
                "was made without a data folder".to_owned()
            },
        });
    }
    Ok(Fit::Empty)
}

/// Whether a segment was made for a journal: then its spill files have that one's number, not its own.
pub(crate) fn is_of_a_journal(segment: &Segment) -> bool {
    segment.header().spill_id != segment.segment_id()
}

/// Whether any task is in a segment.
pub(crate) fn holds_tasks(segment: &Segment) -> bool {
    segment
        .allocated_slots(0..segment.high_water())
        .any(|slot| segment.state(slot).phase() != Phase::Free)
}

/// Saves a segment to a file and removes it.
fn put_aside(settings: &Settings, segment: &Segment) -> Result<(), BootError> {
    let name = format!(
        "aside-{}-{}.image",
        settings.instance,
        settings.clock.wall_ns() / 1_000_000
    );
    let file = settings.runtime_dir.join(name);
    let saved = segment.write_image(&file);
    saved.map_err(|source| BootError::PutAside {
        file: file.clone(),
        source,
    })?;
    tracing::warn!(
        shm_id = segment.shm_id(), file = %file.display(),
        "the segment does not know the last records of the journal: saved to a file, the tasks are restored from the journal"
    );
    remove(segment)
}

/// Removes a segment from the system.
pub(crate) fn remove(segment: &Segment) -> Result<(), BootError> {
    segment.remove().map_err(|source| BootError::PutAside {
        file: PathBuf::from("segment"),
        source,
    })
}

fn report_cut(opened: &Opened) {
    if let Some(cut) = &opened.cut {
        tracing::warn!(
            file = cut.file,
            offset = cut.offset,
            lsn = cut.lsn.get(),
            "torn tail of the journal cut; nothing in it had been acknowledged"
        );
    }
}

fn hot(
    segment: Segment,
    adoption: &Adoption,
    opened: &Opened,
    dir: DataDir,
) -> Result<Opening, BootError> {
    super::report_adoption(&segment, adoption);
    report_cut(opened);
    let newest = newest_snapshot(&dir)?;
    let journal = begin(opened, dir, newest, Some(FILES_HOT_MAX))?;
    Ok(Opening {
        segment,
        start: StartKind::Hot,
        journal,
    })
}

fn cold(settings: &Settings, mut spec: SegmentSpec, dir: DataDir) -> Result<Opening, BootError> {
    let began = Instant::now();
    let recovered = qtf_journal::recover(&*dir.storage, &dir.config)?;
    let opened = recovered.opened.clone();
    spec.spill_id = Some(opened.lineage(&dir.config));
    let time = qtf_engine::TimeAfter::highest(recovered.max_stamp);
    (spec.first_stamp, spec.stamps_moved) = (time.first_stamp, time.stamps_moved);
    spec.gen_base = (recovered.gen_limit != 0).then_some(recovered.gen_limit);
    for note in &recovered.notes {
        tracing::warn!("{note}");
    }
    let segment = Segment::create_named(&spec, |segment| fill(settings, segment, &recovered))?;
    segment.set_journal_end(opened.end.get());
    report_cut(&opened);
    let is_first = opened.end == Lsn::NONE && recovered.snapshot.is_none();
    if is_first {
        tracing::info!(id = segment.shm_id(), "segment made, the journal is new");
    } else {
        tracing::info!(
            name: "tasks-restored",
            id = segment.shm_id(),
            tasks = recovered.tasks_count(),
            records = recovered.records,
            end = opened.end.get(),
            took_ms = began.elapsed().as_millis(),
            "segment made, tasks restored from the journal"
        );
    }
    let newest = recovered.snapshot.unwrap_or(Lsn::NONE);
    drop(recovered);
    let journal = begin(&opened, dir, newest, None)?;
    Ok(Opening {
        segment,
        start: if is_first {
            StartKind::Fresh
        } else {
            StartKind::Cold
        },
        journal,
    })
}

fn fill(settings: &Settings, segment: &Segment, recovered: &Recovered) -> Result<(), BootError> {
    let origin = segment.header().origin_ns;
    let wall = WallTime {
        now: crate::core::now_since(&*settings.clock, origin),
        unix_ms: settings.clock.wall_ns() / 1_000_000,
    };
    let restored = qtf_engine::restore(segment, recovered, wall)?;
    warn_of_dropped_keys(&restored, wall.unix_ms);
    Ok(())
}

fn warn_of_dropped_keys(restored: &Restored, unix_ms: u64) {
    let dropped = restored
        .keys_dropped
        .saturating_add(restored.keys_dropped_of_forgotten);
    if dropped == 0 {
        return;
    }
    let seconds_until = |end: u64| end.saturating_sub(unix_ms).div_ceil(1_000);
    tracing::warn!(
        dropped,
        of_forgotten_tasks = restored.keys_dropped_of_forgotten,
        known_again = restored.keys,
        places_left = restored.keys_capacity.saturating_sub(restored.keys),
        first_free_in_s = seconds_until(restored.first_key_ends_unix_ms),
        all_free_in_s = seconds_until(restored.last_key_ends_unix_ms),
        "idempotency keys were dropped to leave places for new ones, those of forgotten tasks first, then those that expire first: \
         a repeat of their submissions would be a new task; raise segment_bytes"
    );
}

/// Where the newest snapshot starts, by its name.
fn newest_snapshot(dir: &DataDir) -> Result<Lsn, JournalError> {
    let names = dir.storage.list().map_err(|source| JournalError::Io {
        operation: "list",
        file: "the journal's directory".to_owned(),
        source,
    })?;
    let starts = names.iter().filter_map(|name| {
        let digits = name.strip_prefix("snapshot-")?.strip_suffix(".qts")?;
        u64::from_str_radix(digits, 16).ok()
    });
    Ok(Lsn::new(starts.max().unwrap_or(0)))
}

/// Begins a new file behind the end that was found, and has some more ready. Where the disk has no room for it what there is
/// is served all the same, and the chores thread tries on.
fn begin(
    opened: &Opened,
    dir: DataDir,
    newest_snapshot: Lsn,
    bound: Option<Duration>,
) -> Result<OpenJournal, BootError> {
    let began = Instant::now();
    let (mut writer, mut full) = opened.start_or_wait(&*dir.storage, &dir.config)?;
    if full.is_some() && newest_snapshot != Lsn::NONE {
        // A daemon that was killed behind its snapshot may have left files that nobody needs.
        qtf_journal::reclaim(&*dir.storage, newest_snapshot, 1)?;
        match qtf_journal::make_spare(&*dir.storage, writer.file_plan()) {
            Ok(file) => {
                // Nothing is under way yet that could wait for it.
                let _ = writer.add_file(file);
                full = None;
            }
            Err(error) if error.is_disk_full() => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mut files = VecDeque::new();
    let shortage = match full {
        Some(error) => Some(no_first_file(opened, &dir, &error)?),
        None => {
            files.push_back((writer.file(), open_file(&dir, writer.file())?));
            prepare_more(&dir, &mut writer, &mut files, || {
                bound.is_none_or(|bound| began.elapsed() < bound)
            });
            None
        }
    };
    let file_bytes = dir.config.file_bytes;
    Ok(OpenJournal {
        writer,
        files,
        end: opened.end,
        newest_snapshot,
        bytes_since: file_bytes.saturating_mul(opened.files.saturating_sub(1) as u64),
        has_files_of_the_version_before: opened.has_files_of_the_version_before,
        shortage,
        dir,
    })
}

/// What is said where there is no room for the first file: served with if there is a journal, else the end of the start, since
/// no task could be taken.
fn no_first_file(
    opened: &Opened,
    dir: &DataDir,
    error: &JournalError,
) -> Result<String, BootError> {
    let why = shortage::text(error, &dir.folder, dir.config.file_bytes);
    if opened.is_new() {
        return Err(BootError::NoRoom(why));
    }
    tracing::warn!("nothing can be journalled, tried again until it can: {why}");
    Ok(why)
}

fn prepare_more(
    dir: &DataDir,
    writer: &mut Writer,
    files: &mut VecDeque<(FileKey, Arc<File>)>,
    has_time: impl Fn() -> bool,
) {
    while writer.files_prepared() < FILES_AT_START && has_time() {
        match prepare(dir, writer) {
            Ok((spare, file)) => {
                files.push_back((spare.key(), file));
                // Nothing is under way yet that could wait for it.
                let _ = writer.add_file(spare);
            }
            Err(error) => {
                tracing::warn!(%error, "the journal has little room");
                break;
            }
        }
    }
}

type Prepared = (qtf_journal::SpareFile, Arc<File>);

fn prepare(dir: &DataDir, writer: &Writer) -> Result<Prepared, JournalError> {
    let storage: &dyn Storage = &*dir.storage;
    let spare = qtf_journal::make_spare(storage, writer.file_plan())?;
    let file = open_file(dir, spare.key())?;
    Ok((spare, file))
}

fn open_file(dir: &DataDir, key: FileKey) -> Result<Arc<File>, JournalError> {
    let name = key.name();
    let opened = dir.files.open_file(&name);
    opened.map(Arc::new).map_err(|source| JournalError::Io {
        operation: "open",
        file: name,
        source,
    })
}
