//! `heap task|worker|timer`: the entries in the order in which the heap would be emptied.
//!
//! Entries are printed as they are read: a heap with a million entries needs no memory for all of them.
//! Each entry says whether leaf and record agreed when they were read (`consistent`).

use crate::arguments::HeapName;
use crate::inspected::{Inspected, Moment};
use crate::report::Report;
use qtf_shm::segment::Heap;
use qtf_shm::tree::Key;
use qtf_shm::{Now, Phase};
use qtf_shown::text::visible;
use serde::ser::{Serialize, SerializeStruct, Serializer};
use std::io::{self, Write};

/// A heap to be printed.
#[derive(Debug)]
pub(crate) struct HeapReport<'a> {
    inspected: &'a Inspected,
    heap: HeapName,
    limit: usize,
}

/// One entry of any of the heaps; what does not apply is left out.
#[derive(Debug, serde::Serialize)]
struct Entry {
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<u8>,
    state: &'static str,
    #[serde(flatten)]
    detail: Detail,
    slot: u32,
    /// The raw key, hexadecimal.
    key: String,
    consistent: bool,
}

#[derive(Debug, serde::Serialize)]
#[serde(untagged)]
enum Detail {
    Task {
        kind: String,
        attempt: u16,
        waiting_ms: u64,
    },
    Worker {
        name: String,
        host: String,
        running: u16,
        capacity: u16,
        credits: u32,
        load_ratio: u16,
    },
    Timer {
        attempt: u16,
        due_in_ms: i64,
    },
    /// The leaf names no record.
    Nothing {},
}

impl<'a> HeapReport<'a> {
    pub(crate) fn new(inspected: &'a Inspected, heap: HeapName, limit: Option<usize>) -> Self {
        Self {
            inspected,
            heap,
            limit: limit.unwrap_or(usize::MAX),
        }
    }

    fn name(&self) -> &'static str {
        match self.heap {
            HeapName::Task => "task",
            HeapName::Worker => "worker",
            HeapName::Timer => "timer",
        }
    }

    fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        let heap = match self.heap {
            HeapName::Task => Heap::Task,
            HeapName::Worker => Heap::Worker,
            HeapName::Timer => Heap::Timer,
        };
        let entries = self.inspected.view().heap(heap).entries_in_order();
        entries.take(self.limit).map(|(leaf, key)| match self.heap {
            HeapName::Task => self.task(leaf, key),
            HeapName::Worker => self.worker(leaf, key),
            HeapName::Timer => self.timer(leaf, key),
        })
    }

    fn task(&self, leaf: u32, key: Key) -> Entry {
        let view = self.inspected.view();
        let Some(reading) = view.slot(leaf).and_then(|slot| view.read_task(slot)) else {
            return nothing(leaf, key);
        };
        let record = &reading.record;
        let ready = record.state.phase() == Phase::Ready && record.key == key;
        let since = Now::from_stamp(key.ready_stamp());
        Entry {
            id: record.id.map(|id| id.to_string()),
            priority: Some(key.ready_priority()),
            state: record.state.phase().name(),
            detail: Detail::Task {
                kind: self.inspected.kind_name(record.kind),
                attempt: record.state.fence(),
                waiting_ms: self.inspected.now().since_ns(since) / 1_000_000,
            },
            slot: leaf,
            key: hexadecimal(key),
            consistent: ready && !reading.torn,
        }
    }

    fn worker(&self, leaf: u32, key: Key) -> Entry {
        let view = self.inspected.view();
        let index = u16::try_from(leaf)
            .ok()
            .and_then(|number| view.worker_index(number));
        let Some(reading) = index.and_then(|index| view.read_worker(index)) else {
            return nothing(leaf, key);
        };
        let record = reading.record;
        Entry {
            id: Some(record.id.to_string()),
            priority: None,
            state: record.state.phase().name(),
            slot: leaf,
            key: hexadecimal(key),
            consistent: !reading.torn && record.key == key,
            detail: Detail::Worker {
                name: record.name.clone(),
                host: record.host.clone(),
                running: record.state.running(),
                capacity: record.state.capacity(),
                credits: record.credits,
                load_ratio: key.load_ratio(),
            },
        }
    }

    fn timer(&self, leaf: u32, key: Key) -> Entry {
        let view = self.inspected.view();
        let Some(reading) = view.slot(leaf).and_then(|slot| view.read_task(slot)) else {
            return nothing(leaf, key);
        };
        let state = reading.record.state;
        let of_this_tenant = key.as_raw() & 0xFFFF == state.generation() & 0xFFFF;
        Entry {
            id: reading.record.id.map(|id| id.to_string()),
            priority: None,
            state: state.phase().name(),
            detail: Detail::Timer {
                attempt: state.fence(),
                due_in_ms: self.inspected.until_ms(Now::from_stamp(key.timed_stamp())),
            },
            slot: leaf,
            key: hexadecimal(key),
            consistent: of_this_tenant && !reading.torn,
        }
    }
}

fn nothing(leaf: u32, key: Key) -> Entry {
    Entry {
        id: None,
        priority: None,
        state: "none",
        detail: Detail::Nothing {},
        slot: leaf,
        key: hexadecimal(key),
        consistent: false,
    }
}

fn hexadecimal(key: Key) -> String {
    format!("{:#018x}", key.as_raw())
}

impl Serialize for HeapReport<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut document = serializer.serialize_struct("heap", 3)?;
        document.serialize_field("schema", "qtf.shm-inspect.heap/1")?;
        document.serialize_field("heap", self.name())?;
        document.serialize_field("entries", &Entries(self))?;
        document.end()
    }
}

struct Entries<'a>(&'a HeapReport<'a>);

impl Serialize for Entries<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.entries())
    }
}

impl Report for HeapReport<'_> {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        match self.heap {
            HeapName::Task => writeln!(
                out,
                "id             prio  state       kind          attempt  waiting"
            )?,
            HeapName::Worker => writeln!(
                out,
                "id       state     running  credits  load   name  host"
            )?,
            HeapName::Timer => writeln!(out, "id             state        attempt  due")?,
        }
        for entry in self.entries() {
            entry.write_text(out)?;
        }
        Ok(())
    }
}

impl Entry {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let id = self.id.as_deref().unwrap_or("-");
        let state = self.state;
        match &self.detail {
            Detail::Task {
                kind,
                attempt,
                waiting_ms,
            } => {
                let priority = self.priority.unwrap_or_default();
                let kind = visible(kind);
                let waiting = Moment::ago_ms(*waiting_ms);
                write!(
                    out,
                    "{id:<13}  {priority:<4}  {state:<10}  {kind:<12}  {attempt:<7}  {waiting}"
                )?;
            }
            Detail::Worker {
                name,
                host,
                running,
                capacity,
                credits,
                load_ratio,
            } => {
                let load = format!("{running}/{capacity}");
                let (name, host) = (visible(name), visible(host));
                write!(
                    out,
                    "{id:<7}  {state:<8}  {load:<7}  {credits:<7}  {load_ratio:<5}  {name}  {host}"
                )?;
            }
            Detail::Timer { attempt, due_in_ms } => {
                let due = Moment::in_ms(*due_in_ms);
                write!(out, "{id:<13}  {state:<11}  {attempt:<7}  {due}")?;
            }
            Detail::Nothing {} => write!(out, "{id:<13}  leaf {} names no record", self.slot)?,
        }
        writeln!(
            out,
            "{}",
            if self.consistent {
                ""
            } else {
                "  (changed while it was read)"
            }
        )
    }
}
