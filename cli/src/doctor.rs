//! `minikctl doctor`: whether this machine can run clusters. Every finding is one line with what mends it.

use crate::Failure;
use rustix::process::geteuid;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

/// Arguments of `minikctl doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// How a check came out.
#[derive(Debug, PartialEq, Eq)]
enum Finding {
    /// As it should be; with what was seen.
    Good(String),
    /// Clusters run, but something will be missing: what, and what mends it.
    Poor(String, String),
    /// No cluster with nodes can run: why, and what mends it.
    Bad(String, String),
}

/// Prints a line a check; fails when one is bad.
pub fn run(_: Args) -> Result<(), Failure> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let findings = [
        ("root", root(geteuid().is_root())),
        ("kernel", kernel(&release)),
        ("overlay", overlay(&read("/proc/filesystems"))),
        ("cgroups", cgroups(&read("/proc/self/mountinfo"))),
        ("nft", nft(&std::env::var("PATH").unwrap_or_default())),
        (
            "inotify instances",
            limit(&read("/proc/sys/fs/inotify/max_user_instances"), "max_user_instances", 128),
        ),
        ("inotify watches", limit(&read("/proc/sys/fs/inotify/max_user_watches"), "max_user_watches", 8192)),
        ("ports", ports()),
    ];
    for (name, finding) in &findings {
        match finding {
            Finding::Good(seen) => println!("ok    {name}: {seen}"),
            Finding::Poor(what, fix) => println!("poor  {name}: {what}; {fix}"),
            Finding::Bad(what, fix) => println!("bad   {name}: {what}; {fix}"),
        }
    }
    match findings.iter().filter(|(_, finding)| matches!(finding, Finding::Bad(..))).count() {
        0 => Ok(()),
        bad => Err(Failure::new(format!("{bad} of {} checks are bad", findings.len()))
            .hint("mend them in the order above and run `minikctl doctor` again")),
    }
}

fn root(is_root: bool) -> Finding {
    match is_root {
        true => Finding::Good("nodes can be made".into()),
        false => Finding::Poor(
            "nodes need root".into(),
            "run with sudo, or `minikctl cluster up --nodes 0` for a control plane only".into(),
        ),
    }
}

/// `cgroup.kill` came with 5.14, the youngest of what is needed.
fn kernel(release: &str) -> Finding {
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    match version >= (5, 14) {
        true => Finding::Good(release.to_owned()),
        false => Finding::Bad(format!("{release} is too old"), "boot Linux 5.14 or newer".into()),
    }
}

fn overlay(filesystems: &str) -> Finding {
    match filesystems.lines().any(|line| line.trim_start_matches("nodev").trim() == "overlay") {
        true => Finding::Good("known to the kernel".into()),
        false => Finding::Bad("the kernel does not know overlayfs".into(), "run `modprobe overlay`".into()),
    }
}

/// The version 2 hierarchy, or the version 1 controllers that nodes use.
fn cgroups(mountinfo: &str) -> Finding {
    // Fields after " - ": type, source, options of the superblock.
    let mounts: Vec<(&str, &str)> = mountinfo
        .lines()
        .filter_map(|line| line.split_once(" - "))
        .filter_map(|(_, tail)| tail.split_once(' '))
        .collect();
    let unified = mounts.iter().any(|(kind, _)| *kind == "cgroup2");
    let controller = |name: &str| {
        let of_it =
            |options: &str| options.rsplit(' ').next().unwrap_or("").split(',').any(|one| one == name);
        mounts.iter().any(|(kind, options)| *kind == "cgroup" && of_it(options))
    };
    let absent: Vec<&str> = ["cpu", "memory", "pids"].into_iter().filter(|name| !controller(name)).collect();
    match (unified, absent.as_slice()) {
        (true, []) => Finding::Good("version 1 with version 2 beside it".into()),
        (false, []) => Finding::Good("version 1".into()),
        (true, ["cpu", "memory", "pids"]) => Finding::Good("version 2".into()),
        (_, absent) => Finding::Bad(
            format!("no hierarchy has the controllers {}", absent.join(", ")),
            "mount it: `mount -t cgroup2 none /sys/fs/cgroup`".into(),
        ),
    }
}

fn nft(path: &str) -> Finding {
    let beside = ["/usr/sbin", "/sbin"].into_iter();
    match path.split(':').chain(beside).map(|dir| Path::new(dir).join("nft")).find(|file| file.is_file()) {
        Some(file) => Finding::Good(file.display().to_string()),
        None => Finding::Bad("nft is not installed".into(), "run `apt-get install nftables`".into()),
    }
}

fn limit(text: &str, name: &str, least: u64) -> Finding {
    match text.trim().parse::<u64>() {
        Ok(value) if value >= least => Finding::Good(value.to_string()),
        Ok(value) => Finding::Poor(
            format!("{value} is low"),
            format!("run `sysctl -w fs.inotify.{name}={}`", least * 8),
        ),
        Err(_) => Finding::Poor("cannot be read".into(), "mount /proc".into()),
    }
}

fn ports() -> Finding {
    match (6443..6543).find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()) {
        Some(6443) => Finding::Good("6443 is free for the API".into()),
        Some(port) => Finding::Good(format!("6443 is taken; the next cluster's API gets {port}")),
        None => Finding::Bad(
            "no port from 6443 to 6542 is free on 127.0.0.1".into(),
            "end what listens there: `ss -ltnp`".into(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_is_refused() {
        assert_eq!(kernel("6.18.44-fc"), Finding::Good("6.18.44-fc".into()));
        assert!(matches!(kernel("5.10.0-30-amd64"), Finding::Bad(..)));
        assert!(matches!(kernel("?"), Finding::Bad(..)));
    }

    #[test]
    fn cgroups_are_told_apart() {
        let v1 = |names: &[&str]| {
            names.iter().map(|n| format!("1 2 0:3 / /x rw - cgroup cgroup rw,{n}\n")).collect::<String>()
        };
        let all = v1(&["cpu,cpuacct", "memory", "pids"]);
        let v2 = "1 2 0:3 / /sys/fs/cgroup rw - cgroup2 cgroup rw,nsdelegate\n";
        assert_eq!(cgroups(&all), Finding::Good("version 1".into()));
        assert_eq!(cgroups(v2), Finding::Good("version 2".into()));
        assert_eq!(
            cgroups(&format!("{all}{v2}")),
            Finding::Good("version 1 with version 2 beside it".into())
        );
        assert!(matches!(cgroups(&v1(&["cpu"])), Finding::Bad(..)));
        assert!(matches!(cgroups(""), Finding::Bad(..)));
    }

    #[test]
    fn overlay_is_found_by_its_whole_name() {
        assert!(matches!(overlay("nodev\tproc\nnodev\toverlay\n"), Finding::Good(_)));
        assert!(matches!(overlay("nodev\toverlayish\n"), Finding::Bad(..)));
    }

    #[test]
    fn low_limits_say_how_to_raise_them() {
        assert!(matches!(limit("8192\n", "max_user_watches", 8192), Finding::Good(_)));
        let Finding::Poor(_, fix) = limit("64", "max_user_instances", 128) else { panic!("64 is enough?") };
        assert_eq!(fix, "run `sysctl -w fs.inotify.max_user_instances=1024`");
    }
}
