//! The cgroups of a worker: one for the worker's tasks, in it one for each attempt that runs, and some for the next (`spares`). Files of the
//! kernel, version 2.
//!
//! Invariants:
//! - C1: a process of an attempt is born in the attempt's cgroup, and what it starts is born there too, whatever session or group it takes.
//! - C2: the folder of a worker is locked while the worker or its guard lives. One that is not locked is what a worker and its
//!   guard left that were killed together: the next worker locks it, ends what is in it and removes it. One that is just being made is
//!   not locked either, and has nothing in it: who made it and finds it taken makes another.
//!
//! Tested at the end of the file, and through `exec`.

use core::time::Duration;
use std::ffi::CString;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::place::{KILL, Place, remove};
use super::spares::Spares;
use crate::sys::{self, Guard};

const PREFIX: &str = "qtf-";
// LIMIT: folders that others took in the moment in which they were made, each for the last one of another worker that started just then.
const TAKEN_MAX: u32 = 256;
/// Between two looks whether a killed cgroup is empty.
const PAUSE: Duration = Duration::from_millis(2);

/// The cgroup for the tasks of this process, while there is one.
#[derive(Debug)]
pub(crate) struct Home {
    /// This process.
    worker: OwnedFd,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    open: Option<Open>,
    /// Workers of this process that may run programs.
    workers: usize,
    next: u64,
}

#[derive(Debug)]
struct Open {
    path: PathBuf,
    /// Locked as long as it is open here or in the guard.
    folder: File,
    guard: Guard,
    spares: Arc<Spares>,
}

impl Home {
    /// Makes it, below the cgroup that this process is in, or says why it cannot be.
    pub(crate) fn open() -> Result<Self, String> {
        let worker = sys::open_process(nix::unistd::getpid());
        let worker = worker.map_err(|error| format!("pidfd: {error}"))?;
        let open = Some(Open::new(&worker)?);
        Ok(Self {
            worker,
            state: Mutex::new(State {
                open,
                workers: 0,
                next: 0,
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more worker of this process begins.
    pub(crate) fn enter(&self) {
        self.state().workers += 1;
    }

    /// A worker of this process has ended. With the last one nothing is left: no folder and no guard.
    pub(crate) fn leave(&self) {
        let mut state = self.state();
        state.workers = state.workers.saturating_sub(1);
        if state.workers == 0
            && let Some(open) = state.open.take()
        {
            open.close();
        }
    }

    /// A cgroup in it that is as the kernel makes them, and a guard that lives.
    pub(crate) fn make(&self) -> io::Result<Cgroup> {
        let mut state = self.state();
        match state.make(&self.worker) {
            // An empty cgroup can be removed by whoever may: an administrator, a service manager that tidies up.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if let Some(open) = state.open.take_if(|open| !open.path.exists()) {
                    tracing::warn!(path = %open.path.display(), "the cgroup of this worker's tasks was removed, making another");
                    open.close();
                }
                state.make(&self.worker)
            }
            made => made,
        }
    }
}

impl State {
    /// One that was kept, or a new one.
    fn make(&mut self, worker: &OwnedFd) -> io::Result<Cgroup> {
        self.next += 1;
        let name = format!("task-{}", self.next);
        let open = self.live(worker)?;
        let spares = Arc::clone(&open.spares);
        let place = match spares.take() {
            Some(place) => place,
            None => spares.watched(Place::make(open.path.join(name))?),
        };
        let place = Some(place);
        Ok(Cgroup { place, spares })
    }

    /// The folder, made again if it was closed, and guarded again if the guard was killed.
    fn live(&mut self, worker: &OwnedFd) -> io::Result<&Open> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => Open::new(worker).map_err(io::Error::other)?,
        };
        if !open.guard.is_alive() {
            let lost = open.guard.pid();
            tracing::warn!(pid = %lost, "the guard of this worker's tasks was killed, starting another");
            match start_guard(worker, &open.folder, &open.path) {
                Ok(guard) => open.guard = guard,
                Err(error) => {
                    self.open = Some(open);
                    return Err(error);
                }
            }
        }
        Ok(self.open.insert(open))
    }
}

impl Open {
    fn new(worker: &OwnedFd) -> Result<Self, String> {
        let above = own_folder()?;
        end_what_nobody_has(&above);
        let (path, folder) = locked_folder(&above)?;
        let failed = |what: &Path, error: &dyn std::fmt::Display| {
            let _ = fs::remove_dir(&path);
            format!("{}: {error}", what.display())
        };
        // Kernels before 5.14 do not have it.
        let kill = path.join(KILL);
        let opened = fs::OpenOptions::new().write(true).open(&kill);
        opened.map_err(|error| failed(&kill, &error))?;
        let guard = start_guard(worker, &folder, &path);
        let guard = guard.map_err(|error| failed(Path::new("guard"), &error))?;
        Ok(Self {
            path,
            folder,
            guard,
            spares: Arc::new(Spares::new()),
        })
    }

