//! Every target on its seeds and on some of their changes. What chance brings differs from run to run no more than its seed,
//! which a failure prints.

#![allow(clippy::unwrap_used)]

use minik_fuzz::Target;
use minik_fuzz::mutate::Chance;
use std::time::{Duration, Instant};

/// What one target may take in CI.
const WITHIN: Duration = Duration::from_secs(3);

/// Runs inputs until time is up; at least the seeds, of very many every so-manieth.
fn check(name: &str) {
    let target: &Target = minik_fuzz::target(name).unwrap();
    let seconds = std::env::var("MINIK_FUZZ_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    let within = seconds.map_or(WITHIN, Duration::from_secs);
    let seed: u64 = std::env::var("MINIK_FUZZ_SEED").map_or(1, |seed| seed.parse().unwrap());
    let seeds = (target.seeds)();
    let began = Instant::now();
    let step = 1 + seeds.len() / 200;
    let mut inputs = 0;
    for input in seeds.iter().step_by(step) {
        run(target, input, 0);
        inputs += 1;
    }
    while began.elapsed() < within {
        let chance = seed.wrapping_mul(1 << 32) + inputs;
        run(target, &Chance::new(chance).input(&seeds), chance);
        inputs += 1;
    }
    println!("{name}: {inputs} inputs");
}

fn run(target: &Target, input: &[u8], chance: u64) {
    let done = std::panic::catch_unwind(|| target.check(input));
    if let Err(panic) = done {
        let path = std::env::temp_dir().join(format!("minik-fuzz-{}", target.name));
        std::fs::write(&path, input).unwrap();
        eprintln!("{} fails on {} (chance {chance})", target.name, path.display());
        std::panic::resume_unwind(panic);
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            check(stringify!($name));
        })*

        #[test]
        fn every_target_is_here() {
            let here = [$(stringify!($name)),*];
            let all: Vec<&str> = minik_fuzz::TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(here[..], all[..]);
        }
    };
}

targets! {
    decode proto patch apply selector quantity request manifest jsonpath kubeconfig log layer image spdy channel shim netlink dns
}
