//! A cell that is entered synchronously, by one at a time.
//!
//! Invariant: nobody enters while it is entered. What would is a fault of this program, and it is not answered as if the
//! daemon were gone: a build with assertions ends there, so that each test finds it; a build without says so, and goes on.
//!
//! Tested at the end of this file.

use std::cell::RefCell;

/// What one thread enters.
#[derive(Debug)]
pub(super) struct Door<T>(RefCell<Option<T>>);

impl<T> Door<T> {
    /// Nothing is behind it.
    pub(super) const fn new() -> Self {
        Self(RefCell::new(None))
    }

    /// Puts something behind it, and gives what was there.
    pub(super) fn put(&self, what: Option<T>) -> Option<T> {
        match self.0.try_borrow_mut() {
            Ok(mut cell) => std::mem::replace(&mut *cell, what),
            Err(_) => is_entered_again(),
        }
    }

    /// Enters to change something. `None` when nothing is there.
    pub(super) fn enter<R>(&self, action: impl FnOnce(&mut T) -> R) -> Option<R> {
        match self.0.try_borrow_mut() {
            Ok(mut cell) => cell.as_mut().map(action),
            Err(_) => is_entered_again(),
        }
    }

    /// Enters to look at something. `None` when nothing is there.
    pub(super) fn look<R>(&self, action: impl FnOnce(&T) -> R) -> Option<R> {
        match self.0.try_borrow() {
            Ok(cell) => cell.as_ref().map(action),
            Err(_) => is_entered_again(),
        }
    }

    /// Whether somebody is inside. For who would only do what those inside do next anyway.
    pub(super) fn is_entered(&self) -> bool {
        self.0.try_borrow_mut().is_err()
    }
}

/// The fault that the invariant is about.
#[expect(
    clippy::print_stderr,
    reason = "the log would not be written before the end"
)]
fn is_entered_again<R>() -> Option<R> {
    let place = std::backtrace::Backtrace::force_capture();
    if cfg!(debug_assertions) {
        // Not a panic: it would be caught by the task that runs, and drop what holds the core on its way.
        eprintln!("the core is entered while it is entered: {place}");
        std::process::abort();
    }
    tracing::error!(%place, "a fault of qtfd: the core is entered while it is entered");
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHILD: &str = "QTF_TEST_ENTERS_TWICE";

    #[test]
    fn entering_while_entered_ends_a_build_with_assertions() {
        let door = Door::new();
        door.put(Some(1));
        if std::env::var_os(CHILD).is_some() {
            door.enter(|_| door.look(|number| *number));
            return;
        }
        let name = "core::door::tests::entering_while_entered_ends_a_build_with_assertions";
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stderr).into_owned();
        assert_eq!(child.status.success(), !cfg!(debug_assertions), "{said}");
        assert!(
            !cfg!(debug_assertions) || said.contains("entered while it is entered"),
            "{said}"
        );
    }

    #[test]
    fn one_after_the_other_enters_and_an_empty_cell_gives_nothing() {
        let door = Door::new();
        assert_eq!(door.enter(|number: &mut u32| *number), None);
        door.put(Some(1));
        assert_eq!(door.enter(|number| std::mem::replace(number, 2)), Some(1));
        assert_eq!(door.look(|number| *number), Some(2));
        assert!(!door.is_entered());
        assert_eq!(door.enter(|_| door.is_entered()), Some(true));
        assert_eq!(door.put(None), Some(2));
    }
}
