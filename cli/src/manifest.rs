//! Objects from files, folders and standard input.

use crate::Failure;
use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Where objects come from.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Sources {
    /// File or folder with objects as YAML or JSON; - reads standard input
    #[arg(short, long = "filename", value_name = "FILE")]
    pub filename: Vec<PathBuf>,
    /// Folders with all that lies below them
    #[arg(short = 'R', long, requires = "filename")]
    pub recursive: bool,
}

/// An object, and where it was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// The file and the document's number in it.
    pub origin: String,
    /// The object.
    pub object: Value,
}

impl Manifest {
    /// A text in it, by the names of its fields.
    pub fn text(&self, pointer: &str) -> &str {
        self.object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }
}

impl Sources {
    /// All objects, in the order of the files and of the documents in them; lists are taken apart.
    ///
    /// # Errors
    /// When a file cannot be read or holds something else than objects.
    pub fn read(&self) -> Result<Vec<Manifest>, Failure> {
        let mut all = Vec::new();
        for name in &self.filename {
            let text = name.to_string_lossy();
            if text.starts_with("https://") || text.starts_with("http://") {
                let hint = "fetch it first, and give it as a file or on standard input with -f -";
                return Err(Failure::new(format!("{text}: addresses are not read")).hint(hint));
            }
            if text == "-" {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text)?;
                all.extend(documents("standard input", &text)?);
                continue;
            }
            for file in self.files(name)? {
                let text = std::fs::read_to_string(&file)
                    .map_err(|error| Failure::new(format!("cannot read {}: {error}", file.display())))?;
                all.extend(documents(&file.to_string_lossy(), &text)?);
            }
        }
        if all.is_empty() {
            return Err(Failure::new("there are no objects in what was given"));
        }
        Ok(all)
    }

    /// A file itself; the files of a folder by name.
    fn files(&self, path: &Path) -> Result<Vec<PathBuf>, Failure> {
        let failed = |error| Failure::new(format!("cannot read {}: {error}", path.display()));
        if !std::fs::metadata(path).map_err(failed)?.is_dir() {
            return Ok(vec![path.to_owned()]);
        }
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(path).map_err(failed)? {
            entries.push(entry.map_err(failed)?.path());
        }
        entries.sort();
        let mut files = Vec::new();
        for entry in entries {
            if entry.is_dir() {
                if self.recursive {
                    files.extend(self.files(&entry)?);
                }
            } else if entry
                .extension()
                .is_some_and(|one| ["yaml", "yml", "json"].iter().any(|known| one == *known))
            {
                files.push(entry);
            }
        }
        Ok(files)
    }
}

/// The objects of a text, which may hold many documents.
///
/// # Errors
/// When it cannot be read or holds something else than objects.
pub fn documents(origin: &str, text: &str) -> Result<Vec<Manifest>, Failure> {
    let parts = match text.trim_start().starts_with('{') {
        true => json(text).map_err(|error| format!("{error}")),
        false => yaml(text),
    };
    let parts = parts.map_err(|problem| Failure::new(format!("{origin} cannot be read: {problem}")))?;
    let mut all = Vec::new();
    for (at, part) in parts.into_iter().enumerate() {
        let origin = if at == 0 { origin.to_owned() } else { format!("{origin} (document {})", at + 1) };
        take(&origin, part, &mut all)?;
    }
    Ok(all)
}

fn take(origin: &str, object: Value, all: &mut Vec<Manifest>) -> Result<(), Failure> {
    if object.is_null() {
        return Ok(());
    }
    let manifest = Manifest { origin: origin.to_owned(), object };
    let kind = manifest.text("/kind").to_owned();
    if kind == "List" || kind.ends_with("List") && manifest.object.get("items").is_some_and(Value::is_array) {
        let items = manifest.object.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
        return items.into_iter().try_for_each(|item| take(origin, item, all));
    }
    for field in ["apiVersion", "kind"] {
        if manifest.text(&format!("/{field}")).is_empty() {
            return Err(Failure::new(format!("{origin} has an object without {field}")));
        }
    }
    all.push(manifest);
    Ok(())
}

fn json(text: &str) -> Result<Vec<Value>, serde_json::Error> {
    serde_json::Deserializer::from_str(text).into_iter().collect()
}

fn yaml(text: &str) -> Result<Vec<Value>, String> {
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    serde_saphyr::from_multiple_with_options(text, options).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, wanted: &str) {
        let found = match documents("f", text) {
            Ok(all) => {
                all.iter().map(|one| one.text("/metadata/name").to_owned()).collect::<Vec<_>>().join(",")
            }
            Err(failure) => failure.to_string().lines().next().unwrap_or_default().to_owned(),
        };
        assert_eq!(found, wanted, "{text}");
    }

    const A: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n";
    const B: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: b\n";

    #[test]
    fn documents_and_lists_are_taken_apart() {
        check(A, "a");
        check(&format!("---\n{A}---\n# nothing\n---\n{B}---\n"), "a,b");
        check(
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"}}{"apiVersion":"v1","kind":"Pod","metadata":{"name":"y"}}"#,
            "x,y",
        );
        check(
            r#"{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"}}]}"#,
            "x",
        );
        check("", "");
        check("kind: Pod\n", "f has an object without apiVersion");
        check(&format!("{A}---\napiVersion: v1\n"), "f (document 2) has an object without kind");
    }

    #[test]
    fn octal_modes_are_read_as_numbers() {
        let all = documents("f", "apiVersion: v1\nkind: Pod\nmode: 0644\n").unwrap();
        assert_eq!(all[0].object["mode"], 420);
    }

    #[test]
    fn folders_are_read_by_name() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        for (name, text) in [("2.yaml", B), ("1.yml", A), ("x.txt", "no"), ("sub/3.yaml", A)] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let mut sources = Sources { filename: vec![folder.path().to_owned()], recursive: false };
        let names = |sources: &Sources| {
            sources
                .read()
                .unwrap()
                .iter()
                .map(|one| one.text("/metadata/name").to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&sources), ["a", "b"]);
        sources.recursive = true;
        assert_eq!(names(&sources), ["a", "b", "a"]);
        sources.filename = vec![folder.path().join("none.yaml")];
        assert!(sources.read().unwrap_err().to_string().contains("none.yaml"));
    }
}
