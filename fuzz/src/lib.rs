//! Fuzz targets: bytes of chance against everything that reads what others write.
//!
//! ```text
//!  recordings ──> seeds ─┬─> mutator (tests/short.rs: some thousands of inputs, in CI)     ─┬─> Target::check
//!                        └─> libFuzzer (scripts/fuzz: guided by coverage, every night)      ─┘    └─ memory, time, properties
//! ```
//!
//! A target fails when it panics, holds more than [`MOST_BYTES`] at once, takes longer than [`MOST_TIME`], or when a property
//! that it states does not hold: what was read is written and read again as the same, and the like.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc)] // panics are what all this is about

mod clients;
mod machinery;
mod memory;
pub mod mutate;
mod node;
pub mod request;
mod seeds;

pub use memory::most_held;
pub use seeds::{recorded, samples};

use std::path::Path;
use std::time::{Duration, Instant};

/// The most memory that any input may cost, of those that are no larger than a request's body.
pub const MOST_BYTES: usize = 64 << 20;
/// The longest that any input may take; a hang is far beyond it, and a busy machine is not.
pub const MOST_TIME: Duration = Duration::from_secs(20);

/// Something that reads what others write.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "decode", seeds: seeds::objects, run: machinery::decode },
    Target { name: "proto", seeds: seeds::messages, run: machinery::proto },
    Target { name: "patch", seeds: seeds::patches, run: machinery::patch },
    Target { name: "apply", seeds: seeds::configs, run: machinery::apply },
    Target { name: "selector", seeds: seeds::selectors, run: machinery::selector },
    Target { name: "quantity", seeds: seeds::quantities, run: machinery::quantity },
    Target { name: "request", seeds: seeds::requests, run: request::target },
    Target { name: "manifest", seeds: seeds::manifests, run: clients::manifest },
    Target { name: "jsonpath", seeds: seeds::templates, run: clients::jsonpath },
    Target { name: "kubeconfig", seeds: seeds::kubeconfigs, run: clients::kubeconfig },
    Target { name: "log", seeds: seeds::logs, run: node::log },
    Target { name: "layer", seeds: seeds::layers, run: node::layer },
    Target { name: "image", seeds: seeds::images, run: node::image },
    Target { name: "spdy", seeds: seeds::frames, run: node::spdy },
    Target { name: "channel", seeds: seeds::channels, run: node::channel },
    Target { name: "shim", seeds: seeds::calls, run: node::shim },
    Target { name: "netlink", seeds: seeds::answers, run: node::netlink },
    Target { name: "dns", seeds: seeds::questions, run: node::dns },
];

/// The target of a name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

impl Target {
    /// Runs the target on an input; panics on a finding.
    pub fn check(&self, input: &[u8]) {
        let began = Instant::now();
        let held = most_held(|| (self.run)(input));
        let took = began.elapsed();
        assert!(held <= MOST_BYTES, "{}: {} bytes made it hold {held}", self.name, input.len());
        assert!(took <= MOST_TIME, "{}: {} bytes took {took:?}", self.name, input.len());
    }

    /// Writes the seeds into a folder.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_seeds(&self, folder: &Path) -> std::io::Result<()> {
        std::fs::create_dir_all(folder)?;
        for (number, seed) in (self.seeds)().iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number:05}")), seed)?;
        }
        Ok(())
    }
}

/// Takes a number of the input's beginning, for choosing among `count` things.
fn choose(input: &mut &[u8], count: usize) -> Option<usize> {
    let (first, rest) = input.split_first_chunk::<2>()?;
    *input = rest;
    Some(usize::from(u16::from_be_bytes(*first)) % count)
}

/// Takes what stands before the next zero byte, or all.
fn part<'a>(input: &mut &'a [u8]) -> &'a [u8] {
    let end = input.iter().position(|byte| *byte == 0).unwrap_or(input.len());
    let taken = &input[..end];
    *input = input.get(end + 1..).unwrap_or_default();
    taken
}

/// Runs asynchronous code to its end, on a clock that waits for nobody.
fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.unwrap().block_on(work)
}
