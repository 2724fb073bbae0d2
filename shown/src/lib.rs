//! How text of others is shown: names, commands and reasons come from any client or worker, and go to terminals, logs and
//! programs.
//!
//! One rule: a character that nobody sees and that changes what is seen ([`text::is_hidden`]) is never written as it is.
//! People get a visible escape in its place ([`text::visible`]); programs get JSON in which it is escaped as JSON escapes
//! ([`json::write`]), so that whoever parses it has the very characters back; whoever pastes a command into a shell gets
//! the shell's escape ([`command::CommandLine`]). All other characters are written as they are.
//!
//! What is kept, sent and compared is never escaped: that is for the last step before the output alone.
//! Tested at the end of the files by properties, and through whole programs in `tests/tests/shown_text.rs`.

pub mod command;
pub mod json;
pub mod text;
