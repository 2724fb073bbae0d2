//! What each file of a crate uses of the other files of the same crate, read from its paths.
//!
//! A path is taken as Rust takes it: `crate::`, `super::`, `self::`, and in `use` also the name of a submodule. It leads to
//! the file of the longest module in it; where that file itself imports the name that follows, on to where the name
//! comes from. A path through a glob leads to the file with the glob. LIMIT: a module within a file is taken for the file. Tests are not read. Tested at the end of this file.

use super::source::RustSource;
use super::tree::{File, Tree};
use std::collections::{BTreeMap, BTreeSet};

/// LIMIT: names that are imported from where they are imported from, so many times over.
const STEPS_MAX: usize = 8;

/// One file uses another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Use {
    pub(crate) from: String,
    pub(crate) line: usize,
    pub(crate) to: String,
}

/// The names of a module, from the root of its crate.
type Module = Vec<String>;

/// A path of a file, as it stands there.
#[derive(Debug)]
struct Path {
    line: usize,
    names: Vec<String>,
    /// The name that a `use` gives it here, if it is one.
    bound: Option<String>,
    /// Handed on to others under that name.
    is_public: bool,
}

/// Folders of sources in the tree, each with a `lib.rs` or `main.rs`.
pub(crate) fn crates(tree: &Tree) -> Vec<String> {
    let root = |path: &str| {
        let folder = path
            .strip_suffix("/lib.rs")
            .or(path.strip_suffix("/main.rs"))?;
        folder.ends_with("/src").then(|| folder.to_owned())
    };
    let found: BTreeSet<String> = tree.rust().filter_map(|file| root(&file.path)).collect();
    found.into_iter().collect()
}

