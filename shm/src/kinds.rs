//! The table of task kinds: each kind's name once, so that a slot carries a small number.
//!
//! ```text
//! entry, 64 bytes
//! offset  field   bits
//!      0  tag     used 1 | unused 1 | length 6 | hash 56       CAS from 0 by whoever names the kind first
//!      8  name    48 bytes, padded with zeros
//!     56  ready   1 when the name is written
//! ```
//! Invariants:
//! - I1: a tag is written once, by CAS from 0, and never changes; entries are filled from 1 upward. So two processes
//!   that name the same kind at the same time meet at the same entry.
//! - I2: whoever finds its own tag in an entry that is not ready writes the name too. Both write the same bytes, so a
//!   process killed between tag and name holds nobody up.
//! - I3: entry 0 is nobody's: number 0 in a slot means no kind.
//!
//! Sync point `kinds.ready`: name, then ready (Release); ready (Acquire), then name. Tested at the end of this file,
//! modelled in `shm/tests/loom_records.rs`.

use crate::id::{KINDS_COUNT, KindIndex};
use crate::layout::hash_of;
use crate::layout::shared::shared_layout;
use crate::layout::text::ShortText;
use crate::sync::{AtomicU64, Ordering};

/// Longest name of a kind in bytes.
pub const KIND_BYTES_MAX: usize = 48;
/// Programs: the payload is an `ExecSpec`.
pub const KIND_EXEC: &str = "exec";
/// Does nothing.
pub const KIND_NOOP: &str = "noop";
/// Returns its payload.
pub const KIND_ECHO: &str = "echo";

const USED: u64 = 1 << 63;
const LENGTH_SHIFT: u32 = 56;
const HASH_MASK: u64 = (1 << 56) - 1;

shared_layout! {
    /// One kind as it lies in the segment; see the drawing in this file's head.
    pub struct KindEntry: 64 bytes, align 64 {
        0 => tag: AtomicU64,
        8 => name: [AtomicU64; 6],
        56 => ready: AtomicU64,
    }
}

/// A kind could not be named.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KindsFull {
    /// All entries are taken.
    #[error(
        "no room for the task kind `{0}`: the table holds {KINDS_COUNT} kinds; use fewer, or start a new segment"
    )]
    Full(String),
    /// Not a name.
    #[error("`{0}` is no name of a task kind: 1 to {KIND_BYTES_MAX} bytes are possible")]
    Name(String),
}

/// A look at the table.
#[derive(Debug, Clone, Copy)]
pub struct KindTable<'s> {
    entries: &'s [KindEntry],
}

impl<'s> KindTable<'s> {
    /// A table over its entries.
    #[must_use]
    pub const fn new(entries: &'s [KindEntry]) -> Self {
        Self { entries }
    }

    /// The number of a kind, which gets one if it has none.
    ///
    /// # Errors
    /// The table is full, or the name is empty or too long.
    pub fn intern(&self, name: &str) -> Result<KindIndex, KindsFull> {
        let tag = tag_of(name).ok_or_else(|| KindsFull::Name(name.chars().take(60).collect()))?;
        for (index, entry) in self.entries.iter().enumerate().skip(1) {
            // ORDERING: the tag is constant once it is not 0 (I1); AcqRel as both outcomes go on with this entry.
            let found = entry
                .tag
                .compare_exchange(0, tag, Ordering::AcqRel, Ordering::Acquire);
            if found.is_err_and(|found| found != tag) {
                continue;
            }
            match entry.name() {
                Some(known) if known == name => return Ok(number(index)),
                // The same hash by chance: another kind.
                Some(_) => {}
                None => {
                    entry.write(name);
                    return Ok(number(index));
                }
            }
        }
        Err(KindsFull::Full(name.to_owned()))
    }

    /// As [`KindTable::intern`], but a new name is taken only while more than `kept` entries are free: those are for
    /// others. A caller that loses a race against another one may leave one less.
    ///
    /// # Errors
    /// As [`KindTable::intern`].
    pub fn intern_keeping(&self, name: &str, kept: usize) -> Result<KindIndex, KindsFull> {
        if let Some(kind) = self.find(name) {
            return Ok(kind);
        }
        if self.free() <= kept {
            return Err(KindsFull::Full(name.to_owned()));
        }
        self.intern(name)
    }

    /// How many new names there is room for.
    #[must_use]
    pub fn free(&self) -> usize {
        let free = self.entries.iter().skip(1).filter(|entry| {
            // ORDERING: a count; what is taken meanwhile is found by `intern`.
            entry.tag.load(Ordering::Relaxed) == 0
        });
        free.count()
    }

