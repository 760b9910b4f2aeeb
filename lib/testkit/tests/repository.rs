//! The repository's own rules: crate edges, and what must stay absent from the sources.
#![allow(clippy::unwrap_used)] // a test that cannot go on should stop

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Libraries of services: only the assemblers may know them.
const SERVICES: &[&str] = &[
    "minik-apiserver",
    "minik-controller-manager",
    "minik-kubelet",
    "minik-runtime",
    "minik-scheduler",
    "minik-kube-proxy",
    "minik-dns",
    "minik-fake-nodes",
];
const ASSEMBLERS: &[&str] = &["minik", "minik-e2e", "minik-sim", "minik-bench", "minik-fuzz"];
/// Who may ship fixtures: programs for tests and examples.
const EXAMPLES: &[&str] = &["minik-e2e", "minik-demo"];
/// Crates that decide: no runtime, no client, no clock, no chance.
const PURE: &[&str] = &["minik-apimachinery", "minik-placement", "minik-registry"];
const IMPURE: &[&str] =
    &["tokio", "kube", "minik-client", "minik-component", "rand", "hyper", "axum", "rustix", "libc"];
/// What the shim, which runs once a Pod, must not carry.
const HEAVY: &[&str] = &["tokio", "rustls", "tokio-rustls", "hyper", "tonic", "kube", "axum"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

#[derive(Debug, Default)]
struct Manifest {
    /// Dependencies of the product.
    normal: BTreeSet<String>,
    /// Those of its tests and build scripts.
    other: BTreeSet<String>,
}

fn manifests() -> BTreeMap<String, Manifest> {
    let mut found = BTreeMap::new();
    for file in files(&root(), "Cargo.toml") {
        let text = std::fs::read_to_string(&file).unwrap();
        let (mut section, mut name, mut manifest) = (String::new(), None, Manifest::default());
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(header) = line.strip_prefix('[') {
                section = header.trim_matches(['[', ']']).to_owned();
            } else if let Some((key, value)) = line.split_once('=') {
                let key = key.split('.').next().unwrap().trim();
                match section.as_str() {
                    "package" if key == "name" => name = Some(value.trim().trim_matches('"').to_owned()),
                    "dependencies" => drop(manifest.normal.insert(key.to_owned())),
                    "workspace.dependencies" => {}
                    section if section.ends_with("dependencies") => {
                        manifest.other.insert(key.to_owned());
                    }
                    _ => {}
                }
            }
        }
        if let Some(name) = name {
            found.insert(name, manifest);
        }
    }
    assert!(found.len() > 15, "only {} crates were found", found.len());
    found
}

/// Files below a folder whose name ends so, without build results.
fn files(folder: &Path, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if entry.file_type().unwrap().is_dir() {
            if name != "target" && !name.starts_with('.') {
                found.extend(files(&path, end));
            }
        } else if name.ends_with(end) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The names in a set that are in a list.
fn common<'a>(set: &'a BTreeSet<String>, list: &[&str]) -> Vec<&'a str> {
    set.iter().map(String::as_str).filter(|name| list.contains(name)).collect()
}

#[test]
fn no_service_knows_another() {
    for (name, manifest) in &manifests() {
        if ASSEMBLERS.contains(&name.as_str()) {
            continue;
        }
        for known in [&manifest.normal, &manifest.other] {
            let services = common(known, SERVICES);
            assert!(
                services.is_empty(),
                "{name} depends on {services:?}: services meet through the API only"
            );
        }
    }
}

#[test]
fn what_decides_is_pure() {
    let manifests = manifests();
    for name in PURE {
        let impure = common(&manifests[*name].normal, IMPURE);
        assert!(impure.is_empty(), "{name} is pure and must not depend on {impure:?}");
    }
}

#[test]
fn the_shim_stays_small() {
    let manifests = manifests();
    let heavy = common(&manifests["minik-shim"].normal, HEAVY);
    assert!(heavy.is_empty(), "the shim must not depend on {heavy:?}");
}

