//! `snapshot -o FILE`: an image of the segment, for people; every other command works on it.
//!
//! Nothing is stopped for it, so an image of a busy segment is of several moments. A note behind the image
//! says so, and `verify` takes it into account.

use crate::failure::{Code, Failure};
use crate::image_note::ImageNote;
use crate::inspected::Inspected;
use crate::report::Report;
use crate::show;
use qtf_shm::segment::SegmentView;
use qtf_shown::text::visible;
use serde::Serialize;
use std::io::{self, Write};
use std::path::Path;

/// What was written.
#[derive(Debug, Serialize)]
pub(crate) struct SnapshotReport {
    schema: &'static str,
    file: String,
    image_bytes: u64,
    /// Without holes.
    written_bytes: u64,
    /// The image may be of several moments.
    changed_while_written: bool,
}

/// Writes the image.
pub(crate) fn write(inspected: &Inspected, output: &Path) -> Result<SnapshotReport, Failure> {
    let refused = |error: io::Error| {
        Failure::new(
            Code::Usage,
            format!("cannot write {}: {error}", output.display()),
        )
    };
    let view = inspected.view();
    let before = counts(view);
    let written = view.write_image(output).map_err(refused)?;
    let changed_while_written = inspected.may_be_of_several_moments() || counts(view) != before;
    let note = ImageNote {
        taken_ns: inspected.now().ns,
        changed_while_written,
    };
    note.append(output).map_err(refused)?;
    Ok(SnapshotReport {
        schema: "qtf.shm-inspect.snapshot/1",
        file: output.display().to_string(),
        image_bytes: written.image_bytes,
        written_bytes: written.written_bytes,
        changed_while_written,
    })
}

/// What moves when anything happens.
fn counts(view: &SegmentView) -> Vec<u64> {
    let counters = view.counters();
    let gauges = counters.gauges().map(|(_, count)| count);
    gauges
        .chain(counters.named().map(|(_, count)| count))
        .collect()
}

impl Report for SnapshotReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let (image, written) = (
            show::bytes(self.image_bytes),
            show::bytes(self.written_bytes),
        );
        writeln!(
            out,
            "{}: {image}, of which {written} are not empty",
            visible(&self.file)
        )?;
        if self.changed_while_written {
            writeln!(
                out,
                "the segment changed while it was written: the image is of several moments"
            )?;
        }
        Ok(())
    }
}
