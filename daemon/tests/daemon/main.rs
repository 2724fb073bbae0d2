//! The daemon as its peers see it: real sockets, raw generated clients, each test with a daemon of its own
//! on both kinds of sockets.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends where something is not as it should be"
)]

mod bounds;
mod clock;
mod data_dir;
mod dispatch;
mod earlier;
mod edge_threads;
mod faults;
mod full_disk;
mod grpc;
mod holds;
mod in_process;
mod journal;
mod listing;
mod memory;
mod neighbours;
mod no_ring;
mod origin;
mod process;
mod services;
mod sessions;
mod sockets;
mod spill;
mod start;
mod steps;
mod submit;
mod support;
mod system_calls;
mod take_over;
mod taken_away;
mod together;
mod transfer;
mod upgrade;
mod watch;
mod work;
