//! Options of `qtf dead`.

use clap::Subcommand;

use super::tasks::with_selectors;
use crate::selector::{Selection, parse_selection};

/// Lists, shows, requeues and purges dead letters
#[derive(Debug, Subcommand)]
pub(crate) enum DeadCommand {
    /// Lists the dead letters
    #[command(visible_alias = "list")]
    #[command(long_about = "\
Lists the dead letters: tasks whose workers were lost while they ran it, as often as a task may lose \
them, so that it looks as if the task took them down. They are kept until they are requeued or purged.")]
    #[command(after_long_help = "\
Examples:
  qtf dead ls
  qtf dead ls --mine --output jsonl | jq -r .id")]
    Ls {
        /// Only your own
        #[arg(short, long)]
        mine: bool,
        /// At most so many
        #[arg(
            short = 'n',
            long,
            value_name = "N",
            default_value_t = 0,
            hide_default_value = true
        )]
        limit: u64,
    },
    /// Shows everything about dead letters
    #[command(long_about = with_selectors!("Shows everything the daemon can say about dead letters.", "your dead letters"))]
    #[command(after_long_help = "\
Examples:
  qtf dead show 07g6j30sg0000
  qtf dead show --json all")]
    Show {
        /// Tasks: ID, ID[1-5], last, all, -
        #[arg(value_name = "SEL", required = true, value_parser = parse_selection)]
        selection: Vec<Selection>,
    },
    /// Gives dead letters new attempts
    #[command(visible_alias = "retry")]
    #[command(long_about = with_selectors!("Gives dead letters new attempts: they are ready again, at their old place in the queue.", "your dead letters"))]
    #[command(after_long_help = "\
Examples:
  qtf dead requeue 07g6j30sg0000
  qtf dead requeue --reason 'workers have more memory now' all
  qtf dead ls --output jsonl | jq -r .id | qtf dead requeue -")]
    Requeue {
        /// Tasks: ID, ID[1-5], last, all, -
        #[arg(value_name = "SEL", required = true, value_parser = parse_selection)]
        selection: Vec<Selection>,
        /// Why, for the log of the daemon
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Forgets dead letters
    #[command(long_about = with_selectors!("Forgets dead letters, which frees their slots. A task that is no dead letter is refused.", "your dead letters"))]
    #[command(after_long_help = "\
Examples:
  qtf dead purge 07g6j30sg0000
  qtf dead purge all")]
    Purge {
        /// Tasks: ID, ID[1-5], last, all, -
        #[arg(value_name = "SEL", required = true, value_parser = parse_selection)]
        selection: Vec<Selection>,
    },
}
