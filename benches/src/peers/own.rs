//! `qtf bench`, as it is, from beside this program or from another folder.

use std::path::{Path, PathBuf};
use std::process::Command;

use qtf_benches::Failure;

use super::table::Figures;

/// A program of the same build, or of the one in a folder.
pub(crate) fn program(name: &str, folder: Option<&Path>) -> Result<PathBuf, Failure> {
    let program = match folder {
        Some(folder) => folder.join(name),
        None => std::env::current_exe()?.with_file_name(name),
    };
    if program.exists() {
        Ok(program)
    } else {
        Err(format!(
            "{} is not there: build it with the same profile",
            program.display()
        )
        .into())
    }
}

/// Runs it with the sizes of the peers' tasks.
pub(crate) fn measure(program: &Path, words: &[String]) -> Result<Figures, Failure> {
    let done = Command::new(program)
        .args(["bench", "--json", "--payload=64", "--result=16"])
        .args(words)
        .env_remove("QTF_ADDR")
        .output()?;
    if !done.status.success() {
        return Err(format!("qtf bench: {}", String::from_utf8_lossy(&done.stderr)).into());
    }
    let report: serde_json::Value = serde_json::from_slice(&done.stdout)?;
    let figure = |key: &str| {
        let value = report[key].as_f64();
        value.ok_or_else(|| format!("qtf bench gave no {key}"))
    };
    Ok(Figures {
        rate: figure("tasks_per_s")?,
        p50_us: Some(figure("p50_us")?),
        p99_us: Some(figure("p99_us")?),
        processor_us: Some(figure("daemon_cpu_us_per_task")?),
    })
}
