//! What a machine looks like, to compare before and after: a deleted cluster leaves nothing behind.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Folders whose entries are compared, with how deep.
const FOLDERS: &[(&str, usize)] = &[
    ("/run", 2),
    ("/var/run", 2),
    ("/var/lib", 1),
    ("/var/log", 1),
    ("/etc", 1),
    ("/var/lib/minik", 2),
    ("/var/lib/kubelet", 1),
    ("/var/log/pods", 1),
    ("/var/log/containers", 1),
    ("/opt", 2),
];
/// Settings that change by themselves.
const RESTLESS: &[&str] = &[
    "random/",
    "ns_last_pid",
    "nr_open_",
    "pty/nr",
    "sched_domain",
    "netfilter/nf_conntrack_count",
    "keys/",
];

/// A machine's links, routes, rules, settings, mounts, cgroups, processes and files, a line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    lines: BTreeSet<String>,
}

impl Machine {
    /// Looks at it. Of processes and cgroups only those that bear one of `marks` are taken: others come and go.
    pub fn look(marks: &[&str]) -> Machine {
        let mut lines = BTreeSet::new();
        for name in entries(Path::new("/sys/class/net")) {
            lines.insert(format!("link {name}"));
        }
        for (what, program, args) in [
            ("route", "ip", &["route", "show", "table", "all"][..]),
            ("route6", "ip", &["-6", "route", "show", "table", "all"]),
            ("rule", "ip", &["rule"]),
            ("nft", "nft", &["list", "tables"]),
        ] {
            lines.extend(output(program, args).into_iter().map(|line| format!("{what} {}", line.trim())));
        }
        settings(Path::new("/proc/sys"), &mut lines);
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        lines.extend(mounts.lines().filter_map(|line| Some(format!("mount {}", line.split(' ').nth(4)?))));
        cgroups(Path::new("/sys/fs/cgroup"), marks, 6, &mut lines);
        processes(marks, &mut lines);
        for (folder, depth) in FOLDERS {
            files(Path::new(folder), *depth, &mut lines);
        }
        Machine { lines }
    }

    /// What is there more (`+`) or less (`-`) than before, without what belongs to clusters of other names: tests of
    /// other programs may run on the machine at the same time.
    pub fn changed_since(&self, before: &Machine, foreign: impl Fn(&str) -> bool) -> Vec<String> {
        let more = self.lines.difference(&before.lines).map(|line| format!("+ {line}"));
        let less = before.lines.difference(&self.lines).map(|line| format!("- {line}"));
        more.chain(less).filter(|line| !foreign(line)).collect()
    }
}

impl Machine {
    /// The lines that contain a text.
    pub fn bearing(&self, mark: &str) -> Vec<&str> {
        self.lines.iter().map(String::as_str).filter(|line| line.contains(mark)).collect()
    }
}

fn entries(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn output(program: &str, args: &[&str]) -> Vec<String> {
    let output = Command::new(program).args(args).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn folders(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path())
}

fn settings(dir: &Path, lines: &mut BTreeSet<String>) {
    for name in entries(dir) {
        let path = dir.join(name);
        let text = path.display().to_string();
        // Each link brings its own.
        if RESTLESS.iter().any(|restless| text.contains(restless)) || text.contains("/neigh/") {
            continue;
        }
        if path.is_dir() {
            let is_link = text.contains("/conf/") && !text.ends_with("/all") && !text.ends_with("/default");
            if !is_link && (text == "/proc/sys/net" || !text.contains("/proc/sys/fs")) {
                settings(&path, lines);
            }
        } else if let Ok(value) = std::fs::read_to_string(&path) {
            lines.insert(format!("sysctl {text} = {}", value.trim()));
        }
    }
}

fn cgroups(dir: &Path, marks: &[&str], depth: usize, lines: &mut BTreeSet<String>) {
    for child in folders(dir) {
        let text = child.display().to_string();
        if marks.iter().any(|mark| text.contains(mark)) {
            lines.insert(format!("cgroup {text}"));
        }
        if depth > 0 {
            cgroups(&child, marks, depth - 1, lines);
        }
    }
}

fn processes(marks: &[&str], lines: &mut BTreeSet<String>) {
    let own = std::process::id().to_string();
    for pid in entries(Path::new("/proc")).into_iter().filter(|name| name.parse::<u32>().is_ok()) {
        let read = |file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).replace('\0', " ");
        let (command, cgroup) = (text(read("cmdline")), text(read("cgroup")));
        // The dead whom nobody has waited for yet have no command line.
        if pid != own
            && !command.is_empty()
            && marks.iter().any(|mark| command.contains(mark) || cgroup.contains(mark))
        {
            lines.insert(format!("process {pid} {command}"));
        }
    }
}

fn files(dir: &Path, depth: usize, lines: &mut BTreeSet<String>) {
    for name in entries(dir) {
        let path = dir.join(name);
        lines.insert(format!("file {}", path.display()));
        if depth > 1 && path.is_dir() && !path.is_symlink() {
            files(&path, depth - 1, lines);
        }
    }
}
