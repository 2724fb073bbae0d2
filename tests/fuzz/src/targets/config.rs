//! Target `config`: text as a configuration file of `qtfd`.
//!
//! Promises: a refusal names the file in one line; what is accepted and printed (`--print-config`) is accepted again and
//! means the same.

use std::path::Path;

use qtf_daemon::Settings;
use qtf_daemon::config::RawConfig;

/// Takes one text.
pub(crate) fn run(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let file = Path::new("fuzz.toml");
    let raw = match RawConfig::from_toml(file, &text) {
        Ok(raw) => raw,
        Err(error) => {
            let error = error.to_string();
            assert!(error.contains("fuzz.toml"), "{error}");
            return;
        }
    };
    let settings = match Settings::from_raw(raw) {
        Ok(settings) => settings,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let printed = settings.to_toml();
    let again = RawConfig::from_toml(file, &printed)
        .unwrap_or_else(|error| panic!("what is printed is not read again: {error}\n{printed}"));
    let again = Settings::from_raw(again)
        .unwrap_or_else(|error| panic!("what is printed is refused: {error}\n{printed}"));
    assert_eq!(again.to_toml(), printed);
}

/// What the corpus starts from.
pub(crate) fn seeds() -> Vec<(String, Vec<u8>)> {
    let texts = [
        ("empty", ""),
        (
            "names",
            "instance = \"a\"\nlisten = [\"unix:/tmp/x.sock\", \"127.0.0.1:0\"]\n",
        ),
        (
            "remote",
            "listen = [\"0.0.0.0:1\"]\nallow_unauthenticated_remote = true\n",
        ),
        (
            "times",
            "lease_ms = 400\nheartbeat_ms = 100\nprobe_ms = 200\nresult_ttl_ms = 1\nstop_grace_ms = 0\n",
        ),
        (
            "sizes",
            "segment_tasks = 64\nsegment_workers = 4\npayload_bytes_max = 100000\n",
        ),
        (
            "bytes",
            "segment_bytes = 18446744073709551615\nspill_limit_bytes = 0\n",
        ),
        ("data", "data_dir = \"/tmp/d\"\ndurability = \"journal\"\n"),
        (
            "core",
            "core = \"none\"\nidle = \"spin\"\nnetwork = \"tokio\"\nlog = \"qtf_daemon=debug\"\n",
        ),
        (
            "group",
            "segment_group = \"root\"\nsegment_group_access = \"read\"\n",
        ),
        (
            "limits",
            "connections_max = 0\nstreams_per_connection_max = 4294967295\nmessage_bytes_max = 1\nuploads_max = 0\n",
        ),
        ("unknown", "heartbeet_ms = 5\n"),
        ("type", "lease_ms = \"soon\"\n"),
        ("negative", "lease_ms = -1\n"),
        ("broken", "{{{"),
        (
            "escapes",
            "instance = \"a\\u0000\\n\\\"b\"\nlog = '''x\ny'''\n",
        ),
        ("nested", "[instance]\na = [[[[1]]]]\n"),
    ];
    texts
        .iter()
        .map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()))
        .collect()
}
