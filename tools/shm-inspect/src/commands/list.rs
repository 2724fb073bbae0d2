//! `list`: the segments of this machine (of this IPC namespace), and whether their daemons live.

use crate::inspected::{Inspected, Moment, daemon_of};
use crate::report::Report;
use crate::show::{self, Columns};
use crate::sysvipc::{self, KernelSegment};
use qtf_shm::segment::{AttachError, SegmentView};
use serde::Serialize;
use std::io::{self, Write};

/// All segments that are ours and can be read.
#[derive(Debug, Serialize)]
pub(crate) struct ListReport {
    schema: &'static str,
    segments: Vec<Listed>,
    /// Segments of others that this user may not read; they may be ours.
    unreadable: usize,
}

#[derive(Debug, Serialize)]
struct Listed {
    shm_id: i32,
    /// Hexadecimal; zero for a private segment.
    key: String,
    private: bool,
    instance: Option<String>,
    bytes: u64,
    mode: String,
    uid: u32,
    attached: u64,
    owner_pid: Option<u32>,
    /// `alive` or `dead`.
    owner: Option<&'static str>,
    age_ms: Option<u64>,
    layout_version: Option<String>,
    /// Why it cannot be read, when it is ours and cannot.
    problem: Option<String>,
}

impl ListReport {
    /// Attaches to each segment in turn, read-only.
    pub(crate) fn new() -> io::Result<Self> {
        let mut report = Self {
            schema: "qtf.shm-inspect.list/1",
            segments: Vec::new(),
            unreadable: 0,
        };
        for segment in sysvipc::all()? {
            report.add(&segment);
        }
        Ok(report)
    }

    fn add(&mut self, segment: &KernelSegment) {
        use qtf_shm::layout::HeaderError;
        match SegmentView::attach_by_id(segment.shm_id) {
            Ok(view) => {
                let inspected = Inspected::of_segment(view, segment.shm_id);
                self.segments.push(Listed::of(segment, &inspected));
            }
            Err(AttachError::Denied(_)) => self.unreadable = self.unreadable.saturating_add(1),
            // Those of other programs, which may be tiny.
            Err(
                AttachError::Header(HeaderError::Magic(_) | HeaderError::Small(_))
                | AttachError::NoId(_),
            ) => {}
            Err(error) => self
                .segments
                .push(Listed::unreadable(segment, error.to_string())),
        }
    }
}

impl Listed {
    fn of(segment: &KernelSegment, inspected: &Inspected) -> Self {
        let header = inspected.view().header();
        let alive = inspected.owner_lives().unwrap_or(false);
        Self {
            instance: Some(header.instance.clone()),
            owner_pid: Some(daemon_of(inspected.view()).pid),
            owner: Some(if alive { "alive" } else { "dead" }),
            age_ms: Some(inspected.segment_age_ms()),
            layout_version: Some(format!("{}.{}", header.layout_major, header.layout_minor)),
            problem: None,
            // This look is no attachment of others.
            attached: segment.attached,
            ..Self::unreadable(segment, String::new())
        }
    }

    fn unreadable(segment: &KernelSegment, problem: String) -> Self {
        Self {
            shm_id: segment.shm_id,
            key: format!("{:#010x}", segment.key),
            private: segment.is_private(),
            instance: None,
            bytes: segment.bytes,
            mode: format!("{:04o}", segment.mode & 0o777),
            uid: segment.uid,
            attached: segment.attached,
            owner_pid: None,
            owner: None,
            age_ms: None,
            layout_version: None,
            problem: Some(problem),
        }
    }
}

impl Report for ListReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut columns = Columns::new([
            "shmid", "instance", "size", "user", "mode", "attached", "owner", "age", "",
        ]);
        for segment in &self.segments {
            let owner = match (segment.owner_pid, segment.owner) {
                (Some(pid), Some(state)) => format!("{pid} {state}"),
                _ => "-".to_owned(),
            };
            let remark = match (&segment.problem, segment.private) {
                (Some(problem), _) => problem.clone(),
                (None, true) => "private".to_owned(),
                (None, false) => String::new(),
            };
            columns.row([
                segment.shm_id.to_string(),
                segment.instance.clone().unwrap_or_else(|| "-".to_owned()),
                show::bytes(segment.bytes),
                segment.uid.to_string(),
                segment.mode.clone(),
                segment.attached.to_string(),
                owner,
                segment
                    .age_ms
                    .map_or_else(|| "-".to_owned(), Moment::ago_ms),
                remark,
            ]);
        }
        columns.write(out)?;
        if self.unreadable > 0 {
            writeln!(
                out,
                "({} more may not be read by this user)",
                self.unreadable
            )?;
        }
        Ok(())
    }
}
