//! The progress bar: on stderr, only when stderr is a terminal.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const REDRAW: Duration = Duration::from_millis(200);

// The bar takes what the numbers leave, so that a narrow terminal still has one line.
const KNOWN: &str = "{pos}/{len} {elapsed} eta {eta} {wide_bar}";
const UNKNOWN: &str = "{spinner} {pos} done {elapsed}";

/// A bar for `total` inputs, or a counter when the total is not known yet. Hidden when stderr is no
/// terminal or `wanted` is false.
pub(crate) fn progress_bar(total: Option<u64>, wanted: bool) -> ProgressBar {
    if !wanted || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
    bar.set_style(style(total.is_some()));
    bar.enable_steady_tick(REDRAW);
    bar
}

/// The total has become known.
pub(crate) fn set_total(bar: &ProgressBar, total: u64) {
    if !bar.is_hidden() {
        bar.set_style(style(true));
    }
    bar.set_length(total);
}

fn style(total_is_known: bool) -> ProgressStyle {
    let template = if total_is_known { KNOWN } else { UNKNOWN };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_templates_are_understood() {
        for template in [KNOWN, UNKNOWN] {
            assert!(ProgressStyle::with_template(template).is_ok());
        }
    }

    #[test]
    fn nothing_is_drawn_into_a_pipe_or_against_the_will() {
        assert!(progress_bar(Some(3), false).is_hidden());
    }
}
