//! What a submission says, before anything is checked.

use qtf_shm::{BlobRef, ClientIndex, KeyId, TaskId};

use crate::plm::Durability;

/// The bytes of a task's payload.
#[derive(Debug, Clone, Copy)]
pub enum Payload<'a> {
    /// To be copied into the segment.
    Bytes(&'a [u8]),
    /// In a spill file already. It becomes the task's when the submission is accepted; when it is
    /// refused it stays the caller's, who removes it.
    Stored(BlobRef),
}

/// The place of a task in an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArrayMember {
    /// The first member; `None` in the first member itself.
    pub array: Option<TaskId>,
    /// The member's index.
    pub index: u64,
}

/// What a client asks for, as it came from the wire: every field is checked here.
#[derive(Debug, Clone, Copy)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a field of the wire, asked for by itself"
)]
pub struct Submission<'a> {
    /// Who asks.
    pub client: ClientIndex,
    /// `exec` or the name of a handler; 1 to 48 bytes.
    pub kind: &'a str,
    /// What the worker gets.
    pub payload: Payload<'a>,
    /// 0 to 255, higher first; `None` means 128.
    pub priority: Option<u32>,
    /// Longest run time of one attempt; 0 = no limit.
    pub timeout_ms: u32,
    /// Attempts after the first that failures may use; 0 to 253. Lost workers use their own budget.
    pub retries: u32,
    /// Expected run time; 0 = unknown.
    pub estimate_ms: u32,
    /// Earliest start, counted from now; 0 = at once.
    pub delay_ms: u64,
    /// Not to be started until it is released.
    pub hold: bool,
    /// What is asked for.
    pub durability: Durability,
    /// A repeat of a known key gets the first task, whatever else it says.
    pub key: Option<KeyId>,
    /// How long the key is known; 0 = one hour. At most a week.
    pub key_ttl_ms: u64,
    /// The key was made up by a client library, to repeat what was not answered: it ends with the acknowledgement of its task.
    pub key_is_automatic: bool,
    /// How long its result is kept; 0 = as long as others.
    pub keep_ms: u64,
    /// Free the slot as soon as the task has succeeded.
    pub discard_result: bool,
    /// Never hand it out again once a worker may have begun it. Needs `retries` = 0.
    pub at_most_once: bool,
    /// Membership in an array.
    pub array: Option<ArrayMember>,
    /// Wall clock, for display only.
    pub submitted_unix_ms: u64,
}

impl<'a> Submission<'a> {
    /// A submission with defaults for everything but these.
    #[must_use]
    pub const fn new(client: ClientIndex, kind: &'a str, payload: Payload<'a>) -> Self {
        Self {
            client,
            kind,
            payload,
            priority: None,
            timeout_ms: 0,
            retries: 0,
            estimate_ms: 0,
            delay_ms: 0,
            hold: false,
            durability: Durability::Best,
            key: None,
            key_ttl_ms: 0,
            key_is_automatic: false,
            keep_ms: 0,
            discard_result: false,
            at_most_once: false,
            array: None,
            submitted_unix_ms: 0,
        }
    }
}
