//! Packs the field descriptions of the API types, for `kubectl explain`.
//!
//! They stand in k8s-openapi's sources (what its `schemars` feature compiles). Reading them there costs a tenth of a
//! second; compiling that feature would build the largest dependency a second time. The pack is text, a line an entry:
//! `type.field<TAB>description`, or `type<TAB>description`; line ends within a description are written `\n`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../Cargo.lock");
    let mut lines = Vec::new();
    match sources() {
        Some(folder) => collect(&folder, &mut lines),
        None => {
            println!("cargo::warning=k8s-openapi's sources were not found: explain will lack descriptions")
        }
    }
    lines.sort();
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("descriptions.txt");
    fs::write(out, lines.join("\n")).expect("OUT_DIR is writable");
}

/// The folder of the API version's sources, by cargo's own account of where its packages are.
fn sources() -> Option<PathBuf> {
    let out = Command::new(env::var_os("CARGO")?)
        .args(["metadata", "--format-version", "1", "--offline", "--locked"])
        .output()
        .ok()?;
    let text = String::from_utf8(out.stdout).ok()?;
    let at = text.match_indices("\"manifest_path\":\"").find_map(|(at, key)| {
        let path = text[at + key.len()..].split('"').next()?;
        path.contains("/k8s-openapi-").then(|| PathBuf::from(path))
    })?;
    let folder = at.parent()?.join("src/v1_37");
    folder.is_dir().then_some(folder)
}

fn collect(folder: &Path, lines: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, lines);
        } else if let Ok(text) = fs::read_to_string(&path) {
            read(&text, lines);
        }
    }
}

/// Reads the schema block of one type; nesting is told by indentation, which the generated sources keep.
fn read(text: &str, lines: &mut Vec<String>) {
    let Some((_, block)) = text.split_once("impl crate::schemars::JsonSchema for ") else { return };
    let Some(name) = block.lines().find_map(|line| line.trim().strip_suffix(".into()")) else { return };
    let name = name.trim_matches('"');
    let mut field = String::new();
    for line in block.lines() {
        let trimmed = line.trim_start();
        let depth = line.len() - trimmed.len();
        if depth == 16
            && let Some(key) = trimmed.strip_suffix(": {").or_else(|| trimmed.strip_suffix(": ({"))
        {
            key.trim_matches('"').clone_into(&mut field);
        }
        let plain = trimmed.strip_prefix("\"description\": \"").and_then(|rest| rest.strip_suffix("\","));
        let beside_reference =
            || trimmed.split_once("insert(\"description\".into(), \"")?.1.strip_suffix("\".into());");
        let Some(words) = plain.or_else(beside_reference) else { continue };
        let words = words.replace("\\\"", "\"").replace("\\t", " ").replace("\\\\", "\\");
        match depth {
            12 => lines.push(format!("{name}\t{words}")),
            20 => lines.push(format!("{name}.{field}\t{words}")),
            _ => {}
        }
    }
}