/// What the files below `src` use of each other, ordered.
pub(crate) fn uses(tree: &Tree, src: &str) -> Vec<Use> {
    let sources = Sources::read(tree, src);
    let mut found = Vec::new();
    for (module, (file, paths)) in &sources.modules {
        for path in paths {
            // What the root of a crate only hands on makes a name, and uses nothing.
            if module.is_empty() && path.is_public {
                continue;
            }
            if let Some(target) = sources.absolute(module, path) {
                let to = sources.definition(target);
                if to != *file {
                    found.push(Use {
                        from: (*file).to_owned(),
                        line: path.line,
                        to: to.to_owned(),
                    });
                }
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

/// The modules of a crate that are files, each with its paths.
struct Sources<'a> {
    modules: BTreeMap<Module, (&'a str, Vec<Path>)>,
}

impl<'a> Sources<'a> {
    fn read(tree: &'a Tree, src: &str) -> Self {
        let below = format!("{src}/");
        let has_library = tree.file(&format!("{src}/lib.rs")).is_some();
        let mut modules = BTreeMap::new();
        for file in tree.rust().filter(|file| !file.is_test()) {
            let Some(name) = file.path.strip_prefix(&below) else {
                continue;
            };
            // Beside a library it is a crate of its own.
            if name == "main.rs" && has_library {
                continue;
            }
            modules.insert(module_of(name), (file.path.as_str(), paths_of(file)));
        }
        Self { modules }
    }

    /// A path from the root of the crate, if it leads into the crate.
    fn absolute(&self, module: &[String], path: &Path) -> Option<Module> {
        let mut base = module.to_vec();
        let mut names = path.names.as_slice();
        match names.first()?.as_str() {
            "crate" => {
                base.clear();
                names = &names[1..];
            }
            "self" | "super" => {
                while let [first, rest @ ..] = names {
                    match first.as_str() {
                        "self" => {}
                        "super" => drop(base.pop()),
                        _ => break,
                    }
                    names = rest;
                }
            }
            first => {
                base.push(first.to_owned());
                let is_submodule = path.bound.is_some() && self.modules.contains_key(&base);
                base.pop();
                if !is_submodule {
                    return None;
                }
            }
        }
        base.extend(names.iter().cloned());
        Some(base)
    }

    /// The file that a path from the root leads to.
    fn definition(&self, mut target: Module) -> &'a str {
        let mut steps = 0_usize;
        loop {
            let mut module = target.clone();
            while !self.modules.contains_key(&module) && module.pop().is_some() {}
            let Some((file, paths)) = self.modules.get(&module) else {
                return "";
            };
            let name = target.get(module.len());
            let imported = paths
                .iter()
                .find(|path| name.is_some() && path.bound.as_ref() == name)
                .and_then(|path| self.absolute(&module, path));
            steps = steps.saturating_add(1);
            match imported {
                Some(next) if steps < STEPS_MAX && next != target => target = next,
                _ => return file,
            }
        }
    }
}

/// The module of a file, by its name below `src`.
fn module_of(name: &str) -> Module {
    let stem = name.strip_suffix(".rs").unwrap_or(name);
    let mut names: Module = stem.split('/').map(str::to_owned).collect();
    let is_head = matches!(
        names.last().map(String::as_str),
        Some("mod" | "lib" | "main")
    );
    if is_head {
        names.pop();
    }
    names
}

fn paths_of(file: &File) -> Vec<Path> {
    let tokens = tokens_of(file.rust());
    let mut reader = Reader {
        tokens: &tokens,
        at: 0,
        paths: Vec::new(),
    };
    reader.read();
    reader.paths
}

/// A word, `::`, or a single character.
pub(super) struct Token {
    pub(super) line: usize,
    pub(super) text: String,
}

/// The code of a file but its tests.
pub(super) fn tokens_of(source: &RustSource) -> Vec<Token> {
    let mut tokens: Vec<Token> = Vec::new();
    for (line, read) in source.numbered().filter(|(_, line)| !line.in_test) {
        let mut rest = read.code.as_str();
        while let Some(first) = rest.chars().next() {
            let is_part = |c: char| c.is_alphanumeric() || c == '_';
            let length = if is_part(first) {
                rest.find(|c| !is_part(c)).unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            let (text, after) = rest.split_at(length);
            rest = after;
            if !first.is_whitespace() {
                let text = text.to_owned();
                tokens.push(Token { line, text });
            }
        }
    }
    tokens
}

struct Reader<'a> {
    tokens: &'a [Token],
    at: usize,
    paths: Vec<Path>,
}

impl Reader<'_> {
    fn text(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| token.text.as_str())
    }

    fn read(&mut self) {
        while self.at < self.tokens.len() {
            let before = self.at.checked_sub(1).map_or("", |at| self.text(at));
            match self.text(self.at) {
                // Not the `use<..>` of captured lifetimes.
                "use" if self.text(self.at.saturating_add(1)) != "<" => {
                    let is_public = matches!(before, "pub" | ")");
                    self.at = self.at.saturating_add(1);
                    self.read_tree(&[], is_public);
                }
                "crate" | "super" | "self" if before != "::" && before != "$" => self.read_path(),
                _ => self.at = self.at.saturating_add(1),
            }
        }
    }

    /// A path outside of `use`.
    fn read_path(&mut self) {
        let line = self.tokens.get(self.at).map_or(0, |token| token.line);
        let names = self.names();
        // A lone `self` is a value, `pub(crate)` a visibility.
        if names.len() > 1 {
            self.paths.push(Path {
                line,
                names,
                bound: None,
                is_public: false,
            });
        }
    }

    /// Names joined by `::`, as far as they go.
    fn names(&mut self) -> Vec<String> {
        let mut names = Vec::new();
        loop {
            let text = self.text(self.at);
            if !text.starts_with(|c: char| c.is_alphanumeric() || c == '_') {
                return names;
            }
            names.push(text.to_owned());
            self.at = self.at.saturating_add(1);
            if self.text(self.at) != "::" {
                return names;
            }
            self.at = self.at.saturating_add(1);
        }
    }

    /// The rest of a `use` behind `stem`, up to the comma, brace or semicolon that ends it.
    fn read_tree(&mut self, stem: &[String], is_public: bool) {
        let line = self.tokens.get(self.at).map_or(0, |token| token.line);
        let mut names = stem.to_vec();
        names.extend(self.names());
        match self.text(self.at) {
            "{" => {
                self.at = self.at.saturating_add(1);
                while !matches!(self.text(self.at), "}" | "") {
                    self.read_tree(&names, is_public);
                    if self.text(self.at) == "," {
                        self.at = self.at.saturating_add(1);
                    }
                }
                self.at = self.at.saturating_add(1);
            }
            "*" => {
                self.at = self.at.saturating_add(1);
                self.push(line, names, Some("*".to_owned()), is_public);
            }
            // A path from outside, or something that is no `use`: on behind it.
            "::" => self.at = self.at.saturating_add(1),
            _ => {
                let bound = if self.text(self.at) == "as" {
                    let name = self.text(self.at.saturating_add(1)).to_owned();
                    self.at = self.at.saturating_add(2);
                    Some(name)
                } else {
                    names.last().cloned()
                };
                if names.len() > 1 && names.last().is_some_and(|name| name == "self") {
                    names.pop();
                }
                let bound = bound.map(|name| match name.as_str() {
                    "self" => names.last().cloned().unwrap_or_default(),
                    _ => name,
                });
                if names.len() == stem.len() && !matches!(self.text(self.at), "," | "}" | ";") {
                    // Nothing that belongs in a `use`.
                    self.at = self.at.saturating_add(1);
                }
                self.push(line, names, bound, is_public);
            }
        }
    }

    fn push(&mut self, line: usize, names: Vec<String>, bound: Option<String>, is_public: bool) {
        if !names.is_empty() {
            self.paths.push(Path {
                line,
                names,
                bound,
                is_public,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::many;
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<(String, usize, String)> {
        let short = |path: String| path.replace("x/src/", "");
        uses(&many(files), "x/src")
            .into_iter()
            .map(|found| (short(found.from), found.line, short(found.to)))
            .collect()
    }

    fn of_a(text: &str) -> Vec<(usize, String)> {
        let files = [
            (
                "x/src/lib.rs",
                "mod a; mod b; mod c;\npub use c::d::Deep;\n",
            ),
            ("x/src/a/mod.rs", "mod own;\n"),
            ("x/src/a/own.rs", text),
            ("x/src/b.rs", "pub(crate) use crate::c::Other as Renamed;\n"),
            ("x/src/c/mod.rs", "mod d;\n"),
            ("x/src/c/d.rs", ""),
        ];
        found(&files)
            .into_iter()
            .filter(|(from, ..)| from == "a/own.rs")
            .map(|(_, line, to)| (line, to))
            .collect()
    }

    fn one(line: usize, to: &str) -> Vec<(usize, String)> {
        vec![(line, to.to_owned())]
    }

    #[test]
    fn paths_lead_to_the_file_of_the_longest_module() {
        assert_eq!(of_a("use crate::b::Thing;\n"), one(1, "b.rs"));
        assert_eq!(of_a("\nuse super::super::c::d::Thing;\n"), one(2, "c/d.rs"));
        assert_eq!(
            of_a("fn f() { crate::c::go::<u8>() }\n"),
            one(1, "c/mod.rs")
        );
        assert_eq!(of_a("use super::Above;\n"), one(1, "a/mod.rs"));
        assert_eq!(of_a("use crate::b;\n"), one(1, "b.rs"));
    }

    #[test]
    fn groups_are_taken_apart_each_with_its_line() {
        let text = "use crate::{\n    b::{self, Thing},\n    c::d::*,\n};\nuse std::fmt;\n";
        let expected = [one(2, "b.rs"), one(3, "c/d.rs")].concat();
        assert_eq!(of_a(text), expected);
    }

    #[test]
    fn names_that_are_handed_on_lead_to_where_they_come_from() {
        assert_eq!(of_a("use crate::Deep;\n"), one(1, "c/d.rs"));
        assert_eq!(of_a("use crate::b::Renamed;\n"), one(1, "c/mod.rs"));
    }

    #[test]
    fn submodules_are_named_without_a_stem_in_imports_only() {
        let files = [
            ("x/src/lib.rs", "mod a;\n"),
            (
                "x/src/a/mod.rs",
                "mod own;\nuse own::Thing;\nfn f() { own::go() }\n",
            ),
            ("x/src/a/own.rs", "use own::Other;\n"),
        ];
        let expected = [("a/mod.rs".to_owned(), 2, "a/own.rs".to_owned())];
        assert_eq!(found(&files), expected);
    }

    #[test]
    fn tests_comments_strings_and_visibilities_are_no_uses() {
        let text = "// use crate::b::X;\nconst A: &str = \"crate::b::X\";\npub(crate) struct S;\nimpl S { fn f(self) {} }\n\
                    fn g<'a>(a: &'a u8) -> impl Sized + use<'a> { a }\nmacro_rules! m { () => { $crate::b::X } }\n\
                    #[cfg(test)]\nmod tests {\n    use crate::b::X;\n}\n";
        assert_eq!(of_a(text), []);
    }

    #[test]
    fn root_of_a_crate_uses_what_it_needs_and_not_what_it_hands_on() {
        let files = [
            (
                "x/src/lib.rs",
                "mod a;\nmod b;\npub use a::Thing;\nuse b::Other;\n",
            ),
            ("x/src/a.rs", ""),
            ("x/src/b.rs", ""),
        ];
        let expected = [("lib.rs".to_owned(), 4, "b.rs".to_owned())];
        assert_eq!(found(&files), expected);
    }

    #[test]
    fn names_that_lead_back_to_each_other_end_somewhere() {
        let files = [
            ("x/src/lib.rs", "mod a;\nmod b;\n"),
            ("x/src/a.rs", "pub use crate::b::Thing;\n"),
            ("x/src/b.rs", "pub use crate::a::Thing;\n"),
        ];
        assert!(found(&files).len() <= 2);
    }

    #[test]
    fn crates_are_found_by_their_roots_and_a_program_beside_a_library_is_no_part_of_it() {
        let files = [
            ("x/src/lib.rs", "mod a;\n"),
            ("x/src/main.rs", "use crate::a::Thing;\n"),
            ("x/src/a.rs", ""),
            ("y/tool/src/main.rs", ""),
            ("y/tests/main.rs", ""),
        ];
        assert_eq!(crates(&many(&files)), ["x/src", "y/tool/src"]);
        assert_eq!(found(&files), []);
    }
}
