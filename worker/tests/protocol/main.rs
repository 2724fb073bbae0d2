//! The worker against a daemon that does what each test tells it: the library's side of the protocol in
//! `session`, the program `qtf-worker` in `program`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod fake_daemon;
mod program;
mod session;
