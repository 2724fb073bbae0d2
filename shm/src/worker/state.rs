//! The state of a worker slot: one word, changed by compare-and-swap only.
//!
//! ```text
//!  63   60 59   56 55            40 39            24 23                      0
//! +-------+-------+----------------+----------------+-------------------------+
//! | phase | flags |  running (16)  | capacity (16)  |    incarnation (24)     |
//! +-------+-------+----------------+----------------+-------------------------+
//! flags: 1 DRAINS (survives being suspected)
//!
//! from \ event      to
//! FREE      Register         LIVE      incarnation + 1, running 0
//!           Join             JOINING   incarnation + 1; the capacity bits name the attach record of who joins
//! JOINING   Open             LIVE      the slot is filled in
//!           Leave            FREE      gave up, or died
//! LIVE, DRAINING
//!           Take             the same  running + 1, only below the capacity: counts what was taken, also if the drain came in between
//! LIVE      Drain            DRAINING
//!           Suspect          SUSPECT
//! DRAINING  Suspect          SUSPECT   flag DRAINS
//! SUSPECT   Recover          LIVE, or DRAINING with the flag
//!           Drain            SUSPECT   flag DRAINS
//! LIVE, DRAINING, SUSPECT
//!           Lose             LOST
//!           Resize           the same  new capacity (a worker that reconnects)
//! all but FREE, JOINING
//!           Give             the same  running - 1, not below 0
//!           Recount          the same  running as counted
//!           Leave            FREE      only with running 0: its tasks have been handed back
//! ```
//! Tested at the end of this file.

use core::fmt;

use crate::id::AttachIndex;

const RUNNING_SHIFT: u32 = 40;
const CAPACITY_SHIFT: u32 = 24;
const FLAGS_SHIFT: u32 = 56;
const PHASE_SHIFT: u32 = 60;
const INCARNATION_MASK: u32 = (1 << 24) - 1;
const FLAG_DRAINS: u8 = 1;

/// Where a worker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum WorkerPhase {
    /// Nobody's slot.
    Free = 0,
    /// Takes tasks.
    Live = 1,
    /// Takes no more tasks.
    Draining = 2,
    /// Silent beyond its lease, being probed.
    Suspect = 3,
    /// Dead; its tasks are being handed back.
    Lost = 4,
    /// Somebody is filling the slot in.
    Joining = 5,
    /// Never written by this version.
    Reserved = 15,
}

impl WorkerPhase {
    /// The name in JSON and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Live => "live",
            Self::Draining => "draining",
            Self::Suspect => "suspect",
            Self::Lost => "lost",
            Self::Joining => "joining",
            Self::Reserved => "reserved",
        }
    }

    const fn of(word: u64) -> Self {
        match word >> PHASE_SHIFT {
            0 => Self::Free,
            1 => Self::Live,
            2 => Self::Draining,
            3 => Self::Suspect,
            4 => Self::Lost,
            5 => Self::Joining,
            _ => Self::Reserved,
        }
    }
}

impl fmt::Display for WorkerPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One change of a worker's state word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerEvent {
    /// A worker gets the slot.
    Register {
        /// Tasks it takes at most.
        capacity: u16,
    },
    /// A process takes the slot, to fill it in before it is a worker's. Several may try.
    Join {
        /// The attach record of that process.
        attach: AttachIndex,
    },
    /// The slot is filled in.
    Open {
        /// Tasks it takes at most.
        capacity: u16,
    },
    /// A task is handed to it.
    Take,
    /// A task of it is over, or was taken away.
    Give,
    /// Its tasks were counted.
    Recount {
        /// How many there are.
        running: u16,
    },
    /// It has another capacity now.
    Resize {
        /// Tasks it takes at most.
        capacity: u16,
    },
    /// It shall take no more.
    Drain,
    /// Its lease is over.
    Suspect,
    /// It has answered.
    Recover,
    /// It is dead.
    Lose,
    /// Its slot is given back.
    Leave,
}

/// The table has no such change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a worker that is {} with {} of {} slots in use cannot take the event {event:?}", from.phase(), from.running(), from.capacity())]
pub struct IllegalWorkerTransition {
    /// The word that was to be changed.
    pub from: WorkerState,
    /// What was to happen.
    pub event: WorkerEvent,
}

