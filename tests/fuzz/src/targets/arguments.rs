//! Target `arguments`: the first byte chooses a program, the rest are its arguments, separated by NUL.
//!
//! Promises: no panic; a refusal has a message; a command for `qtf map` that is understood can be filled.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use clap::Parser;
use qtf_daemon::cli::Flags;

use crate::args::Cli;
use crate::template::{Template, fill_index, names_index};
use crate::worker_arguments;

const PROGRAMS: [&str; 5] = ["qtf", "qtfd", "qtf-worker", "shm-inspect", "template"];

/// Takes one command line.
pub(crate) fn run(bytes: &[u8]) {
    let Some((&program, rest)) = bytes.split_first() else {
        return;
    };
    let program = PROGRAMS[usize::from(program) % PROGRAMS.len()];
    let words: Vec<OsString> = rest
        .split(|byte| *byte == 0)
        .map(|word| OsString::from_vec(word.to_vec()))
        .collect();
    match program {
        "qtf" => parse::<Cli>(program, words),
        "qtfd" => {
            let line = std::iter::once(program.into()).chain(words);
            match Flags::try_parse_from(line) {
                // What the flags say goes the way of a configuration file.
                Ok(flags) => drop(qtf_daemon::Settings::from_raw(flags.to_raw())),
                Err(error) => assert_said(&error),
            }
        }
        "qtf-worker" => parse::<worker_arguments::Arguments>(program, words),
        "shm-inspect" => {
            let line = std::iter::once(program.into()).chain(words);
            if let Err(error) = shm_inspect::Line::parse(line) {
                assert_said(&error);
            }
        }
        _ => template(words),
    }
}

fn parse<P: Parser>(program: &str, words: Vec<OsString>) {
    let line = std::iter::once(program.into()).chain(words);
    if let Err(error) = P::try_parse_from(line) {
        assert_said(&error);
    }
}

fn assert_said(error: &clap::Error) {
    assert!(!error.render().to_string().trim().is_empty());
}

/// The words of `qtf map`, the last one being an input.
fn template(mut words: Vec<OsString>) {
    let input = words.pop().unwrap_or_default().into_vec();
    match Template::new(words) {
        Ok(template) => {
            let filled = template.fill(&input);
            assert!(!filled.is_empty());
            for word in filled {
                assert_eq!(fill_index(&word, 7) != word, names_index(&word), "{word:?}");
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Which program, the name of the seed, and its words.
const LINES: [(u8, &str, &str); 33] = [
    (0, "map", "map|sha256sum {}|:::|a|b"),
    (0, "map-slots", "map|-j3|-0|grep|-x|{}"),
    (
        0,
        "submit",
        "submit|-p|200|--array|1-1000|--retries|3|--timeout|10s|--|sh|-c|%{index}",
    ),
    (
        0,
        "submit-journal",
        "submit|--durability|journal|--key|k|--env|A=B|--no-result|--|true",
    ),
    (0, "wait", "wait|--timeout|10min|all"),
    (0, "wait-range", "wait|c5v8z0000400g[1-10,12],last,-"),
    (0, "result", "--json|result|last"),
    (0, "cancel", "cancel|all"),
    (0, "update", "update|last|-p|255"),
    (0, "ps", "ps|--all|--state|ready,dead_letter|--output|jsonl"),
    (0, "worker", "worker|drain|w3.1"),
    (0, "worker-check", "worker|check|--only|drain|--|w|{}"),
    (0, "client", "client|ls"),
    (0, "dead", "dead|requeue|all"),
    (0, "journal", "journal|verify|log-0000000000000001.qtj"),
    (0, "dev", "--addr|unix:/x|dev|--workers|2|--slots|4"),
    (
        0,
        "map-contain",
        "map|--contain|namespace|--linger|1.5|-j|2|true|:::|a",
    ),
    (0, "size", "size|--tasks|1000000|--workers|4095"),
    (0, "completions", "completions|bash"),
    (0, "unknown", "sumbit|--|ls"),
    (
        1,
        "daemon",
        "--instance|a|--listen|unix:/x|--listen|127.0.0.1:0|--core|none",
    ),
    (
        1,
        "daemon-data",
        "--data-dir|/tmp/d|--segment-bytes|1|--idle|spin|--network|tokio|--print-config",
    ),
    (1, "daemon-take-over", "--take-over|--check-config"),
    (
        2,
        "agent",
        "--connect|unix:/x|--name|n|--slots|8|--prefetch|1|--stop-grace|2s",
    ),
    (
        2,
        "agent-limits",
        "--output-limit|18446744073709551615|--drain-timeout|1000000y|--slots|0",
    ),
    (2, "agent-contain", "--contain|supervisor|--linger|10ms"),
    (
        3,
        "inspect",
        "--instance|default|--json|heap|task|--limit|10",
    ),
    (3, "inspect-task", "--id|7|task|c5v8z0000400g"),
    (3, "inspect-worker", "--image|f|worker|w3.1"),
    (3, "inspect-snapshot", "snapshot|-o|x"),
    (4, "template", "gzip -k '{}' \"a b\"|input"),
    (4, "template-quote", "a 'b|input"),
    (4, "template-words", "a|{}{}|%{index}|in put"),
];

/// What the corpus starts from.
pub(crate) fn seeds() -> Vec<(String, Vec<u8>)> {
    LINES
        .iter()
        .map(|(program, name, line)| {
            let mut bytes = vec![*program];
            bytes.extend(line.bytes().map(|byte| if byte == b'|' { 0 } else { byte }));
            ((*name).to_owned(), bytes)
        })
        .collect()
}
