//! `snapshot -o FILE`: an image of the segment, for people; every other command works on it.
//!
//! Nothing is stopped for it, so records that changed while it was written may be torn; the commands
//! say so of each.

use crate::failure::{Code, Failure};
use crate::inspected::Inspected;
use crate::report::Report;
use crate::show;
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
}

/// Writes the image.
pub(crate) fn write(inspected: &Inspected, output: &Path) -> Result<SnapshotReport, Failure> {
    let written = inspected.view().write_snapshot(output).map_err(|error| {
        Failure::new(
            Code::Usage,
            format!("cannot write {}: {error}", output.display()),
        )
    })?;
    Ok(SnapshotReport {
        schema: "qtf.shm-inspect.snapshot/1",
        file: output.display().to_string(),
        image_bytes: written.image_bytes,
        written_bytes: written.written_bytes,
    })
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
            self.file
        )
    }
}
