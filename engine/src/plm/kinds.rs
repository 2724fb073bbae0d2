//! Numbers of task kinds by their names.
//!
//! A name that nobody offers must not keep a worker out, so submissions leave some entries of the segment's table to
//! workers. Tested in `engine/tests/rules/submission.rs`.

use qtf_shm::{KindIndex, Segment};

use super::Plm;
use crate::rejection::{Detail, RejectReason, Rejection};

/// LIMIT: the name field in the segment's table of kinds.
const KIND_BYTES_MAX: usize = 48;
/// Entries of the table of kinds that submissions leave to workers: names that nobody offers must not
/// keep a worker out.
const KINDS_KEPT: usize = 16;

/// Who names a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Namer {
    /// A worker, which offers it.
    Worker,
    /// A submission, which may ask for what nobody offers.
    Submission,
}

impl Plm {
    /// The number of a kind by its name; a new name gets a number, for a submission only while there is
    /// room for the kinds of workers to come.
    pub(crate) fn intern_kind(
        &mut self,
        segment: &Segment,
        name: &str,
        namer: Namer,
    ) -> Result<KindIndex, Rejection> {
        if name.is_empty() || name.len() > KIND_BYTES_MAX {
            return Err(Rejection::invalid(
                "kind must have 1 to 48 bytes: use exec or the name of a handler",
            ));
        }
        if let Some(known) = self.kind_names.iter().position(|known| **known == *name)
            && let Some(kind) = u16::try_from(known)
                .ok()
                .and_then(|raw| KindIndex::new_checked(raw, segment.geometry().kinds()))
        {
            return Ok(kind);
        }
        if name.chars().any(char::is_control) {
            return Err(Rejection::invalid(
                "kind contains a control character: use exec or the name of a handler",
            ));
        }
        let (interned, refusal) = match namer {
            Namer::Worker => (
                segment.kinds().intern(name),
                "the segment's table of task kinds is full: offer fewer kinds, or start a new segment",
            ),
            Namer::Submission => (
                segment.kinds().intern_keeping(name, KINDS_KEPT),
                "no worker has offered this kind, and the table of task kinds has no room for more such names: use a kind that a worker offers",
            ),
        };
        let kind = interned
            .map_err(|_| Rejection::new(RejectReason::KindsFull, Detail::Plain(refusal)))?;
        if let Some(place) = self.kind_names.get_mut(kind.position()) {
            *place = name.into();
        }
        Ok(kind)
    }
}
