//! The program that libFuzzer drives. `QTF_FUZZ_TARGET` names the target; arguments are libFuzzer's.
//!
//! Built and run by `cargo xtask fuzz`.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use qtf_fuzz::Target;

static TARGET: OnceLock<&'static Target> = OnceLock::new();

fn chosen() -> &'static Target {
    let name = std::env::var("QTF_FUZZ_TARGET").unwrap_or_default();
    qtf_fuzz::target(&name).unwrap_or_else(|| panic!("QTF_FUZZ_TARGET={name:?} names no target"))
}

fuzz_target!(
    init: { TARGET.get_or_init(chosen); },
    |data: &[u8]| {
        let target = TARGET.get_or_init(chosen);
        (target.run)(data);
    }
);