#[test]
fn libraries_ship_no_fixtures() {
    for (name, manifest) in manifests() {
        // The demo packs its own image with them.
        let allowed = EXAMPLES.contains(&name.as_str()) || name == "minik-demo";
        assert!(allowed || !manifest.normal.contains("minik-testkit"), "{name} ships the test fixtures");
    }
}

/// The README says why each dependency is there, and one that nobody uses is not there.
#[test]
fn dependencies_are_used_and_explained() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let listed = manifest.split("[workspace.dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    let names = listed.lines().filter_map(|line| line.split_once(" = ")).map(|(name, _)| name.trim());
    let used: BTreeSet<String> = manifests()
        .into_values()
        .flat_map(|manifest| manifest.normal.into_iter().chain(manifest.other))
        .collect();
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let words: BTreeSet<&str> =
        readme.split(|c: char| !(c.is_ascii_alphanumeric() || "-_".contains(c))).collect();
    for name in names.filter(|name| !name.starts_with("minik")) {
        assert!(used.contains(name), "no crate uses the workspace's dependency {name}");
        assert!(words.contains(name), "the README does not say why {name} is there");
    }
}

/// A source's line without its comment, roughly: enough for the words looked for below.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or("")
}

#[test]
fn nothing_pretends_to_be_built() {
    let words = [["to", "do!"], ["unimple", "mented!"]].map(|parts| parts.concat());
    for file in files(&root(), ".rs") {
        let text = std::fs::read_to_string(&file).unwrap();
        for (number, line) in text.lines().enumerate() {
            for word in &words {
                assert!(!code(line).contains(word.as_str()), "{}:{}: {word}", file.display(), number + 1);
            }
        }
    }
}

/// Tests that are left out stand in `e2e/ignored.txt` with a reason each, `name: reason`.
#[test]
fn ignored_tests_have_a_reason() {
    let list = std::fs::read_to_string(root().join("e2e/ignored.txt")).unwrap_or_default();
    let mark = ["#[ign", "ore"].concat();
    for file in files(&root(), ".rs") {
        let text = std::fs::read_to_string(&file).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate().filter(|(_, line)| line.trim().starts_with(&mark)) {
            let name = lines[number..].iter().find_map(|line| line.split_once("fn ")).map(|(_, rest)| rest);
            let name = name.and_then(|rest| rest.split('(').next()).unwrap_or(line);
            let known = list.lines().any(|entry| entry.split(':').next() == Some(name));
            assert!(known, "{}: {name} is ignored without a reason in e2e/ignored.txt", file.display());
        }
    }
}

/// Test code waits on predicates. Where time is paused, sleeping costs nothing and is allowed; a fixture's bounded
/// wait says so with `bounded:` in a comment on the same or the preceding line.
#[test]
fn tests_do_not_sleep() {
    let (root, word) = (root(), ["sle", "ep("].concat());
    let mut found = Vec::new();
    for file in files(&root, ".rs") {
        let text = std::fs::read_to_string(&file).unwrap();
        // A fixture lives in the time of the tests that use it.
        let users = ["mod.rs", "main.rs"].map(|name| std::fs::read_to_string(file.with_file_name(name)));
        let pauses = |text: &str| text.contains("start_paused") || text.contains("time::pause");
        if pauses(&text) || users.iter().flatten().any(|text| pauses(text)) {
            continue;
        }
        let path = file.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
        let mut in_tests = path.contains("/tests/") || path.ends_with("tests.rs");
        let mut before = "";
        for (number, line) in text.lines().enumerate() {
            in_tests |= line.trim() == "#[cfg(test)]";
            let excused = line.contains("bounded:") || before.contains("bounded:");
            if in_tests && code(line).contains(&word) && !excused {
                found.push(format!("{path}:{}", number + 1));
            }
            before = line;
        }
    }
    assert!(found.is_empty(), "tests sleep; wait for a predicate instead:\n{}", found.join("\n"));
}
