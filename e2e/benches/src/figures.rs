//! Figures: each printed at once as a JSON line, and compared with a committed baseline.
//!
//! Machines differ, and so does one machine from hour to hour. So a figure is compared as a multiple of what a fixed loop
//! took right before it was measured: a loop of the processor in CPU time or by the clock, or one of writes made durable.

use anyhow::{Context, Result, bail};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// How many times the baseline's ratio is a failure.
const MOST_TIMES: f64 = 1.5;
/// How often each loop runs.
const LOOPS: usize = 5;
/// Steps of the processor's loop, some 100 ms.
const STEPS: u32 = 20_000_000;
/// Writes of the disk's loop.
const SYNCS: usize = 100;

/// What a figure is compared by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Against {
    /// CPU time of the processor's loop: for figures of CPU time, which other load hardly changes.
    Cpu,
    /// The same loop by the clock: for figures of elapsed time.
    Clock,
    /// The disk's loop: for what waits for the disk.
    Disk,
    /// Nothing: counts and bytes are the same on every machine.
    Nothing,
}

/// A figure, of one or more runs.
pub struct Figure {
    name: &'static str,
    unit: &'static str,
    against: Against,
    values: Vec<f64>,
    more_is_better: bool,
    target: Option<f64>,
    also: Map<String, Value>,
}

impl Figure {
    /// One that is better when it is lower.
    pub fn cost(name: &'static str, unit: &'static str, against: Against, values: Vec<f64>) -> Figure {
        Figure { name, unit, against, values, more_is_better: false, target: None, also: Map::new() }
    }

    /// One that is better when it is higher.
    pub fn rate(name: &'static str, unit: &'static str, against: Against, values: Vec<f64>) -> Figure {
        Figure { more_is_better: true, ..Figure::cost(name, unit, against, values) }
    }

    /// Elapsed times, in milliseconds.
    pub fn times(name: &'static str, times: &[Duration]) -> Figure {
        let values = times.iter().map(|time| time.as_secs_f64() * 1000.0).collect();
        Figure::cost(name, "ms", Against::Clock, values)
    }

    /// What it should be, or better.
    pub fn target(self, target: f64) -> Figure {
        Figure { target: Some(target), ..self }
    }

    /// Something else that the line says.
    pub fn also(mut self, name: &str, value: impl Into<Value>) -> Figure {
        self.also.insert(name.into(), value.into());
        self
    }
}

/// A figure of the baseline.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Known {
    value: f64,
    unit: String,
    against: Against,
    /// The cost by the loop's; of a rate the cost is one by it.
    ratio: f64,
}

/// What was measured in this run.
#[derive(Default)]
pub struct Figures {
    loops: Loops,
    seen: BTreeMap<&'static str, Known>,
}

impl Figures {
    /// Runs the loops, for the figures that follow.
    pub fn calibrate(&mut self) -> Result<()> {
        self.loops = Loops::run()?;
        Ok(())
    }

    /// Prints a figure, the median of its runs, and remembers it for the comparison.
    pub fn tell(&mut self, figure: Figure) -> Result<()> {
        let Figure { name, unit, against, mut values, more_is_better, target, also } = figure;
        values.sort_by(f64::total_cmp);
        let median = *values.get(values.len() / 2).context("nothing was measured")?;
        let mut line = Map::new();
        line.insert("figure".into(), name.into());
        line.insert("value".into(), short(median));
        line.insert("unit".into(), unit.into());
        if values.len() > 1 {
            line.insert("least".into(), short(values[0]));
            line.insert("most".into(), short(values[values.len() - 1]));
            line.insert("runs".into(), values.len().into());
        }
        if let Some(target) = target {
            line.insert("target".into(), short(target));
            let met = if more_is_better { median >= target } else { median <= target };
            line.insert("met".into(), met.into());
        }
        line.extend(also);
        println!("{}", Value::Object(line));
        let cost = if more_is_better { 1.0 / median } else { median };
        let known =
            Known { value: round(median), unit: unit.into(), against, ratio: cost / self.loops.of(against) };
        self.seen.insert(name, known);
        Ok(())
    }

