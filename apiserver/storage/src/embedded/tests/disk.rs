//! A disk in memory that remembers every step, fails when told to, and whose power can be cut after any step.

use minik_component::{Chance, SeededChance};
use redb::StorageBackend;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;
pub const EIO: i32 = 5;
pub const ENOSPC: i32 = 28;

#[derive(Debug, Clone)]
pub enum Step {
    Write(u64, Vec<u8>),
    Length(u64),
    Sync,
    /// The kernel reports it once, and takes what it could not write for written.
    FailedSync,
}

/// What happens to an operation, and to those after it where it lasts.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    pub at: usize,
    pub code: i32,
    pub lasts: bool,
}

impl Fault {
    fn hits(&self, number: usize, is_write: bool) -> bool {
        let now = number == self.at || self.lasts && number > self.at;
        // A full disk can be read, and what has its place on it can be synced.
        now && (self.code == EIO || is_write)
    }
}

#[derive(Debug, Default)]
struct State {
    now: Vec<u8>,
    steps: Vec<Step>,
    operations: usize,
    fault: Option<Fault>,
    /// Syncs do nothing.
    lies: bool,
}

/// A disk; its clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Disk(Arc<Mutex<State>>);

impl Disk {
    pub fn holding(now: Vec<u8>) -> Disk {
        Disk(Arc::new(Mutex::new(State { now, ..State::default() })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub fn steps(&self) -> Vec<Step> {
        self.lock().steps.clone()
    }

    /// How many steps there were.
    pub fn done(&self) -> usize {
        self.lock().steps.len()
    }

    /// How many operations there were, reads among them.
    pub fn operations(&self) -> usize {
        self.lock().operations
    }

    pub fn set_fault(&self, fault: Option<Fault>) {
        self.lock().fault = fault;
    }

    pub fn lie(&self) {
        self.lock().lies = true;
    }

    /// Begins an operation: with its error when it fails.
    fn begin(&self, is_write: bool) -> (MutexGuard<'_, State>, Option<io::Error>) {
        let mut state = self.lock();
        let number = state.operations;
        state.operations += 1;
        let fault = state.fault.filter(|fault| fault.hits(number, is_write));
        (state, fault.map(|fault| io::Error::from_raw_os_error(fault.code)))
    }
}

impl State {
    fn step(&mut self, step: Step) {
        apply(&mut self.now, &step);
        self.steps.push(step);
    }
}

fn apply(disk: &mut Vec<u8>, step: &Step) {
    match step {
        Step::Write(offset, data) => {
            let offset = *offset as usize;
            if disk.len() < offset + data.len() {
                disk.resize(offset + data.len(), 0);
            }
            disk[offset..offset + data.len()].copy_from_slice(data);
        }
        Step::Length(length) => disk.resize(*length as usize, 0),
        Step::Sync | Step::FailedSync => {}
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let (state, error) = self.begin(false);
        let offset = offset as usize;
        let bytes = state.now.get(offset..offset + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        error.map_or(Ok(()), Err)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let (mut state, error) = self.begin(true);
        if error.is_none() {
            state.step(Step::Length(length));
        }
        error.map_or(Ok(()), Err)
    }

    fn sync_data(&self) -> io::Result<()> {
        let (mut state, error) = self.begin(false);
        if !state.lies {
            state.step(if error.is_some() { Step::FailedSync } else { Step::Sync });
        }
        error.map_or(Ok(()), Err)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let (mut state, error) = self.begin(true);
        // A part of a write that fails may have been done.
        let done = if error.is_some() { data.len() / 2 } else { data.len() };
        state.step(Step::Write(offset, data[..done].to_vec()));
        error.map_or(Ok(()), Err)
    }
}

/// What becomes of writes that were not synced.
#[derive(Debug, Clone, Copy)]
pub enum Unsynced {
    Lost,
    /// All are there, but of the last one only the first half.
    TornAtTheEnd,
    /// Of each sector the old contents or any of the new, by this seed; the length is any that it had.
    Chance(u64),
}

/// What is on a disk whose steps are replayed, if its power is cut.
#[derive(Debug, Default)]
pub struct Replay {
    durable: Vec<u8>,
    unsynced: Vec<Step>,
    syncs: u64,
}

impl Replay {
    pub fn step(&mut self, step: &Step) {
        match step {
            Step::Sync => self.unsynced.drain(..).for_each(|step| apply(&mut self.durable, &step)),
            Step::FailedSync => {
                self.syncs += 1;
                self.durable = self.cut(Unsynced::Chance(self.syncs));
                self.unsynced.clear();
            }
            step => self.unsynced.push(step.clone()),
        }
    }

    pub fn cut(&self, unsynced: Unsynced) -> Vec<u8> {
        let mut disk = self.durable.clone();
        match unsynced {
            Unsynced::Lost => {}
            Unsynced::TornAtTheEnd => {
                let last = self.unsynced.len().saturating_sub(1);
                for (number, step) in self.unsynced.iter().enumerate() {
                    match step {
                        Step::Write(offset, data) if number == last => {
                            apply(&mut disk, &Step::Write(*offset, data[..data.len() / 2].to_vec()));
                        }
                        step => apply(&mut disk, step),
                    }
                }
            }
            Unsynced::Chance(seed) => self.by_chance(&mut disk, &SeededChance::new(seed)),
        }
        disk
    }

    fn by_chance(&self, disk: &mut Vec<u8>, chance: &dyn Chance) {
        let mut length = disk.len();
        // The journal of a file system keeps the order of lengths.
        let mut grows = true;
        for step in &self.unsynced {
            match step {
                Step::Write(offset, data) => {
                    for (number, sector) in data.chunks(SECTOR).enumerate() {
                        if chance.below(2) == 0 {
                            let at = offset + (number * SECTOR) as u64;
                            apply(disk, &Step::Write(at, sector.to_vec()));
                        }
                    }
                }
                Step::Length(new) => {
                    grows &= chance.below(2) == 0;
                    length = if grows { *new as usize } else { length };
                }
                Step::Sync | Step::FailedSync => {}
            }
        }
        disk.resize(length, 0);
    }
}
