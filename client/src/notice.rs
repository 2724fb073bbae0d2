//! What a program may want to tell its user while calls wait: [`Notice`].

use core::fmt;
use core::time::Duration;
use std::sync::Arc;

use crate::error::{CallError, Refusal};

/// Something happened that calls in progress outlive, or try to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// Somebody listens, but there is no session yet after a second: no connection is free, or nothing answers.
    Waiting {
        /// What happened so far, if anything did.
        cause: Option<CallError>,
    },
    /// The daemon went away and did not answer at once; calls wait for it.
    Away {
        /// What happened.
        cause: CallError,
    },
    /// It is back, or another one in its place.
    Back {
        /// How long it was away.
        after: Duration,
        /// It has another segment: what was not in the journal is gone.
        is_new_segment: bool,
    },
    /// It has no place for the idempotency key of a submission, which is tried again for so long and refused then.
    NoPlaceForKey {
        /// Why.
        refusal: Refusal,
        /// How long.
        up_to: Duration,
    },
    /// It has no room; the submission is tried again until there is. Told once until something is accepted.
    Full(Refusal),
}

type Hears = dyn Fn(&Notice) + Send + Sync;

/// Who wants to hear them.
#[derive(Clone, Default)]
pub(crate) struct Listener(Option<Arc<Hears>>);

impl Listener {
    pub(crate) fn new(listener: impl Fn(&Notice) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(listener)))
    }

    pub(crate) fn tell(&self, notice: &Notice) {
        if let Some(listener) = &self.0 {
            listener(notice);
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Listener" } else { "None" })
    }
}
