//! The tables of names, principals, queues, shapes and lines: what a task asks for, and where it waits.
//!
//! ```text
//! name, 64 bytes                                        shape, 128 bytes
//!  0  tag      used 1 | 0 1 | length 6 | class 8 | hash 48   0  tag       used 1 | 0 63
//!  8  name     48 bytes, padded with zeros               8  links     users 32 | next alternative 16 | 0 16
//! 56  ready    bit of a label 32 | 1 when it is written  16  amounts   6 words: resource 8 | amount 56
//!              classes: 1 label, 2 resource, 3 principal,    64  required  labels, 128 bits
//!              4 queue, 5 limit                          80  forbidden labels, 128 bits
//!                                                        96  preferred labels, 128 bits
//! principal, 64 bytes; number 0: not known              112  limits    min_lifetime_ms 32 | limit 16 | limit 16
//!  0  links       name 16 | roles 16 | connections 32   120  reserved
//!  8  unfinished                                        number 0: one cpu
//! 16  kept
//! 24  bytes                                             line, 64 bytes
//! 32  submitted                                          0  tag       used 1 | 0 7 | kind 8 | queue 16 | shape 16 | 0 16
//! 40  tokens      stamp 48 | tokens 16                   8  pages     first 32 | how many 32
//! 48  refused                                           16  best      the best key in it
//! 56  reserved                                          24  counts    waiting 32 | running 32
//!                                                       32  tree      unit of its top tree 32 | 0 32
//! queue, 256 bytes                                      40  looked    stamp of the last look
//!  0  state       phase 4 | switches 4 | policy 8 | generation 48     48  reserved
//!  8  name        name 16 | weight 16 | priority 8 | 0 24
//! 16  most        running 32 | waiting 32               page of 64 slots, a word
//! 24  rate        per 1,000 s 32 | burst 32                 line 16 | next 32 | 0 16
//! 32  tokens      stamp 48 | tokens 16
//! 40  pass
//! 48  counts      running 32 | waiting 32
//! 56  defaults    timeout_ms 32 | max_attempts 8 | options 8 | 0 16
//! 64  times       keep_s 32 | ageing 32
//! 72  counters    8 counts
//! 136 reserved
//! ```
//! Invariant: no program uses them yet, so they are zero; `verify` reports what is not. Tested in `segment/tests/unused.rs`.

use crate::layout::shared::shared_layout;
use crate::sync::AtomicU64;

shared_layout! {
    /// A name with its number; see the drawing in this file's head.
    pub struct NameEntry: 64 bytes, align 64 {
        0 => tag: AtomicU64,
        8 => name: [AtomicU64; 6],
        56 => ready: AtomicU64,
    }
}

shared_layout! {
    /// Who submits, with what it has; see the drawing in this file's head.
    pub struct PrincipalEntry: 64 bytes, align 64 {
        0 => links: AtomicU64,
        8 => unfinished: AtomicU64,
        16 => kept: AtomicU64,
        24 => bytes: AtomicU64,
        32 => submitted: AtomicU64,
        40 => tokens: AtomicU64,
        48 => refused: AtomicU64,
        56 => reserved: AtomicU64,
    }
}

shared_layout! {
    /// A queue; see the drawing in this file's head.
    pub struct QueueEntry: 256 bytes, align 128 {
        0 => state: AtomicU64,
        8 => name: AtomicU64,
        16 => most: AtomicU64,
        24 => rate: AtomicU64,
        32 => tokens: AtomicU64,
        40 => pass: AtomicU64,
        48 => counts: AtomicU64,
        56 => defaults: AtomicU64,
        64 => times: AtomicU64,
        72 => counters: [AtomicU64; 8],
        136 => reserved: [AtomicU64; 15],
    }
}

shared_layout! {
    /// What tasks ask for; see the drawing in this file's head.
    pub struct ShapeEntry: 128 bytes, align 128 {
        0 => tag: AtomicU64,
        8 => links: AtomicU64,
        16 => amounts: [AtomicU64; 6],
        64 => required: [AtomicU64; 2],
        80 => forbidden: [AtomicU64; 2],
        96 => preferred: [AtomicU64; 2],
        112 => limits: AtomicU64,
        120 => reserved: AtomicU64,
    }
}

shared_layout! {
    /// Tasks of one kind, queue and shape, in order; see the drawing in this file's head.
    pub struct LineEntry: 64 bytes, align 64 {
        0 => tag: AtomicU64,
        8 => pages: AtomicU64,
        16 => best: AtomicU64,
        24 => counts: AtomicU64,
        32 => tree: AtomicU64,
        40 => looked: AtomicU64,
        48 => reserved: [AtomicU64; 2],
    }
}
