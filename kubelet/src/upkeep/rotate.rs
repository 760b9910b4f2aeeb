//! Log rotation: a log that has grown large is moved aside and begun anew; the last few are kept
//! (<https://kubernetes.io/docs/concepts/cluster-administration/logging/#log-rotation>).

use crate::core::view::Instance;
use crate::runtime::Runtime;
use jiff::Timestamp;
use std::path::{Path, PathBuf};

/// Upstream's defaults: ten mebibytes, five files.
const MOST_BYTES: u64 = 10 << 20;
const FILES: usize = 5;

/// Whether any log of a Pod has grown large.
pub async fn is_needed(log_dir: &Path) -> bool {
    let log_dir = log_dir.to_owned();
    let look = move || {
        let containers = std::fs::read_dir(log_dir).into_iter().flatten().flatten();
        let mut files = containers.flat_map(|one| std::fs::read_dir(one.path())).flatten().flatten();
        files.any(|file| file.metadata().is_ok_and(|meta| meta.len() > MOST_BYTES))
    };
    tokio::task::spawn_blocking(look).await.unwrap_or(false)
}

/// Rotates a run's log if it has grown large.
///
/// # Errors
/// When a file cannot be moved, or the runtime does not begin a new one.
pub async fn rotate(runtime: &dyn Runtime, run: &Instance, now: Timestamp) -> Result<(), String> {
    let path = PathBuf::from(&run.log_path);
    let length = tokio::fs::metadata(&path).await.map_or(0, |meta| meta.len());
    if length <= MOST_BYTES {
        return Ok(());
    }
    let words = |error: std::io::Error| format!("{}: {error}", path.display());
    remove_oldest(&path).map_err(words)?;
    let aside = PathBuf::from(format!("{}.{}", path.display(), now.strftime("%Y%m%d-%H%M%S")));
    tokio::fs::rename(&path, &aside).await.map_err(words)?;
    if let Err(error) = runtime.reopen_log(&run.id).await {
        // The runtime goes on writing to the old file: it is put back so that nothing is lost.
        let _ = tokio::fs::rename(&aside, &path).await;
        return Err(error.to_string());
    }
    Ok(())
}

/// Leaves room for one more: the log itself and the one that is moved aside now are two of the files.
fn remove_oldest(path: &Path) -> std::io::Result<()> {
    let Some((dir, name)) = path.parent().zip(path.file_name()) else { return Ok(()) };
    let prefix = format!("{}.", name.to_string_lossy());
    let mut old: Vec<PathBuf> = std::fs::read_dir(dir)?
        .flatten()
        .filter(|file| file.file_name().to_string_lossy().starts_with(&prefix))
        .map(|file| file.path())
        .collect();
    old.sort();
    let keep = FILES - 2;
    for file in old.iter().take(old.len().saturating_sub(keep)) {
        std::fs::remove_file(file)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_few_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let container = dir.path().join("c");
        std::fs::create_dir(&container).unwrap();
        let log = container.join("0.log");
        std::fs::write(&log, "x").unwrap();
        assert!(!is_needed(dir.path()).await);
        std::fs::File::create(&log).unwrap().set_len(MOST_BYTES + 1).unwrap();
        assert!(is_needed(dir.path()).await);
        for n in 0..6 {
            std::fs::write(container.join(format!("0.log.2026010{n}-000000")), "x").unwrap();
        }
        remove_oldest(&log).unwrap();
        let mut left: Vec<String> = std::fs::read_dir(&container)
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(
            left,
            ["0.log", "0.log.20260103-000000", "0.log.20260104-000000", "0.log.20260105-000000"]
        );
    }
}