    fn close(self) {
        self.spares.clear();
        if remove(&self.path).is_ok() {
            self.guard.end();
        }
        // Else something is in it that takes its time to end: that is the guard's.
    }
}

/// A new folder that is locked, and so nobody else's.
fn locked_folder(above: &Path) -> Result<(PathBuf, File), String> {
    let pid = std::process::id();
    for _ in 0..TAKEN_MAX {
        let path = above.join(format!("{PREFIX}{pid}-{:08x}", fastrand::u32(..)));
        let failed = |error: io::Error| format!("{}: {error}", path.display());
        fs::create_dir(&path).map_err(failed)?;
        let folder = match File::open(&path) {
            Err(_) if !path.exists() => continue,
            opened => opened.map_err(failed)?,
        };
        match folder.try_lock() {
            // Whoever takes it removes it.
            Err(TryLockError::WouldBlock) => continue,
            Err(TryLockError::Error(error)) => {
                let _ = fs::remove_dir(&path);
                return Err(failed(error));
            }
            Ok(()) => {}
        }
        // It was perhaps taken and removed before it was locked. From here on nobody does.
        if path.exists() {
            return Ok((path, folder));
        }
    }
    let above = above.display();
    Err(format!(
        "{above}: each of {TAKEN_MAX} new folders was taken by another process"
    ))
}

fn start_guard(worker: &OwnedFd, folder: &File, path: &Path) -> io::Result<Guard> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    sys::start_guard(worker.as_fd(), folder.as_fd(), &path)
}

/// The cgroup of one attempt. When it is dropped and empty by then it is removed; else by the guard.
#[derive(Debug)]
pub(crate) struct Cgroup {
    /// There until it has ended.
    place: Option<Place>,
    spares: Arc<Spares>,
}

impl Cgroup {
    /// Its folder, which is there until it has ended.
    pub(crate) fn folder(&self) -> io::Result<BorrowedFd<'_>> {
        let place = self.place.as_ref();
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        place.map(Place::folder).ok_or_else(gone)
    }

    /// Kills whatever is in it.
    pub(crate) fn kill(&self) {
        if let Some(place) = &self.place {
            place.kill();
        }
    }

    /// Kills what is in it until nothing is. Then it is the next attempt's, or gone.
    pub(crate) async fn end(&mut self) {
        while !self.has_ended() {
            self.kill();
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Whether nothing is in it; then it is here no more.
    pub(crate) fn has_ended(&mut self) -> bool {
        let Some(place) = self.place.take() else {
            return true;
        };
        self.place = match place.is_empty() {
            Ok(true) => self.spares.keep(place).err(),
            Ok(false) => Some(place),
            // Somebody has removed it, or there is no descriptor to look with. Then it is removed if it is empty.
            Err(_) => self.spares.discard(place).err(),
        };
        self.place.is_none()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            // What is in it is the guard's to end.
            let _ = self.spares.discard(place);
        }
    }
}

/// Ends and removes the folders of workers that are gone with their guards.
fn end_what_nobody_has(above: &Path) {
    let entries = fs::read_dir(above).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name();
        if !name.as_bytes().starts_with(PREFIX.as_bytes()) {
            continue;
        }
        let path = entry.path();
        let Ok(folder) = File::open(&path) else {
            continue;
        };
        // Ours until it is removed, or whoever makes it would find it free and have it removed under him.
        if folder.try_lock().is_ok() {
            tracing::info!(path = %path.display(), "ending what a killed worker left");
            let killed = fs::write(path.join(KILL), "1");
            // What is not empty yet is the next one's.
            if let Err(error) = killed.and_then(|()| remove(&path)) {
                tracing::debug!(%error, path = %path.display(), "it is not gone yet");
            }
        }
    }
}

