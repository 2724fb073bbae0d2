//! Why the journal has no further file, where refusals for lack of room find it.
//!
//! The engine refuses without knowing the disk; whoever passes its refusal on adds what is wrong there and where. Of the
//! daemon's thread, as the core is. Tested in `tests/daemon/full_disk.rs`.

use std::cell::RefCell;
use std::path::Path;

use qtf_journal::JournalError;

thread_local! {
    static SHORTAGE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Notes why there is no file, or that there is one.
pub(super) fn note(why: Option<&str>) {
    SHORTAGE.with_borrow_mut(|shortage| *shortage = why.map(str::to_owned));
}

/// Adds it to the text of a refusal.
pub(crate) fn explain(text: String) -> String {
    SHORTAGE.with_borrow(|shortage| match shortage {
        Some(why) => format!("{text} ({why})"),
        None => text,
    })
}

/// What is wrong, in which folder, and how much is needed there.
pub(crate) fn text(error: &JournalError, data_dir: &Path, file_bytes: u64) -> String {
    let folder = data_dir.display();
    if !error.is_disk_full() {
        return format!("data folder {folder}: {error}");
    }
    if let JournalError::NoRoomForSnapshot {
        file_bytes,
        snapshot_bytes,
        free_bytes,
    } = error
    {
        return format!(
            "the disk of data folder {folder} is full: a journal file needs {file_bytes} bytes (journal_file_bytes) and the next snapshot up to {snapshot_bytes}, {free_bytes} are free"
        );
    }
    let free = match nix::sys::statvfs::statvfs(data_dir) {
        Ok(disk) => format!(
            "{} are free",
            disk.blocks_available() * disk.fragment_size()
        ),
        Err(_) => "fewer are free".to_owned(),
    };
    format!(
        "the disk of data folder {folder} is full: a journal file needs {file_bytes} bytes (journal_file_bytes), {free}"
    )
}