/// A loaded state word of a worker slot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct WorkerState(u64);

impl WorkerState {
    /// A word as it was loaded; every bit pattern is one.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The bits.
    #[must_use]
    pub const fn as_raw(self) -> u64 {
        self.0
    }

    /// Where the worker stands.
    #[must_use]
    pub const fn phase(self) -> WorkerPhase {
        WorkerPhase::of(self.0)
    }

    /// Tasks it holds.
    #[must_use]
    pub const fn running(self) -> u16 {
        ((self.0 >> RUNNING_SHIFT) & 0xFFFF) as u16
    }

    /// The attach record of the process that fills the slot in, in JOINING.
    #[must_use]
    pub const fn joiner(self) -> Option<u16> {
        if matches!(self.phase(), WorkerPhase::Joining) {
            Some(self.capacity())
        } else {
            None
        }
    }

    /// Tasks it takes at most.
    #[must_use]
    pub const fn capacity(self) -> u16 {
        ((self.0 >> CAPACITY_SHIFT) & 0xFFFF) as u16
    }

    /// How often the slot has been registered; 0 = never.
    #[must_use]
    pub const fn incarnation(self) -> u32 {
        (self.0 & 0xFF_FFFF) as u32
    }

    /// It shall take no more tasks, also when it is a suspect meanwhile.
    #[must_use]
    pub const fn drains(self) -> bool {
        matches!(self.phase(), WorkerPhase::Draining) || self.flags() & FLAG_DRAINS != 0
    }

    /// It may be given a task now.
    #[must_use]
    pub const fn has_room(self) -> bool {
        let takes = matches!(self.phase(), WorkerPhase::Live)
            || cfg!(qtf_mutant = "sim_drained_worker_is_given_tasks")
                && matches!(self.phase(), WorkerPhase::Draining);
        takes && self.running() < self.capacity()
    }

    /// What was taken can be counted: also where a drain came between the take and its count.
    const fn counts_another(self) -> bool {
        let takes = matches!(self.phase(), WorkerPhase::Live | WorkerPhase::Draining);
        takes && self.running() < self.capacity()
    }

    /// What the word becomes by `event`: the whole table.
    ///
    /// # Errors
    /// The table has no such change.
    pub const fn after(self, event: WorkerEvent) -> Result<Self, IllegalWorkerTransition> {
        match self.next(event) {
            Some(next) => Ok(next),
            None => Err(IllegalWorkerTransition { from: self, event }),
        }
    }

    const fn next(self, event: WorkerEvent) -> Option<Self> {
        let phase = self.phase();
        let serves = matches!(
            phase,
            WorkerPhase::Live | WorkerPhase::Draining | WorkerPhase::Suspect
        );
        let exists = serves || matches!(phase, WorkerPhase::Lost);
        match event {
            WorkerEvent::Register { capacity } if matches!(phase, WorkerPhase::Free) => Some(
                self.next_incarnation()
                    .with_capacity(capacity)
                    .with_phase(WorkerPhase::Live),
            ),
            WorkerEvent::Join { attach } if matches!(phase, WorkerPhase::Free) => Some(
                self.next_incarnation()
                    .with_capacity(attach.get())
                    .with_phase(WorkerPhase::Joining),
            ),
            WorkerEvent::Open { capacity } if matches!(phase, WorkerPhase::Joining) => {
                Some(self.with_capacity(capacity).with_phase(WorkerPhase::Live))
            }
            WorkerEvent::Take if self.counts_another() => {
                Some(self.with_running(self.running() + 1))
            }
            WorkerEvent::Give if exists && self.running() > 0 => {
                Some(self.with_running(self.running() - 1))
            }
            WorkerEvent::Recount { running } if exists => Some(self.with_running(running)),
            WorkerEvent::Resize { capacity } if serves => Some(self.with_capacity(capacity)),
            WorkerEvent::Drain => self.draining(),
            WorkerEvent::Suspect if matches!(phase, WorkerPhase::Live) => {
                Some(self.with_flags(0).with_phase(WorkerPhase::Suspect))
            }
            WorkerEvent::Suspect if matches!(phase, WorkerPhase::Draining) => Some(
                self.with_flags(if cfg!(qtf_mutant = "sim_suspicion_ends_the_drain") {
                    0
                } else {
                    FLAG_DRAINS
                })
                .with_phase(WorkerPhase::Suspect),
            ),
            WorkerEvent::Recover if matches!(phase, WorkerPhase::Suspect) => {
                let back = if self.drains() {
                    WorkerPhase::Draining
                } else {
                    WorkerPhase::Live
                };
                Some(self.with_flags(0).with_phase(back))
            }
            WorkerEvent::Lose if serves => Some(self.with_phase(WorkerPhase::Lost)),
            WorkerEvent::Leave
                if (exists || matches!(phase, WorkerPhase::Joining)) && self.running() == 0 =>
            {
                Some(Self(self.incarnation() as u64))
            }
            WorkerEvent::Register { .. }
            | WorkerEvent::Join { .. }
            | WorkerEvent::Open { .. }
            | WorkerEvent::Take
            | WorkerEvent::Give
            | WorkerEvent::Recount { .. }
            | WorkerEvent::Resize { .. }
            | WorkerEvent::Suspect
            | WorkerEvent::Recover
            | WorkerEvent::Lose
            | WorkerEvent::Leave => None,
        }
    }

