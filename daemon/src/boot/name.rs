//! The name of an instance: the runtime folder, the lock file in it, and the daemon that has the name already.
//!
//! The lock decides who has it. Where the lock file was removed and made anew the lock of before is on a file that nobody
//! finds: then the segment says who its daemon is, by pid and start time. Tested at the end of this file and in
//! `tests/daemon/take_over.rs`.

use std::path::Path;

use qtf_proto::folder::OwnFolder;
use qtf_shm::SegmentView;
use qtf_shm::segment::ProcessIdentity;

use super::{BootError, lock_file_of, preflight};
use crate::config::settings::Settings;
use crate::sys::lock_file::{LockError, LockFile};
use crate::sys::process;

/// Takes the name. With `take_over` whoever has it is ended first, but only if this daemon could serve in its place.
pub(super) fn take(settings: &Settings) -> Result<LockFile, BootError> {
    prepare_runtime_dir(&settings.runtime_dir)?;
    let file = lock_file_of(settings);
    let lock = match LockFile::acquire_after_kill(&file) {
        Err(LockError::Held { pid }) if settings.take_over => {
            preflight::check(settings, pid)?;
            let (lock, from) = LockFile::take_over(&file).map_err(|error| told(settings, error))?;
            if let Some(pid) = from {
                say_taken(pid);
            }
            lock
        }
        other => other.map_err(|error| told(settings, error))?,
    };
    if let Some(daemon) = daemon_of_a_lost_lock(settings, &lock) {
        end_daemon_of_a_lost_lock(settings, daemon)?;
    }
    Ok(lock)
}

fn told(settings: &Settings, error: LockError) -> BootError {
    let instance = settings.instance.clone();
    match error {
        LockError::Held { pid } => BootError::AlreadyRunning { instance, pid },
        LockError::NotTaken { pid, why } => BootError::NotTakenOver { instance, pid, why },
        LockError::Io { file, source } => BootError::Lock { file, source },
    }
}

/// Who holds a lock, for a message: nothing where the lock file does not say.
pub(super) fn in_brackets(pid: u32) -> String {
    match pid {
        0 => String::new(),
        _ => format!(" (pid {pid})"),
    }
}

fn say_taken(pid: u32) {
    tracing::warn!(pid, "daemon of the same name killed and taken over from");
}

/// The daemon of the segment, if it lives and holds another lock file than the one that is there now.
fn daemon_of_a_lost_lock(settings: &Settings, lock: &LockFile) -> Option<ProcessIdentity> {
    let uid = nix::unistd::geteuid().as_raw();
    let view = SegmentView::attach_by_instance(&settings.instance, uid).ok()?;
    let control = view.control();
    let is_lost = lock.identity().is_some_and(|own| own != control.lock_file);
    let daemon = ProcessIdentity {
        pid: control.daemon_pid,
        start_time: control.daemon_start,
    };
    let is_other = daemon.pid != 0 && daemon != ProcessIdentity::own();
    (is_lost && is_other && daemon.is_alive()).then_some(daemon)
}

fn end_daemon_of_a_lost_lock(
    settings: &Settings,
    daemon: ProcessIdentity,
) -> Result<(), BootError> {
    let (instance, pid) = (settings.instance.clone(), daemon.pid);
    if !settings.take_over {
        return Err(BootError::AlreadyRunning { instance, pid });
    }
    preflight::check(settings, pid)?;
    process::end_known(daemon).map_err(|why| BootError::NotTakenOver { instance, pid, why })?;
    say_taken(pid);
    Ok(())
}

/// Makes the runtime folder, or checks that the one there is this user's alone.
fn prepare_runtime_dir(folder: &Path) -> Result<(), BootError> {
    let is_root = nix::unistd::geteuid().is_root();
    let mode = if is_root { 0o755 } else { 0o700 };
    match OwnFolder::make(folder, mode) {
        Ok(_) => Ok(()),
        Err(error) => Err(BootError::RuntimeDir {
            folder: folder.to_owned(),
            kind: error.kind(),
            reason: error.fault.to_string(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holder_that_is_not_known_is_not_called_process_0() {
        let told = |pid| {
            let (instance, folder) = ("a".to_owned(), "/d".into());
            let name = BootError::AlreadyRunning { instance, pid }.to_string();
            name + &BootError::DataDirInUse { folder, pid }.to_string()
        };
        assert!(!told(0).contains("pid"), "{}", told(0));
        assert_eq!(told(7).matches("(pid 7)").count(), 2, "{}", told(7));
    }

    #[test]
    fn runtime_folder_that_everybody_can_write_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("run");
        prepare_runtime_dir(&folder).unwrap();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).unwrap();
        let error = prepare_runtime_dir(&folder).unwrap_err();
        assert!(
            error.to_string().contains("can be written by everybody"),
            "{error}"
        );
    }
}
