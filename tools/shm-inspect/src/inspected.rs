//! The segment or image under inspection, and the time that counts for it.

use crate::arguments::SourceArguments;
use crate::failure::{Code, Failure};
use crate::image_note::ImageNote;
use crate::{show, sysvipc};
use qtf_shm::layout::HeaderError;
use qtf_shm::segment::{AttachError, ProcessIdentity, SegmentView};
use qtf_shm::{KindIndex, Now};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// The instance that is meant when nothing is said.
const DEFAULT_INSTANCE: &str = "default";

/// Where a view comes from.
#[derive(Debug)]
pub(crate) enum Origin {
    /// A segment that other processes may change.
    Live { shm_id: i32 },
    /// A file, and what is noted behind it.
    Image {
        file: PathBuf,
        note: Option<ImageNote>,
    },
}

/// An open view.
#[derive(Debug)]
pub(crate) struct Inspected {
    view: SegmentView,
    pub(crate) origin: Origin,
    now: Now,
}

impl Inspected {
    /// Opens what the command line names.
    pub(crate) fn open(source: &SourceArguments) -> Result<Self, Failure> {
        if let Some(file) = &source.image {
            let view = SegmentView::open_image(file).map_err(|error| refusal(&error))?;
            return Ok(Self::of_image(view, file.clone()));
        }
        if let Some(shm_id) = source.id {
            let view = SegmentView::attach_by_id(shm_id).map_err(|error| refusal(&error))?;
            return Ok(Self::of_segment(view, shm_id));
        }
        Self::of_instance(source.instance.as_deref().unwrap_or(DEFAULT_INSTANCE))
    }

    /// The instance of this user; if there is none, the only segment of that name on this machine.
    fn of_instance(instance: &str) -> Result<Self, Failure> {
        let not_there = match SegmentView::attach_by_instance(instance, own_uid()) {
            Ok(view) => {
                let shm_id = view.shm_id().unwrap_or(-1);
                return Ok(Self::of_segment(view, shm_id));
            }
            Err(error @ AttachError::NoInstance { .. }) => error,
            Err(error) => return Err(refusal(&error)),
        };
        let mut others = Vec::new();
        for segment in sysvipc::all().unwrap_or_default() {
            if let Ok(view) = SegmentView::attach_by_id(segment.shm_id)
                && view.header().instance == instance
            {
                others.push((segment.shm_id, view));
            }
        }
        match (others.pop(), others.len()) {
            (Some((shm_id, view)), 0) => Ok(Self::of_segment(view, shm_id)),
            (Some(_), _) => Err(Failure::new(
                Code::Usage,
                format!(
                    "several segments belong to an instance `{instance}`: choose one of `shm-inspect list` with --id"
                ),
            )),
            (None, _) => Err(refusal(&not_there)),
        }
    }

    pub(crate) fn of_segment(view: SegmentView, shm_id: i32) -> Self {
        let now = view.now();
        Self {
            view,
            origin: Origin::Live { shm_id },
            now,
        }
    }

    /// Of an image the time that counts is the one at which it was taken: as its note says, else as the
    /// file system says, else the last sign of life of its daemon.
    fn of_image(view: SegmentView, file: PathBuf) -> Self {
        let note = ImageNote::read(&file);
        let now = match note {
            Some(note) => Now { ns: note.taken_ns },
            None => written_at(&view, &file).max(Now::from_stamp(view.control().daemon_beat)),
        };
        Self {
            view,
            origin: Origin::Image { file, note },
            now,
        }
    }

    /// The segment changed while it was written to the image: contradictions may be no faults.
    pub(crate) fn may_be_of_several_moments(&self) -> bool {
        matches!(&self.origin, Origin::Image { note: Some(note), .. } if note.changed_while_written)
    }

    pub(crate) fn view(&self) -> &SegmentView {
        &self.view
    }

    /// The moment that ages are counted to.
    pub(crate) fn now(&self) -> Now {
        self.now
    }

    /// Milliseconds since a stamp.
    pub(crate) fn age_ms(&self, stamp: u64) -> u64 {
        self.now.since_ns(Now::from_stamp(stamp)) / 1_000_000
    }