    /// The number of a kind that has one.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<KindIndex> {
        let tag = tag_of(name)?;
        let position = self.entries.iter().skip(1).position(|entry| {
            // ORDERING: constant once it is not 0; the name itself is acquired by `name`.
            entry.tag.load(Ordering::Relaxed) == tag
                && entry.name().is_some_and(|known| known == name)
        })?;
        Some(number(position + 1))
    }

    /// The name behind a number; `None` when nothing is there, or its writer has not finished.
    #[must_use]
    pub fn name(&self, kind: KindIndex) -> Option<String> {
        self.entries.get(kind.position())?.name()
    }

    /// As [`KindTable::name`], without memory of its own.
    #[must_use]
    pub fn short_name(&self, kind: KindIndex) -> Option<ShortText> {
        self.entries.get(kind.position())?.short_name()
    }

    /// What cannot be in a table that only [`KindTable::intern`] wrote: the number of the entry, and what is wrong. A tag whose
    /// name is not ready is right: its writer is at work or has died (I2).
    pub(crate) fn check(&self) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        let mut known: Vec<(usize, String)> = Vec::new();
        let mut first_unused = None;
        for (index, entry) in self.entries.iter().enumerate() {
            let name = match entry.checked() {
                Ok(Checked::Unused) => {
                    if index > 0 {
                        first_unused.get_or_insert(index);
                    }
                    continue;
                }
                Ok(Checked::Unnamed) => None,
                Ok(Checked::Named(name)) => Some(name),
                Err(why) => {
                    found.push((index, why));
                    continue;
                }
            };
            if index == 0 {
                found.push((
                    index,
                    "entry 0 is in use, which stands for no kind".to_owned(),
                ));
            }
            if let Some(unused) = first_unused {
                found.push((index, format!("is in use behind the unused entry {unused}")));
            }
            let Some(name) = name else {
                continue;
            };
            if let Some((other, _)) = known.iter().find(|(_, known)| *known == name) {
                found.push((index, format!("names `{name}`, as entry {other} does")));
            }
            known.push((index, name));
        }
        found
    }

    /// All kinds with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (KindIndex, String)> + use<'s> {
        let entries = self.entries;
        entries
            .iter()
            .enumerate()
            .skip(1)
            .filter_map(|(index, entry)| Some((number(index), entry.name()?)))
    }
}

/// What an entry that can be is.
enum Checked {
    Unused,
    /// Tagged, its name not written yet.
    Unnamed,
    Named(String),
}

impl KindEntry {
    /// What the entry is, or why it cannot be.
    fn checked(&self) -> Result<Checked, String> {
        // ORDERING: [kinds.ready] Acquire pairs with the Release in `write`: the name is visible.
        let ready = self.ready.load(Ordering::Acquire);
        // ORDERING: constant once it is not 0.
        let tag = self.tag.load(Ordering::Relaxed);
        if tag == 0 {
            return match ready {
                0 => Ok(Checked::Unused),
                _ => Err("has a name and no tag".to_owned()),
            };
        }
        let length = usize::try_from((tag >> LENGTH_SHIFT) & 0x3F).unwrap_or(0);
        if tag & USED == 0 || tag & (1 << 62) != 0 || !(1..=KIND_BYTES_MAX).contains(&length) {
            return Err(format!("impossible tag {tag:#018x}"));
        }
        match ready {
            0 => return Ok(Checked::Unnamed),
            1 => {}
            _ => return Err(format!("impossible ready word {ready:#x}")),
        }
        let bytes = self.bytes();
        let (name, padding) = bytes.split_at(length);
        if padding.iter().any(|&byte| byte != 0) {
            return Err(format!("its name goes on after {length} bytes"));
        }
        let name = core::str::from_utf8(name)
            .map_err(|_| format!("its name is no UTF-8: {}", name.escape_ascii()))?;
        if tag_of(name) != Some(tag) {
            return Err(format!("its tag is not that of its name `{name}`"));
        }
        Ok(Checked::Named(name.to_owned()))
    }

