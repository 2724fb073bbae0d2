//! What soak and fuzz runs have shown so far, added up over runs, in `target/soak-totals.json`.
//!
//! Tested at the end of this file.

use anyhow::Context;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Named sums.
#[derive(Debug)]
pub(crate) struct Totals {
    file: PathBuf,
    sums: BTreeMap<String, u64>,
}

impl Totals {
    /// Reads the file; it starts empty.
    pub(crate) fn load(root: &Path) -> anyhow::Result<Self> {
        let file = root.join("target/soak-totals.json");
        let sums = match std::fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text)
                .with_context(|| format!("{} is damaged: remove it", file.display()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error).context("cannot read the totals"),
        };
        Ok(Self { file, sums })
    }

    /// Adds to one sum.
    pub(crate) fn add(&mut self, name: &str, count: u64) {
        let sum = self.sums.entry(name.to_owned()).or_default();
        *sum = sum.saturating_add(count);
    }

    /// Writes the file: beside it first, so that a killed run leaves the one before.
    pub(crate) fn save(&self) -> anyhow::Result<()> {
        let unfinished = self.file.with_added_extension("partial");
        if let Some(folder) = self.file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&unfinished, serde_json::to_vec_pretty(&self.sums)?)?;
        std::fs::rename(&unfinished, &self.file).context("cannot write the totals")
    }

    /// All sums, one a line.
    pub(crate) fn print(&self) {
        println!("totals of all runs so far ({}):", self.file.display());
        for (name, sum) in &self.sums {
            println!("  {sum:>14}  {name}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_several_runs_are_added() {
        let root = std::env::temp_dir().join(format!("qtf-totals-{}", std::process::id()));
        for _ in 0..2 {
            let mut totals = Totals::load(&root).unwrap();
            totals.add("kills", 20);
            totals.add("seeds", 1);
            totals.save().unwrap();
        }
        let totals = Totals::load(&root).unwrap();
        std::fs::remove_dir_all(&root).unwrap();
        let sums: Vec<_> = totals.sums.into_iter().collect();
        assert_eq!(sums, [("kills".to_owned(), 40), ("seeds".to_owned(), 2)]);
    }
}
