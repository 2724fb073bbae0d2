//! Do the truth and its caches agree? The same answer for a live segment, a dead one and an image.
//!
//! | file | what must hold |
//! |---|---|
//! | `trees` | every inner word is the minimum of its children; a leaf is there if and only if the state wants it |
//! | `slots` | state, bitmap, owner and references of each task slot agree |
//! | `chunks` | each chunk of the arena is in one state, and the slot it belongs to refers to it |
//! | `counts` | running counts of workers, counts of clients and gauges of phases equal a recount |
//! | `kinds` | each kind is named once and as it can be, and what tasks and workers refer to is there |
//! | `history` | what is kept of attempts is of attempts that can have been |
//! | `lanes` | the counts of the rings of open lanes can be |
//! | `unused` | regions that nothing uses yet are zero |
//! | `keys` | each idempotency key is found where it lies, and stands for a task that was accepted |
//!
//! On a live segment each of these is untrue for moments: a state changes before its leaf does. So a finding counts only
//! if it is there again, exactly the same, in each of several passes with pauses between them. Counts are compared only if
//! nothing changed while they were taken; else they are reported as unsettled.
//!
//! Tested in `segment/tests/verify.rs`.

mod chunks;
mod counts;
mod history;
mod keys;
mod kinds;
mod lanes;
mod slots;
mod trees;
mod unused;

use core::fmt;
use std::collections::BTreeSet;

use crate::region::Mapping;
use crate::segment::SegmentView;
use crate::time::monotonic_ns;

/// Pauses between passes; a finding must outlast their sum. LIMIT: on a machine with more work than cores a thread that was
/// about to write its leaf may wait for a few hundred milliseconds until it runs again.
const PAUSES_NS: [u64; 5] = [1_000_000, 5_000_000, 20_000_000, 80_000_000, 250_000_000];
/// Counts that change all the time are given up after the pauses up to this one.
const PAUSE_FOR_COUNTS_NS_MAX: u64 = 20_000_000;
/// LIMIT: findings kept; a segment full of noise has as many as words.
const FINDINGS_MAX: usize = 1000;

/// Which rule is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// Every inner word of a heap is the minimum of its children.
    HeapOrder,
    /// A slot is READY if and only if its key is in the task heap.
    ReadyLeaf,
    /// A DELAYED slot is in the timer heap; an entry there belongs to the slot's present task.
    TimerLeaf,
    /// A worker in the worker heap may be given a task. Not the other way round: one that has room and credits may rightly be
    /// out of it, while its window is closed or it is reconciled, and only the daemon knows that. Such ones are counted in
    /// [`VerifyReport::workers_set_aside`]; the daemon writes each leaf anew at the worker's heartbeat.
    WorkerLeaf,
    /// A worker with a lease is registered.
    LeaseLeaf,
    /// A slot's bit is taken if and only if its state is not FREE.
    FreeBit,
    /// The levels of the free bitmap agree.
    BitmapSummary,
    /// Phase, generation and owner of a state make sense together.
    State,
    /// A slot was put into quarantine.
    Quarantine,
    /// The worker that owns a task is registered.
    Owner,
    /// What a slot refers to is there and its own.
    Reference,
    /// A chunk belongs to a slot that refers to it.
    Chunk,
    /// The counts of an arena block equal its chunks.
    ArenaBlock,
    /// A worker's running count equals the tasks it owns.
    RunningCount,
    /// A gauge equals the recount of its phase.
    Gauge,
    /// A client's counts equal the tasks it has.
    ClientCount,
    /// An idempotency key is found where it lies, and stands for a task that was accepted.
    Key,
    /// A kind is named once, as it can be; those that tasks and workers refer to are there.
    Kind,
    /// What is kept of an attempt is of one that can have been.
    History,
    /// The counts of an open lane can be.
    Lane,
    /// A region that nothing uses in this version is zero.
    Unused,
}

impl Rule {
    /// The name in listings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::HeapOrder => "heap_order",
            Self::ReadyLeaf => "ready_leaf",
            Self::TimerLeaf => "timer_leaf",
            Self::WorkerLeaf => "worker_leaf",
            Self::LeaseLeaf => "lease_leaf",
            Self::FreeBit => "free_bit",
            Self::BitmapSummary => "bitmap_summary",
            Self::State => "state",
            Self::Quarantine => "quarantine",
            Self::Owner => "owner",
            Self::Reference => "reference",
            Self::Chunk => "chunk",
            Self::ArenaBlock => "arena_block",
            Self::RunningCount => "running_count",
            Self::Gauge => "gauge",
            Self::Key => "key",
            Self::Kind => "kind",
            Self::History => "history",
            Self::Lane => "lane",
            Self::Unused => "unused",
            Self::ClientCount => "client_count",
        }
    }
}

