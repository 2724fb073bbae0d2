//! The memory that a segment lies in: the size of its pages, whether it is locked, on which memory node it lies.
//!
//! Three things are asked of the kernel, and none of them changes what the segment holds:
//!
//! - **Huge pages** of 2 MiB. A new segment is advised before its first touch, or made of pages that were set aside
//!   ([`HugePages::Require`]). What is there already, as in an adopted segment, is put together extent by extent
//!   ([`Segment::make_huge`]), each a bounded step for a thread that may wait.
//! - **Locking**: pages stay in memory once they were touched. It is of the segment, not of a process: it outlives the daemon.
//! - **A memory node**, before the first touch; kept by the kernel with the memory.
//!
//! [`SegmentView::memory`] says what was got, by the kernel's word, also of a segment whose daemon is dead.
//!
//! Tested at the end of this file and in `region/pages.rs`, `region/node.rs`, `region/sysv.rs`.

use core::fmt;
use std::io;

use crate::region::sysv;
use crate::region::{Mapping, node, pages};
use crate::segment::spec::{HugePages, SegmentSpec};
use crate::segment::{Segment, SegmentView};

/// Bytes of a page as long as nobody asks for more.
const PAGE_BYTES: u64 = 4096;

/// Asks for what the spec says, before anything is touched. What the kernel refuses here it refuses again when the daemon asks, and
/// is told then.
pub(super) fn prepare(memory: &Mapping, spec: &SegmentSpec) {
    if spec.huge_pages != HugePages::Require {
        let _ = pages::advise(memory.words(), spec.huge_pages == HugePages::Auto);
    }
    if let Some(node) = spec.node {
        let _ = node::prefer(memory.words(), node, false);
    }
}

/// What became of 2 MiB that were to be one page.
#[derive(Debug)]
pub enum Extent {
    /// They are.
    Huge,
    /// Too little of them is in memory: the page would be mostly zeros.
    Sparse,
    /// Not now: no such page is free, or the memory is in use by the kernel.
    Later(io::Error),
    /// The kernel does not do that for this memory.
    Refused(io::Error),
}

/// Where the pages of a segment shall lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    /// The machine has one node, or the kernel knows of none.
    Only,
    /// On this one, of so many.
    Preferred {
        /// The node.
        node: u32,
        /// Nodes with memory.
        of: usize,
    },
    /// Nothing was asked for, or granted: where it was touched first.
    AnyOf(usize),
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Only => f.write_str("one node"),
            Self::Preferred { node, of } => write!(f, "node {node} of {of} preferred"),
            Self::AnyOf(of) => write!(f, "any of {of} nodes"),
        }
    }
}

/// What the kernel says about the memory of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryFacts {
    /// Bytes of the pages that it was made of: 4,096, or 2 MiB of those that were set aside.
    pub page_bytes: u64,
    /// Bytes that are in memory; `None` where the kernel tells only the owner.
    pub resident_bytes: Option<u64>,
    /// Bytes of these in pages of 2 MiB.
    pub huge_bytes: Option<u64>,
    /// The pages stay in memory once touched.
    pub locked: bool,
    /// Where they shall lie. Of pages that were set aside each process has its own preference.
    pub node: Node,
}

impl SegmentView {
    /// What the kernel says about the memory of the segment. Maps what is there, touches nothing that is not. Takes about a
    /// millisecond for each 100 MiB.
    ///
    /// # Errors
    /// The kernel does not say (`/proc` is not there).
    pub fn memory(&self) -> io::Result<MemoryFacts> {
        let words = self.parts.mapping.words();
        let status = self.shm_id().map(sysv::status).transpose()?;
        let uid = nix::unistd::geteuid().as_raw();
        // To others it says that all is there, and a look at that would make it so.
        let tells_us = status.is_none_or(|status| uid == 0 || uid == status.creator_uid);
        if tells_us {
            pages::map_whole_extents(words);
        }
        let sizes = pages::sizes(words)?;
        let is_set_aside = sizes.page_bytes > PAGE_BYTES;
        let (resident_bytes, huge_bytes) = if is_set_aside {
            // All of them are its own from the start, and of no use to others.
            let all = Some(self.header().total_bytes.next_multiple_of(sizes.page_bytes));
            (all, all)
        } else if tells_us {
            (Some(pages::resident_bytes(words)), Some(sizes.huge_bytes))
        } else {
            (None, None)
        };
        Ok(MemoryFacts {
            page_bytes: sizes.page_bytes,
            resident_bytes,
            huge_bytes,
            // Pages that were set aside are never swapped.
            locked: is_set_aside || status.is_some_and(|status| status.is_locked()),
            node: node_of(self.parts.mapping.words())?,
        })
    }
}

fn node_of(words: &[crate::sync::AtomicU64]) -> io::Result<Node> {
    let of = node::nodes().len();
    if of < 2 {
        return Ok(Node::Only);
    }
    Ok(match node::preferred(words)? {
        Some(node) => Node::Preferred { node, of },
        None => Node::AnyOf(of),
    })
}

impl Segment {
    /// Advises the kernel about pages that are touched from now on.
    ///
    /// # Errors
    /// It has no huge pages.
    pub fn advise_huge_pages(&self, wanted: bool) -> io::Result<()> {
        pages::advise(self.view.parts.mapping.words(), wanted)
    }

    /// Pieces of 2 MiB that can be pages of their own; none of memory that was made of such pages.
    ///
    /// # Errors
    /// The kernel does not say how large the pages are.
    pub fn extents(&self) -> io::Result<usize> {
        let words = self.view.parts.mapping.words();
        let sizes = pages::sizes(words)?;
        Ok(if sizes.page_bytes > PAGE_BYTES {
            0
        } else {
            pages::count(words)
        })
    }

