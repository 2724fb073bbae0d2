//! Sizes that clients, workers and the daemon agree on.

/// Largest message that is decoded.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Entries in one batch.
pub const BATCH_ENTRIES_MAX: usize = 1024;
/// Payload or output inside a message; larger ones travel in chunks.
pub const INLINE_BYTES_MAX: usize = 64 << 10;
/// Bytes in one chunk of an upload or a download.
pub const CHUNK_BYTES: usize = 64 << 10;
/// Bytes of an idempotency key.
pub const KEY_BYTES: usize = 16;
