//! Verdicts on results on their way to a worker.
//!
//! Those of a worker that numbers its reports wait with its route, so that its dispatch stream takes them along with the next task; when
//! none comes its session sends them. Tested in `daemon/src/edge/results.rs` and `tests/daemon/sessions.rs`.

use qtf_proto::v1::ResultVerdict;

/// LIMIT: verdicts in one message, and that wait for company.
pub(crate) const VERDICTS_MAX: usize = 1024;

/// What became of results.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Verdicts {
    /// Result by result.
    pub(crate) each: Vec<ResultVerdict>,
    /// Numbers of reports whose results are all recorded.
    pub(crate) recorded: Vec<u64>,
}

impl Verdicts {
    /// How many there are; a report counts once.
    pub(crate) fn len(&self) -> usize {
        self.each.len().saturating_add(self.recorded.len())
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the others in.
    pub(crate) fn append(&mut self, others: &mut Verdicts) {
        self.each.append(&mut others.each);
        self.recorded.append(&mut others.recorded);
    }
}
