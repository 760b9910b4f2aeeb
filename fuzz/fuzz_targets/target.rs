//! The program that cargo-fuzz drives: the target that `MINIK_FUZZ_TARGET` names. With `MINIK_FUZZ_SEEDS` it first writes
//! that target's seeds into a folder, which is then given as a corpus.
#![no_main]

use libfuzzer_sys::fuzz_target;
use minik_fuzz::Target;
use std::sync::OnceLock;

static TARGET: OnceLock<&'static Target> = OnceLock::new();

fuzz_target!(
    init: {
        let name = std::env::var("MINIK_FUZZ_TARGET").unwrap_or_default();
        let target = minik_fuzz::target(&name).unwrap_or_else(|| panic!("MINIK_FUZZ_TARGET={name}: there is no such target"));
        if let Some(folder) = std::env::var_os("MINIK_FUZZ_SEEDS") {
            target.write_seeds(folder.as_ref()).expect("the seeds can be written");
        }
        TARGET.get_or_init(|| target);
    },
    |bytes: &[u8]| if let Some(target) = TARGET.get() {
        target.check(bytes);
    }
);
