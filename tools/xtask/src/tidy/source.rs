//! A Rust file taken apart line by line into code and comments.
//!
//! Strings and character literals are blanked in the code part, so that a rule that looks for a word
//! in code does not find it in a text. This is a scanner, not a parser: it knows comments (nested
//! block comments too), string literals (raw ones too), lifetimes against character literals, and
//! which lines lie in a module under `cfg(test)`.

/// One line.
#[derive(Debug, Default)]
pub(crate) struct Line {
    /// The code, with strings blanked and comments left out.
    pub(crate) code: String,
    /// The comments, without their slashes.
    pub(crate) comment: String,
    /// Lies in an item under `#[cfg(test)]`.
    pub(crate) in_test: bool,
}

impl Line {
    /// Nothing but blanks and comments.
    pub(crate) fn has_no_code(&self) -> bool {
        self.code.trim().is_empty()
    }

    /// An attribute and nothing else.
    pub(crate) fn is_attribute(&self) -> bool {
        let code = self.code.trim();
        code.starts_with("#[") && code.ends_with(']')
    }

    /// Whether the code has `word` as a word of its own.
    pub(crate) fn has_word(&self, word: &str) -> bool {
        position_of_word(&self.code, word).is_some()
    }
}

/// Where `word` stands in `code` as a word of its own.
pub(crate) fn position_of_word(code: &str, word: &str) -> Option<usize> {
    let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    code.match_indices(word).map(|(at, _)| at).find(|&at| {
        let before = code.get(..at).and_then(|s| s.chars().next_back());
        let after = code
            .get(at.saturating_add(word.len())..)
            .and_then(|s| s.chars().next());
        !is_part(before) && !is_part(after)
    })
}

/// A whole file.
#[derive(Debug)]
pub(crate) struct RustSource {
    pub(crate) lines: Vec<Line>,
}

#[derive(Clone, Copy)]
enum State {
    Code,
    LineComment,
    BlockComment { depth: u32 },
    Text { raw_hashes: Option<usize> },
}

impl RustSource {
    pub(crate) fn parse(text: &str) -> Self {
        let mut scanner = Scanner {
            rest: text.chars().collect::<Vec<_>>(),
            at: 0,
            state: State::Code,
            lines: vec![Line::default()],
        };
        scanner.run();
        let mut source = Self {
            lines: scanner.lines,
        };
        source.mark_tests();
        source
    }

    /// Lines with their numbers, counted from 1.
    pub(crate) fn numbered(&self) -> impl Iterator<Item = (usize, &Line)> {
        self.lines
            .iter()
            .enumerate()
            .map(|(index, line)| (index.saturating_add(1), line))
    }

    /// The comment that belongs to line `number`: the one on the line itself, and the nearest ones
    /// above it, with at most `code_lines_max` lines of code in between.
    pub(crate) fn comments_near(&self, number: usize, code_lines_max: usize) -> String {
        let mut found = Vec::new();
        let mut code_lines = 0_usize;
        let index = number.saturating_sub(1);
        if let Some(line) = self.lines.get(index) {
            found.push(line.comment.as_str());
        }
        for line in self.lines.get(..index).unwrap_or_default().iter().rev() {
            if !line.has_no_code() && !line.is_attribute() {
                code_lines = code_lines.saturating_add(1);
            }
            if code_lines > code_lines_max {
                break;
            }
            found.push(line.comment.as_str());
        }
        found.reverse();
        found.join("\n")
    }

    /// Lines that do not lie in an item under `cfg(test)`.
    pub(crate) fn count_without_tests(&self) -> usize {
        let last = self.lines.last().is_some_and(|line| line.code.is_empty());
        self.lines
            .iter()
            .filter(|line| !line.in_test)
            .count()
            .saturating_sub(usize::from(last))
    }

