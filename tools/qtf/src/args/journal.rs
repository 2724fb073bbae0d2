//! Options of `qtf journal`.

use std::path::PathBuf;

use clap::Subcommand;

/// Looks into the files of a journal, without a daemon
#[derive(Debug, Subcommand)]
pub(crate) enum JournalCommand {
    /// Tells whether a journal or its files are intact
    #[command(long_about = "\
Tells whether journals are intact. No daemon is asked and nothing is changed.

A folder (a data directory, or the folder `journal` in it) is opened as a daemon would open it after a \
reboot. A file is read record by record: a log may end in a torn group, which was never acknowledged and \
is cut off at the next start; anything else that is missing or wrong is damage.

Ends with 0 when all is intact, 1 when something is damaged, and then names file, offset and, where it is \
known, lsn, 2 when something cannot be read, 3 when a folder holds no journal.")]
    #[command(after_long_help = "\
Examples:
  qtf journal verify /var/lib/qtf
  qtf journal verify /var/lib/qtf/journal/log-*.qtj
  qtf journal verify --json /var/lib/qtf | jq '.journals[].intact'")]
    Verify {
        /// Folders and files
        #[arg(value_name = "FILE", required = true)]
        paths: Vec<PathBuf>,
    },
    /// Prints the records of logs and snapshots
    #[command(long_about = "\
Prints the records of logs and snapshots, one a line. No daemon is asked and nothing is changed.

Of a folder all logs and snapshots are printed, in the order of their names. Printing ends where the \
records of a file end; what lies there is told on stderr when it is more than unused room. Ends with 1 \
when that is damage, with 3 when a folder holds no journal.")]
    #[command(after_long_help = "\
Examples:
  qtf journal dump /var/lib/qtf | less
  qtf journal dump log-0000000000000003.qtj | grep 07g6j30sg0000
  qtf journal dump --output jsonl /var/lib/qtf | jq 'select(.kind == \"outcome\")'")]
    Dump {
        /// Folders and files
        #[arg(value_name = "FILE", required = true)]
        paths: Vec<PathBuf>,
    },
}
