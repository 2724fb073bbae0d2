//! What payloads take of the arena, by principal: counted as long as their task is there, by the client that its slot names.
//!
//! Counted are the payloads that lie in the arena and the side records, each as large as its chunk, against what submissions may have of it. Results are not:
//! those that find no room go to a file. What is counted for a task follows from its slot and stays as it is from its submission until it is freed; so the
//! counts are made anew at a start, and nothing is kept for each task. Shares are of blocks, as bytes fill them: one who leaves a chunk in each block keeps
//! more of them from others than is counted for it.
//! Tested in `engine/tests/rules/shares.rs`.

use qtf_shm::{BlobRef, ClientIndex, Segment, TaskOptions, TaskSlot};

use super::Clients;
use crate::rejection::{Detail, RejectReason, Rejection};
use crate::shares::{ShareRule, ShareUsedUp, Usage};

/// The arena's smallest chunk; each larger one is twice the one before.
const CHUNK_BYTES_MIN: u64 = 64;
/// LIMIT: as much as a payload has in the slot itself.
const IN_SLOT_BYTES_MAX: u64 = 64;
/// LIMIT: more goes to a file.
const IN_ARENA_BYTES_MAX: u64 = 64 << 10;
/// A side record has a chunk of this size at most.
const SIDE_BYTES: u64 = 128;
const BLOCK_BYTES: u64 = 64 << 10;

/// What a submission with such a payload, and perhaps a side record, takes of the arena.
pub(crate) const fn arena_bytes_of(payload_bytes: u64, has_side: bool) -> u64 {
    let chunk = match payload_bytes {
        0..=IN_SLOT_BYTES_MAX => 0,
        bytes if bytes > IN_ARENA_BYTES_MAX => 0,
        bytes if bytes < CHUNK_BYTES_MIN => CHUNK_BYTES_MIN,
        bytes => bytes.next_power_of_two(),
    };
    if has_side { chunk + SIDE_BYTES } else { chunk }
}

/// What a task takes.
pub(crate) fn arena_bytes(task: &TaskSlot) -> u64 {
    let payload = match task.payload() {
        BlobRef::Arena { len, .. } => u64::from(len),
        BlobRef::None | BlobRef::Inline { .. } | BlobRef::Spill { .. } => 0,
    };
    arena_bytes_of(payload, task.side_unit().is_some())
}

impl Clients {
    /// Counts what the tasks of a segment take, at a start. Without any chunk in the arena there is nothing to count, and no walk over all slots.
    pub(super) fn count_arena(&mut self, segment: &Segment) {
        let usage = segment.arena_usage();
        if usage.classes.iter().all(|class| class.chunks_used == 0) {
            return;
        }
        for slot in segment.allocated_slots(0..segment.high_water()) {
            let task = segment.task(slot);
            if task.options().has(TaskOptions::TELLS_LANE) && !task.state().phase().is_final() {
                // Counted with its end.
                continue;
            }
            self.arena_taken(task.client(), arena_bytes(task));
        }
    }

    /// A task has come that takes so much.
    #[inline]
    pub(crate) fn arena_taken(&mut self, client: ClientIndex, bytes: u64) {
        if bytes > 0
            && let Some(held) = self.arena.get_mut(client.position())
        {
            *held = held.saturating_add(bytes);
            self.shares.add_arena(self.holder_of(client), bytes);
        }
    }

    /// A task is gone that took so much.
    #[inline]
    pub(crate) fn arena_given_back(&mut self, client: ClientIndex, bytes: u64) {
        if bytes > 0
            && let Some(held) = self.arena.get_mut(client.position())
        {
            // What local processes have submitted is counted at a start only.
            let bytes = bytes.min(*held);
            *held = held.saturating_sub(bytes);
            self.shares.remove_arena(self.holder_of(client), bytes);
        }
    }

    /// Says whose share of the arena is used up.
    pub(crate) fn check_arena_share(
        &self,
        segment: &Segment,
        client: ClientIndex,
        more: u64,
    ) -> Result<(), Rejection> {
        if more == 0 {
            return Ok(());
        }
        let holder = self.shares.of(self.holder_of(client));
        let blocks = u64::from(segment.blocks_for_submissions());
        let size = blocks.saturating_mul(BLOCK_BYTES);
        let in_blocks = |bytes: u64| bytes.saturating_add(more).div_ceil(BLOCK_BYTES);
        let total = self.shares.total().arena;
        // A block is for chunks of one size, so the last one is left whole.
        let usage = Usage {
            held: in_blocks(holder.arena),
            used: in_blocks(total),
            size: blocks,
        };
        // Whether there is room at all the arena finds out.
        let is_full = usage.used > blocks || self.shares.rule == ShareRule::Whole;
        if is_full || holder.arena == 0 || self.shares.rule.allows(usage, 0) {
            return Ok(());
        }
        let used_up = ShareUsedUp {
            principal: holder.principal,
            held: holder.arena,
            size,
            what: "bytes for payloads in the arena",
            until: "room is free again as its tasks end and are forgotten, or their results expire; payloads of more than 64 KiB go to files",
        };
        Err(Rejection::for_now(
            RejectReason::ArenaFull,
            Detail::Share(used_up),
        ))
    }
}
