//! Configuration: `raw` is what file and flags say, `settings` what the daemon works with, `check` stands
//! between them. `faults` is a seam for tests.
//!
//! Flags stand over the file, the file over defaults. Nothing after start sees `raw`.

mod check;
pub mod faults;
pub(crate) mod journal;
mod print;
pub mod raw;
pub mod settings;

pub use journal::JournalBackend;
pub use raw::{ConfigError, RawConfig};
pub use settings::{Core, Idle, Network, SegmentAccess, SegmentKind, Settings, SettingsError};