    /// A fresh word of the next registration; its incarnation is never 0.
    const fn next_incarnation(self) -> Self {
        let next = (self.incarnation() + 1) & INCARNATION_MASK;
        Self(if next == 0 { 1 } else { next as u64 })
    }

    const fn draining(self) -> Option<Self> {
        match self.phase() {
            WorkerPhase::Live => Some(self.with_phase(WorkerPhase::Draining)),
            WorkerPhase::Suspect => Some(self.with_flags(FLAG_DRAINS)),
            WorkerPhase::Free
            | WorkerPhase::Draining
            | WorkerPhase::Lost
            | WorkerPhase::Joining
            | WorkerPhase::Reserved => None,
        }
    }

    const fn flags(self) -> u8 {
        ((self.0 >> FLAGS_SHIFT) & 0xF) as u8
    }

    const fn with_phase(self, phase: WorkerPhase) -> Self {
        Self(self.0 & !(0xF << PHASE_SHIFT) | ((phase as u64) << PHASE_SHIFT))
    }

    const fn with_flags(self, flags: u8) -> Self {
        Self(self.0 & !(0xF << FLAGS_SHIFT) | ((flags as u64 & 0xF) << FLAGS_SHIFT))
    }

    const fn with_running(self, running: u16) -> Self {
        Self(self.0 & !(0xFFFF << RUNNING_SHIFT) | ((running as u64) << RUNNING_SHIFT))
    }

    const fn with_capacity(self, capacity: u16) -> Self {
        Self(self.0 & !(0xFFFF << CAPACITY_SHIFT) | ((capacity as u64) << CAPACITY_SHIFT))
    }
}