    /// Makes one extent a huge page, if at least so many bytes of it are in memory. Takes some hundred microseconds, in which others
    /// that touch this extent wait.
    #[must_use]
    pub fn make_huge(&self, extent: usize, least_bytes: u64) -> Extent {
        let words = self.view.parts.mapping.words();
        let Some(extent) = pages::extent(words, extent) else {
            return Extent::Sparse;
        };
        if pages::resident_bytes(extent) < least_bytes {
            return Extent::Sparse;
        }
        match pages::collapse(extent) {
            Ok(()) => Extent::Huge,
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Extent::Refused(error),
            Err(error) => Extent::Later(error),
        }
    }

    /// Has pages that are touched from now on come to a memory node. With `extent`, also those of one extent that are there.
    ///
    /// # Errors
    /// The kernel refuses, or has no such node.
    pub fn prefer_node(&self, node: u32, extent: Option<usize>) -> io::Result<()> {
        let words = self.view.parts.mapping.words();
        match extent {
            None => node::prefer(words, node, false),
            Some(extent) => {
                pages::extent(words, extent).map_or(Ok(()), |words| node::prefer(words, node, true))
            }
        }
    }

    /// Keeps its pages in memory from when they are first touched, or no longer. Nothing happens for memory of this process.
    ///
    /// # Errors
    /// The limit of locked memory (`RLIMIT_MEMLOCK`) is too low.
    pub fn lock_in_memory(&self, locked: bool) -> io::Result<()> {
        match self.shm_id() {
            None => Ok(()),
            Some(shm_id) if locked => sysv::lock(shm_id),
            Some(shm_id) => sysv::unlock(shm_id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Geometry;
    use crate::segment::tests::spec_in;

    fn spec(huge_pages: HugePages) -> SegmentSpec {
        SegmentSpec {
            geometry: Geometry::for_bytes(16 << 20).unwrap(),
            huge_pages,
            ..spec_in(std::env::temp_dir(), 100, 1 << 20)
        }
    }

    #[test]
    fn what_is_there_of_an_extent_decides_whether_it_is_made_a_page() {
        let segment = Segment::in_process(&spec(HugePages::Never));
        segment.advise_huge_pages(true).unwrap();
        let extents = segment.extents().unwrap();
        assert_eq!(extents, 8);
        let made = segment.make_huge(extents - 1, 1 << 20);
        assert!(matches!(made, Extent::Sparse), "{made:?}");
        assert!(matches!(segment.make_huge(extents, 0), Extent::Sparse));
        let before = segment.memory().unwrap();
        assert_eq!((before.page_bytes, before.huge_bytes), (4096, Some(0)));
        let made = segment.make_huge(0, 0);
        let after = segment.memory().unwrap();
        match made {
            // More where the kernel's own thread has come by.
            Extent::Huge => assert!(after.huge_bytes >= Some(2 << 20), "{after:?}"),
            Extent::Refused(_) => assert_eq!(after.huge_bytes, Some(0)),
            Extent::Later(_) => {}
            Extent::Sparse => panic!("{made:?}"),
        }
        assert!(!segment.verify().broken());
    }

    #[test]
    fn looking_at_the_memory_of_a_segment_makes_none() {
        let segment = Segment::create_private(&spec(HugePages::Never)).unwrap();
        let first = segment.memory().unwrap();
        let second = segment.memory().unwrap();
        assert_eq!(first, second);
        assert!(first.resident_bytes < Some(16 << 20), "{first:?}");
    }

    #[test]
    fn locking_is_seen_where_the_limit_allows_it_and_refused_with_the_reason_elsewhere() {
        let segment = Segment::create_private(&spec(HugePages::Never)).unwrap();
        assert!(!segment.memory().unwrap().locked);
        match segment.lock_in_memory(true) {
            Ok(()) => assert!(segment.memory().unwrap().locked),
            Err(error) => assert!(!segment.memory().unwrap().locked, "{error}"),
        }
        segment.lock_in_memory(false).unwrap();
        assert!(!segment.memory().unwrap().locked);
        let private = Segment::in_process(&spec(HugePages::Never));
        private.lock_in_memory(true).unwrap();
    }

    #[test]
    fn required_pages_are_had_or_the_error_says_how_to_set_them_aside() {
        match Segment::create_private(&spec(HugePages::Require)) {
            Ok(segment) => {
                let memory = segment.memory().unwrap();
                assert_eq!(memory.page_bytes, 2 << 20);
                assert!(memory.locked);
                assert_eq!(memory.huge_bytes, Some(16 << 20));
                assert_eq!(memory.huge_bytes, memory.resident_bytes);
                assert_eq!(segment.extents().unwrap(), 0, "nothing to put together");
                assert!(!segment.verify().broken());
            }
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("huge_pages = \"auto\""), "{text}");
                assert!(text.contains("sysctl -w vm."), "{text}");
            }
        }
    }

    #[test]
    fn a_machine_with_one_node_says_so_and_others_say_which_was_asked_for() {
        let nodes = node::nodes();
        let mut spec = spec(HugePages::Never);
        spec.node = nodes.last().copied();
        let segment = Segment::create_private(&spec).unwrap();
        let node = segment.memory().unwrap().node;
        match (nodes.as_slice(), spec.node) {
            ([_, .., last], Some(_)) => {
                let of = nodes.len();
                assert_eq!(node, Node::Preferred { node: *last, of });
            }
            _ => assert_eq!(node, Node::Only),
        }
    }
}
