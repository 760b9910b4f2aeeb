//! The image: this program, and the shared libraries that it was started with if it is not linked statically.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use minik_testkit::image::{Image, Layer};
use serde_json::json;

/// The image's name.
pub(super) const NAME: &str = "minik.local/demo:1";

/// The variable that holds the image's tag.
pub(super) const VERSION: &str = "DEMO_VERSION";

pub(super) fn archive(name: &str) -> io::Result<Vec<u8>> {
    let version = name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    let program = std::fs::read("/proc/self/exe")?;
    let mut layer = Layer::new()
        .folder("etc/", 0o755)
        .folder("tmp/", 0o1777)
        .file("etc/passwd", "root:x:0:0:root:/:/demo\nnobody:x:65534:65534:nobody:/:/demo\n", 0o644)
        .file("etc/group", "root:x:0:\nnobody:x:65534:\n", 0o644);
    for library in libraries(&std::fs::read_to_string("/proc/self/maps")?) {
        layer = layer.file(library.trim_start_matches('/'), std::fs::read(&library)?, 0o755);
    }
    if let Some(loader) = loader(&program) {
        layer = layer.file(loader.trim_start_matches('/'), std::fs::read(&loader)?, 0o755);
    }
    let image = Image::new(name)
        .layer(layer.file("demo", program, 0o755))
        .set("Entrypoint", json!(["/demo"]))
        .set("Env", json!(["PATH=/", format!("{VERSION}={version}")]))
        .set("User", json!("65534:65534"))
        .set("ExposedPorts", json!({"8080/tcp": {}}));
    Ok(image.docker_archive())
}

/// The shared libraries among a process's mappings.
fn libraries(maps: &str) -> BTreeSet<String> {
    maps.lines()
        .filter_map(|line| line.split_whitespace().nth(5))
        .filter(|path| path.starts_with('/') && (path.ends_with(".so") || path.contains(".so.")))
        .filter(|path| Path::new(path).is_file())
        .map(str::to_owned)
        .collect()
}

/// The loader that a dynamically linked program names (its PT_INTERP).
fn loader(program: &[u8]) -> Option<String> {
    const PT_INTERP: u32 = 3;
    let half = |at: usize| Some(u16::from_le_bytes(program.get(at..at + 2)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_le_bytes(program.get(at..at + 4)?.try_into().ok()?));
    let long = |at: usize| Some(u64::from_le_bytes(program.get(at..at + 8)?.try_into().ok()?) as usize);
    let (table, size, count) = (long(32)?, usize::from(half(54)?), usize::from(half(56)?));
    let header = (0..count).map(|n| table + n * size).find(|at| word(*at) == Some(PT_INTERP))?;
    let (offset, length) = (long(header + 8)?, long(header + 32)?);
    let text = std::str::from_utf8(program.get(offset..offset + length)?).ok()?;
    Some(text.trim_end_matches('\0').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_holds_what_the_program_needs() {
        let program = std::fs::read("/proc/self/exe").unwrap();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        // A dynamic program has both, a static one neither.
        assert_eq!(loader(&program).is_some(), !libraries(&maps).is_empty());
        let bytes = archive("minik.local/demo:7").unwrap();
        for text in ["minik.local/demo:7", "DEMO_VERSION=7"] {
            assert!(bytes.windows(text.len()).any(|window| window == text.as_bytes()), "{text}");
        }
    }
}
