//! Sizes that clients, workers and the daemon agree on.

/// Largest message that is decoded.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Entries in one batch.
pub const BATCH_ENTRIES_MAX: usize = 1024;
/// Payload or output inside a message; larger ones travel in chunks.
pub const INLINE_BYTES_MAX: usize = 64 << 10;
/// Bytes in one chunk of an upload or a download, as programs of this project send them.
pub const CHUNK_BYTES: usize = 64 << 10;
/// Bytes in one chunk of an upload that are taken.
pub const UPLOAD_CHUNK_BYTES_MAX: usize = 256 << 10;
/// Uploads that a program of this project has under way on one connection: where the disk keeps them, they fill their own windows, and leave half of
/// the connection's to its other calls.
pub const UPLOADS_AT_ONCE: usize = 2;
/// Bytes of an idempotency key.
pub const KEY_BYTES: usize = 16;

/// What both welcomes say of it.
#[must_use]
pub const fn limits() -> crate::v1::Limits {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "each is a constant far below 4 GiB"
    )]
    const fn small(limit: usize) -> u32 {
        limit as u32
    }
    crate::v1::Limits {
        batch_entries_max: small(BATCH_ENTRIES_MAX),
        chunk_bytes_max: small(UPLOAD_CHUNK_BYTES_MAX),
        inline_bytes_max: small(INLINE_BYTES_MAX),
        message_bytes_max: small(MESSAGE_BYTES_MAX),
    }
}