impl fmt::Debug for WorkerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "WorkerState({} {}/{} incarnation {})",
            self.phase(),
            self.running(),
            self.capacity(),
            self.incarnation()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHASES: [WorkerPhase; 7] = [
        WorkerPhase::Free,
        WorkerPhase::Live,
        WorkerPhase::Draining,
        WorkerPhase::Suspect,
        WorkerPhase::Lost,
        WorkerPhase::Joining,
        WorkerPhase::Reserved,
    ];

    fn word(phase: WorkerPhase, running: u16) -> WorkerState {
        WorkerState::from_raw(9)
            .with_phase(phase)
            .with_running(running)
            .with_capacity(4)
    }

    fn events() -> Vec<(&'static str, WorkerEvent)> {
        vec![
            ("register", WorkerEvent::Register { capacity: 7 }),
            (
                "join",
                WorkerEvent::Join {
                    attach: AttachIndex::new_checked(5, 8).unwrap(),
                },
            ),
            ("open", WorkerEvent::Open { capacity: 7 }),
            ("take", WorkerEvent::Take),
            ("give", WorkerEvent::Give),
            ("recount", WorkerEvent::Recount { running: 3 }),
            ("resize", WorkerEvent::Resize { capacity: 9 }),
            ("drain", WorkerEvent::Drain),
            ("suspect", WorkerEvent::Suspect),
            ("recover", WorkerEvent::Recover),
            ("lose", WorkerEvent::Lose),
            ("leave", WorkerEvent::Leave),
        ]
    }

    /// `event>phase running/capacity` of what is legal with 2 of 4 slots in use.
    fn expected(phase: WorkerPhase) -> &'static str {
        match phase {
            WorkerPhase::Free => "register>live 0/7, join>joining 0/5",
            WorkerPhase::Joining => "open>live 2/7",
            WorkerPhase::Live => {
                "take>live 3/4, give>live 1/4, recount>live 3/4, resize>live 2/9, \
                 drain>draining 2/4, suspect>suspect 2/4, lose>lost 2/4"
            }
            WorkerPhase::Draining => {
                "take>draining 3/4, give>draining 1/4, recount>draining 3/4, resize>draining 2/9, \
                 suspect>suspect 2/4, lose>lost 2/4"
            }
            WorkerPhase::Suspect => {
                "give>suspect 1/4, recount>suspect 3/4, resize>suspect 2/9, drain>suspect 2/4, \
                 recover>live 2/4, lose>lost 2/4"
            }
            WorkerPhase::Lost => "give>lost 1/4, recount>lost 3/4",
            WorkerPhase::Reserved => "",
        }
    }

    #[test]
    fn every_pair_of_phase_and_event_is_as_the_table_says() {
        for phase in PHASES {
            let legal: Vec<String> = events()
                .into_iter()
                .filter_map(|(name, event)| {
                    let to = word(phase, 2).after(event).ok()?;
                    Some(format!(
                        "{name}>{} {}/{}",
                        to.phase(),
                        to.running(),
                        to.capacity()
                    ))
                })
                .collect();
            assert_eq!(legal.join(", "), expected(phase), "{phase}");
        }
    }

    #[test]
    fn slot_is_given_back_only_without_tasks() {
        for phase in PHASES {
            let left = word(phase, 0).after(WorkerEvent::Leave);
            let exists = !matches!(phase, WorkerPhase::Free | WorkerPhase::Reserved);
            assert_eq!(left.is_ok(), exists, "{phase}");
            assert!(word(phase, 1).after(WorkerEvent::Leave).is_err());
        }
    }

    #[test]
    fn full_worker_takes_nothing_and_empty_worker_gives_nothing() {
        assert!(word(WorkerPhase::Live, 4).after(WorkerEvent::Take).is_err());
        assert!(word(WorkerPhase::Live, 0).after(WorkerEvent::Give).is_err());
    }

    #[test]
    fn draining_survives_suspicion() {
        let recovered = |state: WorkerState| state.after(WorkerEvent::Recover).unwrap().phase();
        let suspect = word(WorkerPhase::Draining, 1)
            .after(WorkerEvent::Suspect)
            .unwrap();
        assert!(suspect.drains());
        assert_eq!(recovered(suspect), WorkerPhase::Draining);
        let other = word(WorkerPhase::Suspect, 1)
            .after(WorkerEvent::Drain)
            .unwrap();
        assert_eq!(recovered(other), WorkerPhase::Draining);
    }

    #[test]
    fn incarnation_rises_with_each_registration_and_never_is_zero() {
        let register = WorkerEvent::Register { capacity: 1 };
        let first = WorkerState::default().after(register).unwrap();
        assert_eq!(first.incarnation(), 1);
        let last = WorkerState::from_raw(u64::from(INCARNATION_MASK));
        assert_eq!(last.after(register).unwrap().incarnation(), 1);
        let left = word(WorkerPhase::Lost, 0)
            .after(WorkerEvent::Leave)
            .unwrap();
        assert_eq!(left.incarnation(), 9);
    }

    #[test]
    fn any_bit_pattern_can_be_read_and_offered_every_event() {
        fastrand::seed(2);
        for _ in 0..20_000 {
            let from = WorkerState::from_raw(fastrand::u64(..));
            let _ = format!("{from:?}");
            for (_, event) in events() {
                let _ = from.after(event);
            }
        }
    }
}
