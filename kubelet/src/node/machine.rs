//! What the machine is: read from the kernel, once or now and then.

use minik_apimachinery::quantity::Quantity;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;

/// What does not change while the kubelet runs.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    /// Cores, in thousandths.
    pub cpu_milli: i64,
    /// Memory, in bytes.
    pub memory_bytes: i64,
    /// The kernel's release.
    pub kernel: String,
    /// The distribution's name.
    pub os_image: String,
    /// `amd64` or `arm64`.
    pub architecture: String,
    /// The machine's identity.
    pub machine_id: String,
    /// The hardware's identity.
    pub system_uuid: String,
    /// The identity of this run of the kernel.
    pub boot_id: String,
    /// Swap, in bytes.
    pub swap_bytes: i64,
    /// Huge pages: bytes of one, bytes of all.
    pub huge_pages: Vec<(i64, i64)>,
}

/// What a file system has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FileSystem {
    /// Bytes in all.
    pub capacity_bytes: u64,
    /// Bytes that are free.
    pub available_bytes: u64,
    /// Inodes in all.
    pub inodes: u64,
    /// Inodes that are free.
    pub inodes_free: u64,
}

impl Machine {
    /// Looks at the machine; a cpu or memory that was given counts instead of what is there.
    pub fn read(cpu: Option<&str>, memory: Option<&str>) -> Machine {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let given = |quantity: Option<&str>| quantity.and_then(|text| text.parse::<Quantity>().ok());
        let memory_of = |name: &str| meminfo(&text("/proc/meminfo"), name).unwrap_or(0);
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as i64;
        let os = text("/etc/os-release");
        let os_image = os.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
        Machine {
            cpu_milli: given(cpu).map_or(cores * 1000, |cpu| cpu.milli_value()),
            memory_bytes: given(memory).map_or(memory_of("MemTotal"), |memory| memory.value()),
            kernel: text("/proc/sys/kernel/osrelease"),
            os_image: os_image.unwrap_or("Linux").trim_matches('"').to_owned(),
            architecture: architecture().to_owned(),
            machine_id: text("/etc/machine-id"),
            system_uuid: text("/sys/class/dmi/id/product_uuid").to_lowercase(),
            boot_id: text("/proc/sys/kernel/random/boot_id"),
            swap_bytes: memory_of("SwapTotal"),
            huge_pages: huge_pages(),
        }
    }

    /// CPU as the API writes it.
    pub fn cpu_quantity(&self) -> String {
        Quantity::from_milli(self.cpu_milli).to_string()
    }
}

fn huge_pages() -> Vec<(i64, i64)> {
    let sizes = std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    let mut all: Vec<(i64, i64)> = sizes
        .filter_map(|size| {
            let name = size.file_name().into_string().ok()?;
            let kilobytes: i64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let count = std::fs::read_to_string(size.path().join("nr_hugepages")).ok()?;
            let count: i64 = count.trim().parse().ok()?;
            Some((kilobytes * 1024, kilobytes * 1024 * count))
        })
        .collect();
    all.sort_unstable();
    all
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A figure of `/proc/meminfo`, in bytes.
fn meminfo(text: &str, name: &str) -> Option<i64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<i64>().ok().map(|kilobytes| kilobytes * 1024)
}

/// Memory in all, in bytes.
pub fn whole_memory_bytes() -> Option<i64> {
    meminfo(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemTotal")
}

/// Memory that could be had now, in bytes.
pub fn available_memory_bytes() -> Option<i64> {
    meminfo(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable")
}

/// Time that all processors have worked, in nanoseconds.
pub fn cpu_nanos() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let figures: Vec<u64> =
        stat.lines().next()?.split_whitespace().skip(1).filter_map(|figure| figure.parse().ok()).collect();
    // All but the fourth and fifth, which are idle; the kernel counts in hundredths of a second.
    let busy =
        figures.iter().take(8).enumerate().filter(|(at, _)| *at != 3 && *at != 4).map(|(_, ticks)| ticks);
    Some(busy.sum::<u64>() * 10_000_000)
}

/// Process identities: how many there are, and how many there can be.
pub fn process_ids() -> Option<(u64, u64)> {
    let most = std::fs::read_to_string("/proc/sys/kernel/pid_max").ok()?.trim().parse().ok()?;
    let load = std::fs::read_to_string("/proc/loadavg").ok()?;
    let used = load.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()?;
    Some((used, most))
}

/// What the file system of a folder has.
pub fn file_system(path: &Path) -> Option<FileSystem> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(FileSystem {
        capacity_bytes: stat.f_blocks * stat.f_frsize,
        available_bytes: stat.f_bavail * stat.f_frsize,
        inodes: stat.f_files,
        inodes_free: stat.f_favail,
    })
}

/// The address that the default route would send from; no packet is sent.
pub fn default_address() -> Option<IpAddr> {
    let outside: [SocketAddr; 2] =
        [([192, 0, 2, 1], 9).into(), ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 9).into()];
    outside.into_iter().find_map(|to| {
        let any: SocketAddr = if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
        let socket = UdpSocket::bind(any).ok()?;
        socket.connect(to).ok()?;
        let address = socket.local_addr().ok()?.ip();
        (!address.is_unspecified() && !address.is_loopback()).then_some(address)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_read() {
        let machine = Machine::read(None, Some("1536Mi"));
        assert!(machine.cpu_milli >= 1000 && !machine.kernel.is_empty());
        assert_eq!(machine.memory_bytes, 1536 << 20);
        assert_eq!(Machine::read(Some("1500m"), None).cpu_quantity(), "1500m");
        assert_eq!(meminfo("MemTotal:        2 kB\nMemFree: 1 kB", "MemFree"), Some(1024));
        assert!(file_system("/".as_ref()).unwrap().capacity_bytes > 0);
        assert!(process_ids().unwrap().0 > 0);
    }
}