/// The folder of the cgroup that this process is in.
fn own_folder() -> Result<PathBuf, String> {
    let read = |file: &str| fs::read_to_string(file).map_err(|error| format!("{file}: {error}"));
    let mounts = read("/proc/self/mountinfo")?;
    let (root, mounted) =
        mount_of(&mounts).ok_or("no cgroup file system of version 2 is mounted")?;
    let cgroups = read("/proc/self/cgroup")?;
    let own = cgroups.lines().find_map(|line| line.strip_prefix("0::"));
    let own = Path::new(own.ok_or("this process is in no cgroup of version 2")?);
    let below = own
        .strip_prefix(&root)
        .map_err(|_| format!("the cgroup {} is not mounted", own.display()))?;
    Ok(mounted.join(below))
}

/// Root and place of the first mount of version 2.
fn mount_of(mounts: &str) -> Option<(PathBuf, PathBuf)> {
    let line = mounts.lines().find(|line| {
        let rest = line.split_once(" - ").map_or("", |(_, rest)| rest);
        rest.split(' ').next() == Some("cgroup2")
    })?;
    let mut fields = line.split(' ').skip(3);
    Some((fields.next()?.into(), fields.next()?.into()))
}

#[cfg(test)]
mod tests {
    use super::super::spares::SPARES_MAX;
    use super::*;

