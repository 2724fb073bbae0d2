//! The pages that a segment lies in, as the kernel tells it today: also when its daemon is dead.
//!
//! Tested in `tests/inspect/main.rs`, and at the end of this file.

use crate::inspected::{Inspected, daemon_of};
use crate::show;
use qtf_shm::segment::{MemoryFacts, Node};
use serde::Serialize;

/// Of a segment, not of an image.
#[derive(Debug, Serialize)]
pub(crate) struct Memory {
    /// Of the pages that it was made of.
    page_bytes: u64,
    /// In memory now; `None`: the kernel tells only the owner.
    resident_bytes: Option<u64>,
    /// Of these, in pages of 2 MiB.
    huge_bytes: Option<u64>,
    /// Its pages stay in memory.
    locked: bool,
    /// What the daemon that runs may lock, over all it has; `None`: it does not run, or there is no limit.
    daemon_may_lock_bytes: Option<u64>,
    /// Nodes of the machine that have memory.
    nodes: usize,
    /// The node where its pages shall lie.
    preferred_node: Option<u32>,
    #[serde(skip)]
    node: Node,
}

impl Memory {
    /// `None` for an image, and where the kernel says nothing.
    pub(crate) fn of(inspected: &Inspected) -> Option<Self> {
        let daemon_lives = inspected.owner_lives()?;
        let MemoryFacts {
            page_bytes,
            resident_bytes,
            huge_bytes,
            locked,
            node,
        } = inspected.view().memory().ok()?;
        let (nodes, preferred_node) = match node {
            Node::Only => (1, None),
            Node::Preferred { node, of } => (of, Some(node)),
            Node::AnyOf(of) => (of, None),
        };
        let pid = daemon_of(inspected.view()).pid;
        let limits = || std::fs::read_to_string(format!("/proc/{pid}/limits")).ok();
        Some(Self {
            page_bytes,
            resident_bytes,
            huge_bytes,
            locked,
            daemon_may_lock_bytes: daemon_lives
                .then(limits)
                .flatten()
                .and_then(|limits| locked_limit(&limits)),
            nodes,
            preferred_node,
            node,
        })
    }

    pub(crate) fn pages_text(&self, _bytes: u64) -> String {
        let pages = show::bytes(self.page_bytes);
        match (self.resident_bytes, self.huge_bytes) {
            (Some(resident), Some(huge)) => format!(
                "{pages}; {} in memory, {} of it in pages of 2 MiB",
                show::bytes(resident),
                show::bytes(huge)
            ),
            _ => format!("{pages}; only its owner is told how much is in memory"),
        }
    }

    pub(crate) fn locked_text(&self, bytes: u64) -> String {
        match self.daemon_may_lock_bytes {
            _ if self.locked && self.page_bytes > 4096 => {
                "pages that were set aside are never swapped".to_owned()
            }
            _ if self.locked => "yes".to_owned(),
            Some(limit) if limit < bytes => format!(
                "no: its daemon may lock {} (LimitMEMLOCK= of the unit, `ulimit -l`)",
                show::bytes(limit)
            ),
            _ => "no".to_owned(),
        }
    }

    pub(crate) fn node_text(&self, _bytes: u64) -> String {
        self.node.to_string()
    }
}

/// The soft limit of locked memory in the kernel's table of a process; `None` if there is none.
fn locked_limit(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max locked memory"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(locked: bool, limit: Option<u64>) -> Memory {
        Memory {
            page_bytes: 4096,
            resident_bytes: Some(12 << 20),
            huge_bytes: Some(4 << 20),
            locked,
            daemon_may_lock_bytes: limit,
            nodes: 1,
            preferred_node: None,
            node: Node::Only,
        }
    }

    #[test]
    fn limit_of_locked_memory_is_read_from_the_table_of_the_kernel() {
        let table = "Limit    Soft Limit  Hard Limit  Units\n\
            Max processes             95681       95681      processes\n\
            Max locked memory         8388608     16777216   bytes\n";
        assert_eq!(locked_limit(table), Some(8 << 20));
        assert_eq!(
            locked_limit("Max locked memory  unlimited  unlimited bytes"),
            None
        );
        assert_eq!(locked_limit(""), None);
    }

    #[test]
    fn whoever_reads_that_it_is_not_locked_reads_why() {
        let bytes = 256 << 20;
        assert_eq!(memory(true, None).locked_text(bytes), "yes");
        assert_eq!(memory(false, None).locked_text(bytes), "no");
        let text = memory(false, Some(8 << 20)).locked_text(bytes);
        assert!(text.starts_with("no: its daemon may lock 8 MiB"), "{text}");
        assert_eq!(
            memory(false, None).pages_text(bytes),
            "4 KiB; 12 MiB in memory, 4 MiB of it in pages of 2 MiB"
        );
    }
}
