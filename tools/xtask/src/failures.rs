//! What tests that failed said, so that the last lines of a run tell it again: who reads a run from its end sees the reason.
//!
//! Reads what the test runner prints: `---- NAME stdout ----`, the test's output, until the next such line or the list of names. Of each test
//! the first lines and the last are kept, without the stack. Tested at the end of this file.

use std::collections::VecDeque;
use std::fmt;

/// Lines of one test's output that are kept of its beginning, and of its end.
const HEAD: usize = 16;
const TAIL: usize = 40;
/// Longest line, in bytes.
const LINE: usize = 400;

/// A test that failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Failure {
    test: String,
    head: Vec<String>,
    left_out: usize,
    tail: VecDeque<String>,
}

impl Failure {
    fn add(&mut self, line: &str) {
        let line = line.get(..line.floor_char_boundary(LINE)).unwrap_or(line);
        if self.head.len() < HEAD {
            self.head.push(line.to_owned());
            return;
        }
        if self.tail.len() == TAIL {
            self.tail.pop_front();
            self.left_out += 1;
        }
        self.tail.push_back(line.to_owned());
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "failed: {}", self.test)?;
        for line in &self.head {
            write!(f, "\n    {line}")?;
        }
        if self.left_out > 0 {
            write!(f, "\n    [{} lines are above]", self.left_out)?;
        }
        for line in &self.tail {
            write!(f, "\n    {line}")?;
        }
        Ok(())
    }
}

/// Where in the output the reader is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Elsewhere,
    Output,
    Stack,
}

/// Reads the output of a test runner line by line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Failures {
    found: Vec<Failure>,
    at: At,
}

impl Failures {
    pub(crate) fn read_line(&mut self, line: &str) {
        let name = line
            .strip_prefix("---- ")
            .and_then(|rest| rest.strip_suffix(" stdout ----"));
        if let Some(test) = name {
            let test = test.to_owned();
            self.found.push(Failure {
                test,
                ..Failure::default()
            });
            self.at = At::Output;
            return;
        }
        match line {
            // The list of names, and the sum.
            "failures:" => self.at = At::Elsewhere,
            _ if line.starts_with("test result:") => self.at = At::Elsewhere,
            "stack backtrace:" if self.at == At::Output => self.at = At::Stack,
            _ => {}
        }
        if self.at == At::Stack && !is_of_stack(line) {
            self.at = At::Output;
        }
        if self.at == At::Output
            && !line.trim().is_empty()
            && let Some(last) = self.found.last_mut()
        {
            last.add(line);
        }
    }

    pub(crate) fn into_found(self) -> Vec<Failure> {
        self.found
    }
}

/// `  12: name`, `   at place`, and what is around them.
fn is_of_stack(line: &str) -> bool {
    let text = line.trim_start();
    let digits = text.chars().take_while(char::is_ascii_digit).count();
    let is_frame = digits > 0
        && text
            .get(digits..)
            .is_some_and(|rest| rest.starts_with(": "));
    line == "stack backtrace:" || (text.len() < line.len() && (is_frame || text.starts_with("at ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<String> {
        let mut failures = Failures::default();
        for line in text.lines() {
            failures.read_line(line);
        }
        let found = failures.into_found();
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn failed_test_is_told_with_its_output_and_without_its_stack() {
        let text = "\
test a::b ... FAILED

failures:

---- a::b stdout ----

thread 'a::b' (1) panicked at tests/a.rs:3:5:
the work is not done:
a task is open
stack backtrace:
   0: __rustc::rust_begin_unwind
             at /rustc/library/std/src/panicking.rs:689:5
  14: a::b
again: QTF_SEED=1 cargo test
--- daemon (life 2)

---- c stdout ----
short

failures:
    a::b
    c

test result: FAILED. 1 passed; 2 failed;
something else
";
        assert_eq!(
            read(text),
            [
                "failed: a::b\n    thread 'a::b' (1) panicked at tests/a.rs:3:5:\n    the work is not done:\n    a task is open\n    \
                 again: QTF_SEED=1 cargo test\n    --- daemon (life 2)",
                "failed: c\n    short"
            ]
        );
    }

    #[test]
    fn of_much_output_the_beginning_and_the_end_are_kept() {
        let mut text = "---- a stdout ----\n".to_owned();
        for number in 0..200 {
            text.push_str(&format!("line {number}\n"));
        }
        text.push_str(&"é".repeat(1_000));
        let read = read(&text);
        let [told] = &read[..] else {
            panic!("{read:?}");
        };
        assert_eq!(told.lines().count(), 1 + HEAD + 1 + TAIL);
        let left_out = 201 - HEAD - TAIL;
        assert!(told.contains("line 15\n") && told.contains(&format!("[{left_out} lines are")));
        let last = told.lines().last().expect("there is one");
        assert!(last.len() <= LINE + 4, "{}", last.len());
    }
}
