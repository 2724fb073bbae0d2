//! The daemon as its peers see it: real sockets, raw generated clients, each test with a daemon of its own
//! on both kinds of sockets.

mod dispatch;
mod in_process;
mod listing;
mod services;
mod sessions;
mod sockets;
mod start;
mod submit;
mod support;
mod transfer;
mod watch;
