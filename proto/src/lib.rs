//! Messages and services of Quantum Taskflow, version 1.
//!
//! The `.proto` files under `proto/` are the contract with programs in any language; this crate is
//! their Rust form, generated at build time, [`codec`] reads them from frames, and [`wire`] those that come with every task. [`address`] says where a daemon is, [`instance`]
//! which files an instance has, [`folder`] whether the folder of its socket is the user's own, [`hashing`] how ids are hashed; [`channel`] (feature `channel`) opens a
//! connection to it; [`transport`] is what calls go over.

pub mod address;
#[cfg(feature = "channel")]
pub mod channel;
pub mod codec;
pub mod folder;
pub mod hashing;
pub mod instance;
pub mod limits;
pub mod refusal;
#[cfg(feature = "channel")]
mod silence;
#[cfg(feature = "channel")]
pub mod transport;
pub mod version;
pub mod wire;

/// Package `qtf.v1`.
#[expect(
    missing_docs,
    unused_qualifications,
    clippy::doc_markdown,
    clippy::missing_errors_doc,
    clippy::struct_excessive_bools,
    clippy::too_many_lines,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated code; the .proto files hold the documentation"
)]
pub mod v1 {
    tonic::include_proto!("qtf.v1");
}

/// The servers of package `qtf.v1` for who reads and writes frames himself: those of [`v1`], with the types of [`wire`] in the streams
/// that carry tasks.
#[expect(
    unused_qualifications,
    clippy::doc_markdown,
    clippy::too_many_lines,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated code; the .proto files hold the documentation"
)]
pub mod served {
    include!(concat!(env!("OUT_DIR"), "/served/qtf.v1.rs"));
}

/// The compiled descriptors of all `.proto` files, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
