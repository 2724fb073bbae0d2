//! Cgroups that an attempt has left as it found them, for the next one.
//!
//! To make a cgroup and to remove it costs a tenth of what the shortest program costs. Invariants:
//! - S1: a spare one is empty, and since it was made nobody has opened a file in it, changed its properties or made a cgroup in it, for
//!   reading or for writing: limits, a freezer or cgroups of one task are not met by the next. What cannot be known counts as touched.
//!   One file may be opened freely: nobody can write to `cgroup.events`.
//! - S2: at most [`SPARES_MAX`] are kept; all others are removed with their attempts.
//!
//! Tested at the end of `cgroup`.

use std::collections::HashMap;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::place::{EVENTS, Place};
use crate::sys::{FolderNumber, Opened, Told};

/// LIMIT: kept at most. More are spare only where many attempts have ended and none has begun.
pub(super) const SPARES_MAX: usize = 16;
/// LIMIT: reads of what was touched, some hundred events each, for one answer.
const READS_MAX: usize = 64;

/// The spare cgroups of one folder.
#[derive(Debug)]
pub(super) struct Spares(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Without it nothing is known, and nothing kept.
    opened: Option<Opened>,
    /// Those that are watched, in use or spare, and whether they were touched.
    touched: HashMap<FolderNumber, bool>,
    spare: Vec<Place>,
}

impl Spares {
    pub(super) fn new() -> Self {
        let opened = Opened::new();
        if let Err(error) = &opened {
            tracing::debug!(%error, "nobody tells what is opened (inotify): each attempt gets a new cgroup");
        }
        Self(Mutex::new(State {
            opened: opened.ok(),
            touched: HashMap::new(),
            spare: Vec::new(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on it is known whether that cgroup, which was just made, is touched; if anything is known.
    pub(super) fn watched(&self, mut place: Place) -> Place {
        let mut state = self.state();
        let path = CString::new(place.path().as_os_str().as_bytes());
        if let Some(opened) = &state.opened
            && let Ok(path) = path
            && let Ok(number) = opened.watch(&path)
        {
            place.number = Some(number);
            state.touched.insert(number, false);
        }
        place
    }

    /// One that is as it was made.
    pub(super) fn take(&self) -> Option<Place> {
        let mut state = self.state();
        state.look();
        loop {
            let place = state.spare.pop()?;
            // Nobody is told of one that was removed while its folder is open here.
            if state.is_untouched(&place) && place.is_there() {
                return Some(place);
            }
            // What somebody has put into it is the guard's to end.
            let _ = state.discard(place);
        }
    }

    /// Keeps a cgroup that is empty for the next attempt, or removes it. Gives it back if neither can be.
    pub(super) fn keep(&self, place: Place) -> Result<(), Place> {
        let mut state = self.state();
        state.look();
        if state.spare.len() < SPARES_MAX && state.is_untouched(&place) {
            state.spare.push(place);
            return Ok(());
        }
        state.discard(place)
    }

    /// Removes all that are kept.
    pub(super) fn clear(&self) {
        let mut state = self.state();
        for place in core::mem::take(&mut state.spare) {
            let _ = state.discard(place);
        }
    }

    /// Removes one if it is empty, or gives it back.
    pub(super) fn discard(&self, place: Place) -> Result<(), Place> {
        self.state().discard(place)
    }
}

impl State {
    /// Takes in what was touched.
    fn look(&mut self) {
        let Some(opened) = &self.opened else { return };
        for _ in 0..READS_MAX {
            let told = opened.next();
            if told.is_empty() {
                return;
            }
            for one in told {
                match one {
                    Told::Of(_, name) if name == EVENTS.as_bytes() => {}
                    Told::Of(number, _) => {
                        if let Some(is_touched) = self.touched.get_mut(&number)
                            && !*is_touched
                        {
                            *is_touched = true;
                            // Nothing more is to be known of it.
                            opened.forget(number);
                        }
                    }
                    Told::Lost => self
                        .touched
                        .values_mut()
                        .for_each(|touched| *touched = true),
                }
            }
        }
        // Somebody opens faster than is read.
        self.touched
            .values_mut()
            .for_each(|touched| *touched = true);
    }

    fn is_untouched(&self, place: &Place) -> bool {
        place
            .number
            .is_some_and(|number| self.touched.get(&number) == Some(&false))
    }

    /// Nothing is kept of it, and the kernel watches it no more when it is gone.
    fn discard(&mut self, place: Place) -> Result<(), Place> {
        if let Some(number) = place.number {
            self.touched.remove(&number);
        }
        match place.remove() {
            Ok(()) => Ok(()),
            Err(_) => Err(place),
        }
    }
}
