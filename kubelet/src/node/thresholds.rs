//! From when on something runs short
//! (<https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/#eviction-thresholds>).

use minik_apimachinery::quantity::Quantity;
use std::str::FromStr;

/// Upstream's threshold for disk is a tenth of it; a node of a workstation shares a disk that is often fuller than that,
/// so that here it is an amount.
pub const DEFAULT: &str = "memory.available<100Mi,nodefs.available<1Gi,nodefs.inodesFree<1%,pid.available<5%";

/// An amount, or a part of the whole.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Threshold {
    Amount(u64),
    Percent(f64),
}

impl Threshold {
    fn of(self, whole: u64) -> u64 {
        match self {
            Threshold::Amount(amount) => amount,
            Threshold::Percent(percent) => (whole as f64 * percent / 100.0) as u64,
        }
    }
}

/// Thresholds by what they are about; what has none never runs short.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Thresholds {
    memory: Option<Threshold>,
    disk: Option<Threshold>,
    inodes: Option<Threshold>,
    pids: Option<Threshold>,
}

impl Thresholds {
    /// Memory and disk that Pods cannot have, for what they had of it would be taken back.
    pub fn reserved(&self, memory: u64, disk: u64) -> (u64, u64) {
        let of = |threshold: Option<Threshold>, whole| threshold.map_or(0, |threshold| threshold.of(whole));
        (of(self.memory, memory), of(self.disk, disk))
    }

    /// Whether so little memory is too little, and from when on it is.
    pub fn memory(&self, available: u64, whole: u64) -> Option<u64> {
        short(self.memory, available, whole)
    }

    /// Whether so little disk is too little, and from when on it is.
    pub fn disk(&self, available: u64, whole: u64) -> Option<u64> {
        short(self.disk, available, whole)
    }

    /// Whether so few inodes are too few.
    pub fn inodes(&self, available: u64, whole: u64) -> Option<u64> {
        short(self.inodes, available, whole)
    }

    /// Whether so few process identities are too few.
    pub fn pids(&self, available: u64, whole: u64) -> Option<u64> {
        short(self.pids, available, whole)
    }
}

fn short(threshold: Option<Threshold>, available: u64, whole: u64) -> Option<u64> {
    let least = threshold?.of(whole);
    (whole > 0 && available < least).then_some(least)
}

impl FromStr for Thresholds {
    type Err = String;

    fn from_str(text: &str) -> Result<Thresholds, String> {
        let mut all = Thresholds::default();
        for one in text.split(',').map(str::trim).filter(|one| !one.is_empty()) {
            let bad = || format!("{one:?} is not of the form SIGNAL<QUANTITY or SIGNAL<PERCENT%");
            let (signal, value) = one.split_once('<').ok_or_else(bad)?;
            let threshold = match value.strip_suffix('%') {
                Some(percent) => Threshold::Percent(percent.parse().map_err(|_| bad())?),
                None => {
                    let quantity: Quantity = value.parse().map_err(|_| bad())?;
                    Threshold::Amount(quantity.value().max(0) as u64)
                }
            };
            match signal {
                "memory.available" => all.memory = Some(threshold),
                "nodefs.available" => all.disk = Some(threshold),
                "nodefs.inodesFree" => all.inodes = Some(threshold),
                "pid.available" => all.pids = Some(threshold),
                // Images are on the node's own file system.
                "imagefs.available" | "imagefs.inodesFree" => {}
                other => return Err(format!("unknown signal {other:?}")),
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_amounts_or_parts() {
        let all: Thresholds = "memory.available<100Mi,nodefs.available<10%".parse().unwrap();
        assert_eq!(all.memory(50 << 20, 1 << 30), Some(100 << 20));
        assert_eq!(all.memory(200 << 20, 1 << 30), None);
        assert_eq!(all.disk(5, 100), Some(10));
        assert_eq!(all.inodes(0, 100), None);
        assert!("memory.available>1".parse::<Thresholds>().is_err());
        assert!("x<1".parse::<Thresholds>().is_err() && "memory.available<x%".parse::<Thresholds>().is_err());
        DEFAULT.parse::<Thresholds>().unwrap();
    }
}