    #[test]
    fn mount_is_the_first_of_version_2() {
        let mounts = "30 23 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
                      31 30 0:27 / /sys/fs/cgroup/pids rw shared:5 - cgroup cgroup rw,pids\n\
                      32 30 0:28 /inner /sys/fs/cgroup/unified rw shared:6 - cgroup2 cgroup2 rw\n";
        let (root, mounted) = mount_of(mounts).unwrap();
        assert_eq!(root, Path::new("/inner"));
        assert_eq!(mounted, Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(mount_of("30 23 0:26 / /sys ro - sysfs sysfs ro\n"), None);
    }

    #[test]
    fn cgroup_that_is_gone_is_as_good_as_removed() {
        let folder = tempfile::tempdir().unwrap();
        assert!(remove(&folder.path().join("gone")).is_ok());
    }

    /// A process in a cgroup, which dies with the test at the latest.
    fn process_in(folder: &Path) -> std::process::Child {
        let mut sleep = std::process::Command::new("sleep");
        let child = sleep.arg("1000").spawn().unwrap();
        fs::write(folder.join("cgroup.procs"), child.id().to_string()).unwrap();
        child
    }

    /// A cgroup for the folders of one test, which no worker looks into.
    struct Above(PathBuf);

    impl Above {
        fn new() -> Self {
            let name = format!("test-{}-{:08x}", std::process::id(), fastrand::u32(..));
            let path = own_folder().unwrap().join(name);
            fs::create_dir(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Above {
        fn drop(&mut self) {
            let _ = remove(&self.0);
        }
    }

    #[test]
    fn folder_that_is_being_made_is_not_what_somebody_left_however_many_workers_start_at_once() {
        if qtf_needs::lacks(qtf_needs::Need::Cgroup) {
            return;
        }
        let above = Above::new();
        // Each that makes folders has one, on whatever way it ends.
        let all = Arc::new(());
        let making = Arc::downgrade(&all);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let (mine, above) = (Arc::clone(&all), &above);
                scope.spawn(move || {
                    let _mine = mine;
                    for _ in 0..500 {
                        let (path, _lock) = locked_folder(&above.0).unwrap();
                        // As for an attempt.
                        let inner = path.join("task-1");
                        fs::create_dir(&inner).unwrap();
                        fs::remove_dir(&inner).unwrap();
                        fs::remove_dir(&path).unwrap();
                    }
                });
            }
            drop(all);
            for _ in 0..4 {
                scope.spawn(|| {
                    while making.strong_count() > 0 {
                        end_what_nobody_has(&above.0);
                    }
                });
            }
        });
    }

    #[test]
    fn what_a_worker_and_its_guard_left_is_ended_by_the_next_worker_and_what_lives_is_not() {
        if qtf_needs::lacks(qtf_needs::Need::Cgroup) {
            return;
        }
        let above = Above::new();
        let [(dead, its_lock), (alive, _lock)] = [(); 2].map(|()| locked_folder(&above.0).unwrap());
        let inner = dead.join("task-1");
        fs::create_dir(&inner).unwrap();
        let mut left = process_in(&inner);
        let mut kept = process_in(&alive);
        drop(its_lock);
        // A process that another test forks has the lock too until it has closed what it inherited. And the first look may come
        // before the last process is gone.
        while dead.exists() {
            end_what_nobody_has(&above.0);
        }
        assert!(!left.wait().unwrap().success());
        assert!(kept.try_wait().unwrap().is_none(), "it has an owner");
        kept.kill().unwrap();
        kept.wait().unwrap();
        remove(&alive).unwrap();
    }

    #[test]
    fn guard_that_is_killed_is_replaced_before_the_next_attempt_and_the_last_worker_leaves_nothing()
    {
        if qtf_needs::lacks(qtf_needs::Need::Cgroup) {
            return;
        }
        let home = Home::open().unwrap();
        home.enter();
        home.enter();
        let seen = |home: &Home| {
            let state = home.state();
            let open = state.open.as_ref().unwrap();
            (open.guard.pid(), open.path.clone())
        };
        let (first, path) = seen(&home);
        nix::sys::signal::kill(first, nix::sys::signal::Signal::SIGKILL).unwrap();
        let flags = nix::sys::wait::WaitPidFlag::WEXITED | nix::sys::wait::WaitPidFlag::WNOWAIT;
        nix::sys::wait::waitid(nix::sys::wait::Id::Pid(first), flags).unwrap();
        drop(home.make().unwrap());
        let (second, _) = seen(&home);
        assert_ne!(first, second);
        home.leave();
        assert!(path.exists(), "another worker is there");
        home.leave();
        assert!(!path.exists());
        let is_there = nix::sys::signal::kill(second, None);
        assert_eq!(is_there, Err(nix::errno::Errno::ESRCH));
        drop(home.make().unwrap());
        home.leave();
    }

    #[test]
    fn home_that_somebody_removed_is_made_again_for_the_next_attempt() {
        if qtf_needs::lacks(qtf_needs::Need::Cgroup) {
            return;
        }
        let home = Home::open().unwrap();
        home.enter();
        let path_of = |home: &Home| home.state().open.as_ref().unwrap().path.clone();
        let first = path_of(&home);
        fs::remove_dir(&first).unwrap();
        let cgroup = home.make().unwrap();
        let second = path_of(&home);
        assert_ne!(first, second);
        drop(cgroup);
        home.leave();
        assert!(!second.exists());
    }

    impl Cgroup {
        fn path(&self) -> PathBuf {
            self.place.as_ref().unwrap().path().to_owned()
        }
    }

    /// A home of the test's own, which nobody else takes from.
    fn home() -> Option<Home> {
        if qtf_needs::lacks(qtf_needs::Need::Cgroup) {
            return None;
        }
        let home = Home::open().unwrap();
        home.enter();
        Some(home)
    }

    #[tokio::test]
    async fn cgroup_that_was_left_as_it_was_made_is_the_next_attempt_s() {
        let Some(home) = home() else { return };
        let (mut first, mut second) = (home.make().unwrap(), home.make().unwrap());
        let paths = [first.path(), second.path()];
        assert_ne!(paths[0], paths[1], "both are in use");
        first.end().await;
        for _ in 0..3 {
            let mut next = home.make().unwrap();
            assert_eq!(next.path(), paths[0]);
            next.end().await;
        }
        second.end().await;
        home.leave();
        assert!(paths.iter().all(|path| !path.parent().unwrap().exists()));
    }

    type Touch = fn(&Path);

    /// What a program may do to its cgroup, and would do to the next one in it.
    const TOUCHES: [(&str, Touch); 7] = [
        ("limit", |path| {
            fs::write(path.join("cgroup.max.depth"), "3").unwrap();
        }),
        ("freezer", |path| {
            fs::write(path.join("cgroup.freeze"), "1").unwrap();
        }),
        ("inner cgroup", |path| {
            fs::create_dir(path.join("inner")).unwrap();
        }),
        ("inner cgroup that is gone", |path| {
            fs::create_dir(path.join("inner")).unwrap();
            fs::remove_dir(path.join("inner")).unwrap();
        }),
        ("permissions", |path| {
            let nobody = std::os::unix::fs::PermissionsExt::from_mode(0o0);
            fs::set_permissions(path.join("cgroup.procs"), nobody).unwrap();
        }),
        ("removal by somebody else", |path| {
            fs::remove_dir(path).unwrap();
        }),
        ("file that is open", |path| {
            File::open(path.join("cgroup.max.depth")).unwrap();
        }),
    ];

    #[tokio::test]
    async fn cgroup_that_somebody_touched_is_no_other_attempt_s_and_is_removed() {
        let Some(home) = home() else { return };
        for (what, touch) in TOUCHES {
            let mut cgroup = home.make().unwrap();
            let in_use = cgroup.path();
            touch(&in_use);
            cgroup.end().await;
            assert!(!in_use.exists(), "{what}, in use");

            let mut cgroup = home.make().unwrap();
            let spare = cgroup.path();
            cgroup.end().await;
            assert!(spare.exists(), "{what}");
            touch(&spare);
            let mut next = home.make().unwrap();
            assert_ne!(next.path(), spare, "{what}, spare");
            assert!(!spare.exists(), "{what}, spare");
            next.end().await;
        }
        home.leave();
    }

    /// Starts a program in it, which touches nothing.
    fn program_in(cgroup: &Cgroup, arguments: &[&str]) -> nix::unistd::Pid {
        let nothing = File::options().read(true).write(true).open("/dev/null");
        let nothing = nothing.unwrap();
        let arguments = arguments.iter().map(|word| CString::new(*word).unwrap());
        let arguments: Vec<CString> = arguments.collect();
        let program = sys::Program {
            files: ["/bin/", "/usr/bin/"]
                .map(|folder| {
                    CString::new([folder.as_bytes(), arguments[0].as_bytes()].concat()).unwrap()
                })
                .to_vec(),
            arguments,
            environment: Vec::new(),
            directory: None,
        };
        let stdio = sys::Stdio {
            stdin: nothing.as_fd(),
            stdout: nothing.as_fd(),
            stderr: nothing.as_fd(),
        };
        let enclosure = sys::Enclosure::Cgroup(cgroup.folder().unwrap());
        sys::launch(&program, stdio, enclosure).unwrap()
    }

    #[tokio::test]
    async fn cgroup_is_the_next_attempt_s_when_its_program_has_ended_and_gone_when_it_had_to_be_killed()
     {
        use nix::sys::wait::{WaitStatus, waitpid};
        let Some(home) = home() else { return };
        let mut cgroup = home.make().unwrap();
        let path = cgroup.path();
        let ended = program_in(&cgroup, &["true"]);
        assert_eq!(waitpid(ended, None), Ok(WaitStatus::Exited(ended, 0)));
        cgroup.end().await;
        let mut cgroup = home.make().unwrap();
        assert_eq!(cgroup.path(), path);
        let left = program_in(&cgroup, &["sleep", "1000"]);
        cgroup.end().await;
        let killed = WaitStatus::Signaled(left, nix::sys::signal::Signal::SIGKILL, false);
        assert_eq!(waitpid(left, None), Ok(killed));
        assert!(!path.exists());
        home.leave();
    }

    #[tokio::test]
    async fn spare_cgroup_that_somebody_removed_is_not_missed() {
        let Some(home) = home() else { return };
        let mut cgroup = home.make().unwrap();
        let path = cgroup.path();
        cgroup.end().await;
        fs::remove_dir(&path).unwrap();
        let mut next = home.make().unwrap();
        assert!(next.path().exists());
        next.end().await;
        home.leave();
    }

    #[tokio::test]
    async fn few_cgroups_are_kept_however_many_ran_at_once_and_none_when_the_last_worker_has_left()
    {
        let Some(home) = home() else { return };
        let mut all: Vec<Cgroup> = Vec::new();
        for _ in 0..SPARES_MAX + 5 {
            all.push(home.make().unwrap());
        }
        let folder = all[0].path().parent().unwrap().to_owned();
        for cgroup in &mut all {
            cgroup.end().await;
        }
        let entries = fs::read_dir(&folder).unwrap().flatten();
        let kept = entries.filter(|entry| entry.file_type().unwrap().is_dir());
        assert_eq!(kept.count(), SPARES_MAX);
        let mut late = home.make().unwrap();
        let running = program_in(&late, &["sleep", "1000"]);
        home.leave();
        assert!(late.path().exists(), "it is in use");
        nix::sys::signal::kill(running, nix::sys::signal::Signal::SIGKILL).unwrap();
        nix::sys::wait::waitpid(running, None).unwrap();
        late.end().await;
        // Nothing is in it any more.
        fs::remove_dir(&folder).unwrap();
    }
}