/// One broken rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Which rule.
    pub rule: Rule,
    /// What it is about: `slot 5`, `worker 3`, `unit 1024`.
    pub subject: String,
    /// What was found.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.rule.name(), self.subject, self.text)
    }
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VerifyReport {
    /// Broken rules, at most 1,000.
    pub findings: Vec<Finding>,
    /// There were more findings than are kept.
    pub more_findings: bool,
    /// Findings of the first pass that did not last: changes under way.
    pub passing: u64,
    /// Counts that changed while they were taken, in the last pass: neither right nor wrong.
    pub unsettled: u64,
    /// Task slots looked at.
    pub tasks: u64,
    /// Tasks found in them.
    pub tasks_used: u64,
    /// Worker slots looked at.
    pub workers: u64,
    /// Workers with room and credits that are not in the worker heap, in the last pass: a note, not a fault, see
    /// [`Rule::WorkerLeaf`].
    pub workers_set_aside: u64,
    /// Chunks of the arena that are in use.
    pub chunks: u64,
    /// Idempotency keys in use.
    pub keys: u64,
    /// Passes made.
    pub passes: u32,
}

impl VerifyReport {
    /// A rule is broken.
    #[must_use]
    pub const fn broken(&self) -> bool {
        !self.findings.is_empty()
    }

    /// Something could not be compared, because it changed each time.
    #[must_use]
    pub const fn torn(&self) -> bool {
        self.unsettled > 0
    }
}

/// One pass over everything.
#[derive(Debug, Default)]
struct Pass {
    findings: BTreeSet<Finding>,
    more_findings: bool,
    unsettled: u64,
    tasks: u64,
    tasks_used: u64,
    workers: u64,
    workers_set_aside: u64,
    chunks: u64,
    keys: u64,
}

impl Pass {
    fn of(view: &SegmentView) -> Self {
        let mut pass = Self::default();
        trees::check(view, &mut pass);
        slots::check(view, &mut pass);
        chunks::check(view, &mut pass);
        counts::check(view, &mut pass);
        keys::check(view, &mut pass);
        history::check(view, &mut pass);
        kinds::check(view, &mut pass);
        lanes::check(view, &mut pass);
        unused::check(view, &mut pass);
        pass
    }

    fn found(&mut self, rule: Rule, subject: impl fmt::Display, text: impl fmt::Display) {
        if self.findings.len() >= FINDINGS_MAX {
            self.more_findings = true;
            return;
        }
        self.findings.insert(Finding {
            rule,
            subject: subject.to_string(),
            text: text.to_string(),
        });
    }
}

impl SegmentView {
    /// Checks all rules. Takes a few milliseconds for each 100,000 slots, and up to 0.4 s more if a finding must be looked
    /// at again. Writes nothing.
    #[must_use]
    pub fn verify(&self) -> VerifyReport {
        let mut pass = Pass::of(self);
        let mut findings = core::mem::take(&mut pass.findings);
        let first = findings.len() as u64;
        let mut passes = 1;
        // Nobody changes an image.
        let pauses = if matches!(*self.parts.mapping, Mapping::Image(_)) {
            &[][..]
        } else {
            &PAUSES_NS[..]
        };
        for &pause_ns in pauses {
            let counts_settled = pass.unsettled == 0 || pause_ns > PAUSE_FOR_COUNTS_NS_MAX;
            if findings.is_empty() && counts_settled {
                break;
            }
            wait(pause_ns);
            pass = Pass::of(self);
            let again = core::mem::take(&mut pass.findings);
            findings.retain(|finding| again.contains(finding));
            passes += 1;
        }
        VerifyReport {
            passing: first - findings.len() as u64,
            more_findings: pass.more_findings && !findings.is_empty(),
            findings: findings.into_iter().collect(),
            unsettled: pass.unsettled,
            tasks: pass.tasks,
            tasks_used: pass.tasks_used,
            workers: pass.workers,
            workers_set_aside: pass.workers_set_aside,
            chunks: pass.chunks,
            keys: pass.keys,
            passes,
        }
    }
}

/// Lets others go on for a while, without taking part of a core from them.
fn wait(pause_ns: u64) {
    let end = monotonic_ns().saturating_add(pause_ns);
    loop {
        let left = end.saturating_sub(monotonic_ns());
        if left == 0 {
            return;
        }
        std::thread::park_timeout(core::time::Duration::from_nanos(left));
    }
}