    /// Milliseconds since the segment was made.
    pub(crate) fn segment_age_ms(&self) -> u64 {
        let created = Now::from_ns(self.view.header().created_ns);
        self.now.since_ns(created) / 1_000_000
    }

    /// Milliseconds until a moment; negative when it is over.
    pub(crate) fn until_ms(&self, moment: Now) -> i64 {
        let milliseconds = |ns: u64| i64::try_from(ns / 1_000_000).unwrap_or(i64::MAX);
        if moment >= self.now {
            milliseconds(moment.since_ns(self.now))
        } else {
            milliseconds(self.now.since_ns(moment)).saturating_neg()
        }
    }

    /// The name of a kind by the number in a slot.
    pub(crate) fn kind_name(&self, number: u16) -> String {
        let index = KindIndex::new_checked(number, self.view.geometry().kinds());
        let name = index.and_then(|index| self.view.kind_name(index));
        name.unwrap_or_else(|| format!("#{number}"))
    }

    /// Whether the daemon that the segment names runs on this machine; `None` for an image.
    pub(crate) fn owner_lives(&self) -> Option<bool> {
        match self.origin {
            Origin::Image { .. } => None,
            Origin::Live { .. } => Some(daemon_of(&self.view).is_alive()),
        }
    }
}

/// The daemon that a segment names, or before its first one its creator.
pub(crate) fn daemon_of(view: &SegmentView) -> ProcessIdentity {
    let control = view.control();
    if control.daemon_pid == 0 {
        ProcessIdentity {
            pid: control.creator_pid,
            start_time: control.creator_start,
        }
    } else {
        ProcessIdentity {
            pid: control.daemon_pid,
            start_time: control.daemon_start,
        }
    }
}

/// How long ago, and in how long, for people.
pub(crate) struct Moment;

impl Moment {
    pub(crate) fn ago_ms(ms: u64) -> String {
        show::duration_ns(ms.saturating_mul(1_000_000))
    }

    pub(crate) fn in_ms(ms: i64) -> String {
        let duration = show::duration_ns(ms.unsigned_abs().saturating_mul(1_000_000));
        if ms < 0 {
            format!("{duration} overdue")
        } else {
            format!("in {duration}")
        }
    }
}

/// When a file was last written, since the segment's origin.
fn written_at(view: &SegmentView, file: &Path) -> Now {
    let written = std::fs::metadata(file).and_then(|metadata| metadata.modified());
    let since_1970 = written
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let unix_ns = since_1970
        .and_then(|time| u64::try_from(time.as_nanos()).ok())
        .unwrap_or(0);
    let age_ns = unix_ns.saturating_sub(view.header().created_unix_ns);
    Now::from_ns(view.header().created_ns).plus_ns(age_ns)
}

/// The user of this process, as the kernel says.
fn own_uid() -> u32 {
    std::fs::metadata("/proc/self").map_or(u32::MAX, |metadata| metadata.uid())
}

/// The exit code that belongs to an error of attaching.
fn refusal(error: &AttachError) -> Failure {
    let code = match error {
        AttachError::Header(HeaderError::NotReady { .. })
        | AttachError::NoInstance { .. }
        | AttachError::NoId(_)
        | AttachError::Denied(_)
        | AttachError::DeniedKey(_)
        | AttachError::Call { .. } => Code::NotFound,
        // A file that is there and too short for a header.
        AttachError::File { source, .. } if source.kind() == ErrorKind::InvalidData => {
            Code::Unreadable
        }
        AttachError::File { .. } => Code::NotFound,
        AttachError::Header(_) => Code::Unreadable,
    };
    Failure::new(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_user_is_the_one_of_own_files() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(own_uid(), file.as_file().metadata().unwrap().uid());
    }

    #[test]
    fn moments_say_whether_they_are_over() {
        assert_eq!(Moment::in_ms(1500), "in 1.5 s");
        assert_eq!(Moment::in_ms(-20), "20 ms overdue");
        assert_eq!(Moment::ago_ms(0), "0 ns");
    }
}