    /// Writes what was measured as the new baseline; what was not keeps its place.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut all = if path.exists() { read(path)? } else { BTreeMap::new() };
        all.extend(self.seen.iter().map(|(name, known)| ((*name).to_owned(), known.clone())));
        let text = serde_json::to_string_pretty(&all)? + "\n";
        std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// Compares with the baseline.
    ///
    /// # Errors
    /// When a figure is worse by more than is allowed. One that the baseline does not know is told.
    pub fn check(&self, path: &Path) -> Result<()> {
        let baseline = read(path)?;
        let (mut failed, mut unknown) = (Vec::new(), Vec::new());
        for (name, seen) in &self.seen {
            let Some(known) = baseline.get(*name) else {
                unknown.push(*name);
                continue;
            };
            if seen.ratio > known.ratio * MOST_TIMES {
                failed.push(format!("{name} is {:.2} times its baseline", seen.ratio / known.ratio));
            }
        }
        println!(
            "{}",
            json!({"check": path, "figures": self.seen.len(), "unknown": unknown, "failed": failed})
        );
        if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join("; ")) }
    }
}

fn read(path: &Path) -> Result<BTreeMap<String, Known>> {
    let text = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is no baseline", path.display()))
}

/// Four digits are more than a measurement has.
fn round(value: f64) -> f64 {
    if value == 0.0 {
        return value;
    }
    let scale = 10f64.powi(3 - value.abs().log10().floor() as i32);
    (value * scale).round() / scale
}

fn short(value: f64) -> Value {
    let value = round(value);
    if value.fract() == 0.0 { (value as i64).into() } else { value.into() }
}

/// What the loops took, in seconds.
#[derive(Default)]
struct Loops {
    cpu: f64,
    clock: f64,
    disk: f64,
}

impl Loops {
    fn run() -> Result<Loops> {
        let (mut cpu, mut clock) = (Vec::new(), Vec::new());
        for _ in 0..LOOPS {
            let (began, before) = (Instant::now(), own_cpu());
            black_box(spin());
            cpu.push((own_cpu() - before).as_secs_f64());
            clock.push(began.elapsed().as_secs_f64());
        }
        let disk = (0..LOOPS).map(|_| sync()).collect::<Result<Vec<f64>>>()?;
        let median = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let loops = Loops { cpu: median(cpu), clock: median(clock), disk: median(disk) };
        let ms = |seconds: f64| short(seconds * 1000.0);
        println!(
            "{}",
            json!({"loops": "ms", "cpu": ms(loops.cpu), "clock": ms(loops.clock), "disk": ms(loops.disk)})
        );
        Ok(loops)
    }

    fn of(&self, against: Against) -> f64 {
        match against {
            Against::Cpu => self.cpu,
            Against::Clock => self.clock,
            Against::Disk => self.disk,
            Against::Nothing => 1.0,
        }
    }
}

/// The CPU time of this process.
pub fn own_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Each step depends on the one before, and on a table that the second cache holds.
fn spin() -> u64 {
    let table: Vec<u64> = (0..8192u64).map(|index| index.wrapping_mul(0x9E37_79B9_7F4A_7C15)).collect();
    let mut state = 1u64;
    for _ in 0..black_box(STEPS) {
        state = (state ^ table[(state >> 51) as usize]).wrapping_mul(0xBF58_476D_1CE4_E5B9).rotate_left(17);
    }
    state
}

/// Seconds of writes that are made durable one after the other.
fn sync() -> Result<f64> {
    let folder = tempfile::tempdir()?;
    let mut file = File::create(folder.path().join("writes"))?;
    let page = [b'x'; 4096];
    let began = Instant::now();
    for _ in 0..SYNCS {
        file.write_all(&page)?;
        file.sync_data()?;
    }
    Ok(began.elapsed().as_secs_f64())
}