    fn mark_tests(&mut self) {
        let mut pending_from = None;
        let mut depth = 0_usize;
        let mut inside = false;
        for index in 0..self.lines.len() {
            let Some(line) = self.lines.get(index) else {
                break;
            };
            let code = line.code.clone();
            if !inside && pending_from.is_none() {
                let attribute = code.trim_start().starts_with("#[cfg(");
                let plain = code.contains("cfg(test)") || code.contains("cfg(all(test");
                if attribute && plain {
                    pending_from = Some(index);
                }
            }
            let Some(from) = pending_from else { continue };
            for c in code.chars() {
                match c {
                    '{' => {
                        depth = depth.saturating_add(1);
                        inside = true;
                    }
                    '}' => depth = depth.saturating_sub(1),
                    ';' if !inside => pending_from = None,
                    _ => {}
                }
            }
            if pending_from.is_none() || (inside && depth == 0) {
                for line in self
                    .lines
                    .iter_mut()
                    .take(index.saturating_add(1))
                    .skip(from)
                {
                    line.in_test = true;
                }
                pending_from = None;
                inside = false;
            }
        }
    }
}

struct Scanner {
    rest: Vec<char>,
    at: usize,
    state: State,
    lines: Vec<Line>,
}

impl Scanner {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.rest.get(self.at.saturating_add(ahead)).copied()
    }

    fn skip(&mut self, count: usize) {
        self.at = self.at.saturating_add(count);
    }

    fn code(&mut self, c: char) {
        if let Some(line) = self.lines.last_mut() {
            line.code.push(c);
        }
    }

    fn comment(&mut self, c: char) {
        if let Some(line) = self.lines.last_mut() {
            line.comment.push(c);
        }
    }

    fn run(&mut self) {
        while let Some(c) = self.peek(0) {
            if c == '\n' {
                if matches!(self.state, State::LineComment) {
                    self.state = State::Code;
                }
                self.lines.push(Line::default());
                self.skip(1);
                continue;
            }
            match self.state {
                State::Code => self.step_code(c),
                State::LineComment => {
                    self.comment(c);
                    self.skip(1);
                }
                State::BlockComment { depth } => self.step_block_comment(c, depth),
                State::Text { raw_hashes } => self.step_text(c, raw_hashes),
            }
        }
    }

    fn step_code(&mut self, c: char) {
        match (c, self.peek(1)) {
            ('/', Some('/')) => {
                self.state = State::LineComment;
                self.skip(2);
            }
            ('/', Some('*')) => {
                self.state = State::BlockComment { depth: 1 };
                self.skip(2);
            }
            ('"', _) => {
                self.state = State::Text {
                    raw_hashes: self.raw_hashes_before(),
                };
                self.code('"');
                self.skip(1);
            }
            ('\'', _) => self.step_quote(),
            _ => {
                self.code(c);
                self.skip(1);
            }
        }
    }

    /// At an opening quote: the number of hashes if it opens a raw string.
    fn raw_hashes_before(&self) -> Option<usize> {
        let before = self.rest.get(..self.at).unwrap_or_default();
        let hashes = before.iter().rev().take_while(|&&c| c == '#').count();
        let mut prefix = before.iter().rev().skip(hashes);
        if prefix.next() != Some(&'r') {
            return None;
        }
        let next = prefix.next().copied();
        let after_prefix = if matches!(next, Some('b' | 'c')) {
            prefix.next().copied()
        } else {
            next
        };
        let part_of_name = after_prefix.is_some_and(|c| c.is_alphanumeric() || c == '_');
        (!part_of_name).then_some(hashes)
    }

    /// At a single quote: a character literal is blanked, a lifetime stays.
    fn step_quote(&mut self) {
        self.code('\'');
        self.skip(1);
        if self.peek(0) == Some('\\') {
            self.skip(2);
            while self.peek(0).is_some_and(|c| c != '\'' && c != '\n') {
                self.skip(1);
            }
        } else if self.peek(1) == Some('\'') {
            self.skip(1);
        } else {
            return;
        }
        if self.peek(0) == Some('\'') {
            self.code('\'');
            self.skip(1);
        }
    }

    fn step_block_comment(&mut self, c: char, depth: u32) {
        match (c, self.peek(1)) {
            ('*', Some('/')) => {
                let depth = depth.saturating_sub(1);
                self.state = if depth == 0 {
                    State::Code
                } else {
                    State::BlockComment { depth }
                };
                self.skip(2);
            }
            ('/', Some('*')) => {
                self.state = State::BlockComment {
                    depth: depth.saturating_add(1),
                };
                self.skip(2);
            }
            _ => {
                self.comment(c);
                self.skip(1);
            }
        }
    }

    fn step_text(&mut self, c: char, raw_hashes: Option<usize>) {
        match (raw_hashes, c) {
            (None, '\\') => {
                // An escaped line end must still end the line.
                self.skip(if self.peek(1) == Some('\n') { 1 } else { 2 });
            }
            (None, '"') => self.end_text(1),
            (Some(hashes), '"') if (1..=hashes).all(|n| self.peek(n) == Some('#')) => {
                self.end_text(hashes.saturating_add(1));
            }
            _ => self.skip(1),
        }
    }

    fn end_text(&mut self, length: usize) {
        self.code('"');
        self.state = State::Code;
        self.skip(length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(text: &str) -> Vec<String> {
        RustSource::parse(text)
            .lines
            .into_iter()
            .map(|line| line.code)
            .collect()
    }

    #[test]
    fn strings_and_comments_are_not_code() {
        let got = codes("let a = \"unsafe // no\"; // unsafe\nlet b = 1; /* unsafe /* x */ y */ c");
        assert_eq!(got, ["let a = \"\"; ", "let b = 1;  c"]);
    }

    #[test]
    fn raw_strings_end_at_their_own_hashes() {
        assert_eq!(
            codes("f(r#\"a\" \\ b\"#, br\"c\\\", var\"d\\\"e\")"),
            ["f(r#\"\", br\"\", var\"\")"]
        );
    }

    #[test]
    fn lifetimes_stay_and_characters_are_blanked() {
        assert_eq!(
            codes(r"fn f<'a>(x: &'a u8) { '{'; '\''; '\u{7b}'; b'}' }"),
            ["fn f<'a>(x: &'a u8) { ''; ''; ''; b'' }"]
        );
    }

    #[test]
    fn strings_over_several_lines_keep_the_line_numbers() {
        let source = RustSource::parse("let a = \"one\\\n two\n three\";\nlet b = 1;");
        assert_eq!(source.lines.len(), 4);
        assert_eq!(source.lines[3].code, "let b = 1;");
    }

    #[test]
    fn items_under_cfg_test_are_marked() {
        let source = RustSource::parse(
            "fn a() {}\n#[cfg(test)]\nmod tests {\n fn b() {}\n}\nfn c() {}\n#[cfg(test)]\nmod more;\nfn d() {}\n",
        );
        let marked: Vec<usize> = source
            .numbered()
            .filter(|(_, line)| line.in_test)
            .map(|(n, _)| n)
            .collect();
        assert_eq!(marked, [2, 3, 4, 5, 7, 8]);
        assert_eq!(source.count_without_tests(), 3);
    }

    #[test]
    fn comments_are_found_over_a_few_lines_of_code_only() {
        let source = RustSource::parse("// WHY\na();\nb();\nc(); // here\n");
        assert!(source.comments_near(3, 2).contains("WHY"));
        assert!(!source.comments_near(4, 1).contains("WHY"));
        assert!(source.comments_near(4, 0).contains("here"));
    }

    #[test]
    fn words_are_not_parts_of_names() {
        assert!(position_of_word("forbid(unsafe_code)", "unsafe").is_none());
        assert_eq!(
            position_of_word("unsafe_code; unsafe {", "unsafe"),
            Some(13)
        );
    }
}
