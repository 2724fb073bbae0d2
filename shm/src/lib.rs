//! The shared-memory segment of Quantum Taskflow: layout, slots, lock-free heaps, arena.
//!
//! | module | what |
//! |---|---|
//! | [`id`] | names of tasks, workers, clients, slots |
//! | [`time`] | nanoseconds since the segment's origin, and stamps |
//! | [`task`] | the task's state word with its table, the task slot, the side record |
//! | [`worker`], [`client`] | the worker's state word and slot, the client record |
//! | [`layout`] | header, regions, geometry: where everything lies |
//! | [`region`] | memory that holds a segment; the only place with addresses |
//! | [`segment`] | a segment as a whole: made, adopted, written, read, verified |
//! | [`keys`] | idempotency keys |
//! | [`kinds`], [`kind_set`], [`counters`] | names of task kinds; sets of them; counters |
//! | [`histogram`] | how long the steps of a task's life took |
//! | [`blob`], [`spill`] | where the bytes of a task lie; large ones in files |
//! | [`tree`] | the lock-free min-tree: task, worker and timer heaps |
//! | [`bitmap`] | the three-level free bitmap |
//! | [`reading`] | copying a record out while others change it |
//! | [`doorbell`] | how a sleeping daemon is woken by local processes |
//! | [`errand`] | what one thread of a process has another one do |
//! | [`sections`] | pieces of work whose words and counts others leave alone |
//! | [`gate`] | whether a process may come in |
//! | [`local_changes`] | how the daemon learns of local workers |
//! | [`idle_workers`] | which local workers sleep for want of work |
//! | [`lane`] | what local processes and the core say to each other |
//! | [`arena`] | payloads and results, in size classes |
//! | [`tally`] | counts that are added later, many at once |
//! | [`sync`] | the only door to atomics |

#![cfg_attr(
    loom,
    expect(
        dead_code,
        reason = "models use some of what the segment, which does not exist there, uses"
    )
)]

pub mod arena;
pub mod bitmap;
pub mod blob;
pub mod client;
pub mod doorbell;
pub mod errand;
pub mod gate;
pub mod hand_over;
pub mod id;
pub mod idle_workers;
pub mod keys;
pub mod kind_set;
pub mod kinds;
pub mod lane;
pub mod layout;
pub mod local_changes;
#[cfg(loom)]
pub mod model;
pub mod reading;
pub mod sections;
pub mod sync;
pub mod task;
pub mod time;
pub mod tree;
pub mod worker;

// Under loom an atomic is not a word, so no memory of a segment exists there.
#[cfg(not(loom))]
pub mod counters;
#[cfg(not(loom))]
pub mod histogram;
#[cfg(not(loom))]
mod random;
#[cfg(not(loom))]
pub mod region;
#[cfg(not(loom))]
pub mod segment;
#[cfg(not(loom))]
pub mod spill;
#[cfg(not(loom))]
pub mod tally;

pub use arena::Purpose;
pub use blob::BlobRef;
pub use client::{ClientFields, ClientSlot};
pub use id::{
    AttachIndex, ClientIndex, KindIndex, ParseIdError, SlotIndex, TaskId, WorkerId, WorkerIndex,
};
pub use keys::{KeyEntry, KeyId, KeyPlace, KeyTable, KeyView, KeysFull, SettledKeys};
pub use kind_set::KindSet;
pub use reading::Reading;
pub use task::state::{
    Blocked, Event, FENCE_MAX, FLAG_CANCEL, FLAG_SETTLING, FLAG_TIMED_OUT, IllegalTransition,
    Owner, Phase, StateWord,
};
pub use time::Now;
pub use tree::{Key, MinTree};
pub use worker::state::{WorkerEvent, WorkerPhase, WorkerState};

#[cfg(not(loom))]
pub use counters::{Counter, Counters};
pub use kinds::{KIND_ECHO, KIND_EXEC, KIND_NOOP, KindTable, KindsFull};
#[cfg(not(loom))]
pub use layout::attach::FileIdentity;
pub use layout::text::ShortText;
#[cfg(not(loom))]
pub use layout::{Geometry, GeometryError, HeaderInfo, SizeLine};
#[cfg(not(loom))]
pub use segment::{
    ATTEMPTS_KEPT_PER_TASK, Access, Adoption, ApplyError, AttachError, AttachInfo, Attachment,
    AttachmentSpec, AttemptNote, ClaimError, ClaimedTask, Completion, Convicted, CoreLane,
    CreateError, Earlier, Full, GateWatch, Heap, HugePages, KeptAttempt, LaneCommands, LaneEvents,
    LaneInfo, LaneTaken, Liveness, LoadError, LocalWorker, LocalWorkerSpec, LockFile,
    MESSAGE_BYTES_MAX, OpenError, OwnedLane, Part, PhaseCensus, PidFd, ProcessIdentity,
    RepairCounts, RepairScope, Repairer, RestoreError, RestoredBytes, RestoredTask, RoleLoop,
    Segment, SegmentSpec, SegmentView, StoreError, TAIL_BYTES_MAX, Taken, TaskFields, TaskRecord,
    Tombstone,
};
#[cfg(not(loom))]
pub use spill::{SpillError, SpillStore, SpillWriter};
#[cfg(not(loom))]
pub use tally::Tally;
#[cfg(not(loom))]
pub use task::side::SideRecord;
pub use task::slot::{Outcome, OutcomeKind, TaskOptions, TaskSlot};
pub use task::writer::{PlmRight, SlotWriter};
pub use worker::slot::{WorkerApplyError, WorkerCounter, WorkerFields, WorkerSlot, WorkerWriter};