    /// The words of the name; whoever calls it has acquired `ready`.
    fn bytes(&self) -> [u8; KIND_BYTES_MAX] {
        let mut bytes = [0; KIND_BYTES_MAX];
        for (chunk, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(&self.name) {
            // ORDERING: [kinds.ready] was acquired by the caller.
            *chunk = word.load(Ordering::Relaxed).to_le_bytes();
        }
        bytes
    }

    fn name(&self) -> Option<String> {
        Some(self.short_name()?.text().into_owned())
    }

    fn short_name(&self) -> Option<ShortText> {
        let order = if cfg!(qtf_mutant = "kinds_name_without_acquire") {
            // ORDERING: a mutant.
            Ordering::Relaxed
        } else {
            // ORDERING: [kinds.ready] Acquire pairs with the Release in `write`: the name is visible.
            Ordering::Acquire
        };
        // ORDERING: as chosen above.
        if self.ready.load(order) == 0 {
            return None;
        }
        // ORDERING: constant once it is not 0.
        let tag = self.tag.load(Ordering::Relaxed);
        if tag & USED == 0 {
            return None;
        }
        let length = usize::try_from((tag >> LENGTH_SHIFT) & 0x3F)
            .unwrap_or(0)
            .min(KIND_BYTES_MAX);
        Some(ShortText::of(&self.bytes()[..length]))
    }

    fn write(&self, name: &str) {
        let mut bytes = [0_u8; KIND_BYTES_MAX];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        for (word, chunk) in self.name.iter().zip(bytes.as_chunks::<8>().0) {
            // ORDERING: published by [kinds.ready].
            word.store(u64::from_le_bytes(*chunk), Ordering::Relaxed);
        }
        let order = if cfg!(qtf_mutant = "kinds_name_without_release") {
            // ORDERING: a mutant.
            Ordering::Relaxed
        } else {
            // ORDERING: [kinds.ready] Release pairs with the Acquire in `name`.
            Ordering::Release
        };
        // ORDERING: as chosen above.
        self.ready.store(1, order);
    }
}

fn tag_of(name: &str) -> Option<u64> {
    let length = u64::try_from(name.len()).ok()?;
    if name.is_empty() || name.len() > KIND_BYTES_MAX {
        return None;
    }
    Some(USED | (length << LENGTH_SHIFT) | (hash_of(name) & HASH_MASK))
}

/// INVARIANT: the table has 256 entries, see `RegionTable`.
fn number(index: usize) -> KindIndex {
    u16::try_from(index)
        .ok()
        .and_then(|index| KindIndex::new_checked(index, KINDS_COUNT))
        .unwrap_or(KindIndex::NONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<KindEntry> {
        let entry = || KindEntry {
            tag: AtomicU64::new(0),
            name: Default::default(),
            ready: AtomicU64::new(0),
        };
        (0..KINDS_COUNT).map(|_| entry()).collect()
    }

    #[test]
    fn entries_that_are_kept_for_others_stay_free() {
        let entries = entries();
        let table = KindTable::new(&entries);
        table.intern(KIND_EXEC).unwrap();
        let named = (0..KINDS_COUNT)
            .take_while(|number| table.intern_keeping(&format!("kind {number}"), 16).is_ok())
            .count();
        assert_eq!(named, 255 - 1 - 16);
        assert_eq!(table.intern_keeping(KIND_EXEC, 16).unwrap().get(), 1);
        assert_eq!(table.intern_keeping("kind 0", 16).unwrap().get(), 2);
        for number in 0..16 {
            assert!(table.intern(&format!("other {number}")).is_ok(), "{number}");
        }
        assert!(table.intern("one more").is_err());
    }

    #[test]
    fn same_name_gets_the_same_number_and_another_name_another() {
        let entries = entries();
        let table = KindTable::new(&entries);
        let exec = table.intern(KIND_EXEC).unwrap();
        assert_eq!(exec.get(), 1);
        assert_eq!(table.intern("render").unwrap().get(), 2);
        assert_eq!(table.intern(KIND_EXEC).unwrap(), exec);
        assert_eq!(table.find("render").map(KindIndex::get), Some(2));
        assert_eq!(table.find("nothing"), None);
        assert_eq!(table.name(exec).as_deref(), Some("exec"));
        assert_eq!(table.iter().count(), 2);
    }

    #[test]
    fn table_takes_255_kinds_and_refuses_the_next() {
        let entries = entries();
        let table = KindTable::new(&entries);
        for number in 1..KINDS_COUNT {
            table.intern(&format!("kind {number}")).unwrap();
        }
        assert_eq!(
            table.intern("one more"),
            Err(KindsFull::Full("one more".to_owned()))
        );
        assert!(table.intern("kind 255").is_ok());
    }

    #[test]
    fn names_that_are_empty_or_too_long_are_refused() {
        let entries = entries();
        let table = KindTable::new(&entries);
        assert!(table.intern("").is_err());
        assert!(table.intern(&"x".repeat(49)).is_err());
        let longest = "x".repeat(48);
        let index = table.intern(&longest).unwrap();
        assert_eq!(table.name(index), Some(longest));
    }

    #[test]
    fn name_whose_writer_died_is_written_by_the_next() {
        let entries = entries();
        let table = KindTable::new(&entries);
        entries[1]
            .tag
            .store(tag_of("render").unwrap(), Ordering::Relaxed);
        assert_eq!(table.find("render"), None);
        assert_eq!(table.intern("other").unwrap().get(), 2);
        assert_eq!(table.intern("render").unwrap().get(), 1);
        assert_eq!(table.find("render").map(KindIndex::get), Some(1));
    }

    #[test]
    fn any_words_read_as_some_names() {
        let entries = entries();
        let table = KindTable::new(&entries);
        fastrand::seed(4);
        for _ in 0..200 {
            for entry in &entries {
                entry.tag.store(fastrand::u64(..), Ordering::Relaxed);
                entry.ready.store(fastrand::u64(0..2), Ordering::Relaxed);
                for word in &entry.name {
                    word.store(fastrand::u64(..), Ordering::Relaxed);
                }
            }
            let _ = (
                table.iter().count(),
                table.find("exec"),
                table.intern("exec"),
            );
        }
    }
}
