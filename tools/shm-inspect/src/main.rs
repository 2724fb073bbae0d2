//! The program; everything it does stands in the library beside it.

use std::io::BufWriter;
use std::process::ExitCode;

use shm_inspect::Line;

fn main() -> ExitCode {
    let line = match Line::parse(std::env::args_os()) {
        Ok(line) => line,
        Err(error) => {
            // Help and version go to standard output and end with 0, everything else is usage.
            let code = if error.use_stderr() {
                shm_inspect::USAGE
            } else {
                0
            };
            drop(error.print());
            return ExitCode::from(code);
        }
    };
    let mut out = BufWriter::new(std::io::stdout().lock());
    ExitCode::from(line.run(&mut out, &mut std::io::stderr()))
}
