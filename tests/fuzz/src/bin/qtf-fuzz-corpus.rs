//! Writes the committed corpus anew: every seed into `corpus/TARGET/NAME`, and runs it once.
//!
//! Files of other names (inputs that once broke something) stay as they are.
#![expect(
    clippy::print_stdout,
    reason = "a command line tool talks on its standard streams"
)]

use std::path::Path;

fn main() -> std::io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut written = 0_usize;
    for seed in qtf_fuzz::seeds() {
        let folder = corpus.join(seed.target);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(&seed.name), &seed.bytes)?;
        if let Some(target) = qtf_fuzz::target(seed.target) {
            (target.run)(&seed.bytes);
        }
        written = written.saturating_add(1);
    }
    println!("{written} inputs written");
    Ok(())
}
