//! System calls and what wraps them; the only place of this crate with `unsafe`.
//!
//! - `activation`: sockets that the service manager hands over
//! - `affinity`: which cores there are, pinning the thread to one
//! - `descriptors`: what another process has open
//! - `desk`: where edge threads have the core's thread run something
//! - `ear`: the doorbell in the poll of the runtime
//! - `lock_file`: one daemon for each name and data folder
//! - `peer`: who is at the other end of a socket, and when that process ends
//! - `polled`: a socket in the poll of the runtime
//! - `process`: other processes by pidfd
//! - `ring`: the `io_uring` runtime, or why there is none
//! - `socket_op`: accept, receive and send as `io_uring` operations
//! - `synced_write`: a write that is stable when it is answered

pub(crate) mod activation;
pub(crate) mod affinity;
pub(crate) mod descriptors;
pub(crate) mod desk;
pub(crate) mod ear;
pub(crate) mod lock_file;
pub(crate) mod peer;
pub(crate) mod polled;
pub(crate) mod process;
pub(crate) mod ring;
pub(crate) mod socket_op;
pub(crate) mod synced_write;
