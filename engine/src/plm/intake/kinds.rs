//! Numbers of task kinds by their names.
//!
//! A name that nobody offers must not keep a worker out, so submissions leave some entries of the segment's table to
//! workers. Nobody gives a number back: tasks and local processes hold them unseen. So a call is checked to its end before its new
//! names get numbers. Tested in `engine/tests/rules/submission.rs` and `joining.rs`.

use qtf_shm::{KindIndex, Segment};

use crate::plm::Plm;
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

impl Namer {
    /// Entries that it leaves free.
    const fn leaves(self) -> usize {
        match self {
            Self::Worker => 0,
            Self::Submission => KINDS_KEPT,
        }
    }

    const fn refusal(self) -> Rejection {
        let text = match self {
            Self::Worker => {
                "the segment's table of task kinds is full: offer fewer kinds, or start a new segment"
            }
            Self::Submission => {
                "no worker has offered this kind, and the table of task kinds has no room for more such names: use a kind that a worker offers"
            }
        };
        Rejection::new(RejectReason::KindsFull, Detail::Plain(text))
    }
}

impl Plm {
    /// Checks that all of these kinds have a number or can get one, and gives none: what is refused for another reason must
    /// not have used up the table, whose entries are never free again.
    pub(crate) fn check_kinds(
        &self,
        segment: &Segment,
        names: &[impl AsRef<str>],
        namer: Namer,
    ) -> Result<(), Rejection> {
        let mut new = 0;
        for (place, name) in names.iter().enumerate() {
            let name = name.as_ref();
            if self.known_kind(segment, name)?.is_some() {
                continue;
            }
            let is_named_before = names[..place].iter().any(|other| other.as_ref() == name);
            new += usize::from(!is_named_before && segment.kinds().find(name).is_none());
        }
        if new == 0 || segment.kinds().free() >= new.saturating_add(namer.leaves()) {
            Ok(())
        } else {
            Err(namer.refusal())
        }
    }

    /// The number of a kind by its name; a new name gets a number, for a submission only while there is
    /// room for the kinds of workers to come.
    pub(crate) fn intern_kind(
        &mut self,
        segment: &Segment,
        name: &str,
        namer: Namer,
    ) -> Result<KindIndex, Rejection> {
        if let Some(known) = self.known_kind(segment, name)? {
            return Ok(known);
        }
        let interned = segment.kinds().intern_keeping(name, namer.leaves());
        let kind = interned.map_err(|_| namer.refusal())?;
        if let Some(place) = self.intake.kind_names.get_mut(kind.position()) {
            *place = name.into();
        }
        Ok(kind)
    }

    /// The number of a kind that this daemon has met before.
    pub(super) fn known_kind(
        &self,
        segment: &Segment,
        name: &str,
    ) -> Result<Option<KindIndex>, Rejection> {
        if name.is_empty() || name.len() > KIND_BYTES_MAX {
            return Err(Rejection::invalid(
                "kind must have 1 to 48 bytes: use exec or the name of a handler",
            ));
        }
        if let Some(known) = self
            .intake
            .kind_names
            .iter()
            .position(|known| **known == *name)
            && let Some(kind) = u16::try_from(known)
                .ok()
                .and_then(|raw| KindIndex::new_checked(raw, segment.geometry().kinds()))
        {
            return Ok(Some(kind));
        }
        if name.chars().any(char::is_control) {
            return Err(Rejection::invalid(
                "kind contains a control character: use exec or the name of a handler",
            ));
        }
        Ok(None)
    }
}
